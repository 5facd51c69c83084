//! Virtual clients and workers: what they want next, and what they make of the answers.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fastrand::Rng;

use crate::jobs::command::{Registration, StatusUpdate};
use crate::jobs::job::{Assignment, Body, NewJob, Serves, Verdict};
use crate::sim::checks::{Checks, Violation};
use crate::types::{Fence, Incarnation, JobId, Millis, NodeId, QueueName, WorkerId};
use crate::wire::message::{Code, Refusal, Reply, Request};

/// How long an actor waits for an answer before it asks another node, ms.
const PATIENCE_MS: u64 = 6000;

/// Heartbeats of workers, ms.
const HEARTBEAT_MS: u64 = 1000;

/// A worker whose last answered heartbeat was sent so long ago ends its jobs, ms.
const RIGHT_MS: u64 = 3000;

/// Something an actor sends.
#[derive(Debug)]
pub struct Call {
    /// To which node.
    pub to: NodeId,
    /// What.
    pub request: Request,
    /// The actor's own number for it; an answer to another one is ignored.
    pub corr: u64,
}

/// A client that submits one job after the other, each until it is decided.
#[derive(Debug)]
pub struct Submitter {
    rng: Rng,
    target: NodeId,
    nodes: u64,
    open: Option<(NewJob, u64, u64)>,
    /// A job that was acknowledged and is looked at: when that was asked, and its number.
    reading: Option<(JobId, u64, u64)>,
    next_corr: u64,
    wait_until: u64,
}

impl Submitter {
    /// Makes a client with its own dice.
    #[must_use]
    pub fn new(seed: u64, nodes: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            target: NodeId(1),
            nodes,
            open: None,
            reading: None,
            next_corr: 0,
            wait_until: 0,
        }
    }

    /// Decides what to send now; `more` tells whether to begin new jobs.
    pub fn step(&mut self, now: u64, more: bool) -> Option<Call> {
        if now < self.wait_until {
            return None;
        }
        if let Some((id, sent, _)) = self.reading {
            return (now >= sent + PATIENCE_MS).then(|| self.read(id, now));
        }
        match &self.open {
            Some((_, sent, _)) if now < sent + PATIENCE_MS => return None,
            Some(_) => self.target = NodeId(self.rng.u64(1..=self.nodes)),
            None if !more => return None,
            None => {}
        }
        let job = match self.open.take() {
            Some((job, ..)) => job,
            None => self.new_job(now),
        };
        self.next_corr += 1;
        self.open = Some((job.clone(), now, self.next_corr));
        Some(Call { to: self.target, request: Request::SubmitJob(job), corr: self.next_corr })
    }

    /// Asks any node for a job.
    fn read(&mut self, id: JobId, now: u64) -> Call {
        self.next_corr += 1;
        self.reading = Some((id, now, self.next_corr));
        let to = NodeId(self.rng.u64(1..=self.nodes));
        Call { to, request: Request::GetJob { id }, corr: self.next_corr }
    }

    fn new_job(&mut self, now: u64) -> NewJob {
        let id = JobId::new(Millis(now), self.rng.u128(..));
        let payload = vec![self.rng.u8(..); self.rng.usize(0..300)];
        let body = if self.rng.bool() {
            Body::Command(vec!["true".into(), self.rng.u32(..).to_string()])
        } else {
            Body::Payload(Bytes::from(payload))
        };
        NewJob { id, queue: QueueName::default(), body }
    }

    /// Takes an answer.
    ///
    /// # Errors
    /// A promise that the answer breaks.
    pub fn answer(
        &mut self,
        corr: u64,
        reply: &Reply,
        now: u64,
        checks: &mut Checks,
    ) -> Result<(), Violation> {
        match self.reading {
            Some((id, _, open)) if open == corr => self.has_read(id, reply, now, checks),
            Some(_) | None => {
                self.submitted(corr, reply, now, checks);
                Ok(())
            }
        }
    }

    fn has_read(
        &mut self,
        id: JobId,
        reply: &Reply,
        now: u64,
        checks: &mut Checks,
    ) -> Result<(), Violation> {
        self.wait_until = now + self.rng.u64(0..100);
        #[expect(clippy::wildcard_enum_match_arm, reason = "other answers are as good as none")]
        match reply {
            Reply::Job(job) => checks.read(id, Some(job))?,
            Reply::Refused(refusal) if refusal.code == Code::NotFound => checks.read(id, None)?,
            _ => {
                self.reading = Some((id, now.saturating_sub(PATIENCE_MS), 0));
                return Ok(());
            }
        }
        // Now and then once more: what was told may not be taken back.
        let again = self.rng.u32(0..3) == 0;
        self.reading = again.then(|| (id, now.saturating_sub(PATIENCE_MS), 0));
        Ok(())
    }

    fn submitted(&mut self, corr: u64, reply: &Reply, now: u64, checks: &mut Checks) {
        let Some((job, _, open)) = &self.open else { return };
        if *open != corr {
            return;
        }
        let id = job.id;
        #[expect(clippy::wildcard_enum_match_arm, reason = "other answers are as good as none")]
        match reply {
            Reply::Submitted(submitted) if submitted.id == id => {
                checks.acknowledge(id);
                self.open = None;
                self.reading = Some((id, now.saturating_sub(PATIENCE_MS), 0));
                self.wait_until = now + self.rng.u64(0..60);
            }
            Reply::Refused(refusal) => self.refused(refusal, now),
            _ => {}
        }
    }

    fn refused(&mut self, refusal: &Refusal, now: u64) {
        match &refusal.leader {
            Some(hint) => self.target = hint.id,
            None => self.target = NodeId(self.rng.u64(1..=self.nodes)),
        }
        self.wait_until = now + refusal.retry_after_ms.unwrap_or(0) + self.rng.u64(5..60);
        // Ask again for the same id at once after the pause: unknown or not, that is safe.
        if let Some((_, sent, _)) = &mut self.open {
            *sent = now.saturating_sub(PATIENCE_MS);
        }
        if refusal.leader.is_some()
            && let Some((_, sent, _)) = &mut self.open
        {
            *sent = now.saturating_sub(PATIENCE_MS);
        }
    }

    /// Tells whether nothing is open.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.open.is_none() && self.reading.is_none()
    }
}

/// One job in a worker's hands.
#[derive(Debug)]
struct Held {
    id: JobId,
    ends: u64,
}

/// A library worker: registers, heartbeats, reserves, runs for a while, reports until answered.
#[derive(Debug)]
pub struct Worker {
    rng: Rng,
    name: WorkerId,
    serves: Serves,
    slots: u32,
    nodes: u64,
    target: NodeId,
    incarnation: Incarnation,
    registered: bool,
    gave_up: bool,
    after: Fence,
    held: BTreeMap<Fence, Held>,
    reports: BTreeMap<Fence, JobId>,
    asked: BTreeMap<u64, (Asked, u64)>,
    heartbeat_due: u64,
    answered: u64,
    next_corr: u64,
    dead_until: u64,
}

/// What a worker asked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    Register,
    Heartbeat,
    Reserve,
    Report(BTreeSet<Fence>),
}

impl Worker {
    /// Makes a worker with its own dice.
    ///
    /// # Panics
    /// Never: the name is one.
    #[must_use]
    pub fn new(number: u64, seed: u64, nodes: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let serves = if number.is_multiple_of(2) {
            Serves::Commands
        } else {
            Serves::Payloads(vec![QueueName::default()])
        };
        Self {
            incarnation: Incarnation(rng.u64(..)),
            slots: rng.u32(1..4),
            rng,
            name: WorkerId::new(&format!("sim-{number}")).expect("a plain name"),
            serves,
            nodes,
            target: NodeId(1),
            registered: false,
            gave_up: false,
            after: Fence(0),
            held: BTreeMap::new(),
            reports: BTreeMap::new(),
            asked: BTreeMap::new(),
            heartbeat_due: 0,
            answered: 0,
            next_corr: 0,
            dead_until: 0,
        }
    }

    /// Dies, and starts anew later: what it held is forgotten without a report.
    pub fn die(&mut self, until: u64) {
        self.dead_until = until;
        self.start_anew(false);
    }

    fn start_anew(&mut self, gave_up: bool) {
        self.incarnation = Incarnation(self.rng.u64(..));
        self.registered = false;
        self.gave_up = gave_up;
        self.after = Fence(0);
        self.held.clear();
        self.reports.clear();
        self.asked.clear();
    }

    /// Decides what to send now.
    pub fn step(&mut self, now: u64) -> Vec<Call> {
        let mut calls = Vec::new();
        if now < self.dead_until {
            return calls;
        }
        self.asked.retain(|_, (_, sent)| now < *sent + PATIENCE_MS);
        if self.registered && now > self.answered + RIGHT_MS {
            self.start_anew(true);
        }
        if !self.registered {
            if !self.is_asking(&Asked::Register) {
                let registration = Registration {
                    worker: self.name.clone(),
                    incarnation: self.incarnation,
                    slots: self.slots,
                    serves: self.serves.clone(),
                    gave_up: self.gave_up,
                };
                calls.push(self.call(Asked::Register, Request::RegisterWorker(registration), now));
            }
            return calls;
        }
        if now >= self.heartbeat_due && !self.is_asking(&Asked::Heartbeat) {
            self.heartbeat_due = now + HEARTBEAT_MS;
            let request = Request::Heartbeat {
                worker: self.name.clone(),
                incarnation: self.incarnation,
                draining: false,
            };
            calls.push(self.call(Asked::Heartbeat, request, now));
        }
        if !self.is_asking(&Asked::Reserve) {
            let request = Request::Reserve {
                worker: self.name.clone(),
                incarnation: self.incarnation,
                after: self.after,
                max: 10,
                wait_ms: 2000,
            };
            let to = NodeId(self.rng.u64(1..=self.nodes));
            let mut call = self.call(Asked::Reserve, request, now);
            call.to = to;
            calls.push(call);
        }
        self.finish_held(now);
        let reporting = self.asked.values().any(|(asked, _)| matches!(asked, Asked::Report(_)));
        if !self.reports.is_empty() && !reporting {
            let updates = self
                .reports
                .iter()
                .map(|(fence, job)| StatusUpdate { job: *job, fence: *fence, verdict: verdict() })
                .collect();
            let fences = self.reports.keys().copied().collect();
            let request = Request::BatchUpdateJobStatus(updates);
            calls.push(self.call(Asked::Report(fences), request, now));
        }
        calls
    }

    fn finish_held(&mut self, now: u64) {
        let done: Vec<Fence> = self
            .held
            .iter()
            .filter(|(_, held)| held.ends <= now)
            .map(|(fence, _)| *fence)
            .collect();
        for fence in done {
            if let Some(held) = self.held.remove(&fence) {
                self.reports.insert(fence, held.id);
            }
        }
    }

    fn is_asking(&self, what: &Asked) -> bool {
        self.asked.values().any(|(asked, _)| asked == what)
    }

    fn call(&mut self, asked: Asked, request: Request, now: u64) -> Call {
        self.next_corr += 1;
        self.asked.insert(self.next_corr, (asked, now));
        Call { to: self.target, request, corr: self.next_corr }
    }

    /// Takes an answer.
    ///
    /// # Errors
    /// A promise that the answer breaks.
    pub fn answer(
        &mut self,
        corr: u64,
        reply: &Reply,
        now: u64,
        checks: &mut Checks,
    ) -> Result<(), Violation> {
        let Some((asked, sent)) = self.asked.remove(&corr) else { return Ok(()) };
        match (asked, reply) {
            (Asked::Register, Reply::Registered) => {
                self.registered = true;
                self.answered = sent;
            }
            (Asked::Heartbeat, Reply::HeartbeatAck { .. }) => {
                self.answered = self.answered.max(sent);
            }
            (Asked::Reserve, Reply::Reserved(assignments)) => {
                for assignment in assignments {
                    self.begin(assignment, now, checks)?;
                }
            }
            (Asked::Report(fences), Reply::Updated(results)) => {
                for (fence, result) in fences.into_iter().zip(results) {
                    if let Some(job) = self.reports.remove(&fence)
                        && result.is_ok()
                    {
                        checks.reported(job, fence)?;
                    }
                }
            }
            (Asked::Register | Asked::Heartbeat, Reply::Refused(refusal))
                if refusal.code == Code::FailedPrecondition =>
            {
                self.start_anew(true);
            }
            (_, Reply::Refused(refusal)) => {
                self.target = match &refusal.leader {
                    Some(hint) => hint.id,
                    None => NodeId(self.rng.u64(1..=self.nodes)),
                };
                self.heartbeat_due = now + self.rng.u64(10..100);
            }
            _ => {}
        }
        Ok(())
    }

    fn begin(
        &mut self,
        assignment: &Assignment,
        now: u64,
        checks: &mut Checks,
    ) -> Result<(), Violation> {
        if assignment.fence <= self.after {
            return Ok(());
        }
        self.after = assignment.fence;
        checks.begin(assignment.id, assignment.fence)?;
        let ends = now + self.rng.u64(0..100);
        self.held.insert(assignment.fence, Held { id: assignment.id, ends });
        if u32::try_from(self.held.len()).unwrap_or(u32::MAX) > self.slots {
            return Err(format!("{} holds more than its {} slots", self.name, self.slots));
        }
        Ok(())
    }
}

fn verdict() -> Verdict {
    Verdict {
        completed: true,
        exit_code: Some(0),
        output: Bytes::from_static(b"done"),
        output_cut: false,
        error: None,
    }
}
