//! A cluster of one's own, to be measured while its leader is killed.

use std::fs::File;
use std::io::{self, Read};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::bench::traces::{Place, Traces};

/// What directories of such a cluster are named after.
const KIND: &str = "raftq-bench";

/// Ends this process, as `kill -9` would, when its stdin ends: with whoever started it, however that ends.
///
/// # Errors
/// The system starts no thread.
pub fn end_with_stdin() -> io::Result<()> {
    let wait = || {
        let ended = io::stdin().read_to_end(&mut Vec::new());
        log::debug!("the one who started this process is gone: {ended:?}");
        std::process::exit(0);
    };
    std::thread::Builder::new().name("parent".into()).spawn(wait).map(drop)
}

/// Nodes that run here: they end, and their data is removed, when this is dropped. If this process is killed, they
/// end, and their data stays until the next such cluster starts in the same place.
#[derive(Debug)]
pub struct Own {
    place: Place,
    addrs: Vec<String>,
    nodes: Vec<Child>,
}

impl Own {
    /// Starts so many nodes with their data inside `dir`. They may not serve yet.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn start(nodes: usize, dir: &Path, traces: &Traces) -> Result<Self, String> {
        let place = traces.place(dir, KIND)?;
        let wrong = |error: io::Error| format!("a cluster cannot start: {error}");
        // All are held until all are known, so that no port is found twice.
        let free: Vec<TcpListener> = (0..nodes)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<io::Result<_>>()
            .map_err(wrong)?;
        let addrs = free.iter().map(|listener| listener.local_addr().map(|addr| addr.to_string()));
        let addrs = addrs.collect::<io::Result<Vec<String>>>().map_err(wrong)?;
        drop(free);
        let mut own = Self { place, addrs, nodes: Vec::new() };
        for place in 0..nodes {
            let node = own.spawn(place)?;
            own.nodes.push(node);
        }
        Ok(own)
    }

    fn spawn(&self, place: usize) -> Result<Child, String> {
        let wrong = |error: io::Error| format!("node {} cannot start: {error}", place + 1);
        let id = (place + 1).to_string();
        let addr = self.addrs.get(place).ok_or("no such node")?;
        let peers: Vec<String> =
            self.addrs.iter().enumerate().map(|(at, addr)| format!("{}={addr}", at + 1)).collect();
        let dir = self.place.path();
        let log = File::options().create(true).append(true).open(dir.join(format!("log{id}")));
        Command::new(std::env::current_exe().map_err(wrong)?)
            .args([
                "node",
                "--id",
                &id,
                "--listen",
                addr,
                "--peers",
                &peers.join(","),
                "--slots",
                "0",
                "--end-with-stdin",
            ])
            .arg("--data")
            .arg(dir.join(format!("node{id}")))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log.map_err(wrong)?)
            // In a group of its own, Ctrl-C is not for it: it ends when its stdin does.
            .process_group(0)
            .spawn()
            .map_err(wrong)
    }

    /// Returns the addresses of all nodes, in order of id.
    #[must_use]
    pub fn addrs(&self) -> &[String] {
        &self.addrs
    }

    /// Kills the node at an address, as `kill -9` does.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn kill(&mut self, addr: &str) -> Result<(), String> {
        let place = self.addrs.iter().position(|known| known == addr);
        let node = place.and_then(|place| self.nodes.get_mut(place)).ok_or("no such node")?;
        node.kill().and_then(|()| node.wait()).map(drop).map_err(|error| error.to_string())
    }

    /// Starts the node at an address again.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn restart(&mut self, addr: &str) -> Result<(), String> {
        let place = self.addrs.iter().position(|known| known == addr).ok_or("no such node")?;
        let started = self.spawn(place)?;
        *self.nodes.get_mut(place).ok_or("no such node")? = started;
        Ok(())
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Err(error) = node.kill().and_then(|()| node.wait()) {
                log::warn!("a node does not end: {error}");
            }
        }
    }
}
