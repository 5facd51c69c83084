//! Clients that submit, look, wait and cancel through the real library, and take down all they are told.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_std::task;
use fastrand::Rng;
use raftq::client::client::{CallOptions, Client};
use raftq::client::error::Error;
use raftq::client::job::{Job, new_id};
use raftq::jobs::job::Status;
use raftq::sim::job_model::{Cancelled, Op, Submitted};
use raftq::types::JobId;
use raftq::wire::message::{Code, Reply, Request};

use crate::record::{Class, Record, content_of, seen};

/// The queue of all payload jobs.
pub const QUEUE: &str = "nemesis";

/// Jobs that clients look at: the newest ones, so that few operations at once are about the same.
const RECENT_MAX: usize = 48;

/// How long a client waits for one operation with all its tries.
const OPERATION_MAX: Duration = Duration::from_secs(3);

/// How long a stubborn reader waits for its node: one that was stopped answers late, and must not answer then
/// as it would have before.
const STUBBORN_MAX: Duration = Duration::from_millis(1_500);

/// From one look of a stubborn reader to the next, on average.
const STUBBORN_PAUSE: Duration = Duration::from_millis(80);

/// Jobs it looks at: the newest ones, which a node that was deposed a moment ago may not know.
const STUBBORN_JOBS: usize = 6;

/// How long one wait for a job's end is.
const WAIT: Duration = Duration::from_millis(400);

/// What all clients share.
#[derive(Debug)]
pub struct Load {
    /// The history.
    pub record: Arc<Record>,
    /// Once set, clients end.
    pub over: AtomicBool,
    /// The addresses of the nodes.
    pub addrs: Vec<String>,
    /// The file that commands write to.
    pub effects: PathBuf,
    recent: Mutex<VecDeque<(JobId, Body)>>,
}

impl Load {
    /// Makes what the clients of one run share.
    pub fn new(record: Arc<Record>, addrs: Vec<String>, effects: PathBuf) -> Self {
        Self { record, over: AtomicBool::new(false), addrs, effects, recent: Mutex::default() }
    }

    /// Tells whether the load is over.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn any_recent(&self, dice: &mut Rng) -> Option<JobId> {
        self.any_recent_job(dice).map(|(id, _)| id)
    }

    fn any_new(&self, dice: &mut Rng) -> Option<JobId> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().rev().nth(dice.usize(0..STUBBORN_JOBS)).map(|(id, _)| *id)
    }

    fn any_recent_job(&self, dice: &mut Rng) -> Option<(JobId, Body)> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.get(dice.usize(0..recent.len().max(1))).cloned()
    }

    fn add_recent(&self, id: JobId, body: Body) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back((id, body));
        if recent.len() > RECENT_MAX {
            recent.pop_front();
        }
    }

    /// Makes a client of the cluster.
    ///
    /// # Errors
    /// Never, with addresses of nodes.
    pub fn client(&self, name: &str, dice: &mut Rng) -> Result<Client, Error> {
        let builder = Client::builder().seeds(self.addrs.clone()).name(name);
        builder
            .dice(dice.u64(..))
            .connect_timeout(Duration::from_secs(1))
            .request_timeout(OPERATION_MAX)
            .build()
    }
}

/// One client.
pub struct Caller {
    load: Arc<Load>,
    client: Client,
    number: u64,
    dice: Rng,
    /// A job of unknown outcome, to be submitted again.
    again: Option<(JobId, Body)>,
}

#[derive(Clone, Debug)]
enum Body {
    Payload(String),
    Command,
}

impl Caller {
    /// Makes a client.
    ///
    /// # Errors
    /// Never, with addresses of nodes.
    pub fn new(load: &Arc<Load>, number: u64, seed: u64) -> Result<Self, Error> {
        let mut dice = Rng::with_seed(seed ^ (number + 1).wrapping_mul(0x9e37_79b9));
        let client = load.client(&format!("nemesis-{number}"), &mut dice)?;
        Ok(Self { load: Arc::clone(load), client, number, dice, again: None })
    }

    /// Makes one operation after the other, one each `pause` on average, until the load is over.
    pub async fn run(mut self, pause: Duration) {
        while !self.load.is_over() {
            let began = Instant::now();
            match (self.again.take(), self.dice.u32(0..100)) {
                (Some((job, body)), _) => self.submit(job, body).await,
                (None, 0..44) => {
                    let payload = format!("{:x}", self.dice.u64(..));
                    self.submit(new_id(), Body::Payload(payload)).await;
                }
                (None, 44..49) => self.submit(new_id(), Body::Command).await,
                // What is known already stays as it is.
                (None, 49..53) => {
                    if let Some((job, body)) = self.load.any_recent_job(&mut self.dice) {
                        self.submit(job, body).await;
                    }
                }
                (None, 53..80) => self.get().await,
                (None, 80..90) => self.wait().await,
                (None, _) => self.cancel().await,
            }
            let pause = pause.mul_f64(0.5 + self.dice.f64());
            task::sleep(pause.saturating_sub(began.elapsed())).await;
        }
        self.client.close().await;
    }

    async fn submit(&mut self, id: JobId, body: Body) {
        let record = Arc::clone(&self.load.record);
        let (job, content) = match &body {
            Body::Payload(text) => (Job::payload(QUEUE, text.clone()), content_of(text.as_bytes())),
            Body::Command => {
                let script = "echo \"$RAFTQ_JOB_ID $RAFTQ_FENCE $RAFTQ_ATTEMPT\" >>\"$1\"; echo $RAFTQ_FENCE";
                let file = self.load.effects.display().to_string();
                (Job::command(["sh", "-c", script, "sh", &file]), content_of(script.as_bytes()))
            }
        };
        let is_command = matches!(body, Body::Command);
        record.submitted(id, is_command, false);
        let call_us = record.now_us();
        let answer = self.client.submit(job.id(id)).await;
        let return_us = record.now_us();
        let op = |outcome| Op::Submit { content, repeated: true, outcome };
        match answer {
            Ok(submitted) => {
                let outcome = if submitted.created { Submitted::Created } else { Submitted::Known };
                record.operation(self.number, id, call_us, Some(return_us), op(Some(outcome)));
                record.submitted(id, is_command, true);
                record.sample(call_us, Class::Acknowledged);
                if submitted.created {
                    self.load.add_recent(id, body);
                }
            }
            Err(Error::Refused { refusal, .. }) if refusal.code == Code::AlreadyExists => {
                let outcome = Some(Submitted::AlreadyExists);
                record.operation(self.number, id, call_us, Some(return_us), op(outcome));
                record.sample(call_us, Class::Refused);
            }
            Err(error) => {
                let class = record.error(&error);
                record.sample(call_us, class);
                if class == Class::Unknown {
                    record.operation(self.number, id, call_us, None, op(None));
                    self.load.add_recent(id, body.clone());
                    self.again = self.dice.bool().then_some((id, body));
                }
            }
        }
    }

    async fn get(&mut self) {
        let Some(id) = self.load.any_recent(&mut self.dice) else { return };
        let record = Arc::clone(&self.load.record);
        let call_us = record.now_us();
        let answer = self.client.get(id).await;
        let return_us = Some(record.now_us());
        match answer {
            Ok(view) => {
                let op = Op::Look { seen: Some(seen(&view)) };
                record.operation(self.number, id, call_us, return_us, op);
                record.sample(call_us, Class::Acknowledged);
            }
            Err(Error::Refused { refusal, .. }) if refusal.code == Code::NotFound => {
                record.operation(self.number, id, call_us, return_us, Op::Look { seen: None });
                record.sample(call_us, Class::Acknowledged);
            }
            Err(error) => {
                let class = record.error(&error);
                record.sample(call_us, class);
            }
        }
    }

    async fn wait(&mut self) {
        let Some(id) = self.load.any_recent(&mut self.dice) else { return };
        let record = Arc::clone(&self.load.record);
        let call_us = record.now_us();
        let answer = self.client.wait(&[id], Some(WAIT)).await;
        let return_us = Some(record.now_us());
        match answer.map(|mut answers| answers.pop()) {
            Ok(Some(Ok(view))) => {
                let op = Op::Look { seen: Some(seen(&view)) };
                record.operation(self.number, id, call_us, return_us, op);
            }
            Ok(Some(Err(refusal))) if refusal.code == Code::NotFound => {
                record.operation(self.number, id, call_us, return_us, Op::Look { seen: None });
            }
            Ok(_) => {}
            Err(error) => {
                record.error(&error);
            }
        }
    }

    async fn cancel(&mut self) {
        let Some(id) = self.load.any_recent(&mut self.dice) else { return };
        let record = Arc::clone(&self.load.record);
        let call_us = record.now_us();
        let answer = self.client.cancel(&[id]).await;
        let return_us = record.now_us();
        let outcome = match answer.map(|mut answers| answers.pop()) {
            Ok(Some(Ok(Status::Cancelled))) => Cancelled::Cancelled,
            Ok(Some(Ok(status))) => Cancelled::Ended(Some(status)),
            Ok(Some(Err(refusal))) if refusal.code == Code::NotFound => Cancelled::NotFound,
            // It had completed or failed before.
            Ok(Some(Err(refusal))) if refusal.code == Code::FailedPrecondition => {
                Cancelled::Ended(None)
            }
            Ok(Some(Err(refusal))) if !refusal.unknown => {
                record.sample(call_us, Class::Refused);
                return;
            }
            Ok(_) => {
                record.operation(
                    self.number,
                    id,
                    call_us,
                    None,
                    Op::Cancel { repeated: true, outcome: None },
                );
                record.sample(call_us, Class::Unknown);
                return;
            }
            Err(error) => {
                let class = record.error(&error);
                record.sample(call_us, class);
                if class == Class::Unknown {
                    record.operation(
                        self.number,
                        id,
                        call_us,
                        None,
                        Op::Cancel { repeated: true, outcome: None },
                    );
                }
                return;
            }
        };
        let op = Op::Cancel { repeated: true, outcome: Some(outcome) };
        record.operation(self.number, id, call_us, Some(return_us), op);
        record.sample(call_us, Class::Acknowledged);
    }
}

/// Looks at jobs through one certain node, whatever has become of it, until the load is over. A node that is cut
/// off, stopped or deposed may say nothing; what it says must be true.
pub async fn stubborn(load: Arc<Load>, number: u64, addr: String) {
    let mut dice = Rng::with_seed(number);
    let Ok(client) = load.client(&format!("nemesis-{number}"), &mut dice) else { return };
    while !load.is_over() {
        task::sleep(STUBBORN_PAUSE.mul_f64(0.5 + dice.f64())).await;
        let Some(id) = load.any_new(&mut dice) else { continue };
        let options = CallOptions::timeout(STUBBORN_MAX).node(addr.as_str());
        let call_us = load.record.now_us();
        let seen = match client.call(Request::GetJob { id }, options).await {
            Ok(Reply::Job(view)) => Some(seen(&view)),
            Err(Error::Refused { refusal, .. }) if refusal.code == Code::NotFound => None,
            Ok(_) | Err(_) => continue,
        };
        let return_us = Some(load.record.now_us());
        load.record.operation(number, id, call_us, return_us, Op::Look { seen });
    }
    client.close().await;
}
