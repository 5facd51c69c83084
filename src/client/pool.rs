//! The connections of one client: one to a node at most, made when needed, shared by all calls.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_std::future::timeout;
use async_std::task;
use futures::channel::oneshot;
use futures::future::Shared;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};

use crate::client::clock;
use crate::client::cluster::{Addr, Cluster};
use crate::client::connection::{Connection, DialError};

/// The next address is tried too when one has not let us in after so long.
const STAGGER: Duration = Duration::from_millis(200);

/// What all clones of a client share.
#[derive(Debug)]
pub(crate) struct Pool {
    cluster: Mutex<Cluster>,
    /// One for each address that was asked for; addresses are bounded by
    /// [`crate::client::cluster::ADDRS_MAX`] and hints, and broken connections are taken out.
    slots: Mutex<BTreeMap<Addr, Slot>>,
    agent: String,
    connect_timeout: Duration,
    is_closed: AtomicBool,
}

#[derive(Clone, Debug)]
enum Slot {
    Dialing(Dial),
    Up(Connection),
}

/// A connection being made by a task of its own; all who wait for it share the outcome.
type Dial = Shared<oneshot::Receiver<Result<Connection, DialError>>>;

impl Pool {
    pub(crate) fn new(cluster: Cluster, agent: String, connect_timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            cluster: Mutex::new(cluster),
            slots: Mutex::default(),
            agent,
            connect_timeout,
            is_closed: AtomicBool::new(false),
        })
    }

    /// Makes a pool with the same settings and no connections.
    pub(crate) fn sibling(&self, cluster: Cluster) -> Arc<Self> {
        Self::new(cluster, self.agent.clone(), self.connect_timeout)
    }

    /// Returns what is known of the cluster; held for a decision, never over a wait.
    pub(crate) fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<Addr, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Closes every connection, and lets none be made any more.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        for slot in std::mem::take(&mut *self.slots()).into_values() {
            if let Slot::Up(connection) = slot {
                connection.close();
            }
        }
    }

    /// Returns the connection to an address, if there is one that can be asked.
    pub(crate) fn up(&self, addr: &Addr) -> Option<Connection> {
        match self.slots().get(addr) {
            Some(Slot::Up(connection)) if !connection.is_broken() => Some(connection.clone()),
            Some(Slot::Up(_) | Slot::Dialing(_)) | None => None,
        }
    }

    /// Returns a connection to the first of these nodes that lets us in. The first one has a head start
    /// of [`STAGGER`] over the second, and so on, so that a dead one costs little; one that refuses
    /// costs nothing.
    ///
    /// # Errors
    /// Why each of them could not be reached.
    pub(crate) async fn reach(
        self: &Arc<Self>,
        addrs: &[Addr],
    ) -> Result<Connection, Vec<DialError>> {
        let mut dials = FuturesUnordered::new();
        let mut failures: Vec<DialError> = Vec::new();
        let mut rest = addrs.iter();
        loop {
            match rest.next().map(|addr| self.slot(addr)) {
                Some(Slot::Up(connection)) => return Ok(connection),
                Some(Slot::Dialing(dial)) => dials.push(dial),
                None if dials.is_empty() => return Err(failures),
                None => {}
            }
            let is_last = rest.len() == 0;
            let ended =
                if is_last { Ok(dials.next().await) } else { timeout(STAGGER, dials.next()).await };
            match ended {
                Ok(Some(Ok(Ok(connection)))) => return Ok(connection),
                Ok(Some(Ok(Err(error)))) => failures.push(error),
                Ok(Some(Err(_canceled))) => {
                    failures.push(DialError::new("this client", "it was closed"));
                }
                Ok(None) | Err(_) => {}
            }
        }
    }

    /// Returns the connection to an address, or begins to make one.
    fn slot(self: &Arc<Self>, addr: &Addr) -> Slot {
        let mut slots = self.slots();
        match slots.get(addr) {
            Some(Slot::Up(connection)) if connection.is_broken() => {}
            Some(slot) => return slot.clone(),
            None => {}
        }
        let (done, dial) = oneshot::channel();
        let slot = Slot::Dialing(dial.shared());
        slots.insert(addr.clone(), slot.clone());
        drop(slots);
        task::spawn(dial_into(Arc::downgrade(self), addr.clone(), done));
        slot
    }

    /// Puts a connection into its slot, or empties the slot of one that failed or leads elsewhere.
    fn dialled(
        &self,
        addr: &Addr,
        outcome: Result<Connection, DialError>,
    ) -> Result<Connection, DialError> {
        let outcome = outcome.and_then(|connection| {
            // It said hello before the cluster was known, and has met another one.
            if self.cluster().welcomed(addr, connection.welcome()) {
                return Ok(connection);
            }
            connection.close();
            let error = DialError::new(addr, "it belongs to another cluster");
            Err(DialError { is_rejected: true, ..error })
        });
        match &outcome {
            Ok(connection) => {
                self.slots().insert(addr.clone(), Slot::Up(connection.clone()));
            }
            Err(error) => {
                log::debug!("cannot connect to {}", error.why);
                self.cluster().failed(addr, clock::now());
                self.slots().remove(addr);
            }
        }
        if self.is_closed() {
            self.close();
        }
        outcome
    }
}

/// Makes a connection for everyone who waits for it. It goes on when they do not wait any more: a spare
/// connection is of use when the other one breaks.
async fn dial_into(
    pool: Weak<Pool>,
    addr: Addr,
    done: oneshot::Sender<Result<Connection, DialError>>,
) {
    let Some((cluster, agent, patience)) =
        pool.upgrade().map(|pool| (pool.cluster().id(), pool.agent.clone(), pool.connect_timeout))
    else {
        return;
    };
    let dialling = timeout(patience, Connection::dial(&addr, cluster, &agent));
    let mut outcome = dialling.await.unwrap_or_else(|_late| {
        let text = format!("no connection within {:.1} s", patience.as_secs_f64());
        Err(DialError::new(&addr, text))
    });
    // A client that is gone needs no connection.
    if let Some(pool) = pool.upgrade() {
        outcome = pool.dialled(&addr, outcome);
    }
    let _nobody_waits = done.send(outcome).is_err();
}
