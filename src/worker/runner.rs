//! The worker built into a node, from outside: start it, watch it, stop it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_std::channel::{self, Receiver, Sender};
use async_std::task;
use rustix::process::{getpid, set_child_subreaper};

use crate::jobs::options::Tags;
use crate::replica::view::Notice;
use crate::types::{Incarnation, WorkerId};
use crate::worker::life::{INBOX_MAX, Input, Life, Purpose};
use crate::worker::link::Link;
use crate::worker::reports::Reports;

/// What a built-in worker is told when it is made.
#[derive(Clone, Debug)]
pub struct BuiltInConfig {
    /// Its name.
    pub worker: WorkerId,
    /// How many commands it runs at once, 1 or more, at most
    /// [`crate::jobs::job::WORKER_SLOTS_MAX`]. A node with none starts no worker.
    pub slots: u32,
    /// What it has, for jobs that ask for it.
    pub tags: Tags,
    /// The program of the guard: the node's own.
    pub guard: PathBuf,
    /// Its arguments: the hidden verb.
    pub guard_args: Vec<String>,
    /// Whether every child of this process that it did not start itself was left behind by a guard:
    /// true for a node. It makes the process their parent, so that none of them is missed when a
    /// guard dies, however it left its group, its session and its environment.
    pub adopts: bool,
    /// How long running commands have at a stop.
    pub grace: Duration,
    /// The first start.
    pub first: Incarnation,
    /// Randomness for incarnations and for the spread of retries.
    pub seed: u64,
}

/// Tells the replica of this node that the worker begins a new start. Returns whether it heard;
/// `false`: it is told again soon.
pub type Announce = Box<dyn Fn(Incarnation) -> bool + Send + Sync>;

/// What a stop came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StopReport {
    /// Commands that ended by themselves within the grace.
    pub ended: usize,
    /// Jobs given back without using up an attempt, and the leader said yes.
    pub released: usize,
    /// Jobs that died with their guard meanwhile; each uses up an attempt when the cluster takes the
    /// worker for lost, which therefore does not say that it leaves.
    pub lost: usize,
    /// Ends of attempts and jobs to give back that no leader answered in time. The cluster takes
    /// them for lost with the worker.
    pub unreported: usize,
}

/// What a worker shows of itself while it runs.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub(super) incarnation: AtomicU64,
    pub(super) running: AtomicUsize,
}

/// A built-in worker that runs. Dropping it ends its commands at once and tells nobody, as the death
/// of the node does; [`BuiltIn::stop`] is the polite way.
#[derive(Debug)]
pub struct BuiltIn {
    inbox: Sender<Input>,
    shown: Arc<Shown>,
}

/// Starts the guard and the worker's task.
///
/// The first start of a worker in a process registers with no `gave_up`: what an earlier process
/// held died with it.
///
/// # Errors
/// The guard could not be started, or `slots` is 0 (`InvalidInput`).
pub fn start(
    config: BuiltInConfig,
    reports: Arc<dyn Reports>,
    announce: Announce,
    notices: Receiver<Notice>,
) -> io::Result<BuiltIn> {
    if config.slots == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a worker without a slot"));
    }
    if config.adopts {
        set_child_subreaper(Some(getpid()))?;
    }
    let (inbox, inputs) = channel::bounded(INBOX_MAX);
    let shown = Arc::new(Shown::default());
    let purpose = Purpose { config, reports, announce };
    let link = open_link(&purpose.config, 0, inbox.clone())?;
    let life = Life::new(purpose, link, inbox.clone(), Arc::clone(&shown));
    task::spawn(pump(notices, inbox.clone()));
    task::spawn(life.live(inputs));
    Ok(BuiltIn { inbox, shown })
}

/// Starts the `generation`th guard, whose events become inputs.
pub(super) fn open_link(
    config: &BuiltInConfig,
    generation: u64,
    inbox: Sender<Input>,
) -> io::Result<Link> {
    let slots = usize::try_from(config.slots).unwrap_or(usize::MAX);
    Link::open(&config.guard, &config.guard_args, slots, config.adopts, move |from| {
        if inbox.send_blocking(Input::Guard { generation, from }).is_err() {
            log::debug!("the worker of this guard has ended");
        }
    })
}

/// Brings the replica's notices into the one line of inputs, so that their order is kept.
async fn pump(notices: Receiver<Notice>, inbox: Sender<Input>) {
    while let Ok(notice) = notices.recv().await {
        if inbox.send(Input::Notice(notice)).await.is_err() {
            return;
        }
    }
}

impl BuiltIn {
    /// Stops the worker: it takes no more jobs and gives back those not begun, lets running commands
    /// end within the grace, ends and gives back the rest, and says that it leaves. It waits for a
    /// leader's answer only so long ([`crate::worker::leaving::STOP_FLUSH`]).
    pub async fn stop(self) -> StopReport {
        let (sender, report) = channel::bounded(1);
        if self.inbox.send(Input::Stop(sender)).await.is_err() {
            return StopReport::default();
        }
        // An error means that the task is gone, and with it everything there was to stop.
        report.recv().await.unwrap_or_default()
    }

    /// Returns how many commands run, those included that are ending.
    #[must_use]
    pub fn running(&self) -> usize {
        self.shown.running.load(Ordering::Relaxed)
    }

    /// Returns the start of the worker that counts now.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        Incarnation(self.shown.incarnation.load(Ordering::Relaxed))
    }
}

impl Drop for BuiltIn {
    fn drop(&mut self) {
        // The task ends with the inbox, and the guard with the task. After a stop it is closed.
        self.inbox.close();
    }
}
