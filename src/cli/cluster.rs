//! The verb `cluster`: who leads, who is alive, are they alike, and hand leadership over.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::deadline::Deadline;
use crate::cli::exit::{Exit, Failure, Outcome, narrate};
use crate::cli::out::{Column, Out, Table, plain};
use crate::cli::session::Session;
use crate::cli::shape::{ClusterShape, Number};
use crate::cli::values;
use crate::types::{Index, NodeId};
use crate::wire::message::{ClusterStatus, NodeStatus};

/// Time between two looks of `--wait`.
const LOOK_PAUSE: Duration = Duration::from_millis(150);

/// How long one node may take to answer whether it is ready.
const READY_TIME_MAX: Duration = Duration::from_secs(2);

/// Bytes read of such an answer, at most; the rest is ignored.
const READY_BYTES_MAX: u64 = 4 << 10;

/// Hexadecimal digits of a digest in a table; `--json` has all.
const DIGEST_SHOWN: usize = 12;

/// Options of `cluster`.
#[derive(Clone, Debug, Args)]
pub struct ClusterArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: ClusterVerb,
}

/// The verbs of `cluster`.
#[derive(Clone, Debug, Subcommand)]
pub enum ClusterVerb {
    /// Show every node as the leader sees it. Exit code 4 without a leader: then one node's own view
    /// is shown. Exit code 5 if two nodes differ where they must be alike.
    Status(StatusArgs),
    /// Print the number of the leader, alone. Exit code 4 if there is none.
    Leader,
    /// Ask each node of --addrs itself whether it is ready to serve. Exit code 5 if one is not.
    Ready(ReadyArgs),
    /// Hand leadership over to another node, without a gap.
    Transfer(TransferArgs),
}

/// Options of `cluster status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Wait until there is a leader and all nodes are alive (or as many as --alive says). With
    /// --timeout, exit code 5 when that takes longer (4 without a leader).
    #[arg(long)]
    pub wait: bool,

    /// Exit code 5 unless this many nodes are alive; with --wait, wait for them.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub alive: Option<usize>,
}

/// Options of `cluster ready`.
#[derive(Clone, Debug, Args)]
pub struct ReadyArgs {
    /// Wait until all of them are; with --timeout, exit code 5 when that takes longer.
    #[arg(long)]
    pub wait: bool,
}

/// Options of `cluster transfer`.
#[derive(Clone, Debug, Args)]
pub struct TransferArgs {
    /// To this node; without it, to the one whose log is furthest.
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    #[arg(value_parser = values::count)]
    pub to: Option<u64>,
}

impl ClusterArgs {
    /// Tells whether the verb only shows what can be shown again.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        match self.verb {
            ClusterVerb::Status(_) | ClusterVerb::Ready(_) => true,
            ClusterVerb::Leader | ClusterVerb::Transfer(_) => false,
        }
    }
}

/// Runs `cluster`.
///
/// # Errors
/// A [`Failure`] of the request, of stdout, or of the cluster's health.
pub fn run(args: &ClusterArgs, session: &Session, out: &mut Out) -> Outcome {
    match &args.verb {
        ClusterVerb::Status(args) => status(args, session, out),
        ClusterVerb::Leader => leader(session, out),
        ClusterVerb::Ready(args) => ready(args, session, out),
        ClusterVerb::Transfer(args) => transfer(args, session, out),
    }
}

/// Says what keeps a cluster from being well, or nothing.
#[must_use]
pub fn fault(status: &ClusterStatus, alive_min: Option<usize>) -> Option<(Exit, String)> {
    if !status.from_leader {
        let who = status.node;
        let text = format!("there is no leader; this is what node {who} knows by itself");
        return Some((Exit::Unreachable, text));
    }
    if let Some((one, other)) = differing(&status.nodes) {
        let text = format!(
            "node {} and node {} differ at index {}: their digests are not the same",
            one.id, other.id, one.digest_index
        );
        return Some((Exit::Unhealthy, text));
    }
    let alive = status.nodes.iter().filter(|node| node.is_alive).count();
    let wanted = alive_min.unwrap_or_default();
    (alive < wanted).then(|| {
        let dead: Vec<String> = status
            .nodes
            .iter()
            .filter(|node| !node.is_alive)
            .map(|node| node.id.to_string())
            .collect();
        let dead =
            if dead.is_empty() { String::new() } else { format!(" (not {})", dead.join(", ")) };
        (Exit::Unhealthy, format!("{alive} nodes are alive{dead}, {wanted} are wanted"))
    })
}

/// Finds two nodes with digests at one index that are not the same.
fn differing(nodes: &[NodeStatus]) -> Option<(&NodeStatus, &NodeStatus)> {
    let known = |node: &&NodeStatus| node.digest_index > Index(0) && !node.digest.is_empty();
    nodes.iter().filter(known).enumerate().find_map(|(at, one)| {
        nodes
            .iter()
            .filter(known)
            .skip(at + 1)
            .find(|other| other.digest_index == one.digest_index && other.digest != one.digest)
            .map(|other| (one, other))
    })
}

fn status(args: &StatusArgs, session: &Session, out: &mut Out) -> Outcome {
    let deadline = Deadline::after(session.limit());
    let mut last: Option<Result<ClusterStatus, Failure>> = None;
    loop {
        let seen = match deadline.left() {
            Some(left) => session.status_within(left),
            None => session.status(),
        };
        let wanted = |status: &ClusterStatus| {
            if args.wait { Some(args.alive.unwrap_or(status.nodes.len())) } else { args.alive }
        };
        let is_well = seen.as_ref().is_ok_and(|seen| fault(seen, wanted(seen)).is_none());
        let retries = seen.as_ref().is_ok()
            || seen.as_ref().is_err_and(|failure| failure.exit == Exit::Unreachable);
        if is_well || !args.wait || !retries || deadline.has_passed() {
            // The last of many looks may fail for want of time alone.
            let seen = last.filter(|_| seen.is_err()).unwrap_or(seen)?;
            let shown = show(&seen, session, out);
            return match fault(&seen, wanted(&seen)) {
                None => shown.map(|()| Exit::Ok),
                // What is wrong with the cluster matters more than who reads it.
                Some((exit, why)) => Err(Failure::new(exit, why)),
            };
        }
        if seen.is_ok() || !last.as_ref().is_some_and(Result::is_ok) {
            last = Some(seen);
        }
        std::thread::sleep(deadline.left_at_most(LOOK_PAUSE));
    }
}

fn show(status: &ClusterStatus, session: &Session, out: &mut Out) -> Result<(), Failure> {
    if session.json() {
        out.json(&ClusterShape::from(status))?;
        return out.flush();
    }
    let leader = match status.leader {
        Some(leader) if status.from_leader => format!("node {leader}"),
        Some(_) | None => "none".into(),
    };
    out.line(&format!(
        "cluster {}  leader {leader}  term {}  commit index {}",
        status.cluster_id, status.term, status.commit_index
    ))?;
    let mut table = Table::new(&[
        Column::Right("ID"),
        Column::Left("ADDRESS"),
        Column::Left("ROLE"),
        Column::Left("ALIVE"),
        Column::Right("MATCH"),
        Column::Right("APPLIED"),
        Column::Left("DIGEST"),
    ]);
    for node in &status.nodes {
        let digest: String = node.digest.chars().take(DIGEST_SHOWN).collect();
        let digest =
            if digest.is_empty() { digest } else { format!("{digest} at {}", node.digest_index) };
        table.row(vec![
            node.id.to_string(),
            node.addr.clone(),
            node.role.clone(),
            if node.is_alive { "yes".into() } else { "no".into() },
            node.match_index.to_string(),
            node.applied_index.to_string(),
            digest,
        ]);
    }
    table.write(out, true)?;
    out.flush()
}

fn leader(session: &Session, out: &mut Out) -> Outcome {
    let status = session.status()?;
    let (Some(leader), true) = (status.leader, status.from_leader) else {
        return Err(Failure::new(Exit::Unreachable, "there is no leader"));
    };
    if session.json() {
        out.json(&LeaderShape { leader: Number(leader.0), term: Number(status.term.0) })?;
    } else {
        out.line(&leader.to_string())?;
    }
    out.flush().map(|()| Exit::Ok)
}

/// The object of `cluster leader`.
#[derive(Serialize)]
struct LeaderShape {
    leader: Number,
    term: Number,
}

/// The object of `cluster transfer`.
#[derive(Serialize)]
struct TransferShape {
    to: Number,
}

fn transfer(args: &TransferArgs, session: &Session, out: &mut Out) -> Outcome {
    let to = session.transfer(args.to.map(NodeId)).map_err(|failure| match args.to {
        Some(to) if failure.exit == Exit::Failure => failure.hint(format!(
            "Is {to} another node than the leader, and alive? {} cluster status",
            session.program()
        )),
        Some(_) | None => failure,
    })?;
    if session.json() {
        out.json(&TransferShape { to: Number(to.0) })?;
    } else {
        narrate(&format!("raftq: node {to} is about to lead"));
        out.line(&to.to_string())?;
    }
    out.flush().map(|()| Exit::Ok)
}

/// The object of `cluster ready`, one a line.
#[derive(Serialize)]
struct ReadyShape<'a> {
    addr: &'a str,
    is_ready: bool,
    why: Option<&'a str>,
}

fn ready(args: &ReadyArgs, session: &Session, out: &mut Out) -> Outcome {
    let deadline = Deadline::after(session.limit());
    let addrs = &session.target().addrs;
    loop {
        let answers: Vec<Result<(), String>> = addrs
            .iter()
            .map(|addr| ask_ready(addr, deadline.left_at_most(READY_TIME_MAX)))
            .collect();
        let missing = answers.iter().filter(|answer| answer.is_err()).count();
        if missing > 0 && args.wait && !deadline.has_passed() {
            std::thread::sleep(deadline.left_at_most(LOOK_PAUSE));
            continue;
        }
        let shown = show_ready(addrs, &answers, session, out);
        if missing > 0 {
            let text = format!("{missing} of {} nodes are not ready", addrs.len());
            return Err(Failure::new(Exit::Unhealthy, text));
        }
        return shown.map(|()| Exit::Ok);
    }
}

fn show_ready(
    addrs: &[String],
    answers: &[Result<(), String>],
    session: &Session,
    out: &mut Out,
) -> Result<(), Failure> {
    for (addr, answer) in addrs.iter().zip(answers) {
        let why = answer.as_ref().err().map(String::as_str);
        if session.json() {
            out.json(&ReadyShape { addr, is_ready: why.is_none(), why })?;
        } else {
            let shown = why.map_or("ready".into(), |why| format!("not ready: {}", plain(why)));
            out.line(&format!("{addr}  {shown}"))?;
        }
    }
    out.flush()
}

/// Asks one node by `GET /readyz`, as a load balancer would.
fn ask_ready(addr: &str, time: Duration) -> Result<(), String> {
    // A time limit of zero means none to a socket.
    let time = time.max(Duration::from_millis(1));
    let why = |error: std::io::Error| {
        if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
            return "no answer in time".to_owned();
        }
        error.to_string()
    };
    let found = addr.to_socket_addrs().map_err(why)?.next();
    let socket = found.ok_or("no such address")?;
    let mut stream = TcpStream::connect_timeout(&socket, time).map_err(why)?;
    stream.set_read_timeout(Some(time)).map_err(why)?;
    stream.set_write_timeout(Some(time)).map_err(why)?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(why)?;
    let mut answer = Vec::new();
    stream.take(READY_BYTES_MAX).read_to_end(&mut answer).map_err(why)?;
    judge_ready(&String::from_utf8_lossy(&answer))
}

/// Reads an HTTP answer: status 200 is ready, everything else is not, for the reason in the body.
fn judge_ready(answer: &str) -> Result<(), String> {
    let status = answer.split(' ').nth(1).unwrap_or_default();
    if answer.starts_with("HTTP/1.") && status == "200" {
        return Ok(());
    }
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    match body.lines().next() {
        Some(first) if !first.is_empty() => {
            Err(first.strip_prefix("not ready: ").unwrap_or(first).to_owned())
        }
        Some(_) | None if answer.is_empty() => Err("it closed the connection".into()),
        Some(_) | None => Err(answer.lines().next().unwrap_or_default().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClusterId, Term};

    fn node(id: u64, is_alive: bool, digest_index: u64, digest: &str) -> NodeStatus {
        NodeStatus {
            id: NodeId(id),
            addr: format!("127.0.0.1:{}", 7100 + id),
            role: "follower".into(),
            is_alive,
            match_index: Index(9),
            applied_index: Index(9),
            digest_index: Index(digest_index),
            digest: digest.into(),
        }
    }

    fn cluster(nodes: Vec<NodeStatus>) -> ClusterStatus {
        ClusterStatus {
            cluster_id: ClusterId([1; 16]),
            node: NodeId(1),
            from_leader: true,
            term: Term(2),
            leader: Some(NodeId(1)),
            commit_index: Index(9),
            nodes,
        }
    }

    #[test]
    fn nodes_whose_digests_differ_at_one_index_are_named() {
        let alike = cluster(vec![node(1, true, 64, "aa"), node(2, true, 64, "aa")]);
        assert_eq!(fault(&alike, None), None);
        let apart = cluster(vec![node(1, true, 64, "aa"), node(2, true, 128, "bb")]);
        assert_eq!(fault(&apart, None), None, "digests at different indexes say nothing");
        let differing = cluster(vec![node(1, true, 64, "aa"), node(2, true, 64, "bb")]);
        let (exit, text) = fault(&differing, None).unwrap();
        assert_eq!(exit, Exit::Unhealthy);
        assert!(text.contains("node 1 and node 2 differ at index 64"), "{text}");
    }

    #[test]
    fn too_few_alive_is_unhealthy_only_when_asked() {
        let one_dead = cluster(vec![node(1, true, 0, ""), node(2, false, 0, "")]);
        assert_eq!(fault(&one_dead, None), None);
        let (exit, text) = fault(&one_dead, Some(2)).unwrap();
        assert_eq!(
            (exit, text.as_str()),
            (Exit::Unhealthy, "1 nodes are alive (not 2), 2 are wanted")
        );
    }

    #[test]
    fn a_view_without_a_leader_is_marked() {
        let mut own = cluster(vec![node(1, true, 0, "")]);
        own.from_leader = false;
        assert_eq!(fault(&own, None).unwrap().0, Exit::Unreachable);
    }

    #[test]
    fn only_a_200_is_ready() {
        assert_eq!(judge_ready("HTTP/1.1 200 OK\r\n\r\nready\n"), Ok(()));
        let busy = judge_ready("HTTP/1.1 503 Service Unavailable\r\n\r\nno leader for 812 ms\n");
        assert_eq!(busy, Err("no leader for 812 ms".into()));
        assert!(judge_ready("SSH-2.0-OpenSSH_9.2 200 OK").is_err());
        assert!(judge_ready("").is_err());
    }
}
