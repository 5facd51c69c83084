//! Submit, assign, report, cancel: each with its noes.

use bytes::Bytes;
use raftq::jobs::command::{
    CancelOutcome, Command, Event, Limits, Outcome, StatusUpdate, SubmitOutcome, UpdateOutcome,
};
use raftq::jobs::job::{
    BODY_BYTES_MAX, Body, ERROR_BYTES_MAX, NewJob, OUTPUT_BYTES_MAX, Serves, Status, Verdict,
};
use raftq::jobs::resident::weight;
use raftq::types::{Fence, Incarnation, Index, JobId, Millis};

use crate::support::{Rig, command, id, pair, payload, queue, registration, update, worker};

#[test]
fn submit_new_id_creates_a_pending_job() {
    let mut rig = Rig::new();
    assert_eq!(rig.submit(payload(1, "mail", b"hello")), SubmitOutcome::Created);
    let view = rig.machine.view(id(1)).unwrap();
    assert_eq!((view.status, view.attempt, view.created_ms), (Status::Pending, 1, Millis(1_000)));
    assert_eq!(view.body, Some(Body::Payload(Bytes::from_static(b"hello"))));
    assert_eq!(
        (view.worker, view.fence, view.started_ms, view.finished_ms),
        (None, None, None, None)
    );
    assert_eq!(rig.machine.counts().pending, 1);
    assert!(rig.events.is_empty());
}

#[test]
fn submit_command_comes_back_word_by_word() {
    let mut rig = Rig::new();
    let words: Vec<String> = ["sh", "-c", "", "é \n", ""].map(String::from).into();
    let body = Body::Command(words);
    rig.submit(NewJob { id: id(1), queue: queue("q"), body: body.clone(), options: None });
    assert_eq!(rig.machine.view(id(1)).unwrap().body, Some(body));
}

#[test]
fn submit_same_id_same_content_is_known_and_changes_nothing() {
    let mut rig = Rig::new();
    rig.submit(command(1));
    rig.register_commands("w", 1);
    rig.assign_one(1, "w", 1);
    let before = rig.machine.view(id(1));
    assert_eq!(rig.submit(command(1)), SubmitOutcome::Known);
    assert_eq!(rig.machine.view(id(1)), before);
}

#[test]
fn submit_same_id_other_content_already_exists() {
    let mut rig = Rig::new();
    rig.submit(payload(1, "mail", b"hello"));
    assert_eq!(rig.submit(payload(1, "mail", b"hallo")), SubmitOutcome::AlreadyExists);
    assert_eq!(rig.submit(payload(1, "post", b"hello")), SubmitOutcome::AlreadyExists);
    // The same bytes as a command are another job.
    let body = Body::Command(vec!["hello".into()]);
    let stolen = NewJob { id: id(1), queue: queue("mail"), body, options: None };
    assert_eq!(rig.submit(stolen), SubmitOutcome::AlreadyExists);
    assert_eq!(rig.machine.counts().pending, 1);
}

#[test]
fn submit_faulty_body_is_invalid_and_says_why() {
    let mut rig = Rig::new();
    let submit = |rig: &mut Rig, body| {
        rig.submit(NewJob { id: id(1), queue: queue("q"), body, options: None })
    };
    for words in [vec![], vec![String::new()], vec!["a\0b".into()], vec!["x".into(); 1025]] {
        let SubmitOutcome::Invalid(why) = submit(&mut rig, Body::Command(words)) else {
            panic!("taken")
        };
        assert!(!why.is_empty());
    }
    let long = Bytes::from(vec![0; BODY_BYTES_MAX + 1]);
    assert!(matches!(submit(&mut rig, Body::Payload(long)), SubmitOutcome::Invalid(_)));
    assert_eq!(rig.machine.counts().pending, 0);
    let longest = Bytes::from(vec![0; BODY_BYTES_MAX]);
    assert_eq!(submit(&mut rig, Body::Payload(longest)), SubmitOutcome::Created);
}

#[test]
fn submit_above_resident_limit_is_exhausted_and_known_ids_still_are() {
    let resident_bytes_max = weight(&payload(1, "q", b"12345")) * 2;
    let limits = Limits { resident_bytes_max, ..Limits::default() };
    let mut rig = Rig::with_limits(limits);
    assert_eq!(rig.submit(payload(1, "q", b"12345")), SubmitOutcome::Created);
    assert_eq!(rig.submit(payload(2, "q", b"123456")), SubmitOutcome::Exhausted);
    assert_eq!(rig.submit(payload(3, "q", b"12345")), SubmitOutcome::Created);
    assert_eq!(rig.submit(payload(4, "q", b"")), SubmitOutcome::Exhausted);
    assert_eq!(rig.submit(payload(1, "q", b"12345")), SubmitOutcome::Known);
    assert_eq!(rig.machine.counts().resident_bytes, limits.resident_bytes_max);
}

#[test]
fn submit_many_decides_each_for_itself_in_order() {
    let mut rig = Rig::new();
    let jobs = vec![
        payload(1, "q", b"a"),
        payload(1, "q", b"a"),
        payload(1, "q", b"b"),
        NewJob { body: Body::Command(vec![]), ..command(2) },
        command(3),
    ];
    let Outcome::Submitted(outcomes) = rig.apply(Command::SubmitJob(jobs)) else { panic!() };
    let kinds = [
        matches!(outcomes[0], SubmitOutcome::Created),
        matches!(outcomes[1], SubmitOutcome::Known),
        matches!(outcomes[2], SubmitOutcome::AlreadyExists),
        matches!(outcomes[3], SubmitOutcome::Invalid(_)),
        matches!(outcomes[4], SubmitOutcome::Created),
    ];
    assert_eq!(kinds, [true; 5]);
}

#[test]
fn assign_pending_job_runs_under_the_entrys_token() {
    let mut rig = Rig::new();
    rig.submit_commands(1..=3);
    rig.register_commands("w", 4);
    rig.now = 5_000;
    // The first pair does not hold; the others keep the tokens of their own positions.
    assert_eq!(rig.assign(vec![pair(9, "w", 1), pair(1, "w", 1), pair(2, "w", 1)]), 2);
    let index = rig.machine.applied_index();
    let view = rig.machine.view(id(2)).unwrap();
    assert_eq!(view.status, Status::Running);
    assert_eq!(view.fence, Some(Fence::new(index, 2)));
    assert_eq!((view.worker, view.started_ms), (Some(worker("w")), Some(Millis(5_000))));
    let assigned = |number, position| Event::Assigned {
        worker: worker("w"),
        incarnation: Incarnation(1),
        job: id(number),
        fence: Fence::new(index, position),
    };
    assert_eq!(rig.events, [assigned(1, 1), assigned(2, 2)]);
    let held = rig.machine.assignments(&worker("w"), Incarnation(1), Fence(0), 10);
    assert_eq!(held.iter().map(|it| it.id).collect::<Vec<_>>(), [id(1), id(2)]);
    let after = rig.machine.assignments(&worker("w"), Incarnation(1), held[0].fence, 10);
    assert_eq!(after.iter().map(|it| it.id).collect::<Vec<_>>(), [id(2)]);
    assert!(rig.machine.assignments(&worker("w"), Incarnation(2), Fence(0), 10).is_empty());
    assert_eq!(rig.machine.assignments(&worker("w"), Incarnation(1), Fence(0), 1).len(), 1);
}

#[test]
fn assign_that_no_longer_fits_is_skipped() {
    let mut rig = Rig::new();
    rig.submit_commands(1..=6);
    rig.submit(payload(7, "mail", b"x"));
    rig.register_commands("w", 1);
    rig.register_commands("lost", 1);
    rig.register_commands("left", 1);
    rig.register(registration("mailer", 1, 1, Serves::Payloads(vec![queue("mail")])));
    rig.lose("lost", 1);
    rig.release("left", 1, &[], true);
    rig.assign_one(1, "w", 1);
    assert_eq!(rig.assign(vec![pair(2, "w", 1)]), 0, "no free slot");
    let fence = rig.machine.job(id(1)).unwrap().fence().unwrap();
    rig.report(update(1, fence, true));
    for (number, name, start, why) in [
        (1, "w", 1, "the job has ended"),
        (2, "w", 2, "another start"),
        (2, "nobody", 1, "unknown worker"),
        (2, "lost", 1, "lost worker"),
        (2, "left", 1, "worker that left"),
        (2, "mailer", 1, "a command for a worker of payloads"),
        (7, "w", 1, "a payload for a built-in worker"),
    ] {
        assert_eq!(rig.assign(vec![pair(number, name, start)]), 0, "{why}");
    }
    assert_eq!(rig.assign(vec![pair(7, "mailer", 1), pair(2, "w", 1), pair(3, "w", 1)]), 2);
    assert_eq!(rig.machine.job(id(3)).unwrap().status, Status::Pending);
}

#[test]
fn assign_beyond_the_last_token_of_an_entry_is_skipped() {
    let mut rig = Rig::new();
    rig.submit_commands([1, 2]);
    rig.register_commands("w", 4);
    let mut pairs = vec![pair(99, "w", 1); 4095];
    pairs.push(pair(1, "w", 1));
    pairs.push(pair(2, "w", 1));
    assert_eq!(rig.assign(pairs), 1);
    let index = rig.machine.applied_index();
    assert_eq!(rig.machine.job(id(1)).unwrap().fence(), Some(Fence::new(index, 4095)));
    assert_eq!(rig.machine.job(id(2)).unwrap().status, Status::Pending);
}

#[test]
fn report_under_the_current_token_ends_the_job_and_frees_the_slot() {
    let mut rig = Rig::new();
    rig.submit_commands([1, 2]);
    rig.register_commands("w", 1);
    let fence = rig.assign_one(1, "w", 1);
    rig.now = 9_000;
    assert_eq!(rig.report(update(1, fence, true)), UpdateOutcome::Applied);
    assert_eq!(rig.events, [Event::Ended { job: id(1), status: Status::Completed }]);
    let view = rig.machine.view(id(1)).unwrap();
    assert_eq!((view.status, view.exit_code), (Status::Completed, Some(0)));
    assert_eq!((&view.output[..], view.finished_ms), (&b"said\n"[..], Some(Millis(9_000))));
    let fence = rig.assign_one(2, "w", 1);
    assert_eq!(rig.report(update(2, fence, false)), UpdateOutcome::Applied);
    let view = rig.machine.view(id(2)).unwrap();
    assert_eq!((view.status, view.error.as_deref()), (Status::Failed, Some("exit code 1")));
}

#[test]
fn report_repeated_is_applied_once() {
    let mut rig = Rig::new();
    rig.submit_commands([1]);
    rig.register_commands("w", 1);
    let fence = rig.assign_one(1, "w", 1);
    rig.report(update(1, fence, true));
    let before = rig.machine.view(id(1));
    rig.now = 20_000;
    assert_eq!(rig.report(update(1, fence, true)), UpdateOutcome::Applied);
    assert_eq!(rig.machine.view(id(1)), before);
    assert!(rig.events.is_empty());
}

#[test]
fn report_under_an_old_token_is_stale_and_says_who_has_it() {
    let mut rig = Rig::new();
    rig.submit_commands([1]);
    rig.register_commands("a", 1);
    rig.register_commands("b", 1);
    let old = rig.assign_one(1, "a", 1);
    rig.lose("a", 1);
    let stale = |status, fence: Fence, name| UpdateOutcome::StaleFence {
        status,
        fence: Some(fence),
        worker: Some(worker(name)),
    };
    assert_eq!(rig.report(update(1, old, true)), stale(Status::Pending, old, "a"));
    let new = rig.assign_one(1, "b", 1);
    assert!(new > old);
    assert_eq!(rig.report(update(1, old, true)), stale(Status::Running, new, "b"));
    assert_eq!(rig.report(update(1, Fence(new.0 + 1), true)), stale(Status::Running, new, "b"));
    rig.report(update(1, new, false));
    assert_eq!(rig.report(update(1, old, true)), stale(Status::Failed, new, "b"));
}

#[test]
fn report_about_an_unassigned_or_unknown_job_is_refused() {
    let mut rig = Rig::new();
    rig.submit_commands([1]);
    let stale = UpdateOutcome::StaleFence { status: Status::Pending, fence: None, worker: None };
    assert_eq!(rig.report(update(1, Fence(7), true)), stale);
    assert_eq!(rig.report(update(2, Fence(7), true)), UpdateOutcome::NotFound);
}

#[test]
fn report_of_a_job_that_failed_by_loss_is_stale_under_its_last_token() {
    let mut rig = Rig::with_limits(Limits { attempts_max: 1, ..Limits::default() });
    rig.submit_commands([1]);
    rig.register_commands("w", 1);
    let fence = rig.assign_one(1, "w", 1);
    rig.lose("w", 1);
    let stale = UpdateOutcome::StaleFence {
        status: Status::Failed,
        fence: Some(fence),
        worker: Some(worker("w")),
    };
    assert_eq!(rig.report(update(1, fence, true)), stale);
}

#[test]
fn report_with_long_output_and_error_is_cut() {
    let mut rig = Rig::new();
    rig.submit_commands([1]);
    rig.register_commands("w", 1);
    let fence = rig.assign_one(1, "w", 1);
    let mut output = vec![b'x'; OUTPUT_BYTES_MAX + 3];
    output[OUTPUT_BYTES_MAX + 2] = b'!';
    let verdict = Verdict {
        completed: false,
        exit_code: None,
        output: output.into(),
        output_cut: false,
        error: Some("é".repeat(ERROR_BYTES_MAX)),
    };
    rig.report(StatusUpdate { job: id(1), fence, verdict });
    let view = rig.machine.view(id(1)).unwrap();
    assert_eq!((view.output.len(), view.output.last()), (OUTPUT_BYTES_MAX, Some(&b'!')));
    assert!(view.output_cut);
    assert_eq!(view.error.unwrap().len(), ERROR_BYTES_MAX);
}

#[test]
fn report_batch_decides_each_for_itself_in_order() {
    let mut rig = Rig::new();
    rig.submit_commands([1, 2]);
    rig.register_commands("w", 2);
    let one = rig.assign_one(1, "w", 1);
    let batch = vec![update(3, one, true), update(2, one, true), update(1, one, true)];
    let Outcome::Updated(outcomes) = rig.apply(Command::BatchUpdateJobStatus(batch)) else {
        panic!()
    };
    assert_eq!(outcomes[0], UpdateOutcome::NotFound);
    assert!(matches!(outcomes[1], UpdateOutcome::StaleFence { .. }));
    assert_eq!(outcomes[2], UpdateOutcome::Applied);
}

#[test]
fn cancel_pending_or_running_job_ends_it_now() {
    let mut rig = Rig::new();
    rig.submit_commands([1, 2]);
    rig.register_commands("w", 1);
    let fence = rig.assign_one(1, "w", 1);
    assert_eq!(rig.cancel(1), CancelOutcome::Cancelled);
    let withdrawn =
        Event::Withdrawn { worker: worker("w"), incarnation: Incarnation(1), job: id(1), fence };
    let ended = |number| Event::Ended { job: id(number), status: Status::Cancelled };
    assert_eq!(rig.events, [withdrawn, ended(1)]);
    assert!(rig.machine.view(id(1)).unwrap().error.is_some());
    assert!(matches!(
        rig.report(update(1, fence, true)),
        UpdateOutcome::StaleFence { status: Status::Cancelled, .. }
    ));
    rig.assign_one(2, "w", 1);
    rig.release("w", 1, &[(2, rig.machine.job(id(2)).unwrap().fence().unwrap())], false);
    assert_eq!(rig.cancel(2), CancelOutcome::Cancelled);
    assert_eq!(rig.events, [ended(2)]);
    assert_eq!(rig.machine.counts().cancelled, 2);
}

#[test]
fn cancel_of_what_has_ended_or_never_was_changes_nothing() {
    let mut rig = Rig::new();
    rig.submit_commands([1, 2]);
    rig.register_commands("w", 1);
    let fence = rig.assign_one(1, "w", 1);
    rig.report(update(1, fence, true));
    rig.cancel(2);
    assert_eq!(rig.cancel(1), CancelOutcome::Ended(Status::Completed));
    assert_eq!(rig.cancel(2), CancelOutcome::Cancelled);
    assert_eq!(rig.cancel(3), CancelOutcome::NotFound);
    assert!(rig.events.is_empty());
}

#[test]
fn clock_never_goes_back() {
    let mut rig = Rig::new();
    rig.now = 3_600_000;
    rig.submit_commands([1]);
    rig.now = 1_000;
    rig.submit_commands([2]);
    assert_eq!(rig.machine.now(), Millis(3_600_000));
    assert_eq!(rig.machine.view(id(2)).unwrap().created_ms, Millis(3_600_000));
}

#[test]
#[should_panic(expected = "in order")]
fn apply_with_a_gap_is_refused() {
    Rig::new().machine.apply_noop(Index(2));
}

#[test]
fn noops_move_the_index_and_take_digests() {
    let mut rig = Rig::new();
    rig.submit_commands([1]);
    while rig.machine.applied_index() < Index(64 * 70) {
        rig.machine.apply_noop(rig.machine.applied_index().next());
    }
    let digests = rig.machine.digests();
    assert_eq!(digests.len(), 64);
    assert_eq!(digests[0].0, Index(64 * 7));
    assert_eq!(digests[63], (Index(64 * 70), rig.machine.digest()));
    assert_eq!(rig.machine.digest_at(Index(64 * 70)), Some(rig.machine.digest()));
    assert_eq!(rig.machine.digest_at(Index(64 * 6)), None);
    assert_eq!(rig.machine.digest_at(Index(64 * 70 - 1)), None);
}

#[test]
fn image_taken_before_never_changes() {
    let mut rig = Rig::new();
    rig.submit_commands(1..=100);
    rig.register_commands("w", 50);
    let image = rig.machine.clone();
    let digest = image.digest();
    for number in 1..=50 {
        let fence = rig.assign_one(number, "w", 1);
        rig.report(update(number, fence, true));
    }
    assert_eq!(image.recount(), digest);
    assert_eq!(image.counts().pending, 100);
    image.assert_consistent();
}

#[test]
fn assignments_within_bytes_always_have_the_first() {
    let mut rig = Rig::new();
    for number in 1..=3 {
        rig.submit(payload(number, "q", b"0123456789"));
    }
    rig.register(registration("w", 1, 3, Serves::Payloads(vec![queue("q")])));
    rig.assign((1..=3).map(|number| pair(number, "w", 1)).collect());
    let within = |bytes| {
        let (worker, start) = (worker("w"), Incarnation(1));
        rig.machine.assignments_within(&worker, start, Fence(0), 9, bytes).len()
    };
    assert_eq!([within(0), within(19), within(20), within(100)], [1, 1, 2, 3]);
}

#[test]
fn is_known_tells_strangers_apart() {
    let mut rig = Rig::new();
    rig.submit_commands([1]);
    assert!(rig.machine.is_known(id(1)));
    assert!(!rig.machine.is_known(JobId::default()));
}

#[test]
fn machine_crosses_threads() {
    fn crosses<T: Send + Sync + 'static>() {}
    crosses::<raftq::jobs::machine::Machine>();
}
