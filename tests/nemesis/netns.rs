//! A network namespace a node, on one bridge; links are cut by each namespace's own packet filter.
//!
//! The nemesis itself, with all clients, stands on the bridge: no fault is between it and a node. Whatever is
//! made here ends with its namespace, but for the bridge, which is deleted too.

use std::process::{Command, Stdio};

use crate::net::{Link, Links};

/// Where every node listens, in a namespace of its own.
const PORT: u16 = 7100;

/// How long a full queue of a narrow link holds a packet.
const NARROW_LATENCY: &str = "400ms";

/// The namespaces of one cluster.
#[derive(Debug)]
pub struct Netns {
    /// Begins every name.
    name: String,
    /// The first three numbers of every address, of the range kept for tests of networks (RFC 2544).
    subnet: String,
    nodes: usize,
    /// All of it was made; else most of it is not there to be taken away.
    is_whole: bool,
}

impl Netns {
    /// Makes the namespaces of a cluster.
    ///
    /// # Errors
    /// Why that does not work here; nothing is left of it then.
    pub fn new(nodes: usize) -> Result<Self, String> {
        let own = std::process::id();
        let subnet = format!("198.{}.{}", 18 + (own / 250) % 2, own % 250);
        let mut netns = Self { name: format!("rqn{own}"), subnet, nodes, is_whole: false };
        netns.make()?;
        netns.is_whole = true;
        Ok(netns)
    }

    fn make(&self) -> Result<(), String> {
        let bridge = self.bridge();
        run("ip", &["link", "add", &bridge, "type", "bridge"])?;
        run("ip", &["addr", "add", &format!("{}.254/24", self.subnet), "dev", &bridge])?;
        run("ip", &["link", "set", &bridge, "up"])?;
        for node in 1..=self.nodes {
            let (space, outer) = (self.space(node), self.outer(node));
            run("ip", &["netns", "add", &space])?;
            let inner = ["peer", "name", "eth0", "netns", &space];
            run("ip", &[&["link", "add", &outer, "type", "veth"][..], &inner].concat())?;
            run("ip", &["link", "set", &outer, "master", &bridge, "up"])?;
            let addr = format!("{}.{node}/24", self.subnet);
            run("ip", &["-n", &space, "addr", "add", &addr, "dev", "eth0"])?;
            run("ip", &["-n", &space, "link", "set", "eth0", "up"])?;
            run("ip", &["-n", &space, "link", "set", "lo", "up"])?;
            // The filter must work before anything relies on it.
            self.filter(node, &[])?;
        }
        Ok(())
    }

    fn bridge(&self) -> String {
        format!("{}b", self.name)
    }

    fn space(&self, node: usize) -> String {
        format!("{}-{node}", self.name)
    }

    fn outer(&self, node: usize) -> String {
        format!("{}v{node}", self.name)
    }

    /// Returns a node's address.
    pub fn addr(&self, node: usize) -> String {
        format!("{}.{node}:{PORT}", self.subnet)
    }

    /// Returns what comes before a command of a node's.
    pub fn prefix(&self, node: usize) -> Vec<String> {
        ["ip", "netns", "exec", &self.space(node)].map(ToString::to_string).to_vec()
    }

    /// Makes these links ill and all others well.
    ///
    /// # Errors
    /// What the system said.
    pub fn set(&self, links: &Links) -> Result<(), String> {
        for node in 1..=self.nodes {
            let into: Vec<(usize, Link)> = links
                .iter()
                .filter(|((_, to), _)| *to == node)
                .map(|((from, _), link)| (*from, *link))
                .collect();
            self.filter(node, &into)?;
            let rates = links.iter().filter(|((from, _), _)| *from == node);
            let bytes_s = rates.map(|(_, link)| link.bytes_s).max().unwrap_or_default();
            self.narrow(node, bytes_s)?;
        }
        Ok(())
    }

    /// Writes a node's whole filter anew, in one step.
    fn filter(&self, node: usize, into: &[(usize, Link)]) -> Result<(), String> {
        let mut rules = String::from(
            "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n",
        );
        for (from, link) in into {
            let source = format!("-A INPUT -s {}.{from}", self.subnet);
            if link.blocked {
                rules.push_str(&format!("{source} -j DROP\n"));
            } else if link.loss_percent > 0 {
                let share = f64::from(link.loss_percent) / 100.0;
                let chance = format!("-m statistic --mode random --probability {share:.2}");
                rules.push_str(&format!("{source} {chance} -j DROP\n"));
            }
        }
        rules.push_str("COMMIT\n");
        let words = ["netns", "exec", &self.space(node), "iptables-restore"];
        run_with("ip", &words, rules.as_bytes())
    }

    /// Limits what leaves a node; 0 is no limit.
    fn narrow(&self, node: usize, bytes_s: u64) -> Result<(), String> {
        let outer = self.space(node);
        let base = ["-n", &outer, "qdisc"];
        // There may be none to delete: then the system says so, and it is as it should be.
        let _none = run("tc", &[&base[..], &["del", "dev", "eth0", "root"]].concat()).is_err();
        if bytes_s == 0 {
            return Ok(());
        }
        let rate = format!("{}kbit", bytes_s * 8 / 1000);
        let limit = ["tbf", "rate", &rate, "burst", "16kb", "latency", NARROW_LATENCY];
        run("tc", &[&base[..], &["add", "dev", "eth0", "root"], &limit].concat())
    }

    /// Tears every connection between nodes.
    ///
    /// # Errors
    /// What the system said.
    pub fn reset(&self) -> Result<(), String> {
        for node in 1..=self.nodes {
            for other in (1..=self.nodes).filter(|other| *other != node) {
                let to = format!("{}.{other}", self.subnet);
                run("ip", &["netns", "exec", &self.space(node), "ss", "-K", "dst", &to])?;
            }
        }
        Ok(())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let take_away = |words: [&str; 3]| match run("ip", &words) {
            Err(why) if self.is_whole => eprintln!("nemesis: {why}"),
            Ok(()) | Err(_) => {}
        };
        for node in 1..=self.nodes {
            // The system ends a namespace in its own time, and the link with it; so the link goes first.
            take_away(["link", "del", &self.outer(node)]);
            take_away(["netns", "del", &self.space(node)]);
        }
        take_away(["link", "del", &self.bridge()]);
    }
}

fn run(program: &str, words: &[&str]) -> Result<(), String> {
    run_with(program, words, b"")
}

fn run_with(program: &str, words: &[&str], input: &[u8]) -> Result<(), String> {
    use std::io::Write as _;
    let said = |why: String| format!("{program} {}: {why}", words.join(" "));
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| said(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input).map_err(|error| said(error.to_string()))?;
    }
    let output = child.wait_with_output().map_err(|error| said(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(said(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
