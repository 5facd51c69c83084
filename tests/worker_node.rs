//! The built-in worker of a real node: what a command that kills its guard costs.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test that meets the unexpected fails there; it watches the real clock"
)]

#[expect(dead_code, reason = "shared with the tests of whole clusters")]
mod harness;

use std::fs;
use std::path::Path;

use harness::{Cluster, until};

/// Reads a process number from a file, once it is there.
fn pid_in(path: &Path) -> String {
    until(&format!("{} holds a process number", path.display()), || {
        let text = fs::read_to_string(path).ok()?;
        text.strip_suffix('\n').map(ToString::to_string)
    })
}

/// Tells whether a process is there, be it a zombie.
fn exists(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

#[test]
fn command_that_kills_its_guard_fails_after_three_attempts_and_leaves_nothing() {
    let cluster = Cluster::start("patricide", 1, &["--slots", "2"]);
    let dir = cluster.dir().display();
    // It also leaves a process that no session, no environment and no parent betrays.
    let script = format!(
        "cd '{dir}'; a=$RAFTQ_ATTEMPT; \
         env -i setsid sh -c \"sh -c 'echo \\$\\$ > left$a; exec sleep 600' & exit\"; \
         while [ ! -s left$a ]; do sleep 0.01; done; \
         echo $a >> attempts; kill -9 $PPID; sleep 600"
    );
    let output = cluster.raftq(&["submit", "--wait", "--", "sh", "-c", &script]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(8), "{told}");
    assert!(told.contains("3 of 3 attempts used"), "{told}");
    assert_eq!(fs::read_to_string(cluster.dir().join("attempts")).unwrap(), "1\n2\n3\n");
    for attempt in 1..=3 {
        let pid = pid_in(&cluster.dir().join(format!("left{attempt}")));
        until(&format!("process {pid} is gone"), || (!exists(&pid)).then_some(()));
    }
    // The node is none the worse for it.
    assert_eq!(cluster.ok(&["submit", "--wait", "--", "echo", "on it goes"]), "on it goes\n");
    let log = cluster.log(1);
    let deaths = log.lines().filter(|line| line.contains("the guard of the commands is gone"));
    let deaths: Vec<&str> = deaths.collect();
    assert_eq!(deaths.len(), 3, "{deaths:?}");
    assert!(deaths.iter().all(|line| line.contains("signal: 9") && line.contains("starts in")));
}
