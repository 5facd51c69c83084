//! Pages of jobs.

use raftq::jobs::command::StatusUpdate;
use raftq::jobs::job::{OUTPUT_BYTES_MAX, Status, Verdict};
use raftq::jobs::list::{Filter, LIST_BYTES_MAX};
use raftq::types::{Fence, JobId};

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
