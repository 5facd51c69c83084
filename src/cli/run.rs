//! Parses the command line, sends each verb to its file, and turns its end into an exit code.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ErrorKind};

use crate::cli::args::{Cli, Verb};
use crate::cli::exit::{Exit, Failure, narrate};
use crate::cli::out::Out;
use crate::cli::session::Session;
use crate::cli::target::Target;
use crate::cli::{
    bench, cluster, cron, dead, doctor, jobs, log, node, queues, saying, show, sim, submit, top,
    watch, why, worker, workers,
};
use crate::worker::guard;

/// Runs the program with these arguments (the first is its own name).
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(misread(&error).code()),
    };
    let code = match &cli.verb {
        Verb::Guard => guard::guard_main(cli.global.addrs.as_ref().map(|it| it.0.join(","))),
        Verb::Node(args) => {
            start_logging("info");
            node::run(args.clone()).unwrap_or_else(|failure| end(&failure))
        }
        Verb::Sim(args) => match sim::run(args, cli.global.json, &mut Out::stdout()) {
            Ok(exit) => i32::from(exit.code()),
            Err(failure) => end(&failure),
        },
        Verb::Bench(args) => {
            start_logging("warn");
            match bench::run(args, || open(&cli), cli.global.json, &mut Out::stdout()) {
                Ok(exit) => i32::from(exit.code()),
                Err(failure) => end(&failure),
            }
        }
        Verb::Submit(_)
        | Verb::Get(_)
        | Verb::List(_)
        | Verb::Wait(_)
        | Verb::Cancel(_)
        | Verb::Show(_)
        | Verb::Watch(_)
        | Verb::Top(_)
        | Verb::Dead(_)
        | Verb::Queue(_)
        | Verb::Cron(_)
        | Verb::Workers(_)
        | Verb::Worker(_)
        | Verb::Progress(_)
        | Verb::Result(_)
        | Verb::Cluster(_)
        | Verb::Log(_)
        | Verb::Why(_)
        | Verb::Doctor(_) => {
            // A worker that runs goes on for long: what troubles it is said meanwhile.
            let is_worker = matches!(&cli.verb, Verb::Worker(args) if args.verb.is_none());
            start_logging(if is_worker { "warn" } else { "off" });
            match ask(&cli) {
                Ok(exit) => i32::from(exit.code()),
                // Who closes the pipe of `raftq list | head -1` has what it wanted.
                Err(failure) if failure.is_unread && is_shown(&cli.verb) => {
                    i32::from(Exit::Ok.code())
                }
                Err(failure) => end(&failure),
            }
        }
    };
    ExitCode::from(u8::try_from(code).unwrap_or(Exit::Failure.code()))
}

/// Tells whether a verb only shows what can be shown again. What the others print may be all that is
/// left of what they did or waited for.
fn is_shown(verb: &Verb) -> bool {
    match verb {
        Verb::Get(_)
        | Verb::List(_)
        | Verb::Show(_)
        | Verb::Watch(_)
        | Verb::Top(_)
        | Verb::Workers(_)
        | Verb::Log(_)
        | Verb::Why(_)
        | Verb::Doctor(_) => true,
        Verb::Cluster(args) => args.is_shown(),
        Verb::Dead(args) => args.is_shown(),
        Verb::Queue(args) => args.is_shown(),
        Verb::Worker(args) => args.is_shown(),
        Verb::Cron(args) => args.is_shown(),
        Verb::Node(_)
        | Verb::Submit(_)
        | Verb::Wait(_)
        | Verb::Cancel(_)
        | Verb::Progress(_)
        | Verb::Result(_)
        | Verb::Sim(_)
        | Verb::Bench(_)
        | Verb::Guard => false,
    }
}

/// Says what clap made of a command line that it could not take. Help and version are no mistakes;
/// clap knows which is which, and where each goes.
fn misread(error: &clap::Error) -> Exit {
    if let Err(failure) = error.print().and_then(|()| std::io::stdout().flush())
        && failure.kind() != std::io::ErrorKind::BrokenPipe
        && !error.use_stderr()
    {
        let failure = Failure::stdout(&failure);
        failure.report();
        return failure.exit;
    }
    let about = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    let is_word = !about(ContextKind::InvalidArg).starts_with('-');
    let is_submit = about(ContextKind::Usage).contains("raftq submit");
    if error.kind() == ErrorKind::UnknownArgument && is_word && is_submit {
        narrate("A command to submit comes after two dashes: raftq submit -- echo hello");
    }
    if error.kind() == ErrorKind::InvalidUtf8 {
        narrate("Words and RAFTQ_ADDRS are UTF-8. For other bytes: raftq submit --payload @FILE");
    }
    // Clap names the option, also for a value that nobody wrote on the command line.
    let known = std::env::var("RAFTQ_ADDRS").ok();
    if about(ContextKind::InvalidArg).starts_with("--addrs")
        && known.is_some_and(|known| known == about(ContextKind::InvalidValue))
    {
        narrate("The value may be that of the environment: see RAFTQ_ADDRS, or unset it.");
    }
    if error.use_stderr() { Exit::Usage } else { Exit::Ok }
}

/// Runs a verb that asks a cluster, or a directory.
fn ask(cli: &Cli) -> Result<Exit, Failure> {
    if let Verb::Doctor(args) = &cli.verb {
        return doctor::run(args, cli.global.json, &mut Out::stdout());
    }
    let session = open(cli)?;
    let mut out = Out::stdout();
    match &cli.verb {
        Verb::Submit(args) => submit::run(args, &session, &mut out),
        Verb::Get(args) => jobs::get(args, &session, &mut out),
        Verb::List(args) => jobs::list(args, &session, &mut out),
        Verb::Wait(args) => jobs::wait(args, &session, &mut out),
        Verb::Cancel(args) => jobs::cancel(args, &session, &mut out),
        Verb::Show(args) => show::run(args, &session, &mut out),
        Verb::Watch(args) => watch::run(args, &session, &mut out),
        Verb::Top(args) => top::run(args, &session, &mut out),
        Verb::Dead(args) => dead::run(args, &session, &mut out),
        Verb::Queue(args) => queues::run(args, &session, &mut out),
        Verb::Cron(args) => cron::run(args, &session, &mut out),
        Verb::Workers(args) => workers::run(args, &session, &mut out),
        Verb::Worker(args) => worker::run(args, &session, &mut out),
        Verb::Progress(args) => saying::progress(args, &session),
        Verb::Result(args) => saying::result(args, &session, &mut out),
        Verb::Cluster(args) => cluster::run(args, &session, &mut out),
        Verb::Log(args) => log::run(args, &session, &mut out),
        Verb::Why(args) => why::run(args, &session, &mut out),
        Verb::Node(_) | Verb::Sim(_) | Verb::Bench(_) | Verb::Doctor(_) | Verb::Guard => {
            Err(Failure::usage("this verb asks no cluster"))
        }
    }
}

/// Finds the nodes to ask; nothing is connected before the first request.
fn open(cli: &Cli) -> Result<Session, Failure> {
    let from = std::env::current_dir().unwrap_or_else(|_gone| PathBuf::from("."));
    let dir = std::env::var_os("CLUSTER_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let target = Target::find(cli.global.addrs.as_ref(), dir.as_deref(), &from)?;
    Session::open(target, cli.global.timeout, cli.global.json)
}

/// Says what went wrong and returns the exit code.
fn end(failure: &Failure) -> i32 {
    failure.report();
    i32::from(failure.exit.code())
}

/// Sends the log to stderr, at `level` unless `RUST_LOG` says otherwise.
fn start_logging(level: &str) {
    let started =
        env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level))
            .format_timestamp_millis()
            .try_init();
    if let Err(error) = started {
        narrate(&format!("raftq: there will be no log: {error}"));
    }
}
