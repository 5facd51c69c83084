//! What runs under the guard, and the one lock under which a process is signalled or reaped.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, waitpid,
};

use crate::types::Fence;
use crate::worker::clock::Moment;
use crate::worker::proc;

/// The table as the guard's threads share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared(Arc<Mutex<Table>>);

impl Shared {
    /// Locks it. Nothing waits under this lock, save `wait` for a process that has ended.
    pub(super) fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends orphans, see [`Table::sweep`]. They are listed before the lock is taken: with hundreds of
    /// commands that takes its time, and the guard has to answer its node meanwhile.
    pub(super) fn sweep(&self, which: Which) -> usize {
        let children = proc::children();
        self.lock().sweep(which, &children)
    }

    /// Ends every command at once, orphans included. Returns how many commands there were.
    pub(super) fn take_all(&self, why: Taken) -> usize {
        let count = self.lock().take_all(why);
        self.sweep(Which::All);
        count
    }
}

/// Why the guard ended a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The node ordered it.
    Ordered,
    /// The node's lease ran out.
    LeaseLost,
    /// It took longer than its job allows.
    TimedOut,
}

/// The commands from their order to their verdict.
///
/// - A group is signalled only while its leader is not reaped: until then the kernel gives its
///   number to nobody else. The same holds for orphans, which only [`Table::sweep`] reaps.
/// - No orphan is reaped while a command is being started: the standard library waits for a child
///   whose program cannot be executed, and must find it.
#[derive(Debug, Default)]
pub(super) struct Table {
    commands: BTreeMap<Fence, Command>,
    /// Threads that serve a command, or still have to tell its end.
    pub(super) threads: usize,
}

#[derive(Debug, Default)]
struct Command {
    process: Process,
    taken: Option<Taken>,
    /// When `SIGKILL` follows the `SIGTERM`. Set before there is a process, too: the program may be running
    /// before the thread that started it is told so, and has the same grace.
    kill_at: Option<Moment>,
    /// When it has taken too long.
    times_out_at: Option<Moment>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Process {
    #[default]
    Starting,
    Running(Pid),
    Reaped,
}

/// Which orphans to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// Every one.
    All,
    /// Those of one command.
    Of(Fence),
    /// Those whose command is not in the table; and, when the table is empty, those of whom nobody
    /// can say whose they are.
    Ownerless,
}

impl Command {
    fn take(&mut self, why: Taken, kill_at: Moment) {
        if self.taken.is_some() {
            return;
        }
        match self.process {
            Process::Starting => self.kill_at = Some(kill_at),
            Process::Running(pid) => {
                self.kill_at = Some(kill_at);
                signal_group(pid, Signal::TERM);
            }
            // What has ended by itself did not take too long.
            Process::Reaped if why == Taken::TimedOut => return,
            Process::Reaped => {}
        }
        self.taken = Some(why);
    }
}

impl Table {
    /// Enters a command that is about to be started; `taken` if it may not be. Returns whether the
    /// fence is new here.
    pub(super) fn open(
        &mut self,
        fence: Fence,
        taken: Option<Taken>,
        times_out_at: Option<Moment>,
    ) -> bool {
        if self.commands.contains_key(&fence) {
            return false;
        }
        self.commands.insert(fence, Command { taken, times_out_at, ..Command::default() });
        self.threads += 1;
        true
    }

    /// Tells whether and why a command was ended by the guard.
    pub(super) fn taken(&self, fence: Fence) -> Option<Taken> {
        self.commands.get(&fence).and_then(|command| command.taken)
    }

    /// Notes the process of a command, and ends it if it was taken meanwhile: kindly while its grace lasts,
    /// else at once.
    pub(super) fn started(&mut self, fence: Fence, pid: Pid) {
        let Some(command) = self.commands.get_mut(&fence) else { return };
        command.process = Process::Running(pid);
        if command.taken.is_some() {
            let signal = if command.kill_at.is_some() { Signal::TERM } else { Signal::KILL };
            signal_group(pid, signal);
        }
    }

    /// Ends a command kindly: `SIGTERM` now, `SIGKILL` at `kill_at`.
    pub(super) fn take(&mut self, fence: Fence, kill_at: Moment) {
        if let Some(command) = self.commands.get_mut(&fence) {
            command.take(Taken::Ordered, kill_at);
        }
    }

    /// Ends the commands that have taken too long, as kindly.
    pub(super) fn time_out(&mut self, now: Moment, kill_at: Moment) {
        for command in self.commands.values_mut() {
            if command.times_out_at.is_some_and(|at| at <= now) {
                command.times_out_at = None;
                command.take(Taken::TimedOut, kill_at);
            }
        }
    }

    /// Ends every command at once. Returns how many there were.
    fn take_all(&mut self, why: Taken) -> usize {
        for command in self.commands.values_mut() {
            command.taken.get_or_insert(why);
            command.kill_at = None;
            if let Process::Running(pid) = command.process {
                signal_group(pid, Signal::KILL);
            }
        }
        self.commands.len()
    }

    /// Sends the `SIGKILL`s that are due. Returns when to look again: for the next one, or for a command that
    /// takes too long.
    pub(super) fn kill_due(&mut self, now: Moment) -> Option<Moment> {
        for command in self.commands.values_mut() {
            if command.kill_at.is_some_and(|at| at <= now) {
                command.kill_at = None;
                if let Process::Running(pid) = command.process {
                    signal_group(pid, Signal::KILL);
                }
            }
        }
        let times =
            self.commands.values().flat_map(|command| [command.kill_at, command.times_out_at]);
        times.flatten().min()
    }

    /// Reaps a command that has ended, after ending what is left of its group.
    ///
    /// # Errors
    /// Of the wait; the process is then taken for gone.
    pub(super) fn reap(&mut self, fence: Fence, child: &mut Child) -> io::Result<ExitStatus> {
        signal_group(Pid::from_child(child), Signal::KILL);
        let status = child.wait();
        if let Some(command) = self.commands.get_mut(&fence) {
            command.process = Process::Reaped;
            command.kill_at = None;
        }
        status
    }

    /// Forgets a command.
    pub(super) fn close(&mut self, fence: Fence) {
        self.commands.remove(&fence);
    }

    /// Tells whether no command is left.
    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Ends orphans: processes below a command that left its group (`setsid`) and lost their
    /// parent, and so became children of the guard, their subreaper. Reaps those that have ended.
    /// `children` is who they were a moment ago: a number that is no child's any more is passed over.
    /// Returns how many were found alive; whoever hangs below one of them is found the next time.
    fn sweep(&mut self, which: Which, children: &[Pid]) -> usize {
        let running = |command: &Command| match command.process {
            Process::Running(pid) => Some(pid.as_raw_pid()),
            Process::Starting | Process::Reaped => None,
        };
        let own: BTreeSet<i32> = self.commands.values().filter_map(running).collect();
        let starting = self.commands.values().any(|command| command.process == Process::Starting);
        let mut found = 0;
        for pid in children.iter().copied() {
            if own.contains(&pid.as_raw_pid()) {
                continue;
            }
            let Some(stat) = proc::stat(pid) else { continue };
            if stat.parent != getpid().as_raw_pid() {
                continue;
            }
            if stat.zombie {
                if !starting && let Err(error) = waitpid(Some(pid), WaitOptions::NOHANG) {
                    log::debug!("orphan {pid:?} was reaped elsewhere: {error}");
                }
                continue;
            }
            if self.is_meant(which, pid, starting) {
                found += 1;
                if stat.group == pid.as_raw_pid() {
                    signal_group(pid, Signal::KILL);
                } else if let Err(error) = kill_process(pid, Signal::KILL) {
                    log::debug!("cannot kill orphan {pid:?}: {error}");
                }
            }
        }
        found
    }

    fn is_meant(&self, which: Which, pid: Pid, starting: bool) -> bool {
        match which {
            Which::All => true,
            Which::Of(fence) => proc::fence_of(pid) == Some(fence),
            // A child between fork and exec still looks like the guard: not an orphan.
            Which::Ownerless if starting => false,
            Which::Ownerless => match proc::fence_of(pid) {
                Some(fence) => !self.commands.contains_key(&fence),
                None => self.commands.is_empty(),
            },
        }
    }
}

fn signal_group(group: Pid, signal: Signal) {
    if let Err(error) = kill_process_group(group, signal) {
        log::debug!("cannot signal group {group:?}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::time::Duration;

    use super::*;

    /// A process that lives on by itself, and leads its group.
    fn sleeper() -> Child {
        std::process::Command::new("sleep").arg("600").process_group(0).spawn().unwrap()
    }

    /// Ends a command that was taken before its thread said that it runs, and returns the signal it died of.
    fn taken_while_starting(meanwhile: impl FnOnce(&mut Table, Moment)) -> Option<i32> {
        let (mut table, fence) = (Table::default(), Fence(1));
        assert!(table.open(fence, None, None));
        let kill_at = Moment::now().after(Duration::from_secs(60));
        table.take(fence, kill_at);
        meanwhile(&mut table, kill_at);
        let mut child = sleeper();
        table.started(fence, Pid::from_child(&child));
        child.wait().unwrap().signal()
    }

    #[test]
    fn command_taken_while_it_is_started_has_its_grace() {
        let signal = taken_while_starting(|table, kill_at| {
            assert_eq!(table.kill_due(Moment::now()), Some(kill_at));
        });
        assert_eq!(signal, Some(Signal::TERM.as_raw()));
    }

    #[test]
    fn command_taken_while_it_is_started_is_killed_once_its_grace_is_over() {
        let late = taken_while_starting(|table, kill_at| {
            assert_eq!(table.kill_due(kill_at), None);
        });
        let all = taken_while_starting(|table, _| {
            assert_eq!(table.take_all(Taken::LeaseLost), 1);
        });
        assert_eq!((late, all), (Some(Signal::KILL.as_raw()), Some(Signal::KILL.as_raw())));
    }
}
