//! The guard: the process that starts a node's commands, and ends them when the node may not run them.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{getpid, set_child_subreaper, setsid};
use rustix::stdio::{stdin, stdout};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::jobs::job::{Verdict, WORKER_SLOTS_MAX};
use crate::types::Fence;
use crate::worker::clock::Moment;
use crate::worker::command;
use crate::worker::protocol::{Event, Frames, Order, Start, write_frame};
use crate::worker::table::{Shared, Taken, Which};

/// How long a command that is ended by order has between `SIGTERM` and `SIGKILL`.
pub const KILL_GRACE: Duration = Duration::from_millis(500);

/// How long a command that took too long has after `SIGTERM` before `SIGKILL`.
pub const TIMEOUT_GRACE: Duration = Duration::from_secs(5);

/// Events that wait for the pipe to the node, at most. Full: the threads of the commands wait with
/// theirs; the guard's own loop never does.
const EVENTS_MAX: usize = 256;

/// Threads that run a command or wait to tell its end, at most. A node that orders more does not
/// count its slots: the guard ends, and everything with it.
const THREADS_MAX: usize = 2 * WORKER_SLOTS_MAX as usize;

/// How often the guard looks for orphans without an owner, and at the clock, when nothing happens.
const TICK: Duration = Duration::from_secs(1);

/// How often it looks at the clock while commands run. `poll` counts no time in which the machine
/// sleeps, the lease does: after waking, commands without right live this much longer at most.
const TICK_RUNNING: Duration = Duration::from_millis(250);

/// How long the guard waits at its end for what it killed to be gone. A process that the kernel
/// cannot end (it waits for a disk) is left behind then.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// How often it looks meanwhile.
const END_STEP: Duration = Duration::from_millis(5);

/// How long the last events may take to be written.
const FLUSH_PATIENCE: Duration = Duration::from_millis(500);

/// Bytes of orders read at once.
const READ_BYTES: usize = 64 << 10;

/// Runs the guard on this process's standard input and output until its node ends, and returns the
/// exit code: 0 at the end of the pipe or on [`Order::Stop`], 1 for a broken pipe or a fault.
///
/// `addrs` are the nodes of the cluster, which commands find in `RAFTQ_ADDRS`.
///
/// This is the body of a hidden verb of the binary. Nobody but a node calls it; log lines go to
/// standard error, which is the node's.
#[must_use]
pub fn guard_main(addrs: Option<String>) -> i32 {
    match guard(addrs) {
        Ok(()) => 0,
        Err(error) => {
            log::error!("the guard of the node's commands ends: {error}");
            1
        }
    }
}

fn guard(addrs: Option<String>) -> io::Result<()> {
    stand_apart()?;
    let orders = File::from(stdin().try_clone_to_owned()?);
    let pipe = File::from(stdout().try_clone_to_owned()?);
    let (events, waiting) = bounded(EVENTS_MAX);
    let (flushed, flush) = bounded::<()>(1);
    thread::Builder::new().name("guard-events".into()).spawn(move || {
        write_events(pipe, &waiting);
        drop(flushed);
    })?;
    let mut guard = Guard {
        table: Shared::default(),
        events,
        lease: None,
        tick_at: Moment::now(),
        frames: Frames::default(),
        addrs: addrs.map(Arc::from),
    };
    let outcome = guard.serve(orders);
    guard.end();
    drop(guard);
    // Answers when the writing thread has dropped its end, which it never uses otherwise.
    if flush.recv_timeout(FLUSH_PATIENCE).is_err_and(|error| error.is_timeout()) {
        log::warn!("the node did not read the last events of its guard");
    }
    outcome
}

/// Leaves the node's group, session and signals, and becomes the parent of orphans.
fn stand_apart() -> io::Result<()> {
    // Handlers, not SIG_IGN: a command's program starts with the default again, as it expects.
    // What is sent to the node's group or terminal is the node's to answer; the guard ends when the
    // pipe does.
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    // A session of its own: commands have no terminal that could stop them, and the node can tell
    // by the session what descends from a guard that died.
    if let Err(error) = setsid() {
        log::debug!("the guard leads a group already: {error}");
    }
    set_child_subreaper(Some(getpid()))?;
    Ok(())
}

/// Writes events until no sender is left. After a fault it goes on taking them, so that nobody
/// waits: the end of the other pipe tells that the node is gone.
fn write_events(mut pipe: File, waiting: &Receiver<Event>) {
    let mut broken = false;
    for event in waiting {
        if broken {
            continue;
        }
        if let Err(error) = write_frame(&mut pipe, &event) {
            log::debug!("cannot write to the node: {error}");
            broken = true;
        }
    }
}

struct Guard {
    table: Shared,
    events: Sender<Event>,
    /// Until when commands may run; `None` before the first lease and after the end of the last.
    lease: Option<Moment>,
    tick_at: Moment,
    frames: Frames,
    /// The nodes of the cluster, for the environment of commands.
    addrs: Option<Arc<str>>,
}

impl Guard {
    /// Takes orders until the pipe ends.
    fn serve(&mut self, mut orders: File) -> io::Result<()> {
        let mut chunk = vec![0; READ_BYTES];
        loop {
            let wake_at = self.look_at_the_clock(Moment::now());
            if !await_orders(&orders, wake_at)? {
                continue;
            }
            let count = match orders.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            // The guard itself may have stood still: what it reads may be old, so the clock is
            // looked at before, and a start that comes behind its lease's end is refused.
            self.look_at_the_clock(Moment::now());
            self.frames.push(chunk.get(..count).unwrap_or_default());
            while let Some(order) = self.frames.take()? {
                match order {
                    Order::Start(start) => self.start(start)?,
                    Order::Kill { fence } => {
                        self.table.lock().take(fence, Moment::now().after(KILL_GRACE));
                    }
                    Order::KillAll => {
                        self.table.take_all(Taken::Ordered);
                    }
                    Order::Lease { until } => self.renew(until)?,
                    Order::Stop => return Ok(()),
                }
            }
        }
    }

    /// Does what is due: the end of the lease, late kills, orphans. Returns when to look again.
    fn look_at_the_clock(&mut self, now: Moment) -> Moment {
        if self.lease.is_some_and(|until| until <= now) {
            self.lease = None;
            let count = self.table.take_all(Taken::LeaseLost);
            if count > 0 {
                log::warn!("the node has lost its right to run commands: {count} ended");
            }
        }
        if self.tick_at <= now {
            self.table.sweep(Which::Ownerless);
            self.tick_at = now.after(TICK);
        }
        let mut table = self.table.lock();
        table.time_out(now, now.after(TIMEOUT_GRACE));
        let kill_at = table.kill_due(now);
        let idle = if table.is_empty() { TICK } else { TICK_RUNNING };
        let wake_at = [kill_at, self.lease, Some(self.tick_at)].into_iter().flatten().min();
        wake_at.unwrap_or(now).min(now.after(idle))
    }

    /// Takes a longer lease. The answer tells the node that its guard lives; it may be dropped when
    /// the node does not read, for then it will not miss it.
    fn renew(&mut self, until: Moment) -> io::Result<()> {
        if until > Moment::now() && self.lease.is_none_or(|lease| lease < until) {
            self.lease = Some(until);
        }
        match self.events.try_send(Event::Leased { until }) {
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn start(&mut self, start: Start) -> io::Result<()> {
        let fence = start.fence;
        let refused = if self.lease.is_none() { Some(Taken::LeaseLost) } else { None };
        {
            let mut table = self.table.lock();
            if table.threads >= THREADS_MAX {
                let text = format!("ordered to run more than {THREADS_MAX} commands");
                return Err(io::Error::other(text));
            }
            let timeout = start.timeout_ms.map(Duration::from_millis);
            let times_out_at = timeout.map(|timeout| Moment::now().after(timeout));
            if !table.open(fence, refused, times_out_at) {
                log::warn!("fence {fence} was ordered twice, and runs once");
                return Ok(());
            }
        }
        let (table, events) = (self.table.clone(), self.events.clone());
        let addrs = self.addrs.clone();
        let spawned = thread::Builder::new()
            .name("command".into())
            .spawn(move || command::run(&start, addrs.as_deref(), &table, &events));
        match spawned {
            Ok(_) => Ok(()),
            Err(error) => self.no_thread(fence, &error),
        }
    }

    /// Tells that a command could not even be given a thread.
    fn no_thread(&mut self, fence: Fence, error: &io::Error) -> io::Result<()> {
        {
            let mut table = self.table.lock();
            table.close(fence);
            table.threads -= 1;
        }
        let verdict = Verdict {
            completed: false,
            exit_code: None,
            output: bytes::Bytes::new(),
            output_cut: false,
            error: Some(format!("cannot start a thread for the command: {error}")),
        };
        let ended = Event::Ended { fence, verdict, taken: false };
        // Without room for it the node would wait for this command for ever; rather the guard ends,
        // and the node gives everything back.
        self.events.try_send(ended).map_err(io::Error::other)
    }

    /// Ends everything, and waits for it to be gone, within [`END_PATIENCE`].
    fn end(&mut self) {
        let patience_ends = Moment::now().after(END_PATIENCE);
        loop {
            let commands = self.table.take_all(Taken::Ordered);
            let orphans = self.table.sweep(Which::All);
            if commands == 0 && orphans == 0 && self.table.lock().threads == 0 {
                return;
            }
            if Moment::now() >= patience_ends {
                log::warn!("left behind: {commands} commands and {orphans} orphans");
                return;
            }
            thread::sleep(END_STEP);
        }
    }
}

/// Waits for orders until `wake_at`. Returns whether there are any, or the end of the pipe.
fn await_orders(orders: &File, wake_at: Moment) -> io::Result<bool> {
    // One more, because the clock is cut to milliseconds and must have passed the moment.
    let patience = wake_at.since(Moment::now()) + Duration::from_millis(1);
    let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
    let mut fds = [PollFd::from_borrowed_fd(orders.as_fd(), PollFlags::IN)];
    match poll(&mut fds, Some(&patience)) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
