//! A limit on the memory of a running process: a control group where one can be made, else a limit on its data.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Where control groups of memory are, version 1 and version 2.
const ROOTS: [(&str, &str, &str); 2] = [
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
    ("/sys/fs/cgroup", "memory.max", "memory.peak"),
];

/// A process under a limit; the group goes with it.
pub(crate) struct Limited {
    group: Option<(PathBuf, &'static str)>,
    how: String,
}

impl Limited {
    /// Limits a process from now on. What it holds already is not counted: some MiB of a fresh node.
    pub(crate) fn new(pid: u32, bytes: u64) -> Self {
        for (root, limit, peak) in ROOTS {
            let group =
                PathBuf::from(root).join(format!("raftq-test-{}-{pid}", std::process::id()));
            if fs::create_dir(&group).is_err() {
                continue;
            }
            let limited = fs::write(group.join(limit), bytes.to_string())
                .and_then(|()| fs::write(group.join("cgroup.procs"), pid.to_string()));
            if limited.is_ok() {
                let how = format!("a control group, {root}/.../{limit}");
                return Self { group: Some((group, peak)), how };
            }
            let _empty = fs::remove_dir(&group).is_err();
        }
        // Address space is no measure: threads and pools reserve what they never touch.
        let done = Command::new("prlimit")
            .args([format!("--pid={pid}"), format!("--data={}", bytes * 2)])
            .status()
            .expect("prlimit");
        assert!(done.success(), "neither a control group nor prlimit works here");
        let how = "prlimit --data with twice as much, for no control group can be made here".into();
        Self { group: None, how }
    }

    /// Says how it is limited.
    pub(crate) fn how(&self) -> &str {
        &self.how
    }

    /// Says what the process has used.
    pub(crate) fn used(&self, pid: u32) -> String {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the node lives");
        let lines =
            status.lines().filter(|line| line.starts_with("VmHWM") || line.starts_with("VmRSS"));
        let memory: Vec<String> =
            lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        // A process that is dead and not yet waited for has a status, and no memory.
        assert!(!memory.is_empty(), "the node with pid {pid} is dead");
        let group =
            self.group.as_ref().and_then(|(group, peak)| fs::read_to_string(group.join(peak)).ok());
        let group = group.and_then(|it| it.trim().parse::<u64>().ok());
        match group {
            Some(peak) => {
                format!("{}; the group's peak, caches too: {} kB", memory.join(", "), peak >> 10)
            }
            None => memory.join(", "),
        }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let Some((group, _)) = &self.group else { return };
        // A group can go once it is empty: its process moves back to where the others are.
        let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines() {
            let parent = group.parent().expect("a group has a parent").join("cgroup.procs");
            let _gone = fs::write(parent, pid).is_err();
        }
        if let Err(error) = fs::remove_dir(group) {
            eprintln!("{} is left behind: {error}", group.display());
        }
    }
}
