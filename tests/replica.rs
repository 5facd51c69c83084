//! One replica between peers that the test plays: what it does when its own disk, its machine or its
//! requests come in the wrong moment.

#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test that meets the unexpected fails there"
)]

#[path = "replica/reads.rs"]
mod reads;

use bytes::Bytes;
use raftq::jobs::change::{Position, What};
use raftq::jobs::codec;
use raftq::jobs::command::{Command, Limits, Registration, Release, Stamped, StatusUpdate};
use raftq::jobs::cron::{Missed, NewCron};
use raftq::jobs::job::{Body, NewJob, Serves, Status, Verdict};
use raftq::jobs::machine::Machine;
use raftq::jobs::options::Tags;
use raftq::jobs::registry::WorkerState;
use raftq::raft::config::WINDOW_ENTRIES_MAX;
use raftq::raft::core::{Boot, Config as RaftConfig, Role};
use raftq::raft::message::{
    AppendOutcome, Configuration, Entry, EntryKind, HardState, Message, Voter,
};
use raftq::replica::core::{Config, Replica};
use raftq::replica::input::{Input, Turn};
use raftq::replica::reads::WATCHERS_MAX;
use raftq::replica::view::{Answer, View};
use raftq::types::{
    ClusterId, CronName, DirId, Fence, Incarnation, Index, JobId, Millis, NodeId, QueueName, Term,
    Ticks, WorkerId,
};
use raftq::wire::crons::CronAdded;
use raftq::wire::message::{Code, Reply, Request, Submitted, Watch, Watched};
use raftq::wire::peer::PeerMessage;

const ME: NodeId = NodeId(1);

/// How the followers of the replica behave.
#[derive(Clone, Copy, PartialEq)]
enum Peers {
    /// They hold everything at once, durably.
    Prompt,
    /// They hold the leader's first entry, and never hear of a later one.
    DeafAfterFirst,
}

/// The replica, and all that it has said.
struct World {
    replica: Replica<u64>,
    now: u64,
    peers: Peers,
    /// Its disk writes nothing.
    disk_stalls: bool,
    /// What is on its disk from before.
    log: Vec<Entry>,
    /// What follows from a turn waits for the next one, as long as that may be.
    is_slow: bool,
    waiting: Vec<Input<u64>>,
    unwritten: Option<u64>,
    answers: Vec<(u64, Answer)>,
    view: Option<View>,
}

fn ack(term: Term) -> Reply {
    Reply::HeartbeatAck { term, intake: raftq::jobs::intake::Intake::Open, withdrawn: Vec::new() }
}

fn configuration(count: u64) -> Configuration {
    let voter = |id| Voter { id: NodeId(id), addr: format!("h:{id}"), dir: None };
    Configuration { cluster: ClusterId::default(), voters: (1..=count).map(voter).collect() }
}

/// A boot from a log, with nothing of it applied.
fn boot(count: u64, entries: &[Entry]) -> Boot {
    let last = entries.last().map_or((Index(0), Term(0)), |entry| (entry.index, entry.term));
    let tail = entries.len().saturating_sub(WINDOW_ENTRIES_MAX);
    Boot {
        hard_state: HardState { term: last.1, vote: None },
        snapshot: None,
        configuration: configuration(count),
        first_index: Index(1),
        last_index: last.0,
        runs: entries.first().map(|first| (first.index, first.term)).into_iter().collect(),
        tail: entries.iter().skip(tail).cloned().collect(),
        configurations: Vec::new(),
        commit_index: Index(0),
        applied_index: Index(0),
        healing: false,
    }
}

impl World {
    fn new(count: u64) -> Self {
        Self::with_log(count, Vec::new())
    }

    fn with_log(count: u64, log: Vec<Entry>) -> Self {
        Self::with(count, log, Limits::default())
    }

    fn with(count: u64, log: Vec<Entry>, limits: Limits) -> Self {
        let config = Config {
            raft: RaftConfig::new(ME),
            dir: DirId([1; 16]),
            limits,
            snapshot_bytes_min: 1 << 40,
            history_bytes_max: 1 << 20,
            snapshot_bytes: 0,
            seed: 7,
        };
        let turn = Turn { now: Ticks(0), wall: Millis(1000) };
        Self {
            replica: Replica::new(config, boot(count, &log), Machine::new(), turn),
            now: 0,
            peers: Peers::Prompt,
            disk_stalls: false,
            log,
            is_slow: false,
            waiting: Vec::new(),
            unwritten: None,
            answers: Vec::new(),
            view: None,
        }
    }

    /// Makes the replica lead, with everything settled that a new leader does.
    fn leader(count: u64) -> Self {
        let mut world = Self::new(count);
        world.turns(300);
        assert_eq!(world.replica.raft().role(), Role::Leader);
        world.answers.clear();
        world
    }

    fn turns(&mut self, count: u64) {
        for _ in 0..count {
            self.turn(Vec::new());
        }
    }

    /// Takes a turn 10 ms later, and those that follow from it at once.
    fn turn(&mut self, mut inputs: Vec<Input<u64>>) {
        self.now += 1;
        inputs.append(&mut self.waiting);
        if !self.disk_stalls {
            inputs.extend(self.unwritten.take().map(|seq| Input::Persisted { seq }));
        }
        loop {
            let turn = Turn { now: Ticks(self.now), wall: Millis(1000 + self.now * 10) };
            let output = self.replica.turn(turn, std::mem::take(&mut inputs));
            self.view = output.view.or(self.view.take());
            self.answers.extend(output.answers);
            if let Some(batch) = output.persist {
                if self.disk_stalls {
                    assert_eq!(self.unwritten.replace(batch.seq), None, "one batch at a time");
                } else {
                    inputs.push(Input::Persisted { seq: batch.seq });
                }
            }
            for read in output.read_log {
                let wanted = |entry: &&Entry| entry.index >= read.from && entry.index <= read.to;
                let entries = self.log.iter().filter(wanted).cloned().collect();
                inputs.push(Input::LogRead { token: read.token, result: Ok(entries) });
            }
            for (to, message) in output.send {
                inputs.extend(self.reply(message.message).map(|message| self.said(to, message)));
            }
            if inputs.is_empty() && !output.again {
                break;
            }
            if self.is_slow {
                self.waiting = inputs;
                break;
            }
        }
    }

    fn said(&self, from: NodeId, message: Message) -> Input<u64> {
        let message = PeerMessage {
            group: 0,
            wall_ms: Millis(1000 + self.now * 10),
            applied_index: Index(0),
            digests: Vec::new(),
            message,
        };
        Input::Peer { from, dir: DirId([u8::try_from(from.0).unwrap(); 16]), message }
    }

    /// What a follower says to a message, if anything.
    fn reply(&self, message: Message) -> Option<Message> {
        match message {
            Message::PreVote { term, .. } => Some(Message::PreVoteReply { term, granted: true }),
            Message::Vote { term, .. } => Some(Message::VoteReply { term, granted: true }),
            Message::AppendEntries { term, prev_index, entries, session, round, .. } => {
                let match_index = entries.last().map_or(prev_index, |entry| entry.index);
                if self.peers == Peers::DeafAfterFirst && match_index > Index(1) {
                    return None;
                }
                let outcome = AppendOutcome::Accepted { match_index };
                Some(Message::AppendReply { term, outcome, session, round, healing: None })
            }
            _ => None,
        }
    }

    fn ask(&self, waiter: u64, request: Request) -> Input<u64> {
        Input::Request { request, waiter, arrived: Ticks(self.now) }
    }

    fn heartbeat(&self, waiter: u64) -> Input<u64> {
        let (worker, incarnation) = worker();
        self.ask(
            waiter,
            Request::Heartbeat { worker, incarnation, draining: false, held: Vec::new() },
        )
    }

    /// Registers the worker, which speaks once.
    fn register(&mut self, slots: u32) {
        let (worker, incarnation) = worker();
        let serves = Serves::Commands;
        let registration = Registration {
            worker,
            incarnation,
            slots,
            serves,
            gave_up: None,
            tags: Tags::default(),
        };
        self.turn(vec![self.ask(0, Request::RegisterWorker(registration))]);
        self.turn(vec![self.heartbeat(0)]);
        self.turns(2);
        self.answers.clear();
    }

    /// Returns what a waiter heard; images are looked at as a session does it.
    fn heard(&self, waiter: u64) -> Vec<Reply> {
        let own = self.answers.iter().filter(|(to, _)| *to == waiter);
        own.map(|(_, answer)| match answer {
            Answer::Reply(reply) => reply.clone(),
            Answer::Changes(slice) => slice.reply(),
            Answer::Image { machine, request } => raftq::replica::reading::answer(machine, request),
            Answer::Look(_) => panic!("nobody asked for a look"),
        })
        .collect()
    }

    fn job(&self, id: JobId) -> (Status, u32, Option<Fence>) {
        let job = self.replica.machine().job(id).unwrap();
        (job.status, job.attempt, job.fence())
    }
}

fn worker() -> (WorkerId, Incarnation) {
    (worker_id(), Incarnation(5))
}

fn worker_id() -> WorkerId {
    WorkerId::new("w").unwrap()
}

fn job(number: u16) -> NewJob {
    let id = JobId((u128::from(number) + 1).to_be_bytes());
    NewJob {
        id,
        queue: QueueName::default(),
        body: Body::Command(vec!["true".into()]),
        options: None,
    }
}

fn done(output: &[u8]) -> Verdict {
    Verdict {
        completed: true,
        exit_code: Some(0),
        output: Bytes::copy_from_slice(output),
        output_cut: false,
        error: None,
    }
}

/// Within a turn, what was asked first is decided first.
#[test]
fn a_cancel_in_the_turn_of_its_submit_cancels_it() {
    let mut world = World::leader(1);
    let submits = Input::Submits { jobs: vec![(job(9), 1)], arrived: Ticks(world.now) };
    let cancel = world.ask(2, Request::CancelJobs { ids: vec![job(9).id] });
    world.turn(vec![submits, cancel]);
    world.turns(2);
    let created = Submitted { id: job(9).id, created: true };
    assert_eq!(world.heard(1), [Reply::Submitted(created)]);
    assert_eq!(world.heard(2), [Reply::Cancelled(vec![Ok(Status::Cancelled)])]);
    assert_eq!(world.job(job(9).id).0, Status::Cancelled);
}

#[test]
fn what_finds_no_room_is_refused_without_an_entry_and_once_a_tick_with_one() {
    let room = 2 * raftq::jobs::resident::weight(&job(1));
    let mut world =
        World::with(1, Vec::new(), Limits { resident_bytes_max: room, ..Limits::default() });
    world.turns(300);
    let submits = |world: &World, numbers: std::ops::Range<u16>| {
        let jobs = numbers.map(|number| (job(number), u64::from(number))).collect();
        Input::Submits { jobs, arrived: Ticks(world.now) }
    };
    let first = submits(&world, 1..3);
    world.turn(vec![first]);
    world.turns(2);
    let before = world.replica.machine().applied_index();
    let many = submits(&world, 3..300);
    world.turn(vec![many]);
    assert_eq!(world.replica.machine().applied_index().0, before.0 + 1, "one for all of them");
    for number in 3..300 {
        let heard = world.heard(number);
        assert!(
            matches!(&heard[..], [Reply::Refused(no)] if no.code == Code::ResourceExhausted && !no.unknown),
            "{heard:?}"
        );
    }
    // Who asks again for what is there already is told so, in a batch as well.
    let batch = world.ask(900, Request::SubmitBatch(vec![job(1), job(400), job(401)]));
    let again = submits(&world, 2..3);
    world.turn(vec![batch, again]);
    world.turns(2);
    let known = |number| Ok(Submitted { id: job(number).id, created: false });
    assert_eq!(world.heard(2).last(), Some(&Reply::Submitted(known(2).unwrap())));
    let heard = world.heard(900);
    let [Reply::SubmittedBatch(results)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!(results[0], known(1));
    assert!(
        results[1..]
            .iter()
            .all(|it| it.as_ref().is_err_and(|no| no.code == Code::ResourceExhausted))
    );
    // And with room all is well again.
    let cancel = world.ask(901, Request::CancelJobs { ids: vec![job(1).id] });
    world.turn(vec![cancel]);
    let retention = world.replica.machine().counts();
    assert!(retention.pending == 1, "{retention:?}");
}

#[test]
fn a_report_in_the_turn_of_the_workers_leave_counts() {
    let mut world = World::leader(1);
    world.register(1);
    world.turn(vec![world.ask(1, Request::SubmitJob(job(3)))]);
    world.turns(2);
    let fence = world.job(job(3).id).2.unwrap();
    let update = StatusUpdate { job: job(3).id, fence, verdict: done(b"") };
    let (worker, incarnation) = worker();
    let release = Release { worker, incarnation, jobs: Vec::new(), leaving: true };
    let report = world.ask(2, Request::UpdateJobStatus(update));
    world.turn(vec![report, world.ask(3, Request::ReleaseJobs(release))]);
    world.turns(2);
    assert_eq!(world.heard(2), [Reply::Updated(vec![Ok(())])]);
    assert_eq!(world.heard(3), [Reply::Released { count: 0 }]);
    assert_eq!(world.job(job(3).id).0, Status::Completed);
}

fn watched(world: &World, waiter: u64) -> Option<(Vec<What>, Position)> {
    let heard = world.heard(waiter);
    let Some(Reply::Watched(Watched { events, next })) = heard.first() else { return None };
    assert_eq!(heard.len(), 1);
    Some((events.iter().map(|event| event.change.what).collect(), *next))
}

#[test]
fn a_watch_waits_for_a_change_and_goes_on_behind_it() {
    let mut world = World::leader(1);
    world.turn(vec![world.ask(1, Request::Watch(Watch::default()))]);
    let (nothing, here) = watched(&world, 1).unwrap();
    assert!(nothing.is_empty());
    let after = |after, wait_ms| Watch { after: Some(after), wait_ms, ..Watch::default() };
    world.turn(vec![
        world.ask(2, Request::Watch(after(here, 10_000))),
        world.ask(3, Request::Watch(after(here, 100))),
    ]);
    world.turns(15);
    let (nothing, later) = watched(&world, 3).unwrap();
    assert!(nothing.is_empty() && later >= here, "its time is up");
    assert_eq!(watched(&world, 2), None, "it waits");
    world.turn(vec![world.ask(4, Request::SubmitJob(job(3)))]);
    let (what, next) = watched(&world, 2).unwrap();
    assert_eq!(what, [What::Submitted]);
    // Whoever asks from the former place gets it again, and from the next one no more.
    world.turn(vec![
        world.ask(5, Request::Watch(after(later, 0))),
        world.ask(6, Request::Watch(after(next, 0))),
        world.ask(7, Request::Watch(Watch { oldest: true, ..Watch::default() })),
    ]);
    assert_eq!(watched(&world, 5).unwrap().0, [What::Submitted]);
    assert_eq!(watched(&world, 6).unwrap(), (Vec::new(), next));
    assert_eq!(watched(&world, 7).unwrap().0, [What::Submitted]);
}

#[test]
fn a_watch_of_what_is_not_kept_is_refused_with_the_first_place_there_is() {
    let mut world = World::leader(1);
    let before = Position { index: Index(0), n: 1 };
    let watch = Watch { after: Some(before), ..Watch::default() };
    world.turn(vec![world.ask(1, Request::Watch(watch))]);
    let heard = world.heard(1);
    let [Reply::Refused(refusal)] = heard.as_slice() else { panic!("{heard:?}") };
    assert_eq!(refusal.code, Code::FailedPrecondition);
    assert!(refusal.message.ends_with("is 1.0"), "{refusal:?}");
}

#[test]
fn so_many_watch_one_node_and_no_more() {
    let mut world = World::leader(1);
    world.turn(vec![world.ask(0, Request::Watch(Watch::default()))]);
    let (_, here) = watched(&world, 0).unwrap();
    for waiter in 1..=WATCHERS_MAX as u64 + 1 {
        let watch = Watch { after: Some(here), wait_ms: 30_000, ..Watch::default() };
        world.turn(vec![world.ask(waiter, Request::Watch(watch))]);
    }
    assert!(world.heard(1).is_empty());
    let heard = world.heard(WATCHERS_MAX as u64 + 1);
    assert!(matches!(heard.as_slice(), [Reply::Refused(no)] if no.code == Code::ResourceExhausted));
}

/// A configuration that is not committed may never be, and nodes of two clusters refuse each other.
#[test]
fn the_clusters_id_is_told_once_it_is_committed() {
    let mut world = World::new(3);
    world.peers = Peers::DeafAfterFirst;
    world.turns(60);
    let raft = world.replica.raft();
    assert_eq!((raft.role(), raft.commit_index()), (Role::Leader, Index(1)));
    assert!(!raft.configuration().cluster.is_unknown(), "it is drawn and in force");
    assert!(world.view.as_ref().unwrap().configuration.cluster.is_unknown());
    let world = World::leader(3);
    let told = &world.view.as_ref().unwrap().configuration;
    assert_eq!(told, world.replica.raft().configuration());
    assert!(!told.cluster.is_unknown());
}

/// The majority has confirmed that this node leads; that its own disk is slow is no reason to end
/// all work of the cluster.
#[test]
fn a_leaders_disk_that_stalls_for_less_than_its_limit_loses_no_worker() {
    let mut world = World::leader(3);
    world.register(1);
    world.turn(vec![world.ask(1, Request::SubmitJob(job(3)))]);
    world.turns(2);
    let before = world.job(job(3).id);
    assert_eq!((before.0, before.1), (Status::Running, 1));
    world.disk_stalls = true;
    world.turn(vec![world.ask(2, Request::SubmitJob(job(4)))]);
    for tick in 1..=295 {
        let beats = (tick % 100 == 90).then(|| world.heartbeat(100 + tick));
        world.turn(beats.into_iter().collect());
    }
    assert_eq!(world.heard(2), [], "its own disk does not have it");
    let term = world.replica.raft().term();
    for waiter in [190, 290, 390] {
        assert_eq!(world.heard(waiter), [ack(term)], "{waiter}");
    }
    world.disk_stalls = false;
    world.turns(5);
    assert_eq!(world.replica.raft().role(), Role::Leader);
    assert_eq!(world.heard(2).len(), 1);
    assert_eq!(world.job(job(3).id), before);
}

#[test]
fn a_worker_whose_loss_is_being_decided_hears_no_word_of_life() {
    let mut world = World::leader(3);
    world.register(1);
    world.disk_stalls = true;
    // Something to write keeps the disk busy, so that the verdict is not applied here.
    world.turns(201);
    world.turn(vec![world.ask(2, Request::SubmitJob(job(4)))]);
    world.turns(110);
    let machine = world.replica.machine();
    assert_eq!(machine.worker(&worker().0).unwrap().state, WorkerState::Live, "not applied");
    world.turn(vec![world.heartbeat(7)]);
    let refused = world.heard(7);
    let [Reply::Refused(refusal)] = refused.as_slice() else { panic!("{refused:?}") };
    assert_eq!(refusal.code, Code::Unavailable);
    // However long it takes, and whatever else is decided meanwhile.
    world.turns(120);
    world.turn(vec![world.heartbeat(6)]);
    let refused = world.heard(6);
    assert!(matches!(refused.as_slice(), [Reply::Refused(_)]), "{refused:?}");
    world.disk_stalls = false;
    world.turns(3);
    let machine = world.replica.machine();
    assert_eq!(machine.worker(&worker().0).unwrap().state, WorkerState::Lost);
    world.turn(vec![world.heartbeat(8)]);
    let refused = world.heard(8);
    let [Reply::Refused(refusal)] = refused.as_slice() else { panic!("{refused:?}") };
    assert_eq!(refusal.code, Code::FailedPrecondition);
    assert_eq!(refusal.incarnation, Some(worker().1), "the one that stands");
}

#[test]
fn a_registration_below_one_that_stands_is_refused_and_hears_above_what_to_draw() {
    let mut world = World::leader(1);
    world.register(1);
    let (worker, standing) = worker();
    let (slots, serves, gave_up) = (1, Serves::Commands, None);
    let incarnation = Incarnation(standing.0 - 1);
    let below = Registration {
        worker: worker.clone(),
        incarnation,
        slots,
        serves,
        gave_up,
        tags: Tags::default(),
    };
    world.turn(vec![world.ask(7, Request::RegisterWorker(below))]);
    world.turns(2);
    let heard = world.heard(7);
    let [Reply::Refused(refusal)] = heard.as_slice() else { panic!("{heard:?}") };
    assert_eq!((refusal.code, refusal.unknown), (Code::FailedPrecondition, false));
    assert_eq!(refusal.incarnation, Some(standing));
    let standing_still = world.replica.machine().worker(&worker).map(|known| known.incarnation);
    assert_eq!(standing_still, Some(standing));
}

/// A registration is sent again because its answer was lost, and the leader, whose disk is slow, judges its start
/// lost before it can apply and answer it: `registered` would be a right to run for 3 s that is void already.
#[test]
fn a_registration_behind_which_its_loss_is_decided_is_no_word_of_life() {
    let mut world = World::leader(3);
    world.register(1);
    world.disk_stalls = true;
    world.turns(201);
    let (worker, incarnation) = worker();
    let (slots, serves, gave_up) = (1, Serves::Commands, None);
    let again = Registration {
        worker: worker.clone(),
        incarnation,
        slots,
        serves,
        gave_up,
        tags: Tags::default(),
    };
    world.turn(vec![world.ask(7, Request::RegisterWorker(again))]);
    world.turns(110);
    assert_eq!(world.heard(7), [], "its own disk does not have it");
    world.disk_stalls = false;
    world.turns(3);
    let machine = world.replica.machine();
    assert_eq!(machine.worker(&worker).unwrap().state, WorkerState::Lost);
    let refused = world.heard(7);
    let [Reply::Refused(refusal)] = refused.as_slice() else { panic!("{refused:?}") };
    assert_eq!((refusal.code, refusal.unknown), (Code::Unavailable, true));
}

/// A cron of every second, and what the leader answers to whoever adds it.
fn add_cron(world: &mut World, spec: &str, tz: &str) -> Reply {
    let cron = NewCron {
        name: CronName::new("c").unwrap(),
        spec: spec.into(),
        tz: tz.into(),
        missed: Missed::Skip,
        queue: QueueName::default(),
        body: Body::Command(vec!["true".into()]),
        options: None,
    };
    world.turn(vec![world.ask(1, Request::AddCron(Box::new(cron)))]);
    world.turn(Vec::new());
    let reply = world.heard(1).pop().unwrap();
    world.answers.clear();
    reply
}

#[test]
fn a_leader_fires_each_slot_once_in_time_and_none_while_one_is_on_its_way() {
    let mut world = World::leader(1);
    let refused = |reply| matches!(reply, Reply::Refused(no) if no.code == Code::InvalidArgument);
    assert!(refused(add_cron(&mut world, "@hourly", "Europe/Atlantis")), "no such zone");
    let added = add_cron(&mut world, "* * * * * *", "Europe/Berlin");
    assert!(matches!(added, Reply::CronAdded(CronAdded { created: true, .. })), "{added:?}");
    world.turns(305);
    let crons = world.replica.machine().crons();
    let cron = crons.get(&CronName::new("c").unwrap()).unwrap().view(false);
    assert_eq!((cron.fired, cron.last_error), (3, None));
    let (last, slot) =
        (world.replica.machine().view(cron.last_job.unwrap()).unwrap(), cron.last_slot_ms);
    assert!(last.created_ms.since(slot.unwrap()) <= 20, "{last:?}");
    world.disk_stalls = true;
    let before = world.replica.raft().last_index();
    world.turns(300);
    assert_eq!(
        world.replica.raft().last_index(),
        before.next(),
        "one entry, and nobody knows of it yet"
    );
    world.disk_stalls = false;
    world.turns(20);
    assert_eq!(world.replica.machine().crons_fired(), 6, "then the others, one after the other");
}

#[test]
fn answers_to_long_waits_are_made_elsewhere_and_share_what_is_long() {
    let mut world = World::leader(1);
    world.register(64);
    let ids: Vec<JobId> = (0..64).map(|number| job(number).id).collect();
    let jobs = (0..64).map(|number| (job(number), 1)).collect();
    world.turn(vec![Input::Submits { jobs, arrived: Ticks(world.now) }]);
    world.turns(2);
    let output = [7; 16 << 10];
    for id in &ids {
        let fence = world.job(*id).2.unwrap();
        let update = StatusUpdate { job: *id, fence, verdict: done(&output) };
        world.turn(vec![world.ask(2, Request::UpdateJobStatus(update))]);
    }
    world.answers.clear();
    world.turn(vec![
        world.ask(3, Request::WaitJobs { ids: ids.clone(), wait_ms: 0 }),
        world.ask(4, Request::WaitJobs { ids: ids.iter().take(16).copied().collect(), wait_ms: 0 }),
    ]);
    let is_image = |waiter: u64| {
        let answer = world.answers.iter().find(|(to, _)| *to == waiter);
        matches!(answer.unwrap().1, Answer::Image { .. })
    };
    assert!(is_image(3) && !is_image(4));
    for (waiter, count) in [(3, 64), (4, 16)] {
        let heard = world.heard(waiter);
        let [Reply::Waited(jobs)] = heard.as_slice() else { panic!("{heard:?}") };
        assert_eq!(jobs.len(), count);
        assert!(jobs.iter().all(|job| job.as_ref().unwrap().output == output.as_slice()));
    }
    let view = || world.replica.machine().job(job(0).id).unwrap().view(false).output;
    assert_eq!(view().as_ptr(), view().as_ptr(), "shared, not copied");
}

/// What its predecessors decided is not in its machine yet: it knows neither who is registered nor, for
/// it answers no heartbeat meanwhile, who is silent.
#[test]
fn a_leader_that_replays_for_longer_than_the_workers_window_judges_nobody() {
    let (worker, incarnation) = worker();
    let registration = Registration {
        worker,
        incarnation,
        slots: 1,
        serves: Serves::Commands,
        gave_up: None,
        tags: Tags::default(),
    };
    let registers = Stamped { now: Millis(1), command: Command::RegisterWorker(registration) };
    let entry = |index| Entry {
        index: Index(index),
        term: Term(1),
        kind: if index == 2 { EntryKind::Command } else { EntryKind::Noop },
        data: if index == 2 { codec::encode(&registers) } else { Bytes::new() },
    };
    let count = 6000;
    let mut world = World::with_log(3, (1..=count).map(entry).collect());
    world.is_slow = true;
    while world.replica.raft().role() != Role::Leader {
        world.turns(1);
    }
    let elected = world.now;
    while !world.replica.raft().own_term_applied() {
        world.now += 19;
        world.turns(1);
    }
    assert!(world.now > elected + 350, "longer than the window: {}", world.now - elected);
    world.is_slow = false;
    world.turn(vec![world.heartbeat(1)]);
    world.turns(5);
    let term = world.replica.raft().term();
    assert_eq!(world.heard(1), [ack(term)]);
    let state = |world: &World| world.replica.machine().worker(&worker_id()).unwrap().state;
    assert_eq!(state(&world), WorkerState::Live);
    world.turns(320);
    assert_eq!(state(&world), WorkerState::Lost, "from then on it judges");
}
