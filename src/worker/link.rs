//! The guard as its node sees it: a child process, two pipes, and a thread for each of them.

use std::io;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, pidfd_open,
    pidfd_send_signal, waitid, waitpid,
};

use crate::worker::clock::Moment;
use crate::worker::proc::{self, ENV_ATTEMPT, ENV_FENCE, ENV_GUARD, ENV_JOB_ID, ENV_QUEUE};
use crate::worker::protocol::{Event, Order, read_frame, write_frame};

/// Orders that wait for the pipe beside those that slots bound (a start and two ends for each).
/// Full: the guard does not read, and is taken for dead.
const ORDERS_SPARE: usize = 64;

/// How long the commands of a guard that died are looked for, at most. What the kernel cannot end
/// by then is left behind.
const REMAINS_PATIENCE: Duration = Duration::from_secs(2);

/// How often they are looked for again.
const REMAINS_STEP: Duration = Duration::from_millis(10);

/// What comes from a guard.
#[derive(Debug)]
pub enum FromGuard {
    /// It says something.
    Event(Event),
    /// It is dead and reaped, and so are its commands; nothing comes after this.
    Gone {
        /// How it ended, for a person.
        how: String,
    },
}

/// A guard that was started. Dropping it ends the guard and every command, as a node's death does.
#[derive(Debug)]
pub struct Link {
    orders: Sender<Order>,
    child: Arc<Mutex<Child>>,
}

impl Link {
    /// Starts a guard for a worker of so many slots; `adopts`: this process has no other children, and
    /// is the parent of those that a dead guard leaves behind; `deliver` gets what it says, on a thread of its
    /// own, where it may wait.
    ///
    /// # Errors
    /// Of starting the process or a thread; nothing is left running then.
    pub fn open(
        program: &Path,
        arguments: &[String],
        slots: usize,
        adopts: bool,
        deliver: impl Fn(FromGuard) + Send + 'static,
    ) -> io::Result<Self> {
        // Without these the guard of a node that itself runs as a job would look like that job's.
        let name = format!("{:016x}", fastrand::u64(..));
        let mut child = Command::new(program)
            .args(arguments)
            .env(ENV_GUARD, &name)
            .env_remove(ENV_JOB_ID)
            .env_remove(ENV_ATTEMPT)
            .env_remove(ENV_FENCE)
            .env_remove(ENV_QUEUE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pid = Pid::from_child(&child);
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("a child without the pipes it was given"));
        };
        let child = Arc::new(Mutex::new(child));
        let (orders, waiting) = bounded(3 * slots + ORDERS_SPARE);
        let reading = Arc::clone(&child);
        // If a thread cannot be started, the pipe it was to serve is dropped with the closure: the
        // guard ends by itself. Without the reading one nobody would reap it: it is done here.
        let reader = thread::Builder::new().name("guard-reader".into()).spawn(move || {
            read_events(output, &deliver);
            let how = end_guard(&reading, &Remains { guard: pid, name, adopts });
            deliver(FromGuard::Gone { how });
        });
        if let Err(error) = reader {
            log::debug!("the guard that nobody reads from has ended: {}", bury(&child));
            return Err(error);
        }
        thread::Builder::new()
            .name("guard-writer".into())
            .spawn(move || write_orders(input, &waiting))?;
        Ok(Self { orders, child })
    }

    /// Gives an order. If the guard does not take it, it is killed, and [`FromGuard::Gone`] comes.
    pub fn order(&self, order: Order) {
        if let Err(error) = self.orders.try_send(order) {
            log::error!("the guard takes no orders, so it is ended: {error}");
            self.kill();
        }
    }

    /// Kills the guard; [`FromGuard::Gone`] comes when its commands are gone too.
    pub fn kill(&self) {
        if let Err(error) = lock(&self.child).kill() {
            log::debug!("cannot kill the guard: {error}");
        }
    }

    /// Returns the guard's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        lock(&self.child).id()
    }
}

fn lock(child: &Mutex<Child>) -> std::sync::MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes orders until the link is dropped or the pipe breaks; then the pipe is closed, which ends
/// the guard.
fn write_orders(mut pipe: ChildStdin, waiting: &Receiver<Order>) {
    for order in waiting {
        let last = order == Order::Stop;
        if let Err(error) = write_frame(&mut pipe, &order) {
            log::debug!("cannot write to the guard: {error}");
            return;
        }
        if last {
            return;
        }
    }
}

/// Hands over what the guard says until its pipe ends.
fn read_events(mut pipe: ChildStdout, deliver: &impl Fn(FromGuard)) {
    loop {
        match read_frame::<Event>(&mut pipe) {
            Ok(Some(event)) => deliver(FromGuard::Event(event)),
            Ok(None) => return,
            Err(error) => {
                log::error!("the guard cannot be understood, so it is ended: {error}");
                return;
            }
        }
    }
}

/// Makes sure that nothing is left of a guard whose pipe has ended. Returns how it ended.
fn end_guard(child: &Mutex<Child>, remains: &Remains) -> String {
    if let Err(error) = lock(child).kill() {
        log::debug!("cannot kill the guard: {error}");
    }
    // Seen dead, but not reaped: it starts nothing any more, and keeps its number.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    if let Err(error) = waitid(WaitId::Pid(remains.guard), options) {
        log::warn!("cannot wait for the guard: {error}");
    }
    remains.end();
    bury(child)
}

/// Reaps a guard that has ended or is about to. Returns how it ended.
fn bury(child: &Mutex<Child>) -> String {
    match lock(child).wait() {
        Ok(status) => status.to_string(),
        Err(error) => format!("cannot wait for it: {error}"),
    }
}

/// What a guard left running that was killed itself: whoever is in its session, has its name in the
/// environment, or has become a child of this process by its death. All of them mean nobody else:
/// while the guard is not reaped, its number, and so its session's, is given to no other process; and
/// the next guard is started only when this one is buried.
struct Remains {
    guard: Pid,
    name: String,
    adopts: bool,
}

impl Remains {
    /// Ends them, and waits until they are gone, for [`REMAINS_PATIENCE`] at most.
    fn end(&self) {
        let patience_ends = Moment::now().after(REMAINS_PATIENCE);
        loop {
            let found: Vec<_> = proc::all().into_iter().filter(|pid| self.has(*pid)).collect();
            if found.is_empty() {
                return;
            }
            if Moment::now() >= patience_ends {
                log::error!("{} processes of a dead guard cannot be ended", found.len());
                return;
            }
            for pid in found {
                // The descriptor holds on to the process that is looked at again before it is killed:
                // its number cannot pass to another in between.
                let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
                if self.has(pid)
                    && let Err(error) = pidfd_send_signal(&process, Signal::KILL)
                {
                    log::debug!("cannot kill {pid:?}: {error}");
                }
            }
            thread::sleep(REMAINS_STEP);
        }
    }

    /// Tells whether a process is one of them and lives; one that was adopted and is dead is reaped.
    fn has(&self, pid: Pid) -> bool {
        if pid == self.guard {
            return false;
        }
        let Some(stat) = proc::stat(pid) else { return false };
        let adopted = self.adopts && stat.parent == getpid().as_raw_pid();
        if stat.zombie {
            if adopted && let Err(error) = waitpid(Some(pid), WaitOptions::NOHANG) {
                log::debug!("cannot reap {pid:?}: {error}");
            }
            return false;
        }
        let in_session = stat.session == self.guard.as_raw_pid();
        adopted || in_session || proc::is_below(pid, &self.name)
    }
}
