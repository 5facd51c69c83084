//! Pages of jobs.

use raftq::jobs::command::{Command, Stamped, StatusUpdate};
use raftq::jobs::find::Text;
use raftq::jobs::job::{NewJob, OUTPUT_BYTES_MAX, Status, Verdict};
use raftq::jobs::list::{Filter, LIST_BYTES_MAX, LOOKED_MAX};
use raftq::jobs::options::{Options, Tags};
use raftq::types::{Fence, JobId, Millis, Tag};

use crate::support::{Rig, command, id, pair, payload, queue, update, worker};

fn page(rig: &Rig, filter: &Filter) -> (Vec<JobId>, bool) {
    let (views, more) = rig.machine.list(filter);
    assert!(views.iter().all(|view| view.body.is_none()));
    (views.iter().map(|view| view.id).collect(), more)
}

fn all() -> Filter {
    Filter { limit: usize::MAX, ..Filter::default() }
}

#[test]
fn list_pages_follow_each_other_without_gap_or_repeat() {
    let mut rig = Rig::new();
    rig.submit_commands([5, 3, 1, 4, 2]);
    let mut filter = Filter { limit: 2, ..Filter::default() };
    assert_eq!(page(&rig, &filter), (vec![id(1), id(2)], true));
    filter.after = Some(id(2));
    assert_eq!(page(&rig, &filter), (vec![id(3), id(4)], true));
    filter.after = Some(id(4));
    assert_eq!(page(&rig, &filter), (vec![id(5)], false));
    filter.limit = 1;
    assert_eq!(page(&rig, &filter), (vec![id(5)], false), "a full last page has no more");
}

#[test]
fn list_filters_hold_together() {
    let mut rig = Rig::new();
    rig.submit_commands(1..=40);
    rig.submit(payload(41, "mail", b"x"));
    rig.register_commands("a", 2);
    rig.register_commands("b", 2);
    rig.assign(vec![pair(2, "a", 1), pair(1, "a", 1), pair(3, "b", 1)]);
    let fence = rig.machine.job(id(2)).unwrap().fence().unwrap();
    rig.report(update(2, fence, true));
    let with = |change: fn(&mut Filter)| {
        let mut filter = all();
        change(&mut filter);
        page(&rig, &filter).0
    };
    assert_eq!(with(|it| it.status = Some(Status::Running)), [id(1), id(3)]);
    assert_eq!(with(|it| it.status = Some(Status::Completed)), [id(2)]);
    assert_eq!(with(|it| it.status = Some(Status::Failed)), []);
    assert_eq!(with(|it| it.status = Some(Status::Pending)).len(), 38);
    assert_eq!(with(|it| it.worker = Some(worker("a"))), [id(1), id(2)]);
    assert_eq!(with(|it| it.queue = Some(queue("mail"))), [id(41)]);
    assert_eq!(with(|it| it.queue = Some(queue("none"))), []);
    let running_of_a = |it: &mut Filter| {
        it.worker = Some(worker("a"));
        it.status = Some(Status::Running);
    };
    assert_eq!(with(running_of_a), [id(1)]);
    assert_eq!(
        with(|it| {
            it.status = Some(Status::Running);
            it.after = Some(id(1));
        }),
        [id(3)]
    );
    assert_eq!(
        rig.machine.queues().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["default", "mail"]
    );
}

#[test]
fn list_page_with_large_outputs_ends_early() {
    let mut rig = Rig::new();
    rig.submit_commands(1..=100);
    rig.register_commands("w", 100);
    rig.assign((1..=100).map(|number| pair(number, "w", 1)).collect());
    let index = rig.machine.applied_index();
    for number in 1..=100 {
        let verdict = Verdict {
            completed: true,
            exit_code: Some(0),
            output: vec![b'x'; OUTPUT_BYTES_MAX].into(),
            output_cut: false,
            error: None,
        };
        let fence = Fence::new(index, number - 1);
        rig.report(StatusUpdate { job: id(number), fence, verdict });
    }
    let (views, more) = rig.machine.list(&all());
    assert_eq!((views.len() as u64 * OUTPUT_BYTES_MAX as u64, more), (LIST_BYTES_MAX, true));
    let rest = Filter { after: Some(views.last().unwrap().id), ..all() };
    assert_eq!(page(&rig, &rest).0.len(), 36);
}

#[test]
fn list_of_nothing_is_empty() {
    let mut rig = Rig::new();
    assert_eq!(page(&rig, &all()), (vec![], false));
    rig.submit(command(1));
    let none = Filter { limit: 0, ..Filter::default() };
    assert_eq!(page(&rig, &none), (vec![], true));
}

#[test]
fn list_finds_by_tag_text_and_time() {
    let mut rig = Rig::new();
    rig.now = 1_000;
    rig.submit_commands([1, 2]);
    rig.now = 2_000;
    let tags = Tags::new(["gpu", "zone=a"].map(|tag| Tag::new(tag).unwrap()));
    let options = Options::shared(Options { tags, ..Options::default() });
    rig.submit(NewJob { options, ..command(3) });
    rig.now = 3_000;
    rig.submit(payload(4, "mail", b"To: Echo@example.org"));
    rig.submit(payload(5, "mail", b"\xff echo"));
    let with = |change: fn(&mut Filter)| {
        let mut filter = all();
        change(&mut filter);
        page(&rig, &filter).0
    };
    assert_eq!(with(|it| it.tag = Tag::new("gpu").ok()), [id(3)]);
    assert_eq!(with(|it| it.tag = Tag::new("gp").ok()), []);
    assert_eq!(with(|it| it.text = Some(Text::new("ECHO"))), [1, 2, 3, 4].map(id));
    assert_eq!(with(|it| it.text = Some(Text::new("echo 2"))), [id(2)]);
    assert_eq!(with(|it| it.since = Some(Millis(2_000))), [3, 4, 5].map(id));
    assert_eq!(with(|it| it.until = Some(Millis(2_000))), [1, 2, 3].map(id));
    assert_eq!(
        with(|it| (it.since, it.until) = (Some(Millis(1_001)), Some(Millis(2_999)))),
        [id(3)]
    );
    assert_eq!(with(|it| (it.text, it.status) = (Some(Text::new("x")), Some(Status::Failed))), []);
}

/// A filter that few jobs pass looks at so many of them for one page, and the next page goes on there.
#[test]
fn page_of_a_filter_that_few_pass_ends_early_and_says_where_to_go_on() {
    let mut rig = Rig::new();
    let count = 2 * LOOKED_MAX as u64 + 10;
    for first in (0..count).step_by(100) {
        let jobs = (first..(first + 100).min(count)).map(command).collect();
        let stamped = Stamped { now: Millis(1_000), command: Command::SubmitJob(jobs) };
        rig.machine.apply(rig.machine.applied_index().next(), &stamped);
    }
    let last = count - 1;
    let text = Some(Text::new(&last.to_string()));
    let mut filter = Filter { limit: 10, text, ..Filter::default() };
    let mut pages = Vec::new();
    loop {
        let page = rig.machine.page(&filter);
        pages.push(page.jobs.len());
        let Some(next) = page.next else { break };
        assert!(filter.after.is_none_or(|after| next > after), "it gets on");
        filter.after = Some(next);
    }
    assert_eq!(pages, [0, 0, 1]);
    let filter = Filter { after: None, ..filter };
    assert_eq!(page(&rig, &filter), (vec![id(last)], false), "by itself it goes on");
    // Without a filter as many are looked at as are shown.
    let all = rig.machine.page(&all());
    assert_eq!((all.jobs.len(), all.next), (LOOKED_MAX, Some(id(LOOKED_MAX as u64 - 1))));
}
