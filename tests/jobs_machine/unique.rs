//! Unique jobs: one key, one job at a time.

use raftq::jobs::command::{Command, Outcome, RetryOutcome, SubmitOutcome};
use raftq::jobs::job::{NewJob, Status};
use raftq::jobs::machine::Machine;
use raftq::jobs::options::Options;
use raftq::jobs::restore::Restore;
use raftq::types::{QueueName, UniqueKey};

use crate::support::{Rig, command, id, payload, queue, update};

fn unique(number: u64, key: &str) -> NewJob {
    let unique = Some(UniqueKey::new(key).unwrap());
    NewJob { options: Options::shared(Options { unique, ..Options::default() }), ..command(number) }
}

fn unique_for(number: u64, key: &str, ms: u64) -> NewJob {
    let unique = Some(UniqueKey::new(key).unwrap());
    let options = Options { unique, unique_for_ms: Some(ms), ..Options::default() };
    NewJob { options: Options::shared(options), ..command(number) }
}

fn retry(rig: &mut Rig, number: u64) -> RetryOutcome {
    let Outcome::Retried(outcomes) = rig.apply(Command::RetryJob(vec![id(number)])) else {
        panic!("not the outcome of a retry")
    };
    outcomes[0]
}

fn restored(machine: &Machine) -> Machine {
    let mut restore = Restore::new();
    machine.records().for_each(|record| restore.push(&record).unwrap());
    let restored = restore.finish().unwrap();
    restored.assert_consistent();
    restored
}

#[test]
fn key_is_held_until_the_job_ends_however_it_ends() {
    let mut rig = Rig::new();
    rig.register_commands("w", 4);
    assert_eq!(rig.submit(unique(1, "k")), SubmitOutcome::Created);
    assert_eq!(rig.submit(unique(2, "k")), SubmitOutcome::Taken(id(1)));
    assert_eq!(rig.submit(unique(1, "k")), SubmitOutcome::Known, "the same submit again");
    assert_eq!(rig.submit(unique(3, "other")), SubmitOutcome::Created);
    let elsewhere = NewJob { queue: queue("mail"), ..unique(4, "k") };
    assert_eq!(rig.submit(elsewhere), SubmitOutcome::Created, "a key is one queue's own");
    let fence = rig.assign_one(1, "w", 1);
    assert_eq!(rig.submit(unique(2, "k")), SubmitOutcome::Taken(id(1)), "it runs");
    rig.report(update(1, fence, true));
    assert_eq!(rig.submit(unique(2, "k")), SubmitOutcome::Created, "it has ended");
    rig.cancel(2);
    assert_eq!(rig.submit(unique(5, "k")), SubmitOutcome::Created);
    let fence = rig.assign_one(5, "w", 1);
    rig.report(update(5, fence, false));
    assert_eq!(rig.submit(unique(6, "k")), SubmitOutcome::Created, "it has failed");
    // What was answered with another job left nothing behind.
    assert_eq!(rig.machine.job(id(2)).unwrap().status, Status::Cancelled);
}

#[test]
fn two_of_one_key_in_one_entry_are_one_job() {
    let mut rig = Rig::new();
    let jobs = vec![unique(1, "k"), unique(2, "k"), unique(3, "k")];
    let Outcome::Submitted(outcomes) = rig.apply(Command::SubmitJob(jobs)) else { panic!() };
    let taken = SubmitOutcome::Taken(id(1));
    assert_eq!(outcomes, [SubmitOutcome::Created, taken.clone(), taken]);
    assert_eq!(rig.machine.counts().pending, 1);
}

#[test]
fn key_for_a_time_outlives_the_job_and_no_more_than_the_time() {
    let mut rig = Rig::new();
    assert_eq!(rig.submit(unique_for(1, "k", 500)), SubmitOutcome::Created);
    rig.cancel(1);
    rig.now += 499;
    assert_eq!(rig.submit(unique(2, "k")), SubmitOutcome::Taken(id(1)));
    assert_eq!(restored(&rig.machine), rig.machine);
    rig.now += 1;
    assert_eq!(rig.submit(unique_for(2, "k", 10)), SubmitOutcome::Created);
    rig.now += 10;
    assert_eq!(rig.submit(unique(3, "k")), SubmitOutcome::Created, "while 2 waits still");
    assert_eq!(rig.submit(unique(4, "k")), SubmitOutcome::Taken(id(3)));
    rig.cancel(2);
    assert_eq!(rig.submit(unique(4, "k")), SubmitOutcome::Taken(id(3)), "2 had it no more");
    assert_eq!(restored(&rig.machine), rig.machine);
}

#[test]
fn job_from_the_dead_set_needs_its_key_again() {
    let mut rig = Rig::new();
    rig.submit(unique(1, "k"));
    rig.cancel(1);
    rig.submit(unique(2, "k"));
    assert_eq!(retry(&mut rig, 1), RetryOutcome::Taken(id(2)));
    assert_eq!(rig.machine.job(id(1)).unwrap().status, Status::Cancelled);
    rig.cancel(2);
    assert_eq!(retry(&mut rig, 1), RetryOutcome::Retried);
    assert_eq!(rig.submit(unique(3, "k")), SubmitOutcome::Taken(id(1)));
    assert_eq!(restored(&rig.machine), rig.machine);
}

#[test]
fn job_of_a_key_for_a_time_that_is_tried_again_takes_it_again() {
    let mut rig = Rig::new();
    rig.submit(unique_for(1, "k", 100));
    rig.cancel(1);
    assert_eq!(retry(&mut rig, 1), RetryOutcome::Retried, "it has the key itself");
    rig.cancel(1);
    rig.now += 100;
    rig.submit(unique(2, "k"));
    assert_eq!(retry(&mut rig, 1), RetryOutcome::Taken(id(2)));
    rig.cancel(2);
    assert_eq!(retry(&mut rig, 1), RetryOutcome::Retried);
    assert_eq!(rig.submit(unique(3, "k")), SubmitOutcome::Taken(id(1)));
    rig.now += 100;
    assert_eq!(rig.submit(unique(3, "k")), SubmitOutcome::Created);
    assert_eq!(restored(&rig.machine), rig.machine);
}

#[test]
fn keys_count_in_the_bytes_and_are_given_back() {
    let mut rig = Rig::new();
    let before = rig.machine.resident_bytes();
    rig.submit(unique_for(1, &"k".repeat(256), 50));
    assert!(rig.machine.resident_bytes() > before + 512);
    rig.cancel(1);
    rig.apply(Command::PurgeJob(vec![id(1)]));
    assert_eq!(
        rig.submit(unique(2, &"k".repeat(256))),
        SubmitOutcome::Created,
        "forgotten with it"
    );
    rig.cancel(2);
    rig.apply(Command::PurgeJob(vec![id(2)]));
    rig.now += 120_000;
    rig.apply(Command::Tick);
    assert_eq!(rig.machine.resident_bytes(), before);
}

#[test]
fn image_in_which_two_jobs_have_one_key_is_refused() {
    let mut rig = Rig::new();
    let plain = payload(1, QueueName::DEFAULT, b"x");
    rig.submit(NewJob { options: unique(1, "ka").options, ..plain.clone() });
    rig.submit(NewJob { id: id(2), options: unique(2, "kb").options, ..plain });
    let mut restore = Restore::new();
    let refused = rig.machine.records().find_map(|mut record| {
        let at = record.windows(2).position(|pair| pair == b"kb");
        at.into_iter().for_each(|at| record[at + 1] = b'a');
        restore.push(&record).err()
    });
    assert!(refused.unwrap().to_string().contains("unique key that another one has"));
}
