//! What holds after any sequence of commands whatever.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use raftq::jobs::codec::{decode, encode};
use raftq::jobs::command::{
    AddCron, Command, CronFire, Event, Limits, Outcome, Pair, Registration, Release, RetryOutcome,
    Stamped, StatusUpdate,
};
use raftq::jobs::cron::{CronChange, Missed, NewCron};
use raftq::jobs::intake::{Intake, ProgressReport};
use raftq::jobs::job::{Body, NewJob, Serves, Status, Verdict};
use raftq::jobs::lane::Class;
use raftq::jobs::machine::{Applied, Machine};
use raftq::jobs::options::{Options, Tags};
use raftq::jobs::reason::Reason;
use raftq::jobs::resident::Job;
use raftq::jobs::restore::Restore;
use raftq::jobs::rules::{QueueChange, Rate};
use raftq::jobs::scheduler::{Proposed, schedule};
use raftq::types::{
    CronName, Fence, Incarnation, Index, JobId, Millis, QueueName, Tag, UniqueKey, WorkerId,
};

use crate::support::{id, queue, verdict, worker};

const WORKERS: [&str; 4] = ["a", "b", "c", "d"];

/// One step, in terms of the few jobs and workers there are; it becomes a command with a look at
/// the machine, so that most of them mean something.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Submit(Vec<(u64, u8)>),
    Assign(Vec<(u64, usize)>),
    Schedule { max: usize },
    Register { worker: usize, start: u64, slots: u32, serves: u8, gave_up: Option<u64> },
    Report(Vec<(u64, u64, bool)>),
    Cancel(Vec<u64>),
    Release { worker: usize, jobs: Vec<u64>, leaving: bool },
    Lose { worker: usize, start: Option<u64> },
    Limits(Limits),
    Noop,
    Wait(u64),
    Tick,
    Change(u8, QueueChange),
    Retry(Vec<u64>),
    Purge(Vec<u64>),
    Decide(usize, Intake),
    Say(u64, u64, u8),
    AddCron(u8, u8),
    ChangeCron(u8, CronChange),
    FireCron(u64),
}

fn limits() -> impl Strategy<Value = Limits> {
    (0u64..8, 0u64..3_000, 0u64..4_000, 1u64..3, 0u64..2_000, 0u32..4, 0u32..5).prop_map(
        |(count, age, bytes, room, kept, attempts, workers)| Limits {
            finished_count_max: count,
            finished_age_ms_max: age,
            finished_bytes_max: bytes,
            dead_age_ms_max: age,
            dead_bytes_max: bytes,
            resident_bytes_max: room * 8_000,
            id_kept_ms: kept,
            attempts_max: attempts,
            workers_max: workers,
        },
    )
}

fn change() -> impl Strategy<Value = QueueChange> {
    let rate = (1u32..4, 1u64..900).prop_map(|(count, per_ms)| Rate { count, per_ms });
    prop_oneof![
        1 => Just(QueueChange::Pause),
        2 => Just(QueueChange::Resume),
        1 => Just(QueueChange::Drain),
        2 => prop::option::of(0u32..4).prop_map(QueueChange::Limit),
        2 => prop::option::of(rate).prop_map(QueueChange::Rate),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let job = || 0u64..24;
    let who = || 0usize..4;
    prop_oneof![
        4 => prop::collection::vec((job(), 0u8..108), 0..6).prop_map(Op::Submit),
        2 => prop::collection::vec((job(), who()), 0..5).prop_map(Op::Assign),
        4 => (0usize..6).prop_map(|max| Op::Schedule { max }),
        3 => (who(), 0u64..5, 0u32..4, 0u8..8, prop::option::of(0u64..5)).prop_map(
            |(worker, start, slots, serves, gave_up)| Op::Register { worker, start, slots, serves, gave_up }
        ),
        4 => prop::collection::vec((job(), 0u64..4, any::<bool>()), 0..5).prop_map(Op::Report),
        1 => prop::collection::vec(job(), 0..3).prop_map(Op::Cancel),
        1 => (who(), prop::collection::vec(job(), 0..4), any::<bool>())
            .prop_map(|(worker, jobs, leaving)| Op::Release { worker, jobs, leaving }),
        1 => (who(), prop::option::weighted(0.2, 0u64..5))
            .prop_map(|(worker, start)| Op::Lose { worker, start }),
        1 => limits().prop_map(Op::Limits),
        1 => Just(Op::Noop),
        3 => (0u64..2_000).prop_map(Op::Wait),
        2 => Just(Op::Tick),
        2 => (0u8..3, change()).prop_map(|(queue, change)| Op::Change(queue, change)),
        1 => prop::collection::vec(job(), 0..3).prop_map(Op::Retry),
        1 => prop::collection::vec(job(), 0..3).prop_map(Op::Purge),
        2 => (who(), 0u8..6).prop_map(|(worker, intake)| {
            Op::Decide(worker, Intake::from_code(intake).unwrap_or(Intake::Open))
        }),
        2 => (job(), 0u64..4, 0u8..120).prop_map(|(job, stale, percent)| Op::Say(job, stale, percent)),
        1 => (0u8..2, 0u8..4).prop_map(|(which, shape)| Op::AddCron(which, shape)),
        1 => (0u8..3, cron_change()).prop_map(|(which, change)| Op::ChangeCron(which, change)),
        2 => (0u64..4).prop_map(Op::FireCron),
    ]
}

pub(crate) fn ops() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 0..80)
}

fn cron_change() -> impl Strategy<Value = CronChange> {
    prop_oneof![
        2 => Just(CronChange::Pause),
        2 => Just(CronChange::Resume),
        1 => Just(CronChange::Remove),
        1 => (0u64..24).prop_map(|number| CronChange::Trigger(id(number))),
    ]
}

fn cron_name(which: u8) -> CronName {
    CronName::new(["c", "d", "e"][usize::from(which)]).unwrap()
}

fn new_cron(which: u8, shape: u8) -> NewCron {
    let NewJob { queue, body, options, .. } = new_job(1, shape * 12 + which * 4);
    let missed = Missed::ALL[usize::from(shape % 3)];
    let spec = if shape == 3 { "@every 0s" } else { "@every 1s" };
    NewCron {
        name: cron_name(which),
        spec: spec.into(),
        tz: "UTC".into(),
        missed,
        queue,
        body,
        options,
    }
}

/// Fires what is due, and now and then what is not.
fn fires(machine: &Machine, ahead: u64) -> Vec<CronFire> {
    let now = Millis(machine.now().0 + ahead / 3 * 700);
    let due = machine.crons().due(now).map(|(slot_ms, cron)| CronFire {
        name: cron.new.name.clone(),
        created: Index(cron.created.0 + ahead / 2 % 2),
        slot_ms,
        next_ms: Some(Millis(cron.resumes_after(slot_ms, now).0 + 1_000)),
    });
    due.collect()
}

fn new_job(number: u64, shape: u8) -> NewJob {
    let (shape, asks) = (shape % 12, shape / 12);
    let body = match shape % 4 {
        0 => Body::Command(vec!["run".into(), String::new(), number.to_string()]),
        1 => Body::Payload(Bytes::from(vec![shape; number as usize])),
        2 => Body::Payload(Bytes::new()),
        _ => Body::Command(vec![if shape > 9 { String::new() } else { "x".into() }]),
    };
    NewJob {
        id: id(number),
        queue: queue(["p", "q", "r"][usize::from(shape / 4)]),
        body,
        options: Options::shared(options(asks)),
    }
}

/// What jobs ask for: nothing, and one of everything.
fn options(asks: u8) -> Options {
    let none = Options::default();
    let tags = |names: &[&str]| Tags::new(names.iter().map(|name| Tag::new(name).unwrap()));
    match asks {
        1 => Options { priority: 9, retries: 1, backoff_ms: 300, ..none },
        2 => Options { priority: 1, delay_ms: Some(700), tags: tags(&["gpu"]), ..none },
        3 => Options { at_ms: Some(Millis(4_000)), ttl_ms: Some(1_500), ..none },
        4 => Options { timeout_ms: Some(500), retries: 2, backoff_ms: 0, ..none },
        5 => Options { ttl_ms: Some(900), tags: tags(&["gpu", "fast"]), ..none },
        6 => Options { priority: 11, ..none },
        7 => Options { unique: UniqueKey::new("k").ok(), ..none },
        8 => Options { unique: UniqueKey::new("k").ok(), unique_for_ms: Some(800), ..none },
        _ => none,
    }
}

fn start_of(machine: &Machine, worker: &WorkerId) -> Incarnation {
    machine.worker(worker).map_or(Incarnation(0), |it| it.incarnation)
}

fn fence_of(machine: &Machine, job: JobId) -> Fence {
    machine.job(job).and_then(|job| job.fence()).unwrap_or_default()
}

fn command(machine: &Machine, op: &Op) -> Option<Command> {
    let name = |which: usize| worker(WORKERS[which]);
    Some(match op {
        Op::Submit(jobs) => Command::SubmitJob(
            jobs.iter().map(|(number, shape)| new_job(*number, *shape)).collect(),
        ),
        Op::Assign(pairs) => Command::AssignJob(
            pairs
                .iter()
                .map(|(number, which)| Pair {
                    job: id(*number),
                    incarnation: start_of(machine, &name(*which)),
                    worker: name(*which),
                })
                .collect(),
        ),
        Op::Schedule { max } => {
            Command::AssignJob(schedule(machine, &|_, _| true, &Proposed::default(), *max))
        }
        Op::Register { worker, start, slots, serves, gave_up } => {
            Command::RegisterWorker(Registration {
                worker: name(*worker),
                incarnation: Incarnation(*start),
                slots: *slots,
                serves: match serves {
                    0..4 => Serves::Commands,
                    4 => Serves::Payloads(vec![queue("p")]),
                    5 => Serves::Payloads(vec![queue("r"), queue("q")]),
                    6 => Serves::Payloads(vec![queue("p"), queue("p")]),
                    _ => Serves::Payloads(vec![]),
                },
                tags: options([0, 2, 5][(*slots % 3) as usize]).tags,
                gave_up: gave_up.map(Incarnation),
            })
        }
        Op::Report(reports) => Command::BatchUpdateJobStatus(
            reports
                .iter()
                .map(|(number, stale, completed)| StatusUpdate {
                    job: id(*number),
                    fence: Fence(fence_of(machine, id(*number)).0.saturating_sub(stale / 3)),
                    verdict: match number % 5 {
                        // It asks to be tried again later.
                        0 if !completed => Verdict { exit_code: Some(75), ..verdict(false) },
                        _ => verdict(*completed),
                    },
                })
                .collect(),
        ),
        Op::Cancel(numbers) => Command::CancelJob(numbers.iter().copied().map(id).collect()),
        Op::Release { worker, jobs, leaving } => Command::ReleaseJob(Release {
            worker: name(*worker),
            incarnation: start_of(machine, &name(*worker)),
            jobs: jobs.iter().map(|it| (id(*it), fence_of(machine, id(*it)))).collect(),
            leaving: *leaving,
        }),
        Op::Lose { worker, start } => {
            let start = start.map_or(start_of(machine, &name(*worker)), Incarnation);
            Command::WorkerLost(vec![(name(*worker), start)])
        }
        Op::Limits(limits) => Command::SetLimits(*limits),
        Op::Tick => Command::Tick,
        Op::Change(which, change) => {
            Command::ChangeQueue(queue(["p", "q", "r"][usize::from(*which)]), *change)
        }
        Op::Retry(numbers) => Command::RetryJob(numbers.iter().copied().map(id).collect()),
        Op::Purge(numbers) => Command::PurgeJob(numbers.iter().copied().map(id).collect()),
        Op::Decide(worker, intake) => Command::ChangeWorker(name(*worker), *intake),
        Op::Say(number, stale, percent) => Command::ReportProgress(ProgressReport {
            job: id(*number),
            fence: Fence(fence_of(machine, id(*number)).0.saturating_sub(stale / 3)),
            percent: *percent,
            note: "n".repeat(usize::from(*percent % 3)),
        }),
        Op::AddCron(which, shape) => {
            let cron = Arc::new(new_cron(*which, *shape));
            Command::AddCron(AddCron { cron, next_ms: Some(Millis(machine.now().0 + 500)) })
        }
        Op::ChangeCron(which, change) => {
            let next_ms =
                matches!(change, CronChange::Resume).then(|| Millis(machine.now().0 + 300));
            Command::ChangeCron(cron_name(*which), *change, next_ms)
        }
        Op::FireCron(ahead) => Command::FireCron(fires(machine, *ahead)),
        Op::Noop | Op::Wait(_) => return None,
    })
}

/// Called after each entry with the machine, the command (no-ops have none) and what it came to.
pub(crate) type See<'a> = dyn FnMut(&Machine, Option<&Stamped>, Option<&Applied>) + 'a;

/// Applies the steps; `see` is called after each.
pub(crate) fn run(machine: &mut Machine, ops: &[Op], see: &mut See<'_>) {
    let mut now = 1_000;
    for op in ops {
        if let Op::Wait(ms) = op {
            now += ms;
            continue;
        }
        let index = machine.applied_index().next();
        match command(machine, op) {
            Some(command) => {
                let stamped = Stamped { now: Millis(now), command };
                let applied = machine.apply(index, &stamped);
                see(machine, Some(&stamped), Some(&applied));
            }
            None => {
                machine.apply_noop(index);
                see(machine, None, None);
            }
        }
    }
}

fn is_put_off(job: &Arc<Job>) -> bool {
    job.extra.as_ref().is_some_and(|extra| extra.put_off > 0)
}

fn records(machine: &Machine) -> Vec<Vec<u8>> {
    machine.records().collect()
}

fn restored(records: &[Vec<u8>]) -> Machine {
    let mut restore = Restore::new();
    records.iter().for_each(|record| restore.push(record).unwrap());
    restore.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn machine_is_consistent_after_every_entry(ops in ops()) {
        let mut machine = Machine::new();
        run(&mut machine, &ops, &mut |machine, _, _| {
            machine.assert_consistent();
            assert_eq!(machine.recount(), machine.digest());
        });
    }

    #[test]
    fn fences_strictly_rise_and_ended_jobs_never_change(ops in ops()) {
        let mut machine = Machine::new();
        let mut last = Fence(0);
        let mut ended: Vec<(JobId, Status)> = Vec::new();
        run(&mut machine, &ops, &mut |machine, stamped, applied| {
            for event in applied.iter().flat_map(|it| &it.events) {
                match event {
                    Event::Assigned { fence, .. } => {
                        assert!(*fence > last, "{fence} after {last}");
                        last = *fence;
                    }
                    Event::Withdrawn { fence, .. } => assert!(*fence <= last),
                    Event::Ended { job, status } => ended.push((*job, *status)),
                }
            }
            ended.retain(|(job, _)| machine.is_known(*job));
            if let Some(Outcome::Retried(results)) = applied.map(|it| &it.outcome) {
                let Some(Stamped { command: Command::RetryJob(ids), .. }) = stamped else {
                    panic!("nothing else is retried")
                };
                for (id, _) in ids.iter().zip(results).filter(|(_, it)| **it == RetryOutcome::Retried) {
                    ended.retain(|(job, _)| job != id);
                }
            }
            for (job, status) in &ended {
                assert!(machine.job(*job).is_none_or(|job| job.status == *status));
            }
        });
    }

    #[test]
    fn jobs_of_a_class_are_scheduled_by_priority_and_in_commit_order(ops in ops()) {
        let mut machine = Machine::new();
        run(&mut machine, &ops, &mut |_, _, _| {});
        let pairs = schedule(&machine, &|_, _| true, &Proposed::default(), 4096);
        let mut last: BTreeMap<Class, (Reverse<u8>, u64)> = BTreeMap::new();
        for pair in pairs {
            let job = machine.job(pair.job).unwrap();
            let place = (Reverse(job.options().priority), job.sequence);
            if let Some(former) = last.insert(job.class(), place) {
                prop_assert!(former < place);
            }
        }
    }

    #[test]
    fn no_queue_runs_more_than_its_limit_or_begins_more_than_its_rate(ops in ops()) {
        let mut machine = Machine::new();
        // When jobs of each queue began since its rate was set.
        let mut begun: BTreeMap<QueueName, (Option<Rate>, Vec<u64>)> = BTreeMap::new();
        run(&mut machine, &ops, &mut |machine, _, applied| {
            let mut began: BTreeMap<QueueName, u64> = BTreeMap::new();
            for event in applied.iter().flat_map(|it| &it.events) {
                if let Event::Assigned { job, .. } = event {
                    *began.entry(machine.job(*job).unwrap().queue.clone()).or_default() += 1;
                }
            }
            for (name, queue) in machine.queues() {
                let count = began.get(name).copied().unwrap_or_default();
                let rules = queue.rules.as_deref().copied().unwrap_or_default();
                let (rate, times) = begun.entry(name.clone()).or_default();
                if *rate != rules.rate {
                    (*rate, *times) = (rules.rate, Vec::new());
                }
                times.extend(std::iter::repeat_n(machine.now().0, count as usize));
                assert!(count == 0 || rules.paused_ms.is_none(), "{name} is paused");
                if let Some(limit) = rules.limit.filter(|_| count > 0) {
                    assert!(queue.counts.running <= u64::from(limit), "{name}");
                }
                let Some(rate) = rate else { continue };
                for (at, first) in times.iter().enumerate() {
                    let within = times[at..].iter().filter(|it| *it - first < rate.per_ms).count();
                    let slack = 10 * u64::from(rate.count) / rate.per_ms + 2;
                    assert!(within as u64 <= u64::from(rate.count) + slack, "{name}: {times:?}");
                }
            }
        });
    }

    #[test]
    fn reasons_agree_with_the_scheduler(ops in ops()) {
        run(&mut Machine::new(), &ops, &mut |machine, _, _| {
            let pairs = schedule(machine, &|_, _| true, &Proposed::default(), usize::MAX);
            for job in (0..24).map(id) {
                let why = machine.why(job);
                assert_eq!(why.is_some(), machine.job(job).is_some());
                let Some(why) = why else { continue };
                assert!(!why.reasons.is_empty(), "{why:?}");
                let is_held_up = why.reasons.iter().any(Reason::holds);
                let is_given = pairs.iter().any(|pair| pair.job == job);
                assert!(!(is_given && is_held_up), "given in spite of {why:?}");
                // If nothing holds it up, somebody is given out: it, or one ahead of it, or one of another line.
                let waits = why.status == Status::Pending && !is_held_up;
                assert!(!waits || !pairs.is_empty(), "not given, and nobody else: {why:?}");
            }
        });
    }

    #[test]
    fn replicas_are_equal_byte_by_byte(ops in ops()) {
        let mut leader = Machine::new();
        let mut follower = Machine::new();
        run(&mut leader, &ops, &mut |leader, stamped, applied| {
            let index = leader.applied_index();
            match stamped {
                Some(stamped) => {
                    let decoded = decode(&encode(stamped)).unwrap();
                    assert_eq!(&decoded, stamped);
                    assert_eq!(Some(&follower.apply(index, &decoded)), applied);
                }
                None => follower.apply_noop(index),
            }
            assert_eq!(leader.digest(), follower.digest());
        });
        prop_assert_eq!(records(&leader), records(&follower));
        prop_assert_eq!(leader.digests(), follower.digests());
    }

    #[test]
    fn image_restores_the_same_machine_and_goes_on_alike(ops in ops(), cut in 0usize..80) {
        let (before, after) = ops.split_at(cut.min(ops.len()));
        let mut machine = Machine::new();
        run(&mut machine, before, &mut |_, _, _| {});
        let mut copy = restored(&records(&machine));
        copy.assert_consistent();
        prop_assert!(copy == machine);
        prop_assert_eq!(records(&copy), records(&machine));
        run(&mut machine, after, &mut |_, _, _| {});
        run(&mut copy, after, &mut |_, _, _| {});
        prop_assert!(copy == machine);
    }
}

/// What the generated commands must come to, each at least once.
const ANSWERS: &[&str] = &[
    "Created",
    "Known",
    "AlreadyExists",
    "Exhausted",
    "Draining",
    "queue Changed",
    "queue Invalid",
    "retry Retried",
    "retry Refused",
    "retry NotFound",
    "purge Purged",
    "purge Open",
    "purge NotFound",
    "worker Changed",
    "worker NotFound",
    "worker Gone",
    "progress Applied",
    "progress StaleFence",
    "progress NotFound",
    "put off",
    "cron Created",
    "cron Known",
    "cron AlreadyExists",
    "cron Exhausted",
    "cron Invalid",
    "change Changed",
    "change NotFound",
    "change Refused",
    "fire Submitted",
    "fire Refused",
    "fire Stale",
    "held",
    "dropped",
    "rests",
    "not begun",
    "exit code",
    "Applied",
    "NotFound",
    "cancel Cancelled",
    "cancel Ended",
    "cancel NotFound",
    "register Registered",
    "register Exhausted",
    "register Invalid",
    "register Superseded",
    "assigned true",
    "released true",
    "lost 0",
    "lost 1",
    "forgotten",
];

/// Keeps the generator honest: every outcome a client can hear must come up.
#[test]
fn generated_commands_reach_every_kind_of_answer() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..1200 {
        let ops = ops().new_tree(&mut runner).unwrap().current();
        run(&mut Machine::new(), &ops, &mut |machine, _, applied| {
            let Some(applied) = applied else { return };
            let told: Vec<String> = match &applied.outcome {
                Outcome::Submitted(outcomes) => {
                    outcomes.iter().map(|it| format!("{it:?}")).collect()
                }
                Outcome::Updated(outcomes) => outcomes.iter().map(|it| format!("{it:?}")).collect(),
                Outcome::Cancelled(outcomes) => {
                    outcomes.iter().map(|it| format!("cancel {it:?}")).collect()
                }
                Outcome::Registered(outcome) => vec![format!("register {outcome:?}")],
                Outcome::Assigned(count) => vec![format!("assigned {}", *count > 1)],
                Outcome::Released(count) => vec![format!("released {}", *count > 1)],
                Outcome::Lost(count) => vec![format!("lost {count}")],
                Outcome::LimitsSet | Outcome::Ticked => vec![],
                Outcome::QueueChanged(outcome) => vec![format!("queue {outcome:?}")],
                Outcome::Retried(outcomes) => {
                    outcomes.iter().map(|it| format!("retry {it:?}")).collect()
                }
                Outcome::Purged(outcomes) => {
                    outcomes.iter().map(|it| format!("purge {it:?}")).collect()
                }
                Outcome::WorkerChanged(outcome) => vec![format!("worker {outcome:?}")],
                Outcome::ProgressNoted(outcome) => vec![format!("progress {outcome:?}")],
                Outcome::CronAdded(outcome) => vec![format!("cron {outcome:?}")],
                Outcome::CronChanged(outcome) => vec![format!("change {outcome:?}")],
                Outcome::CronsFired(outcomes) => {
                    outcomes.iter().map(|it| format!("fire {it:?}")).collect()
                }
            };
            let short =
                |it: &String| it.split(['(', ' ', '{']).take(2).collect::<Vec<_>>().join(" ");
            seen.extend(told.iter().map(short));
            for (key, is_so) in [
                ("held", machine.counts().held > 0),
                ("dropped", machine.counts().dead_dropped > 0),
                ("put off", (0..24).filter_map(|it| machine.job(id(it))).any(is_put_off)),
                ("rests", machine.queues().any(|(_, it)| it.rules.iter().any(|it| it.rests))),
            ] {
                if is_so {
                    seen.insert(key.into());
                }
            }
            for job in (0..24).filter_map(|number| machine.job(id(number))) {
                let past = job.extra.iter().flat_map(|extra| &extra.past);
                let error = job.ending.as_ref().and_then(|ending| ending.error.clone());
                for told in past.map(|past| past.error.clone()).chain(error) {
                    seen.insert(told.split(' ').take(2).collect::<Vec<_>>().join(" "));
                }
            }
            if machine.counts().forgotten > 0 {
                seen.insert("forgotten".into());
            }
        });
    }
    for wanted in ANSWERS {
        assert!(seen.contains(*wanted), "{wanted} is not among {seen:?}");
    }
    for begins in ["Invalid", "StaleFence", "Taken"] {
        assert!(seen.iter().any(|it| it.starts_with(begins)), "{begins} is not among {seen:?}");
    }
}
