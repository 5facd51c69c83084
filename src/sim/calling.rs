//! Calls of one virtual client or worker: the production's decisions, carried out on the world's network.
//!
//! What [`crate::client::client::Client`] does with sockets and a clock is done here with messages and the
//! world's time: reaching a node, sending, waiting, hearing that a connection broke.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::client::cluster::{Addr, Cluster};
use crate::client::core::{Call, Reached, Step};
use crate::client::error::Error;
use crate::client::moment::Moment;
use crate::types::NodeId;
use crate::wire::message::{Reply, Request};

/// Steps of one call at one time, at most: redirections come to far fewer.
const STEPS_MAX: usize = 64;

/// Which nodes let a client in now; the others refuse the connection.
pub type Up<'a> = &'a dyn Fn(NodeId) -> bool;

/// Something to send.
#[derive(Clone, Debug)]
pub struct Sending {
    /// To which node.
    pub to: NodeId,
    /// What.
    pub request: Request,
    /// The number that the answer comes with.
    pub corr: u64,
}

/// A call that is over.
#[derive(Debug)]
pub struct Done<T> {
    /// What the caller knows it by.
    pub tag: T,
    /// What was asked.
    pub request: Arc<Request>,
    /// What the production's client would return.
    pub result: Result<Reply, Error>,
    /// How often it was sent.
    pub sent: u32,
    /// When it was begun, as the recorder counts.
    pub began: u64,
    /// Who gave the answer that ended it.
    pub answered_by: Option<NodeId>,
}

/// Where a call is.
#[derive(Debug)]
enum Stage {
    /// Its next step is due.
    Due(Moment),
    /// It was sent to a node and waits for the answer.
    Sent { to: Addr, corr: u64, until: Moment },
}

#[derive(Debug)]
struct Flight<T> {
    tag: T,
    call: Call,
    stage: Stage,
    sent: u32,
    began: u64,
}

/// One client's knowledge of the cluster, and its calls.
#[derive(Debug)]
pub struct Calling<T> {
    nodes: u64,
    cluster: Cluster,
    flights: BTreeMap<u64, Flight<T>>,
    /// Numbers of calls and of what is sent; none is used twice in a world.
    next: u64,
    done: Vec<Done<T>>,
}

/// Returns the address of a node of a simulated cluster.
#[must_use]
pub fn addr_of(node: NodeId) -> Addr {
    Addr::from(format!("sim:{node}"))
}

/// Returns the node at an address of a simulated cluster.
#[must_use]
pub fn node_at(addr: &Addr) -> Option<NodeId> {
    addr.strip_prefix("sim:")?.parse().ok().map(NodeId)
}

impl<T: Clone> Calling<T> {
    /// Knows all nodes from the beginning.
    #[must_use]
    pub fn new(nodes: u64, seed: u64) -> Self {
        Self {
            nodes,
            cluster: acquaint(nodes, seed),
            flights: BTreeMap::new(),
            next: 1,
            done: Vec::new(),
        }
    }

    /// Forgets what it has learned of the cluster, but for its nodes.
    pub fn meet_anew(&mut self, seed: u64) {
        self.cluster = acquaint(self.nodes, seed);
    }

    /// Begins a call.
    pub fn begin(&mut self, tag: T, request: Request, now: u64, timeout: Duration, began: u64) {
        self.begin_at(tag, request, None, now, timeout, began);
    }

    /// Begins a call that asks only one node, if it names one.
    pub fn begin_at(
        &mut self,
        tag: T,
        request: Request,
        only: Option<NodeId>,
        now: u64,
        timeout: Duration,
        began: u64,
    ) {
        let now = Moment(now);
        let deadline = now.after(timeout);
        let only = only.map(addr_of);
        let call = Call::new(Arc::new(request), only, &mut self.cluster, now, deadline);
        let flight = Flight { tag, call, stage: Stage::Due(now), sent: 0, began };
        self.flights.insert(self.next, flight);
        self.next += 1;
    }

    /// Returns how many calls are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flights.len()
    }

    /// Tells whether none is, and none is over that was not looked at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flights.is_empty() && self.done.is_empty()
    }

    /// Forgets every call, as a process that dies does; returns those that had been sent, and those whose answers had
    /// come and were not looked at yet.
    pub fn forget(&mut self) -> Vec<Done<T>> {
        let flights = std::mem::take(&mut self.flights).into_values();
        let nothing = |flight: &Flight<T>| Error::Invalid(format!("sent {} times", flight.sent));
        let cut_short = flights.filter(|flight| flight.sent > 0).map(|flight| {
            let error = nothing(&flight);
            done(flight, Err(error), None)
        });
        let mut all = std::mem::take(&mut self.done);
        all.extend(cut_short);
        all
    }

    /// Returns what was sent and is not over, or was answered and is not looked at, each with when it began.
    pub fn under_way(&self) -> impl Iterator<Item = (&Request, u64)> {
        let open = self.flights.values().filter(|flight| flight.sent > 0);
        let open = open.map(|flight| (&**flight.call.request(), flight.began));
        open.chain(self.done.iter().map(|done| (&*done.request, done.began)))
    }

    /// Takes every step that is due.
    pub fn step(&mut self, now: u64, up: Up<'_>, sendings: &mut Vec<Sending>) {
        let now = Moment(now);
        let due: Vec<u64> = self
            .flights
            .iter()
            .filter(|(_, flight)| match &flight.stage {
                Stage::Due(at) => *at <= now,
                Stage::Sent { until, .. } => *until <= now,
            })
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            let Some(mut flight) = self.flights.remove(&number) else { continue };
            if let Stage::Sent { to, .. } = &flight.stage {
                flight.call.unanswered(&mut self.cluster, to, true, now);
            }
            self.advance(number, flight, now, up, sendings);
        }
    }

    /// Steps one call until it waits for something, or is over.
    fn advance(
        &mut self,
        number: u64,
        mut flight: Flight<T>,
        now: Moment,
        up: Up<'_>,
        sendings: &mut Vec<Sending>,
    ) {
        let cluster = &mut self.cluster;
        for _ in 0..STEPS_MAX {
            match flight.call.step(cluster, now) {
                Step::Wait { until } => {
                    flight.stage = Stage::Due(until);
                    self.flights.insert(number, flight);
                    return;
                }
                Step::Fail(error) => {
                    self.done.push(done(flight, Err(error), None));
                    return;
                }
                Step::Reach(addrs) => {
                    let Some((addr, node)) = reach(cluster, &addrs, now, up) else {
                        flight.call.unreached(cluster, "nobody is there".into(), false, now);
                        continue;
                    };
                    let Reached::Send { until } = flight.call.reached(cluster, &addr, now) else {
                        continue;
                    };
                    let corr = self.next;
                    self.next += 1;
                    flight.sent += 1;
                    let request = Request::clone(flight.call.request());
                    sendings.push(Sending { to: node, request, corr });
                    flight.stage = Stage::Sent { to: addr, corr, until };
                    self.flights.insert(number, flight);
                    return;
                }
            }
        }
        flight.stage = Stage::Due(now.after(Duration::from_millis(10)));
        self.flights.insert(number, flight);
    }

    /// Hears an answer; one to a try that was given up is dropped.
    pub fn answered(&mut self, corr: u64, reply: Reply, now: u64) {
        let now = Moment(now);
        let found = self.flights.iter().find_map(|(number, flight)| match &flight.stage {
            Stage::Sent { corr: open, to, .. } if *open == corr => Some((*number, to.clone())),
            Stage::Sent { .. } | Stage::Due(_) => None,
        });
        let Some((number, to)) = found else { return };
        let Some(mut flight) = self.flights.remove(&number) else { return };
        match flight.call.answered(&mut self.cluster, &to, reply, now) {
            Some(result) => self.done.push(done(flight, result, node_at(&to))),
            None => {
                flight.stage = Stage::Due(now);
                self.flights.insert(number, flight);
            }
        }
    }

    /// Hears that a node died: whatever was sent there has an unknown outcome.
    pub fn broke(&mut self, node: NodeId, now: u64) {
        let now = Moment(now);
        for flight in self.flights.values_mut() {
            if let Stage::Sent { to, .. } = &flight.stage
                && node_at(to) == Some(node)
            {
                let to = to.clone();
                flight.call.lost(&mut self.cluster, &to, true, "the node died", now);
                flight.stage = Stage::Due(now);
            }
        }
    }

    /// Takes what is over.
    pub fn take_done(&mut self) -> Vec<Done<T>> {
        std::mem::take(&mut self.done)
    }

    /// Returns when the next step is due.
    #[must_use]
    pub fn wake_at(&self) -> u64 {
        if !self.done.is_empty() {
            return 0;
        }
        let due = self.flights.values().map(|flight| match &flight.stage {
            Stage::Due(at) => at.0,
            Stage::Sent { until, .. } => until.0,
        });
        due.min().unwrap_or(u64::MAX)
    }
}

fn acquaint(nodes: u64, seed: u64) -> Cluster {
    Cluster::new((1..=nodes).map(|id| addr_of(NodeId(id))), seed)
}

fn done<T>(
    flight: Flight<T>,
    result: Result<Reply, Error>,
    answered_by: Option<NodeId>,
) -> Done<T> {
    Done {
        request: Arc::clone(flight.call.request()),
        tag: flight.tag,
        result,
        sent: flight.sent,
        began: flight.began,
        answered_by,
    }
}

/// Finds the first of the nodes that lets us in; those before it have failed.
fn reach(cluster: &mut Cluster, addrs: &[Addr], now: Moment, up: Up<'_>) -> Option<(Addr, NodeId)> {
    for addr in addrs {
        match node_at(addr) {
            Some(node) if up(node) => return Some((addr.clone(), node)),
            Some(_) | None => cluster.failed(addr, now),
        }
    }
    None
}
