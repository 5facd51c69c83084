//! Which nodes to ask: what the user named, or the cluster that `scripts/cluster.sh` started here.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::cli::exit::{Exit, Failure};
use crate::cli::values::{self, Addresses};

/// Where `scripts/cluster.sh` keeps its state, in some directory above the current one.
const STATE_DIR: &str = ".cluster";

/// The file in it with the addresses of the nodes.
const ADDRS_FILE: &str = "addrs";

/// What is asked when nothing else is known: node 1 of a cluster on this machine.
const ADDRESS_DEFAULT: &str = "127.0.0.1:7101";

/// Bytes read of an addresses file, at most; what is longer is refused.
const ADDRS_BYTES_MAX: u64 = 16 << 10;

/// Directories looked into on the way up, at most; deeper ones count as none.
const LEVELS_MAX: usize = 64;

/// Who named the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `--addrs` or `RAFTQ_ADDRS`.
    Given,
    /// The file of a cluster started here.
    Cluster(PathBuf),
    /// Nobody: the default.
    Default,
}

/// The nodes to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Their addresses; at least one.
    pub addrs: Vec<String>,
    /// Who named them.
    pub origin: Origin,
}

impl Target {
    /// Finds the nodes: those `given`, else those of the cluster whose state is in `cluster_dir`,
    /// else those of the nearest `.cluster` at or above `from`, else `127.0.0.1:7101`.
    ///
    /// # Errors
    /// A [`Failure`] when `cluster_dir` holds no cluster, or a file cannot be understood.
    pub fn find(
        given: Option<&Addresses>,
        cluster_dir: Option<&Path>,
        from: &Path,
    ) -> Result<Self, Failure> {
        if let Some(Addresses(addrs)) = given {
            return Ok(Self { addrs: addrs.clone(), origin: Origin::Given });
        }
        if let Some(dir) = cluster_dir {
            let file = dir.join(ADDRS_FILE);
            return Self::read(&file)?.ok_or_else(|| {
                Failure::new(
                    Exit::Unreachable,
                    format!("CLUSTER_DIR is {}, and no cluster was started there", dir.display()),
                )
                .hint("Start one: scripts/cluster.sh 5   or name the nodes: --addrs HOST:PORT,...")
            });
        }
        for dir in from.ancestors().take(LEVELS_MAX) {
            if let Some(target) = Self::read(&dir.join(STATE_DIR).join(ADDRS_FILE))? {
                return Ok(target);
            }
        }
        Ok(Self { addrs: vec![ADDRESS_DEFAULT.into()], origin: Origin::Default })
    }

    /// Reads an addresses file; `None` when there is no such file (or none this user may read).
    fn read(path: &Path) -> Result<Option<Self>, Failure> {
        let Ok(file) = File::open(path) else { return Ok(None) };
        let broken = |why: String| {
            Failure::new(Exit::Failure, format!("{} is damaged: {why}", path.display()))
                .hint("Name the nodes instead: --addrs HOST:PORT,...")
        };
        let mut text = String::new();
        file.take(ADDRS_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(|error| broken(error.to_string()))?;
        let Addresses(addrs) = values::addresses(text.trim()).map_err(broken)?;
        Ok(Some(Self { addrs, origin: Origin::Cluster(path.to_owned()) }))
    }

    /// Says in a few words which nodes these are and how they were found.
    #[must_use]
    pub fn describe(&self) -> String {
        let addrs = self.addrs.join(",");
        match &self.origin {
            Origin::Given => addrs,
            Origin::Cluster(path) => format!("{addrs}, from {}", path.display()),
            Origin::Default => format!("{addrs}, the default"),
        }
    }
}
