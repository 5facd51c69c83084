//! The nemesis: a real cluster under faults by schedule, clients that write down what they are told, and the
//! checks of it. `scripts/nemesis.sh` and `scripts/kill9.sh` start it.

#![expect(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    unreachable_pub,
    reason = "a program for tests: it watches the real clock and talks to people"
)]

mod args;
mod clients;
mod cluster;
mod faults;
mod finish;
mod kills;
mod net;
mod netns;
mod plan;
mod proxy;
mod record;
mod report;
mod run;
mod stage;
mod svg;
mod verify;
mod watch;
mod workers;

use std::process::ExitCode;

use crate::args::Args;

/// Becomes a node with a bug, if that is what it was started for.
#[cfg(feature = "planted-bugs")]
fn planted() -> Option<ExitCode> {
    use raftq::planted::{Bug, plant};
    let name = std::env::var(cluster::PLANTED).ok()?;
    plant(Bug::ALL.into_iter().find(|bug| bug.name() == name));
    Some(raftq::cli::run::main(std::env::args_os()))
}

#[cfg(not(feature = "planted-bugs"))]
fn planted() -> Option<ExitCode> {
    None
}

fn main() -> ExitCode {
    if let Some(code) = planted() {
        return code;
    }
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    let done = match args.kill9 {
        Some(cycles) => kills::run(&args, cycles),
        None => run::run(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(why) => {
            eprintln!("nemesis: {why}");
            ExitCode::from(3)
        }
    }
}
