//! The verb `cron`: jobs that are submitted again and again, by the clock.

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::asks::{AskArgs, Asks};
use crate::cli::deadline::Deadline;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::out::{Column, Out, Table, moment, or_nothing, plain};
use crate::cli::session::Session;
use crate::cli::shape::Number;
use crate::cli::submit::{self, quote};
use crate::cli::workers::{self, Need};
use crate::jobs::cron::{CronChange, CronView, Missed, NewCron, UTC};
use crate::jobs::cron_spec::Spec;
use crate::jobs::job::{Body, NewJob};
use crate::jobs::options::Options;
use crate::types::{CronName, JobId, Millis, QueueName};

const EXAMPLES: &str = "\
Examples:
  raftq cron add tidy '*/10 * * * *' -- ./tidy         every ten minutes
  raftq cron add backup '30 2 * * mon-fri' --tz Europe/Berlin --retries 3 -- ./backup
  raftq cron add beat '@every 5s' --queue beats --payload tick
  raftq cron list                                      their next slots, and what the last ones came to
  raftq cron pause backup; raftq cron resume backup    slots within the pause are left out
  raftq cron trigger backup                            submit its job now, beside its slots
  raftq cron remove backup                             the jobs it has submitted stay

Each slot becomes one job, whoever leads and however often that changes.";

const ADD_HELP: &str = "\
SPEC is five fields, `minute hour day-of-month month day-of-week`, or six with `second` before them. A
field is a list of values and ranges: *, 7, 1-5, 8-18/2, */15, mon-fri, jan,jul. Sunday is 0 and 7. If
neither day field begins with *, a day that either of them names will do, as in cron(8). Or it is one of
@hourly @daily @weekly @monthly @yearly, or `@every 90s`: counted from now on, at least 1s.

A time that the clock of the zone skips (it is put forward) comes once, right after; one that it shows
twice (it is put back) comes once, the first time; but a cron of every hour goes through both.

A slot that nobody could fire for a minute or more was missed: then --missed says what becomes of it.

The name is that of one cron. Adding the very same one again changes nothing, which is how exit code 6
(nobody knows) is answered; another one of the same name is refused: remove the old one first.";

/// Options of `cron`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CronArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: CronVerb,
}

/// The verbs of `cron`.
#[derive(Clone, Debug, Subcommand)]
pub enum CronVerb {
    /// Submit a job again and again.
    Add(Box<AddArgs>),
    /// List the crons.
    List,
    /// Show one cron with all that is known of it.
    Show(NameArgs),
    /// Submit nothing for a while; slots within it are left out.
    Pause(NameArgs),
    /// Go on with the next slot.
    Resume(NameArgs),
    /// Submit its job now, beside its slots; prints the job's id.
    Trigger(TriggerArgs),
    /// Forget a cron; the jobs it has submitted stay.
    Remove(NameArgs),
}

/// Options of `cron add`.
#[derive(Clone, Debug, Args)]
#[command(after_help = ADD_HELP, override_usage = "raftq cron add NAME SPEC [OPTIONS] -- CMD [ARG]...\n       \
    raftq cron add NAME SPEC [OPTIONS] --payload TEXT|@FILE|-")]
pub struct AddArgs {
    /// Its name.
    #[arg(value_name = "NAME")]
    pub name: CronName,

    /// When: see below.
    #[arg(value_name = "SPEC", value_parser = spec)]
    pub spec: String,

    /// The command and its arguments, run by a node without a shell in between.
    #[arg(last = true, value_name = "CMD", conflicts_with = "payload")]
    pub command: Vec<String>,

    /// The time zone by whose clock it goes.
    #[arg(long, value_name = "ZONE", default_value = UTC)]
    pub tz: String,

    /// What becomes of slots that were missed: skip (none of them), once (one job for all of them), all (a job each,
    /// the first 1000).
    #[arg(long, value_name = "skip|once|all", default_value = "skip", value_parser = missed)]
    pub missed: Missed,

    /// The queue of its jobs.
    #[arg(long, value_name = "Q", default_value = "default")]
    pub queue: QueueName,

    /// Bytes for a worker of your own that serves the queue: a text, the content of a file, or (-) stdin.
    #[arg(long, value_name = "TEXT|@FILE|-", allow_hyphen_values = true)]
    pub payload: Option<String>,

    /// What its jobs ask for.
    #[command(flatten)]
    pub asks: AskArgs,
}

/// Options of the verbs about one cron.
#[derive(Clone, Debug, Args)]
pub struct NameArgs {
    /// The cron.
    #[arg(value_name = "NAME")]
    pub name: CronName,
}

/// Options of `cron trigger`.
#[derive(Clone, Debug, Args)]
pub struct TriggerArgs {
    /// The cron.
    #[arg(value_name = "NAME")]
    pub name: CronName,

    /// The job's id. Made up when left out; give it to ask again for what is unknown.
    #[arg(long, value_name = "ID")]
    pub id: Option<JobId>,
}

/// Checks when a cron fires.
///
/// # Errors
/// A text for the user.
pub fn spec(text: &str) -> Result<String, String> {
    Spec::parse(text).map(|_spec| text.to_owned()).map_err(|error| error.to_string())
}

fn missed(text: &str) -> Result<Missed, String> {
    let found = Missed::ALL.into_iter().find(|missed| missed.as_str() == text);
    found.ok_or_else(|| "skip, once or all".into())
}

impl CronArgs {
    /// Tells whether the verb only shows what can be shown again.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        match self.verb {
            CronVerb::List | CronVerb::Show(_) => true,
            CronVerb::Add(_)
            | CronVerb::Pause(_)
            | CronVerb::Resume(_)
            | CronVerb::Trigger(_)
            | CronVerb::Remove(_) => false,
        }
    }
}

/// Runs `cron`.
///
/// # Errors
/// A [`Failure`] of the request or of stdout.
pub fn run(args: &CronArgs, session: &Session, out: &mut Out) -> Outcome {
    match &args.verb {
        CronVerb::Add(args) => add(args, session, out),
        CronVerb::List => list(session, out),
        CronVerb::Show(args) => show(&args.name, session, out),
        CronVerb::Pause(args) => change(&args.name, CronChange::Pause, session, out),
        CronVerb::Resume(args) => change(&args.name, CronChange::Resume, session, out),
        CronVerb::Remove(args) => change(&args.name, CronChange::Remove, session, out),
        CronVerb::Trigger(args) => {
            let id = args.id.unwrap_or_else(Session::new_id);
            change(&args.name, CronChange::Trigger(id), session, out)
        }
    }
}

/// The object of an addition.
#[derive(Serialize)]
struct AddedShape<'a> {
    cron: &'a CronName,
    created: bool,
    next_ms: Option<Number>,
}

fn add(args: &AddArgs, session: &Session, out: &mut Out) -> Outcome {
    let deadline = Deadline::after(session.limit());
    let options = Asks::from(&args.asks).options().map_err(Failure::usage)?;
    let body = body(args)?;
    let cron = NewCron {
        name: args.name.clone(),
        spec: args.spec.clone(),
        tz: args.tz.clone(),
        missed: args.missed,
        queue: args.queue.clone(),
        body,
        options,
    };
    if let Some(fault) = submit::fault(&cron.body).or_else(|| cron.fault()) {
        return Err(Failure::usage(fault));
    }
    let id = JobId::default();
    let (queue, body, options) = (cron.queue.clone(), cron.body.clone(), cron.options.clone());
    let needs: BTreeSet<Need> =
        Need::of(&NewJob { id, queue, body, options }).into_iter().collect();
    let added = session.add_cron(cron).map_err(|failure| {
        again(failure, "added", "Add the very same one again: twice is the same as once.", session)
    })?;
    if session.json() {
        let next_ms = added.next_ms.map(|at| Number(at.0));
        out.json(&AddedShape { cron: &args.name, created: added.created, next_ms })?;
    } else {
        let did = if added.created { "added" } else { "was there" };
        out.line(&format!("{}  {did}  next {}", args.name, when(added.next_ms)))?;
    }
    out.flush()?;
    workers::warn_unserved(&needs, deadline, session);
    Ok(Exit::Ok)
}

fn body(args: &AddArgs) -> Result<Body, Failure> {
    if let Some(payload) = &args.payload {
        return submit::payload_bytes(payload).map(Body::Payload);
    }
    if args.command.is_empty() {
        return Err(Failure::usage("add a cron of what? Put the command after two dashes")
            .hint(format!("raftq cron add {} {} -- ./tidy", args.name, quote(&args.spec))));
    }
    Ok(Body::Command(args.command.clone()))
}

/// Adds to a change whose outcome is unknown what can be done about it.
fn again(failure: Failure, done: &str, hint: &str, session: &Session) -> Failure {
    if failure.exit != Exit::Unknown {
        return failure;
    }
    let message = format!("it is unknown whether the cron was {done}: {}", failure.message);
    Failure::new(Exit::Unknown, message)
        .hint(hint)
        .hint(format!("Or look: {} cron list", session.program()))
}

fn when(at: Option<Millis>) -> String {
    at.map_or_else(|| "-".into(), moment)
}

/// A cron: one object of `cron list` and `cron show`.
#[derive(Serialize)]
struct CronShape<'a> {
    name: &'a CronName,
    spec: &'a str,
    tz: &'a str,
    missed: &'static str,
    queue: &'a QueueName,
    created_ms: Number,
    paused_ms: Option<Number>,
    next_ms: Option<Number>,
    last_slot_ms: Option<Number>,
    last_job: Option<String>,
    last_error: Option<&'a str>,
    fired: Number,
    skipped: Number,
    #[serde(skip_serializing_if = "Option::is_none")]
    options: Option<&'a Options>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_bytes: Option<Number>,
}

impl<'a> From<&'a CronView> for CronShape<'a> {
    fn from(cron: &'a CronView) -> Self {
        let number = |at: Option<Millis>| at.map(|at| Number(at.0));
        let (command, payload_bytes) = match &cron.body {
            Some(Body::Command(words)) => (Some(words.as_slice()), None),
            Some(Body::Payload(bytes)) => {
                (None, Some(Number(u64::try_from(bytes.len()).unwrap_or(u64::MAX))))
            }
            None => (None, None),
        };
        Self {
            name: &cron.name,
            spec: &cron.spec,
            tz: &cron.tz,
            missed: cron.missed.as_str(),
            queue: &cron.queue,
            created_ms: Number(cron.created_ms.0),
            paused_ms: number(cron.paused_ms),
            next_ms: number(cron.next_ms),
            last_slot_ms: number(cron.last_slot_ms),
            last_job: cron.last_job.map(|id| id.to_string()),
            last_error: cron.last_error.as_deref(),
            fired: Number(cron.fired),
            skipped: Number(cron.skipped),
            options: cron.options.as_deref(),
            command,
            payload_bytes,
        }
    }
}

fn list(session: &Session, out: &mut Out) -> Outcome {
    let crons = session.crons()?;
    if session.json() {
        crons.iter().try_for_each(|cron| out.json(&CronShape::from(cron)))?;
        return out.flush().map(|()| Exit::Ok);
    }
    let mut table = Table::new(&[
        Column::Left("CRON"),
        Column::Left("SPEC"),
        Column::Left("ZONE"),
        Column::Left("QUEUE"),
        Column::Left("NEXT"),
        Column::Left("LAST"),
        Column::Right("FIRED"),
        Column::Left("NOTE"),
    ]);
    for cron in &crons {
        table.row(vec![
            cron.name.to_string(),
            cron.spec.clone(),
            cron.tz.clone(),
            cron.queue.to_string(),
            when(cron.next_ms),
            when(cron.last_slot_ms),
            cron.fired.to_string(),
            cron.note(),
        ]);
    }
    table.write(out, true)?;
    out.flush().map(|()| Exit::Ok)
}

fn show(name: &CronName, session: &Session, out: &mut Out) -> Outcome {
    let cron = session.cron(name)?;
    if session.json() {
        out.json(&CronShape::from(&cron))?;
        return out.flush().map(|()| Exit::Ok);
    }
    let does = match &cron.body {
        Some(Body::Command(words)) => {
            words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
        }
        Some(Body::Payload(bytes)) => format!("a payload of {} bytes", bytes.len()),
        None => String::new(),
    };
    for (key, value) in [
        ("cron", cron.name.to_string()),
        ("spec", cron.spec.clone()),
        ("zone", cron.tz.clone()),
        ("missed", cron.missed.as_str().into()),
        ("queue", cron.queue.to_string()),
        ("job", does),
        ("asks for", asks_for(&cron)),
        ("added", moment(cron.created_ms)),
        ("paused", when(cron.paused_ms)),
        ("next", when(cron.next_ms)),
        ("last slot", when(cron.last_slot_ms)),
        ("last job", or_nothing(cron.last_job)),
        ("last error", or_nothing(cron.last_error.as_deref())),
        ("fired", cron.fired.to_string()),
        ("skipped", cron.skipped.to_string()),
    ] {
        out.line(&format!("{key:<10}  {}", plain(&value)))?;
    }
    out.flush().map(|()| Exit::Ok)
}

/// Writes what its jobs ask for, as JSON has it.
fn asks_for(cron: &CronView) -> String {
    let options = cron.options.as_deref();
    options.and_then(|it| serde_json::to_string(it).ok()).unwrap_or_else(|| "-".into())
}

/// The object of a change.
#[derive(Serialize)]
struct ChangeShape<'a> {
    cron: &'a CronName,
    change: &'static str,
    next_ms: Option<Number>,
    job: Option<String>,
}

fn change(name: &CronName, change: CronChange, session: &Session, out: &mut Out) -> Outcome {
    let (word, done) = match change {
        CronChange::Pause => ("pause", "paused"),
        CronChange::Resume => ("resume", "resumed"),
        CronChange::Remove => ("remove", "removed"),
        CronChange::Trigger(_) => ("trigger", "triggered"),
    };
    let hint = match change {
        CronChange::Pause | CronChange::Resume => {
            "Make the same change again: twice is the same as once.".into()
        }
        CronChange::Remove => "Remove it again: exit code 3 means that it is gone.".into(),
        CronChange::Trigger(id) => {
            let program = session.program();
            format!("Ask again (it is one job): {program} cron trigger {name} --id {id}")
        }
    };
    let changed = session
        .change_cron(name, change)
        .map_err(|failure| again(failure, done, &hint, session))?;
    if session.json() {
        let (next_ms, job) = (changed.next_ms.map(|at| Number(at.0)), changed.job);
        let job = job.map(|id| id.to_string());
        out.json(&ChangeShape { cron: name, change: word, next_ms, job })?;
    } else if let Some(job) = changed.job {
        out.line(&job.to_string())?;
    } else {
        let next = changed.next_ms.map(|at| format!("  next {}", moment(at)));
        out.line(&format!("{name}  {done}{}", next.unwrap_or_default()))?;
    }
    out.flush().map(|()| Exit::Ok)
}
