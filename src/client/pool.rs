//! The connections of one client, one for each address, shared by all of its calls.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_std::task;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};

use crate::client::connection::{ConnectError, Connection};
use crate::client::directory::Directory;
use crate::wire::message::Hello;

/// A connection in the making; everybody who needs it waits for the same one.
pub type Connecting = Shared<BoxFuture<'static, Result<Connection, ConnectError>>>;

/// How a node can be reached now.
pub enum Way {
    /// A connection stands.
    Ready(Connection),
    /// One is being made. It goes on when nobody waits for it any more.
    Connecting(Connecting),
    /// The client was closed.
    Closed,
}

/// The connections of one client, at most one for each address that the [`Directory`] knows, and the directory.
pub struct Pool {
    agent: String,
    connect_time: Duration,
    directory: Mutex<Directory>,
    slots: Mutex<BTreeMap<String, Slot>>,
    is_closed: AtomicBool,
}

enum Slot {
    Ready(Connection),
    Connecting(Connecting),
}

impl Pool {
    /// Makes a pool without connections: the first request makes the first.
    #[must_use]
    pub fn new(agent: String, connect_time: Duration, directory: Directory) -> Self {
        Self {
            agent,
            connect_time,
            directory: Mutex::new(directory),
            slots: Mutex::new(BTreeMap::new()),
            is_closed: AtomicBool::new(false),
        }
    }

    /// Returns what is known of the cluster, for a moment: nothing is awaited while it is held.
    pub fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<String, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether [`Pool::close`] was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Returns the way to a node, and begins to make it where there is none.
    #[must_use]
    pub fn way(self: &Arc<Self>, addr: &str) -> Way {
        let mut slots = self.slots();
        if self.is_closed() {
            return Way::Closed;
        }
        slots.retain(|_, slot| !matches!(slot, Slot::Ready(connection) if connection.is_over()));
        match slots.get(addr) {
            Some(Slot::Ready(connection)) => return Way::Ready(connection.clone()),
            Some(Slot::Connecting(connecting)) => return Way::Connecting(connecting.clone()),
            None => {}
        }
        // The task waits for the lock that is held here before it replaces the slot set here.
        let made = task::spawn(Arc::clone(self).make(addr.to_owned()));
        let connecting = made.boxed().shared();
        slots.insert(addr.into(), Slot::Connecting(connecting.clone()));
        Way::Connecting(connecting)
    }

    async fn make(self: Arc<Self>, addr: String) -> Result<Connection, ConnectError> {
        let cluster = self.directory().cluster();
        let hello = Hello { cluster, ..Hello::client(self.agent.as_str()) };
        let opened = Connection::open(&addr, hello, self.connect_time).await;
        let mut slots = self.slots();
        let (connection, welcome) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                slots.remove(&addr);
                return Err(error);
            }
        };
        if self.is_closed() {
            connection.close(CLOSED);
            return Err(ConnectError::Failed(CLOSED.into()));
        }
        log::debug!("connected to node {} at {addr}", welcome.node);
        slots.insert(addr.clone(), Slot::Ready(connection.clone()));
        drop(slots);
        let mut directory = self.directory();
        directory.reached(&addr);
        directory.learn(&welcome);
        Ok(connection)
    }

    /// Ends every connection and makes no more. Calls under way end with it.
    pub fn close(&self) {
        let slots = {
            let mut slots = self.slots();
            self.is_closed.store(true, Ordering::Release);
            std::mem::take(&mut *slots)
        };
        for slot in slots.into_values() {
            match slot {
                Slot::Ready(connection) => connection.close(CLOSED),
                // It looks whether the pool is closed when it is done.
                Slot::Connecting(_) => {}
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}

/// What callers hear of a closed client.
pub const CLOSED: &str = "the client was closed";
