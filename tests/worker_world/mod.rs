//! The built-in worker with real commands and a leader played by the test.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use async_std::channel::{self, Sender};
use async_std::task;
use futures::future::{BoxFuture, FutureExt, pending, ready};
use raftq::jobs::command::{Registration, Release, StatusUpdate};
use raftq::jobs::job::{Assignment, Body};
use raftq::replica::view::Notice;
use raftq::types::{Fence, Incarnation, JobId, QueueName, Term, WorkerId};
use raftq::wire::message::{Code, Refusal};
use raftq::worker::clock::Moment;
use raftq::worker::reports::{ReportError, Reports};
use raftq::worker::runner::{BuiltIn, BuiltInConfig, StopReport, start};
use rustix::process::Pid;

/// How long anything may take before the test fails; far above what it takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How the played leader treats a call.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Mood {
    #[default]
    Answers,
    /// Says that it cannot now, and did nothing.
    Fails,
    /// Its answer is lost.
    Loses,
    /// Says nothing at all.
    Silent,
    /// Says that this start of the worker is void.
    Supersedes,
}

#[derive(Default)]
pub struct State {
    /// What the worker said, in order, in a few words.
    pub said: Vec<String>,
    pub registrations: Vec<Registration>,
    pub heartbeats: Vec<(Moment, Incarnation, bool)>,
    pub updates: Vec<Vec<StatusUpdate>>,
    pub releases: Vec<Release>,
    pub announced: Vec<Incarnation>,
    pub register: Mood,
    pub heartbeat: Mood,
    pub update: Mood,
    pub release: Mood,
    /// Reports answered with this code.
    pub refuse: Option<(Fence, Code)>,
    pub deaf_announces: usize,
}

impl State {
    /// Every report that was answered or not, each fence once, in order of arrival.
    pub fn reported(&self) -> Vec<&StatusUpdate> {
        let mut reported: Vec<&StatusUpdate> = Vec::new();
        for update in self.updates.iter().flatten() {
            if reported.iter().all(|known| known.fence != update.fence) {
                reported.push(update);
            }
        }
        reported
    }

    pub fn released(&self) -> Vec<u64> {
        let jobs = self.releases.iter().flat_map(|release| &release.jobs);
        let mut fences: Vec<_> = jobs.map(|(_, fence)| fence.0).collect();
        fences.sort_unstable();
        fences.dedup();
        fences
    }
}

#[derive(Clone, Default)]
pub struct Leader(pub Arc<Mutex<State>>);

/// The start that stands, where this one is refused as over.
pub const STANDING: Incarnation = Incarnation(1 << 40);

impl Leader {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

fn answer<T: Send + 'static>(mood: Mood, yes: T) -> BoxFuture<'static, Result<T, ReportError>> {
    let no = |superseded, unknown| ReportError {
        superseded,
        unknown,
        incarnation: superseded.then_some(STANDING),
        text: "no".into(),
    };
    match mood {
        Mood::Answers => ready(Ok(yes)).boxed(),
        Mood::Fails => ready(Err(no(false, false))).boxed(),
        Mood::Loses => ready(Err(no(false, true))).boxed(),
        Mood::Silent => pending().boxed(),
        Mood::Supersedes => ready(Err(no(true, false))).boxed(),
    }
}

impl Reports for Leader {
    fn register(&self, registration: Registration) -> BoxFuture<'static, Result<(), ReportError>> {
        let mut state = self.state();
        state.said.push(format!("register {}", registration.incarnation));
        state.registrations.push(registration);
        answer(state.register, ())
    }

    fn heartbeat(
        &self,
        _worker: WorkerId,
        incarnation: Incarnation,
        draining: bool,
    ) -> BoxFuture<'static, Result<Term, ReportError>> {
        let mut state = self.state();
        state.heartbeats.push((Moment::now(), incarnation, draining));
        answer(state.heartbeat, Term(1))
    }

    fn update(
        &self,
        updates: Vec<StatusUpdate>,
    ) -> BoxFuture<'static, Result<Vec<Result<(), Refusal>>, ReportError>> {
        let mut state = self.state();
        let refuse = state.refuse;
        let judge = |update: &StatusUpdate| match refuse {
            Some((fence, code)) if fence == update.fence => {
                Err(Refusal::new(code, "refused by the test"))
            }
            Some(_) | None => Ok(()),
        };
        let results = updates.iter().map(judge).collect();
        state.said.push(format!("update {}", updates.len()));
        state.updates.push(updates);
        answer(state.update, results)
    }

    fn release(&self, release: Release) -> BoxFuture<'static, Result<(), ReportError>> {
        let mut state = self.state();
        state.said.push(format!("release {} leaving {}", release.jobs.len(), release.leaving));
        state.releases.push(release);
        answer(state.release, ())
    }
}

pub struct World {
    pub leader: Leader,
    pub worker: Option<BuiltIn>,
    pub notices: Sender<Notice>,
    pub folder: PathBuf,
}

impl World {
    pub fn new(name: &str, slots: u32, grace: Duration) -> Self {
        Self::with(name, slots, grace, State::default())
    }

    pub fn with(name: &str, slots: u32, grace: Duration, state: State) -> Self {
        let (guard, guard_args) = (env!("CARGO_BIN_EXE_raftq").into(), vec!["guard".into()]);
        Self::guarded(name, slots, grace, state, (guard, guard_args))
    }

    /// Its guards note when they were started, in nanoseconds, in the file `starts`.
    pub fn with_noted_guards(name: &str) -> Self {
        let script = format!(
            "date +%s%N >> '{}/starts'; exec '{}' guard",
            Self::folder(name).display(),
            env!("CARGO_BIN_EXE_raftq")
        );
        let guard = ("sh".into(), vec!["-c".into(), script]);
        Self::guarded(name, 1, GRACE, State::default(), guard)
    }

    fn folder(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("raftq-runner-{name}-{}", std::process::id()))
    }

    fn guarded(
        name: &str,
        slots: u32,
        grace: Duration,
        state: State,
        (guard, guard_args): (PathBuf, Vec<String>),
    ) -> Self {
        let folder = Self::folder(name);
        fs::create_dir_all(&folder).unwrap();
        let leader = Leader(Arc::new(Mutex::new(state)));
        let (notices, heard) = channel::bounded(64);
        let config = BuiltInConfig {
            worker: WorkerId::new("node-1").unwrap(),
            slots,
            tags: raftq::jobs::options::Tags::default(),
            guard,
            guard_args,
            adopts: false,
            grace,
            first: Incarnation(1),
            seed: 7,
        };
        let replica = leader.clone();
        let announce = move |incarnation: Incarnation| {
            let mut state = replica.state();
            if state.deaf_announces > 0 {
                state.deaf_announces -= 1;
                return false;
            }
            state.said.push(format!("announce {incarnation}"));
            state.announced.push(incarnation);
            true
        };
        let reports = Arc::new(leader.clone());
        let worker = start(config, reports, Box::new(announce), heard).unwrap();
        let world = Self { leader, worker: Some(worker), notices, folder };
        world.until("the replica was told of the start", |state| !state.announced.is_empty());
        world
    }

    pub fn worker(&self) -> &BuiltIn {
        self.worker.as_ref().unwrap()
    }

    pub fn until(&self, what: &str, mut holds: impl FnMut(&State) -> bool) {
        let start = Moment::now();
        while !holds(&self.leader.state()) {
            if Moment::now().since(start) >= PATIENCE {
                panic!("in vain: {what}; said: {:?}", self.leader.state().said);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn tell(&self, notice: Notice) {
        task::block_on(self.notices.send(notice)).unwrap();
    }

    pub fn assignment(&self, fence: u64, script: &str) -> Assignment {
        let script = format!("cd '{}'; {script}", self.folder.display());
        Assignment {
            id: JobId([u8::try_from(fence).unwrap(); 16]),
            queue: QueueName::default(),
            attempt: 1,
            fence: Fence(fence),
            timeout_ms: None,
            body: Body::Command(vec!["sh".into(), "-c".into(), script]),
        }
    }

    pub fn begin(&self, fence: u64, script: &str) {
        let assignment = self.assignment(fence, script);
        self.tell(Notice::Begin { incarnation: self.worker().incarnation(), assignment });
    }

    /// Runs a job under the start that has followed `former`, and checks how that registered.
    pub fn begins_as_new(&self, fence: u64, former: Incarnation, gave_up: Option<Incarnation>) {
        let incarnation = self.worker().incarnation();
        self.until("a heartbeat of the new start", |state| {
            state.heartbeats.last().is_some_and(|beat| beat.1 == incarnation)
        });
        {
            let state = self.leader.state();
            let anew = state.registrations.last().unwrap();
            assert_eq!((anew.incarnation, anew.gave_up), (incarnation, gave_up));
            assert_ne!(incarnation, former);
        }
        self.begin(fence, "echo anew");
        let report = &self.reported(1)[0];
        assert_eq!((report.fence, report.verdict.output.as_ref()), (Fence(fence), &b"anew\n"[..]));
    }

    pub fn end(&self, fence: u64) {
        let incarnation = self.worker().incarnation();
        let job = JobId([u8::try_from(fence).unwrap(); 16]);
        self.tell(Notice::End { incarnation, job, fence: Fence(fence) });
    }

    pub fn reported(&self, count: usize) -> Vec<StatusUpdate> {
        self.until(&format!("{count} reports"), |state| state.reported().len() >= count);
        self.leader.state().reported().into_iter().cloned().collect()
    }

    pub fn pid_in(&self, file: &str) -> Pid {
        let path = self.folder.join(file);
        let mut pid = None;
        self.until(&format!("{} holds a process number", path.display()), |_| {
            let text = fs::read_to_string(&path).unwrap_or_default();
            pid =
                text.strip_suffix('\n').and_then(|line| line.parse().ok()).and_then(Pid::from_raw);
            pid.is_some()
        });
        pid.unwrap()
    }

    pub fn gone(&self, pid: Pid) {
        self.until(&format!("{pid:?} is gone"), |_| !lives(pid));
    }

    pub fn file(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap_or_default()
    }

    pub fn touch(&self, name: &str) {
        fs::write(self.folder.join(name), "").unwrap();
    }

    pub fn stop(&mut self) -> StopReport {
        task::block_on(self.worker.take().unwrap().stop())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.worker = None;
        fs::remove_dir_all(&self.folder).unwrap();
    }
}

pub fn lives(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

pub const GRACE: Duration = Duration::from_secs(10);
