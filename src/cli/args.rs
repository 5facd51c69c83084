//! The grammar of the command line: global options and verbs, with the help a newcomer reads.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::cli::bench::BenchArgs;
use crate::cli::cluster::ClusterArgs;
use crate::cli::cron::CronArgs;
use crate::cli::dead::DeadArgs;
use crate::cli::doctor::DoctorArgs;
use crate::cli::jobs::{CancelArgs, GetArgs, ListArgs, WaitArgs};
use crate::cli::log::LogArgs;
use crate::cli::node::NodeArgs;
use crate::cli::queues::QueueArgs;
use crate::cli::saying::{ProgressArgs, ResultArgs};
use crate::cli::show::ShowArgs;
use crate::cli::sim::SimArgs;
use crate::cli::submit::SubmitArgs;
use crate::cli::top::TopArgs;
use crate::cli::values::{self, Addresses};
use crate::cli::watch::WatchArgs;
use crate::cli::why::WhyArgs;
use crate::cli::worker::WorkerArgs;
use crate::cli::workers::WorkersArgs;

const EXAMPLES: &str = "\
Examples:
  scripts/cluster.sh 5                        five nodes on this machine, ready to use
  raftq submit --wait -- echo hello           run a command on one of them, print its output
  raftq submit -- sh -c 'sleep 5; date'       submit only; prints the job's id
  raftq get ID                                where that job is, and what it printed
  raftq list --status running
  raftq why ID                                what it waits for, or how it ended
  raftq dead list                             what failed; raftq dead retry ID tries it again
  raftq watch                                 every change as it comes
  raftq queue pause mail                      begin no more jobs of that queue
  raftq cron add tidy '@hourly' -- ./tidy     run it again and again
  raftq cluster status                        who leads, who is alive

Exit codes:
  0 ok                   3 no such job                      6 outcome unknown: ask again
  1 failure              4 no leader, or nobody answers     7 not allowed
  2 wrong command line   5 the cluster is not well          8 the job waited for has failed
  Of several jobs, the first of 6, 7, 4, 2, 3, 1, 8 that holds for any. What could not be written to
  stdout is exit code 1, but for a closed pipe where raftq only shows (raftq list | head).";

/// A replicated job queue in one binary: submit a command, and some node of the cluster runs it.
///
/// What is acknowledged is on the disks of a majority of the nodes and survives the loss of the
/// others. Results go to stdout, messages to stderr.
#[derive(Clone, Debug, Parser)]
#[command(name = "raftq", version, after_help = EXAMPLES, arg_required_else_help = true)]
#[command(propagate_version = false, subcommand_required = true)]
pub struct Cli {
    /// What holds for every verb.
    #[command(flatten)]
    pub global: GlobalArgs,

    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options that every verb takes, before or after its name.
#[derive(Clone, Debug, Args)]
pub struct GlobalArgs {
    /// Nodes to ask, in any order; the leader is found from any of them.
    /// Default: the cluster that scripts/cluster.sh started here (the nearest .cluster/addrs at or
    /// above the current directory, or in CLUSTER_DIR), else 127.0.0.1:7101.
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT,...",
        env = "RAFTQ_ADDRS",
        hide_env_values = true
    )]
    #[arg(value_parser = values::addresses, help_heading = "Global options")]
    pub addrs: Option<Addresses>,

    /// Print JSON: one object, or one object a line where there are many.
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,

    /// How long one request may take with all its retries, such as 500ms, 5s or 2m [default: 10s].
    /// `wait` and `submit --wait` wait without limit unless this is given.
    #[arg(long, global = true, value_name = "DUR", value_parser = values::limit)]
    #[arg(help_heading = "Global options", allow_hyphen_values = true)]
    pub timeout: Option<Duration>,
}

/// The verbs.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Run a node of a cluster.
    Node(NodeArgs),
    /// Submit a job, or many.
    Submit(SubmitArgs),
    /// Show one job: its status, and what it printed.
    Get(GetArgs),
    /// List jobs, oldest first.
    List(ListArgs),
    /// Wait until jobs have ended.
    Wait(WaitArgs),
    /// Cancel jobs that have not ended.
    Cancel(CancelArgs),
    /// Show what happened to one job, attempt by attempt.
    Show(ShowArgs),
    /// Follow every change in order, from any node.
    Watch(WatchArgs),
    /// The whole cluster on one screen, drawn anew every second.
    Top(TopArgs),
    /// Look at jobs that failed, have them tried again, or forget them.
    Dead(DeadArgs),
    /// Look at queues; pause, drain, limit them.
    Queue(QueueArgs),
    /// Submit jobs again and again, by the clock.
    Cron(CronArgs),
    /// List the workers that take jobs.
    Workers(WorkersArgs),
    /// Run a worker that starts a command for each payload; drain workers, or keep them quiet.
    Worker(WorkerArgs),
    /// Say how far the job is inside of which this is called.
    Progress(ProgressArgs),
    /// Print what a completed job left, byte by byte.
    Result(ResultArgs),
    /// Look at the cluster, or hand leadership over.
    Cluster(ClusterArgs),
    /// Read the replicated log.
    Log(LogArgs),
    /// Look at a node's data directory: what is there, what is broken, what to do. Changes nothing.
    Doctor(DoctorArgs),
    /// Simulate clusters with faults of all kinds, and check every promise.
    Sim(SimArgs),
    /// Measure a cluster, beside the least that this machine allows.
    Bench(BenchArgs),
    /// Say why a job is where it is: what it waits for, who runs it, how it ended.
    Why(WhyArgs),
    /// Start and end the commands of a node; nodes start it themselves.
    #[command(hide = true)]
    Guard,
}
