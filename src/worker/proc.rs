//! What `/proc` tells of processes: children that were re-parented to us, groups, sessions, fences.

use std::fs::{self, File};
use std::io::{self, Read};
use std::str;

use rustix::process::Pid;

use crate::types::Fence;

/// The variable that tells a command its job.
pub(crate) const ENV_JOB_ID: &str = "RAFTQ_JOB_ID";

/// The variable that tells a command which attempt it is.
pub(super) const ENV_ATTEMPT: &str = "RAFTQ_ATTEMPT";

/// The variable that tells a command its fence; by it a process that left its group is
/// known among the children of one guard.
pub(crate) const ENV_FENCE: &str = "RAFTQ_FENCE";

/// The variable that tells a command the queue of its job.
pub(super) const ENV_QUEUE: &str = "RAFTQ_QUEUE";

/// The variable that tells a command the nodes of its cluster, as `--addrs` takes them.
pub(super) const ENV_ADDRS: &str = "RAFTQ_ADDRS";

/// The variable that names the guard above a command, differently for each start of each guard: a
/// fence says nothing of the cluster, and there may be several on one machine.
pub(super) const ENV_GUARD: &str = "RAFTQ_GUARD";

/// The bytes of an environment that are looked at, at most; the fence of a process with a larger
/// one may go unseen, and it is then ended with those that have none.
const ENVIRON_BYTES_MAX: u64 = 1 << 20;

/// What one process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// It has ended and waits to be reaped.
    pub(super) zombie: bool,
    /// Its parent.
    pub(super) parent: i32,
    /// Its process group.
    pub(super) group: i32,
    /// Its session.
    pub(super) session: i32,
}

/// Returns what a process is; `None` if it is gone.
pub(super) fn stat(pid: Pid) -> Option<Stat> {
    let text = fs::read(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
    parse_stat(&text)
}

/// Takes `state ppid pgrp session` from behind the name, which may itself hold `)` and blanks.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let name_end = text.iter().rposition(|byte| *byte == b')')?;
    let rest = str::from_utf8(text.get(name_end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let zombie = matches!(fields.next()?, "Z" | "X");
    let mut number = || fields.next()?.parse().ok();
    Some(Stat { zombie, parent: number()?, group: number()?, session: number()? })
}

/// Returns the fence in a process's environment, as it was when its program started.
pub(super) fn fence_of(pid: Pid) -> Option<Fence> {
    parse_fence(&environ(pid)?)
}

/// Tells whether a process's environment names this guard.
pub(super) fn is_below(pid: Pid, guard: &str) -> bool {
    environ(pid).is_some_and(|environ| variable(&environ, ENV_GUARD) == Some(guard.as_bytes()))
}

fn environ(pid: Pid) -> Option<Vec<u8>> {
    let mut environ = Vec::new();
    let file = File::open(format!("/proc/{}/environ", pid.as_raw_pid())).ok()?;
    file.take(ENVIRON_BYTES_MAX).read_to_end(&mut environ).ok()?;
    Some(environ)
}

fn variable<'a>(environ: &'a [u8], name: &str) -> Option<&'a [u8]> {
    environ
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

fn parse_fence(environ: &[u8]) -> Option<Fence> {
    str::from_utf8(variable(environ, ENV_FENCE)?).ok()?.parse().ok().map(Fence)
}

/// Returns the children of this process, those included that were orphaned below it.
///
/// The list can miss a child that comes or goes at the same moment: callers ask again.
pub(super) fn children() -> Vec<Pid> {
    match children_by_thread() {
        Ok(children) => children,
        Err(_) => children_by_scan(),
    }
}

/// The kernel keeps children by the thread that made them.
fn children_by_thread() -> io::Result<Vec<Pid>> {
    let mut children = Vec::new();
    for thread in fs::read_dir("/proc/self/task")? {
        let path = thread?.path();
        match fs::read_to_string(path.join("children")) {
            Ok(text) => {
                let pids = text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
                children.extend(pids.filter_map(Pid::from_raw));
            }
            // A thread that has just ended; or a kernel without such files, told by the thread
            // that always lives.
            Err(error) if path.ends_with(std::process::id().to_string()) => return Err(error),
            Err(_) => {}
        }
    }
    Ok(children)
}

/// For kernels built without `CONFIG_PROC_CHILDREN`.
fn children_by_scan() -> Vec<Pid> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let ours = |pid: &Pid| stat(*pid).is_some_and(|stat| stat.parent == own);
    all().into_iter().filter(ours).collect()
}

/// Returns every process of the machine that can be seen.
pub(super) fn all() -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Pid::from_raw)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_of_a_name_with_brackets_and_blanks_is_read() {
        let stat = Stat { zombie: true, parent: 4, group: 5, session: 6 };
        assert_eq!(parse_stat(b"77 (a) Z 1 (b) Z 4 5 6 0 -1 4194560"), Some(stat));
        assert_eq!(parse_stat(b"77 (sleep) S 4 5"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn fence_is_found_by_its_whole_name() {
        assert_eq!(parse_fence(b"XRAFTQ_FENCE=1\0RAFTQ_FENCE=8193\0A=b\0"), Some(Fence(8193)));
        assert_eq!(parse_fence(b"RAFTQ_FENCES=1\0RAFTQ_FENCE=x\0"), None);
        assert_eq!(parse_fence(b""), None);
    }

    #[test]
    fn stat_of_this_process_names_its_parent() {
        let own = stat(rustix::process::getpid()).unwrap();
        assert_eq!(Some(own.parent), rustix::process::getppid().map(Pid::as_raw_pid));
        assert!(!own.zombie);
    }
}
