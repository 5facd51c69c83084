//! The verb `node`: its options, and the configuration they make.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::bench::own::end_with_stdin;
use crate::cli::exit::{Exit, Failure};
use crate::cli::values::{self, Peers};
use crate::jobs::command::Limits;
use crate::jobs::options::Tags;
use crate::node::config::{Config, Elsewhere};
use crate::node::process;
use crate::types::{NodeId, Tag};

const EXAMPLES: &str = "\
Example: three nodes on this machine, each in a terminal of its own:
  PEERS=1=127.0.0.1:7101,2=127.0.0.1:7102,3=127.0.0.1:7103
  raftq node --id 1 --listen 127.0.0.1:7101 --peers $PEERS --data /tmp/raftq/1
  raftq node --id 2 --listen 127.0.0.1:7102 --peers $PEERS --data /tmp/raftq/2
  raftq node --id 3 --listen 127.0.0.1:7103 --peers $PEERS --data /tmp/raftq/3

scripts/cluster.sh 3 does the same in one go. SIGTERM ends a node gently: it takes no more jobs,
lets running ones end within --grace, hands leadership over and exits with 0.
The log goes to stderr; RUST_LOG=debug says more.";

/// Options of `node`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct NodeArgs {
    /// This node's number, 1 or more; each node of a cluster has its own, for ever.
    #[arg(long, value_name = "N", value_parser = values::number, allow_negative_numbers = true)]
    pub id: u64,

    /// Where to listen: for other nodes, clients, `nc` and `curl` alike.
    #[arg(long, value_name = "HOST:PORT", value_parser = values::address)]
    pub listen: String,

    /// Every node of the cluster, this one too; the same list on every node.
    #[arg(long, value_name = "1=HOST:PORT,...", value_parser = values::peers)]
    pub peers: Peers,

    /// The directory of this node's log and snapshots; made if it is missing. Never copy one or
    /// start a node again with an empty one: it would forget its votes.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,

    /// If synced data is damaged: set the damaged files aside (nothing is deleted) and heal from the
    /// other nodes. To be given once; until it is whole again the node neither votes nor counts.
    #[arg(long)]
    pub heal: bool,

    /// How many commands this node runs at once; 0: none.
    #[arg(long, value_name = "N", default_value_t = 4, allow_negative_numbers = true)]
    pub slots: u32,

    /// What this node has, such as gpu or zone=a, for jobs that ask for it (submit --tag). May be given
    /// up to 16 times.
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<Tag>,

    /// Listen on an address that other machines can reach. There is no authentication yet:
    /// whoever can connect can run any command as this user.
    #[arg(long)]
    pub insecure: bool,

    /// How long running commands may go on after SIGTERM before they are given back.
    #[arg(long, value_name = "DUR", default_value = "10s", value_parser = values::duration, allow_hyphen_values = true)]
    pub grace: Duration,

    /// End at once when stdin does: for a program that starts a node and must not leave it behind.
    #[arg(long, hide = true)]
    pub end_with_stdin: bool,

    /// Log kept on disk behind the newest snapshot, so that a node a little behind needs no snapshot.
    /// By default, --segment and --snapshot-at follow it.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = values::size, allow_hyphen_values = true)]
    #[arg(help_heading = "Storage")]
    pub log_keep: u64,

    /// Size of one file of the log [default: as --log-keep, 1MiB at least, 16MiB at most].
    #[arg(long, value_name = "SIZE", value_parser = values::size, allow_hyphen_values = true)]
    #[arg(help_heading = "Storage")]
    pub segment: Option<u64>,

    /// Log on disk that makes a snapshot due, or the size of the last snapshot, if that is more
    /// [default: as --log-keep, 1MiB at least, 64MiB at most].
    #[arg(long, value_name = "SIZE", value_parser = values::size, allow_hyphen_values = true)]
    #[arg(help_heading = "Storage")]
    pub snapshot_at: Option<u64>,

    /// The newest changes kept in memory for `raftq watch` to go back to; about 150 bytes each.
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = values::size, allow_hyphen_values = true)]
    #[arg(help_heading = "Storage")]
    pub history: u64,

    /// Finished jobs kept for `get` and `list`, by count. The first leader of a new cluster writes
    /// the limits below into the log, where they hold for every node; a node whose own differ warns.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100_000,
        value_parser = values::number,
        allow_negative_numbers = true,
        help_heading = "Limits of the cluster"
    )]
    pub finished_keep: u64,

    /// How long a finished job is kept.
    #[arg(long, value_name = "DUR", default_value = "7d", value_parser = values::duration, allow_hyphen_values = true)]
    #[arg(help_heading = "Limits of the cluster")]
    pub finished_age: Duration,

    /// Finished jobs kept, by bytes; wins over count and age.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = values::size, allow_hyphen_values = true)]
    #[arg(help_heading = "Limits of the cluster")]
    pub finished_bytes: u64,

    /// Bytes of everything kept in memory, above which a submit is refused (RESOURCE_EXHAUSTED).
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = values::size, allow_hyphen_values = true)]
    #[arg(help_heading = "Limits of the cluster")]
    pub resident_max: u64,
}

/// Turns the options into a node's configuration, field by field; nothing is checked here.
#[must_use]
pub fn config(args: NodeArgs) -> Config {
    Config {
        id: NodeId(args.id),
        listen: args.listen,
        peers: args.peers.0,
        data: args.data,
        heal: args.heal,
        slots: args.slots,
        tags: Tags::new(args.tags.iter().cloned()),
        insecure: args.insecure,
        log_keep_bytes: args.log_keep,
        // Log is let go of by whole files and behind a snapshot: to keep little, both must be small.
        segment_bytes: args.segment.unwrap_or(args.log_keep.clamp(1 << 20, 16 << 20)),
        snapshot_bytes_min: args.snapshot_at.unwrap_or(args.log_keep.clamp(1 << 20, 64 << 20)),
        history_bytes_max: args.history,
        limits: Limits {
            finished_count_max: args.finished_keep,
            finished_age_ms_max: values::whole_ms(args.finished_age),
            finished_bytes_max: args.finished_bytes,
            resident_bytes_max: args.resident_max,
            ..Limits::default()
        },
        grace: args.grace,
    }
}

/// Runs a node until it is told to end or must, and returns the process's exit code.
///
/// # Errors
/// A [`Failure`] of usage when the options make no node.
pub fn run(args: NodeArgs) -> Result<i32, Failure> {
    let ends_with_stdin = args.end_with_stdin;
    let config = config(args);
    config.check().map_err(|why| {
        Failure::usage(why).hint("For the options and an example: raftq node --help")
    })?;
    match config.reached_elsewhere() {
        None => {}
        Some(Elsewhere::Wildcard(text)) => log::info!("{text}"),
        Some(Elsewhere::Other(text)) => log::warn!("{text}"),
    }
    if ends_with_stdin && let Err(error) = end_with_stdin() {
        return Err(Failure::new(
            Exit::Failure,
            format!("a node that ends with stdin cannot start: {error}"),
        ));
    }
    Ok(process::run(config))
}
