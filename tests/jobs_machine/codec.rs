//! Commands as bytes: every kind there and back, and bytes from an enemy.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use raftq::jobs::codec::{self, DecodeError, encode};
use raftq::jobs::command::{AddCron, Command, CronFire, Limits, Registration, Release, Stamped};
use raftq::jobs::cron::{CronChange, Missed, NewCron};
use raftq::jobs::intake::{Intake, ProgressReport};
use raftq::jobs::job::{Body, NewJob, Serves};
use raftq::jobs::options::Options;
use raftq::jobs::rules::{QueueChange, Rate};
use raftq::types::{CronName, Fence, Incarnation, Index, Millis, QueueName};

use crate::crons::cron;
use crate::support::{command, id, pair, payload, queue, registration, update, worker};

fn decode(bytes: &[u8]) -> Result<Stamped, DecodeError> {
    codec::decode(&Bytes::copy_from_slice(bytes))
}

fn stamped(command: Command) -> Stamped {
    Stamped { now: Millis(1_700_000_000_000), command }
}

fn asks(number: u64, retries: u32) -> NewJob {
    let options = Options { retries, priority: 0, ..Options::default() };
    NewJob { options: Options::shared(options), ..command(number) }
}

fn name() -> CronName {
    CronName::new("c").unwrap()
}

fn add_cron(cron: NewCron) -> Command {
    Command::AddCron(AddCron { cron: Arc::new(cron), next_ms: Some(Millis(5)) })
}

fn fire(next_ms: Option<Millis>) -> CronFire {
    CronFire { name: name(), created: Index(4), slot_ms: Millis(7), next_ms }
}

/// One command of every kind, and bodies that `apply` will refuse: those, too, must arrive as sent.
fn samples() -> Vec<Stamped> {
    let body = |words: Vec<String>| NewJob { body: Body::Command(words), ..command(9) };
    let faulty = [body(vec![]), body(vec!["a\0b".into(), String::new()])];
    let serves = Serves::Payloads(vec![queue("a"), queue("b")]);
    [
        Command::SubmitJob(vec![command(1), payload(2, "mail", b"\0\xffx")]),
        Command::SubmitJob(faulty.into()),
        Command::SubmitJob(vec![]),
        Command::AssignJob(vec![pair(1, "node-1", u64::MAX), pair(2, "w", 0)]),
        Command::RegisterWorker(registration("w", 7, 4, Serves::Commands)),
        Command::RegisterWorker(Registration {
            gave_up: Some(Incarnation(6)),
            ..registration("w", 7, 4, serves)
        }),
        Command::UpdateJobStatus(update(1, Fence(4097), false)),
        Command::BatchUpdateJobStatus(vec![update(1, Fence(1), true), update(2, Fence(2), false)]),
        Command::CancelJob(vec![id(1), id(2)]),
        Command::ReleaseJob(Release {
            worker: worker("w"),
            incarnation: Incarnation(3),
            jobs: vec![(id(1), Fence(5))],
            leaving: true,
        }),
        Command::WorkerLost(vec![(worker("w"), Incarnation(1)), (worker("v"), Incarnation(2))]),
        Command::SetLimits(Limits::default()),
        Command::Tick,
        Command::ChangeQueue(queue("mail"), QueueChange::Pause),
        Command::ChangeQueue(queue("mail"), QueueChange::Limit(None)),
        Command::ChangeQueue(queue("mail"), QueueChange::Rate(Some(Rate { count: 2, per_ms: 3 }))),
        Command::RetryJob(vec![id(1)]),
        Command::PurgeJob(vec![id(1), id(2)]),
        Command::ChangeWorker(worker("w"), Intake::Open),
        Command::ChangeWorker(worker("w"), Intake::Drain),
        Command::ReportProgress(ProgressReport {
            job: id(1),
            fence: Fence(4097),
            percent: 40,
            note: "half".into(),
        }),
        Command::SubmitJob(vec![asks(1, 3), command(2), asks(3, 3), asks(4, 4)]),
        add_cron(NewCron { options: asks(1, 3).options, ..cron("c", Missed::Once) }),
        add_cron(NewCron {
            body: Body::Payload(Bytes::from_static(b"\0\xff")),
            ..cron("c", Missed::All)
        }),
        Command::ChangeCron(name(), CronChange::Pause, None),
        Command::ChangeCron(name(), CronChange::Resume, Some(Millis(9))),
        Command::ChangeCron(name(), CronChange::Remove, None),
        Command::ChangeCron(name(), CronChange::Trigger(id(1)), None),
        Command::FireCron(vec![fire(None), fire(Some(Millis(9)))]),
    ]
    .map(stamped)
    .into()
}

#[test]
fn every_command_comes_back_as_it_was() {
    for sample in samples() {
        let bytes = encode(&sample);
        assert_eq!(decode(&bytes), Ok(sample.clone()));
        assert_eq!(bytes, encode(&sample), "the same bytes each time");
    }
}

#[test]
fn submit_has_the_bytes_that_logs_on_disk_hold() {
    // Pinned: a change here orphans every log there is.
    let queue = QueueName::default();
    let sample = stamped(Command::SubmitJob(vec![
        NewJob {
            id: id(1),
            queue: queue.clone(),
            body: Body::Payload(Bytes::from_static(b"hi")),
            options: None,
        },
        NewJob { id: id(2), queue, body: Body::Command(vec!["ls".into()]), options: None },
    ]));
    let mut expected = vec![0x93, 0xcf];
    expected.extend(1_700_000_000_000u64.to_be_bytes());
    expected.extend([1, 0x92, 0x93, 0xc4, 16]);
    expected.extend(id(1).0);
    expected.extend(b"\xa7default\xc4\x02hi\x93\xc4\x10");
    expected.extend(id(2).0);
    expected.extend(b"\xa7default\x91\xa2ls");
    assert_eq!(encode(&sample), expected);
}

#[test]
fn options_follow_the_body_in_the_bytes_that_logs_on_disk_hold() {
    // Pinned, as above.
    let bytes = encode(&stamped(Command::SubmitJob(vec![asks(1, 3)])));
    assert!(bytes.ends_with(b"\xa11\x82\xa8priority\x00\xa7retries\x03"), "{bytes:?}");
    let bytes = encode(&stamped(Command::Tick));
    assert!(bytes.ends_with(&[10, 0xc0]), "{bytes:?}");
    let bytes = encode(&stamped(Command::ChangeQueue(queue("q"), QueueChange::Pause)));
    assert!(bytes.ends_with(b"\x0b\x92\xa1q\xa5pause"), "{bytes:?}");
    let bytes = encode(&stamped(Command::ChangeWorker(worker("w"), Intake::Quiet)));
    assert!(bytes.ends_with(b"\x17\x92\xa1w\x01"), "{bytes:?}");
    let bytes = encode(&stamped(Command::ChangeCron(name(), CronChange::Pause, None)));
    assert!(bytes.ends_with(b"\x15\x93\xa1c\xa5pause\xc0"), "{bytes:?}");
    let bytes = encode(&stamped(Command::FireCron(vec![fire(Some(Millis(9)))])));
    assert!(bytes.ends_with(b"\x16\x91\x94\xa1c\x04\x07\x09"), "{bytes:?}");
    let bytes = encode(&stamped(add_cron(cron("c", Missed::Once))));
    let cron =
        b"\x14\x92\x96\xa1c\xaa@every 10s\xa3UTC\xa4once\xa5ticks\x81\xa7command\x91\xa4true\x05";
    assert!(bytes.ends_with(cron), "{bytes:?}");
}

#[test]
fn jobs_that_ask_for_the_same_share_it_when_they_are_read() {
    let bytes = encode(&stamped(Command::SubmitJob(vec![asks(1, 3), command(2), asks(3, 3)])));
    let Ok(Stamped { command: Command::SubmitJob(jobs), .. }) = decode(&bytes) else {
        panic!("a submit")
    };
    let shared = |at: usize| jobs[at].options.as_ref().unwrap();
    assert!(Arc::ptr_eq(shared(0), shared(2)));
}

#[test]
fn overhead_of_a_submitted_job_is_small() {
    let jobs: Vec<NewJob> = (0..100).map(|number| payload(number, "default", &[7; 256])).collect();
    let bytes = encode(&stamped(Command::SubmitJob(jobs)));
    assert!(bytes.len() <= 100 * (256 + 32), "{}", bytes.len());
}

#[test]
fn decode_of_any_beginning_is_refused() {
    for sample in samples() {
        let bytes = encode(&sample);
        for length in 0..bytes.len() {
            let outcome = decode(&bytes[..length]);
            assert!(matches!(outcome, Err(DecodeError::Malformed(_))), "{length}: {outcome:?}");
        }
    }
}

#[test]
fn decode_with_bytes_behind_is_refused() {
    for sample in samples() {
        for tail in [&[0xc0][..], &[0xc1], &[0xc6], &[0x93, 1], &[0xff, 0xff]] {
            let mut bytes = encode(&sample).to_vec();
            bytes.extend(tail);
            assert_eq!(decode(&bytes), Err(DecodeError::TrailingBytes));
        }
    }
}

#[test]
fn decode_unknown_code_or_element_is_refused() {
    for bytes in [
        &[0x93, 1, 0, 0x90][..],
        &[0x93, 1, 10, 0x90],
        &[0x94, 1, 1, 0x90, 0x90],
        &[0x92, 1, 1],
        &[0x93, 0xc0, 1, 0x90],
        &[0x81, 1, 1],
        &[0xc0],
        &[],
    ] {
        assert!(matches!(decode(bytes), Err(DecodeError::Malformed(_))), "{bytes:x?}");
    }
}

#[test]
fn decode_claimed_lengths_cost_nothing() {
    // Four billion of everything, in five bytes each: refused for want of bytes, not of memory.
    for claim in [
        &[0x93, 1, 1, 0xdd, 0xff, 0xff, 0xff, 0xff][..],
        &[0x93, 1, 6, 0xdd, 0xff, 0xff, 0xff, 0xff],
        &[0x93, 1, 1, 0x91, 0x93, 0xc6, 0xff, 0xff, 0xff, 0xff],
        &[0x93, 1, 2, 0x91, 0x93, 0xdb, 0xff, 0xff, 0xff, 0xff],
        &[0xdd, 0xff, 0xff, 0xff, 0xff, 1, 1],
        &[0x93, 1, 9, 0xdf, 0xff, 0xff, 0xff, 0xff],
        &[0xc9, 0xff, 0xff, 0xff, 0xff, 1],
    ] {
        assert!(matches!(decode(claim), Err(DecodeError::Malformed(_))), "{claim:x?}");
    }
}

#[test]
fn decode_deep_nesting_is_refused() {
    for opening in [0x91, 0x81, 0x93] {
        let mut bytes = vec![0x93, 1, 1];
        bytes.extend(std::iter::repeat_n(opening, 1 << 20));
        assert!(matches!(decode(&bytes), Err(DecodeError::Malformed(_))));
        // As an unknown field of a struct, where anything is skipped over.
        let mut bytes = vec![0x93, 1, 9, 0x81, 0xa1, b'?'];
        bytes.extend(std::iter::repeat_n(opening, 1 << 20));
        assert!(matches!(decode(&bytes), Err(DecodeError::Malformed(_))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decode_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _outcome = decode(&bytes);
        let mut begun = vec![0x93, 1, bytes.len() as u8 % 10];
        begun.extend(&bytes);
        let _outcome = decode(&begun);
    }

    #[test]
    fn decode_of_a_changed_command_never_panics(
        which in 0usize..12,
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = encode(&samples()[which]).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        // What is accepted is a command: it can be written and read again.
        if let Ok(stamped) = decode(&bytes) {
            prop_assert_eq!(decode(&encode(&stamped)), Ok(stamped));
        }
    }
}
