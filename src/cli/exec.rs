//! Runs a command for each payload: under a guard of its own, as a node runs its commands.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::channel::oneshot;
use rustix::process::{getpid, set_child_subreaper};

use crate::cli::exit::narrate;
use crate::client::clock;
use crate::client::context::Context;
use crate::client::handler::Handler;
use crate::client::worker::LeaseHook;
use crate::jobs::job::Verdict;
use crate::jobs::reason::roughly;
use crate::types::Fence;
use crate::worker::clock::Moment;
use crate::worker::guard::TIMEOUT_GRACE;
use crate::worker::link::{FromGuard, Link};
use crate::worker::protocol::{Event, Order, Start};

/// The words of the command have so many bytes together, at most: with the largest payload they fit one order to
/// the guard.
pub const WORDS_BYTES_MAX: usize = 512 << 10;

/// The guard ends what takes too long, kindly, and tells how it ended; the worker itself waits so much longer.
const TIMEOUT_SPARE: Duration = TIMEOUT_GRACE.saturating_add(Duration::from_secs(1));

/// A command that the guard ended for want of a lease is no verdict on its job. The worker finds out that its lease
/// is over as well, and lets go of the job; if it does not within this time, the attempt has failed.
const TAKEN_PATIENCE: Duration = Duration::from_secs(2);

/// How one command ended.
struct Ended {
    verdict: Verdict,
    /// The guard ended it, and not because it took too long.
    taken: bool,
}

/// The commands whose end is waited for; as many as the worker has slots, at most.
type Waiting = Arc<Mutex<BTreeMap<Fence, oneshot::Sender<Ended>>>>;

/// What runs the commands of one worker. Dropping it ends them all.
#[derive(Clone)]
pub struct Exec(Arc<Inner>);

struct Inner {
    link: Link,
    waiting: Waiting,
    argv: Vec<String>,
    is_told: bool,
}

/// A command under way; dropped before its end, it is ended.
struct Running {
    exec: Exec,
    fence: Fence,
    has_ended: bool,
}

impl Exec {
    /// Starts the guard; `is_told`: a line on stderr for each job. Returns also what is ready when the guard has
    /// died, and every command with it.
    ///
    /// # Errors
    /// The guard cannot be started.
    pub fn start(
        argv: Vec<String>,
        slots: u32,
        addrs: &str,
        is_told: bool,
    ) -> io::Result<(Self, oneshot::Receiver<String>)> {
        // What a guard that was killed leaves behind is found among the children of this process.
        set_child_subreaper(Some(getpid()))?;
        let waiting = Waiting::default();
        let heard = Arc::clone(&waiting);
        let (died, death) = oneshot::channel();
        let mut died = Some(died);
        let guard = std::env::current_exe()?;
        let arguments = ["guard", "--addrs", addrs].map(String::from);
        let slots = usize::try_from(slots).unwrap_or(usize::MAX);
        let died = Mutex::new(died.take());
        let link = Link::open(&guard, &arguments, slots, true, move |from| match from {
            FromGuard::Event(Event::Ended { fence, verdict, taken }) => {
                if let Some(waiter) = lock(&heard).remove(&fence) {
                    let _nobody_waits = waiter.send(Ended { verdict, taken }).is_err();
                }
            }
            FromGuard::Event(Event::Started { .. } | Event::Leased { .. }) => {}
            FromGuard::Gone { how } => {
                if let Some(died) = lock(&died).take() {
                    let _nobody_asks = died.send(how).is_err();
                }
            }
        })?;
        Ok((Self(Arc::new(Inner { link, waiting, argv, is_told })), death))
    }

    /// Makes the handler of a worker.
    #[must_use]
    pub(crate) fn handler(&self) -> Handler {
        let exec = self.clone();
        Arc::new(move |context, payload| exec.clone().run(context, payload).boxed())
    }

    /// Makes what hands the worker's lease on to the guard: it ends the commands when this process stands still,
    /// or dies.
    #[must_use]
    pub(crate) fn lease_hook(&self) -> LeaseHook {
        let exec = self.clone();
        Box::new(move |left| {
            // The clock is read first: should the process stand still here, the lease becomes shorter.
            let now = Moment::now();
            let left = left();
            if left > Duration::ZERO {
                exec.0.link.order(Order::Lease { until: now.after(left) });
            }
        })
    }

    /// Runs the command for one job.
    async fn run(self, context: Context, payload: Bytes) -> Verdict {
        let began = clock::now();
        context.extend(TIMEOUT_SPARE);
        let fence = context.fence();
        let (sender, ended) = oneshot::channel();
        lock(&self.0.waiting).insert(fence, sender);
        let mut running = Running { exec: self.clone(), fence, has_ended: false };
        self.0.link.order(Order::Start(Start {
            fence,
            job: context.id(),
            attempt: context.attempt(),
            timeout_ms: context.timeout().map(clock::whole_ms),
            argv: self.0.argv.clone(),
            queue: context.queue().clone(),
            stdin: Some(payload),
        }));
        let Ok(Ended { verdict, taken }) = ended.await else {
            // The guard is gone: this process ends, and nothing is reported.
            return futures::future::pending().await;
        };
        running.has_ended = true;
        if taken {
            clock::sleep_until(clock::now().after(TAKEN_PATIENCE)).await;
        }
        if self.0.is_told {
            let after = roughly(clock::whole_ms(clock::now().since(began)));
            let how = verdict.error.as_deref().unwrap_or("done");
            narrate(&format!(
                "raftq: job {} attempt {}: {how}, after {after}",
                context.id(),
                context.attempt()
            ));
        }
        verdict
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended {
            lock(&self.exec.0.waiting).remove(&self.fence);
            self.exec.0.link.order(Order::Kill { fence: self.fence });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
