//! Images: whole, and in every way broken.

use std::sync::Arc;

use proptest::prelude::*;
use raftq::jobs::command::{AddCron, Command, CronFire, Registration, Stamped};
use raftq::jobs::cron::{CronChange, NewCron};
use raftq::jobs::image::{ImageError, RECORD_BYTES_MAX};
use raftq::jobs::intake::{Intake, ProgressReport};
use raftq::jobs::job::{BODY_BYTES_MAX, Body, NewJob, Serves};
use raftq::jobs::machine::Machine;
use raftq::jobs::options::{Options, Tags};
use raftq::jobs::restore::Restore;
use raftq::jobs::rules::{QueueChange, Rate};
use raftq::types::{CronName, Index, Millis, Tag, UniqueKey};

use crate::support::{Rig, id, pair, payload, queue, registration, update, worker};

/// A machine with something of everything in it.
fn sample() -> Machine {
    let limits = raftq::jobs::command::Limits { finished_count_max: 1, ..Default::default() };
    let mut rig = Rig::with_limits(limits);
    rig.submit_commands(1..=9);
    rig.submit(payload(10, "mail", b"\0\xff"));
    rig.register_commands("a", 4);
    rig.register(registration("m", 1, 1, Serves::Payloads(vec![queue("mail"), queue("post")])));
    rig.register(registration("gone", 1, 1, Serves::Commands));
    rig.register(registration("gone", 2, 1, Serves::Commands));
    rig.lose("gone", 2);
    rig.assign(vec![pair(1, "a", 1), pair(2, "a", 1), pair(3, "a", 1), pair(10, "m", 1)]);
    for number in [1, 2] {
        let fence = rig.machine.job(id(number)).unwrap().fence().unwrap();
        rig.report(update(number, fence, number == 1));
    }
    rig.cancel(4);
    rig.lose("a", 1);
    rig.register(registration("a", 2, 2, Serves::Commands));
    rig.assign_one(3, "a", 2);
    let asked = |number, options| NewJob {
        options: Options::shared(options),
        ..payload(number, "post", b"asks")
    };
    let gpu = Tags::new([Tag::new("gpu").unwrap()]);
    let everything = Options {
        priority: 8,
        delay_ms: Some(60_000),
        ttl_ms: Some(120_000),
        timeout_ms: Some(1_000),
        retries: 3,
        tags: gpu.clone(),
        ..Options::default()
    };
    rig.submit(asked(20, everything));
    rig.submit(asked(21, Options { retries: 1, ..Options::default() }));
    rig.submit(asked(22, Options { timeout_ms: Some(60_000), ..Options::default() }));
    let serves = Serves::Payloads(vec![queue("post")]);
    rig.register(Registration { tags: gpu, ..registration("p", 1, 2, serves) });
    let fence = rig.assign_one(21, "p", 1);
    rig.report(update(21, fence, false));
    let fence = rig.assign_one(22, "p", 1);
    rig.apply(Command::ReportProgress(ProgressReport {
        job: id(22),
        fence,
        percent: 40,
        note: "two of five".into(),
    }));
    rig.apply(Command::ChangeWorker(worker("p"), Intake::Quiet));
    let rate = Rate { count: 1, per_ms: 60_000 };
    for (name, change) in [
        ("default", QueueChange::Limit(Some(9))),
        ("post", QueueChange::Pause),
        ("slow", QueueChange::Rate(Some(rate))),
        ("slow", QueueChange::Drain),
    ] {
        rig.apply(Command::ChangeQueue(queue(name), change));
    }
    for (name, next) in [("a", Some(1_000)), ("b", None)] {
        let cron = crate::crons::cron(name, raftq::jobs::cron::Missed::All);
        let options = Options::shared(Options { retries: 2, ..Options::default() });
        let cron = NewCron { options, ..cron };
        let (cron, next_ms) = (Arc::new(cron), next.map(Millis));
        rig.apply(Command::AddCron(AddCron { cron, next_ms }));
    }
    let created = rig.machine.applied_index().prev();
    let (name, slot_ms, next_ms) =
        (CronName::new("a").unwrap(), Millis(1_000), Some(Millis(9_000)));
    rig.apply(Command::FireCron(vec![CronFire { name: name.clone(), created, slot_ms, next_ms }]));
    rig.apply(Command::ChangeCron(name, CronChange::Pause, None));
    while !rig.machine.applied_index().0.is_multiple_of(64) {
        rig.machine.apply_noop(rig.machine.applied_index().next());
    }
    let counts = rig.machine.counts();
    let ended = [counts.failed, counts.cancelled, counts.forgotten];
    let kinds = [[counts.pending, counts.running, counts.held], ended].concat();
    assert!(kinds.iter().all(|count| *count > 0), "{counts:?}");
    rig.machine
}

fn records(machine: &Machine) -> Vec<Vec<u8>> {
    machine.records().collect()
}

fn restore<'a>(records: impl IntoIterator<Item = &'a Vec<u8>>) -> Result<Machine, ImageError> {
    let mut restore = Restore::new();
    for record in records {
        restore.push(record)?;
    }
    restore.finish()
}

#[test]
fn image_of_everything_restores_equal() {
    let machine = sample();
    let copy = restore(&records(&machine)).unwrap();
    assert!(copy == machine);
    copy.assert_consistent();
    assert_eq!(copy.applied_index(), machine.applied_index());
    assert_eq!(copy.digests(), machine.digests());
    assert_eq!(copy.digest_at(Index(64)), machine.digest_at(Index(64)));
}

#[test]
fn image_of_an_empty_machine_restores_equal() {
    let machine = Machine::new();
    assert_eq!(records(&machine).len(), 2);
    assert!(restore(&records(&machine)).unwrap() == machine);
}

#[test]
fn records_are_bounded_and_group_small_jobs() {
    let mut machine = Machine::new();
    let stamp = |command| Stamped { now: Millis(1), command };
    let many = (0..4_000).map(|number| payload(number, "q", &[7; 200])).collect();
    machine.apply(Index(1), &stamp(Command::SubmitJob(many)));
    let largest = |number| NewJob {
        body: Body::Payload(vec![1; BODY_BYTES_MAX].into()),
        ..payload(number, "q", b"")
    };
    machine.apply(Index(2), &stamp(Command::SubmitJob((4_000..4_004).map(largest).collect())));
    let records = records(&machine);
    assert!(records.iter().all(|record| record.len() <= RECORD_BYTES_MAX));
    assert!(records.len() < 60, "{}", records.len());
    assert!(restore(&records).unwrap() == machine);
}

#[test]
fn restore_missing_any_record_is_refused() {
    let records = records(&sample());
    assert_eq!(records.len(), 7);
    for missing in 0..records.len() {
        let rest = records.iter().enumerate().filter(|(at, _)| *at != missing);
        assert!(restore(rest.map(|(_, record)| record)).is_err(), "without record {missing}");
    }
    assert_eq!(restore(&records[..6]).err(), Some(ImageError::Cut));
    assert_eq!(restore([]).err(), Some(ImageError::Cut));
}

#[test]
fn restore_records_twice_or_out_of_order_is_refused() {
    let records = records(&sample());
    for at in 0..records.len() {
        let mut twice = records.clone();
        twice.insert(at, records[at].clone());
        assert!(matches!(restore(&twice), Err(ImageError::Order(_))), "record {at} twice");
        for other in at + 1..records.len() {
            let mut swapped = records.clone();
            swapped.swap(at, other);
            assert!(restore(&swapped).is_err(), "{at} and {other} swapped");
        }
    }
}

/// Rewrites a number that stands in the one record of jobs, wherever it does.
fn with_sequence(records: &mut [Vec<u8>], from: u8, to: u8) {
    let record = &mut records[1];
    let created = 1_000u16.to_be_bytes();
    let from = [&[from, 0xcd][..], &created].concat();
    let at = record.windows(from.len()).position(|it| it == from).unwrap();
    record[at] = to;
}

#[test]
fn restore_two_jobs_in_one_place_is_refused_whatever_their_queues() {
    for (priority, told) in [(5, "has a place"), (6, "two jobs have one place")] {
        let mut rig = Rig::new();
        for (number, name) in [(1, "a"), (2, "b")] {
            let priority = if number == 2 { priority } else { 5 };
            let options = Options::shared(Options { priority, ..Options::default() });
            let body = Body::Command(vec!["true".into()]);
            rig.submit(NewJob { id: id(number), queue: queue(name), body, options });
        }
        let mut records = records(&rig.machine);
        with_sequence(&mut records, 2, 1);
        let Err(ImageError::Contradiction(why)) = restore(&records) else { panic!("restored") };
        assert!(why.contains(told), "{why}");
    }
}

#[test]
fn restore_rules_out_of_bounds_is_refused() {
    let mut rig = Rig::new();
    rig.apply(Command::ChangeQueue(queue("q"), QueueChange::Limit(Some(9))));
    let mut records = records(&rig.machine);
    let at = records[1].iter().rposition(|byte| *byte == 9).unwrap();
    records[1][at] = 0;
    let Err(ImageError::Contradiction(why)) = restore(&records) else { panic!("restored") };
    assert!(why.contains("queue q"), "{why}");
}

#[test]
fn restore_cron_out_of_bounds_is_refused() {
    let mut rig = Rig::new();
    let cron = crate::crons::cron("c", raftq::jobs::cron::Missed::Skip);
    rig.apply(Command::AddCron(AddCron { cron: Arc::new(cron), next_ms: Some(Millis(2_000)) }));
    let whole = records(&rig.machine);
    assert!(restore(&whole).is_ok());
    for (from, to) in [(b"@every 10s", b"@every 10x"), (b"@every 10s", b"* * 0 * * ")] {
        let mut records = whole.clone();
        patch(&mut records[1], from, to);
        let Err(ImageError::Contradiction(why)) = restore(&records) else { panic!("restored") };
        assert!(why.contains("cron c"), "{why}");
    }
}

#[test]
fn restore_other_version_is_refused() {
    let mut records = records(&Machine::new());
    assert_eq!(records[0][3], 4, "the version");
    records[0][3] = 3;
    assert_eq!(restore(&records).err(), Some(ImageError::Version(3)));
}

#[test]
fn restore_too_long_or_unknown_record_is_refused() {
    let mut restore = Restore::new();
    for record in [vec![0x92; RECORD_BYTES_MAX + 1], vec![], vec![0x92], vec![0x93, 0, 0]] {
        assert!(matches!(restore.push(&record), Err(ImageError::Malformed(_))));
    }
    restore.push(&records(&Machine::new())[0]).unwrap();
    assert!(matches!(restore.push(&[0x92, 9, 0x90]), Err(ImageError::Malformed(_))));
}

#[test]
fn restore_trailing_bytes_are_refused() {
    for at in 0..7 {
        let mut records = records(&sample());
        records[at].push(0xc0);
        assert!(matches!(restore(&records), Err(ImageError::Malformed(_))), "record {at}");
    }
}

#[test]
fn restore_any_changed_byte_is_refused_or_harmless() {
    let machine = sample();
    let whole = records(&machine);
    let mut accepted = 0;
    for at in 0..whole.len() {
        for byte in 0..whole[at].len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut records = whole.clone();
                records[at][byte] ^= flip;
                if let Ok(copy) = restore(&records) {
                    // Only the ring of digests is not part of the digest; everything else is.
                    assert_eq!(copy.digest(), machine.digest());
                    assert_eq!(copy.counts(), machine.counts());
                    accepted += 1;
                }
            }
        }
    }
    assert!(accepted < 100, "{accepted} changes went unseen");
}

/// Puts other bytes in the place of the one occurrence of some.
fn patch(record: &mut [u8], from: &[u8], to: &[u8]) {
    let places: Vec<usize> =
        (0..record.len()).filter(|at| record[*at..].starts_with(from)).collect();
    assert_eq!(places.len(), 1, "{from:x?}");
    record[places[0]..places[0] + to.len()].copy_from_slice(to);
}

/// The numbers 4096 × index and up, as a record holds them.
fn fence_bytes(machine: &Machine, number: u64) -> Vec<u8> {
    let fence = machine.job(id(number)).unwrap().fence().unwrap();
    let mut bytes = vec![0xcd];
    bytes.extend(u16::try_from(fence.0).unwrap().to_be_bytes());
    bytes
}

#[test]
fn restore_two_jobs_under_one_token_is_refused() {
    let mut rig = Rig::new();
    rig.submit_commands([1, 2]);
    rig.register_commands("w", 2);
    rig.assign(vec![pair(1, "w", 1), pair(2, "w", 1)]);
    let mut records = records(&rig.machine);
    let (one, two) = (fence_bytes(&rig.machine, 1), fence_bytes(&rig.machine, 2));
    patch(&mut records[2], &two, &one);
    assert!(matches!(restore(&records), Err(ImageError::Contradiction(_))));
}

#[test]
fn restore_worker_chosen_without_a_free_slot_is_refused() {
    let mut rig = Rig::new();
    rig.submit_commands([1]);
    rig.register_commands("w", 7);
    rig.assign(vec![pair(1, "w", 1)]);
    let whole = records(&rig.machine);
    // It had 0 of 7, and was the only one that had a free slot.
    for impossible in [[0x93, 7, 7, 1], [0x93, 0, 7, 0]] {
        let mut records = whole.clone();
        patch(&mut records[2], &[0x93, 0, 7, 1], &impossible);
        let Err(ImageError::Contradiction(why)) = restore(&records) else { panic!("restored") };
        assert!(why.contains("without a free slot"), "{why}");
    }
    assert!(restore(&whole).is_ok());
}

#[test]
fn restore_two_endings_or_two_waiting_jobs_in_one_place_is_refused() {
    let mut rig = Rig::new();
    rig.submit_commands([1, 2, 3, 4]);
    rig.cancel(1);
    rig.cancel(2);
    let whole = records(&rig.machine);
    // An ending begins with its order, an array of seven.
    let mut endings = whole.clone();
    patch(&mut endings[1], &[0x97, 2, 0xcd], &[0x97, 1]);
    assert!(matches!(restore(&endings), Err(ImageError::Contradiction(_))));
    // After a command's last word come its sequence and its time.
    let mut places = whole.clone();
    patch(&mut places[1], b"echo\x004\x04", b"echo\x004\x03");
    assert!(matches!(restore(&places), Err(ImageError::Contradiction(_))));
    assert!(restore(&whole).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn restore_never_panics(
        code in 0u8..7,
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        headed in any::<bool>(),
    ) {
        let mut restore = Restore::new();
        if headed {
            restore.push(&records(&sample())[0]).unwrap();
        }
        let mut record = vec![0x92, code];
        record.extend(bytes);
        if restore.push(&record).is_ok() {
            let _outcome = restore.finish();
        }
    }
}

/// A record has hundreds of small jobs, and each of them is read.
#[test]
fn many_of_the_smallest_jobs_of_every_kind_come_back() {
    let mut machine = Machine::new();
    let mut index = 0;
    let mut apply = |machine: &mut Machine, command: Command| {
        index += 1;
        machine.apply(Index(index), &Stamped { now: Millis(index), command });
    };
    apply(&mut machine, Command::RegisterWorker(registration("w", 1, 4096, Serves::Commands)));
    let asks = [
        Options::default(),
        Options { retries: 1, ..Options::default() },
        Options { unique: UniqueKey::new("k").ok(), unique_for_ms: Some(1), ..Options::default() },
    ];
    for asks in asks {
        let jobs = |from: u64| {
            let job = |number: u64| NewJob {
                id: id(number),
                queue: queue("q"),
                body: Body::Command(vec!["a".into()]),
                options: Options::shared(asks.clone()),
            };
            (from..from + 2000).map(job).collect()
        };
        let from = machine.counts().pending + machine.counts().failed + machine.counts().running;
        apply(&mut machine, Command::SubmitJob(jobs(from)));
        assert_eq!(restore(&records(&machine)).unwrap(), machine);
        // Some of them run, and some of those fail.
        let pairs = (from..from + 900).map(|number| pair(number, "w", 1)).collect();
        apply(&mut machine, Command::AssignJob(pairs));
        assert_eq!(restore(&records(&machine)).unwrap(), machine);
        for number in from..from + 450 {
            if let Some(fence) = machine.job(id(number)).and_then(|job| job.fence()) {
                apply(&mut machine, Command::UpdateJobStatus(update(number, fence, false)));
            }
        }
        assert_eq!(restore(&records(&machine)).unwrap(), machine);
    }
}
