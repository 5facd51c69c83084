//! What each command of text mode comes to, made from this node's own view and said to be no more.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_std::channel;
use async_std::future::timeout;
use async_std::task::spawn_blocking;

use crate::jobs::intake::Progress;
use crate::jobs::job::{Body, JobView, Serves, Status};
use crate::jobs::list::Filter;
use crate::jobs::machine::Machine;
use crate::jobs::options::{Options, Tags};
use crate::net::http;
use crate::net::inbox::{Ask, ReplyTo};
use crate::net::shared::Ctx;
use crate::net::text::command::{Command, VERBS};
use crate::net::text::table::{Table, pairs, plain};
use crate::net::text::why;
use crate::raft::core::Role;
use crate::replica::reading::queue_view;
use crate::replica::view::{Answer, Look};
use crate::types::{Index, JobId, Millis, QueueName, TICK_MS, Tag};
use crate::wire::message::{LogLine, NodeStatus, Reply, Request};

/// What a job's output is cut to, in characters, so that an answer stays readable.
const OUTPUT_CHARS_MAX: usize = 4096;

/// What a command's words are cut to, in characters.
const COMMAND_CHARS_MAX: usize = 1024;

/// The text of an answer without its last line, or `CODE message`.
pub(super) type Answered = Result<String, String>;

/// Answers a command; the last line is `OK` or `ERR CODE message`.
pub async fn answer(ctx: &Arc<Ctx>, command: Command) -> String {
    match answered(ctx, command).await {
        Ok(text) => format!("{text}OK\n"),
        Err(error) => format!("ERR {error}\n"),
    }
}

async fn answered(ctx: &Arc<Ctx>, command: Command) -> Answered {
    match command {
        Command::Help(verb) => Ok(help(ctx, verb.as_deref())),
        Command::Ping => Ok("pong\n".into()),
        Command::Ruok => Ok("imok\n".into()),
        Command::Ready => match http::readiness(&ctx.shared) {
            Ok(()) => Ok("ready\n".into()),
            Err(reason) => Err(format!("NOT_READY {reason}")),
        },
        Command::Version => {
            Ok(format!("raftq version={} node={}\n", ctx.shared.info.version, ctx.config.node))
        }
        Command::Leader => leader(ctx),
        Command::Metrics => Ok(http::metrics(&ctx.shared, false)),
        Command::Config => Ok(config(ctx)),
        Command::Log { from, limit } => log_lines(ctx, from, limit).await,
        Command::Status => {
            let (look, ctx) = (look(ctx).await?, Arc::clone(ctx));
            aside(move || Ok(status(&ctx, &look))).await
        }
        Command::Raft => {
            let (look, ctx) = (look(ctx).await?, Arc::clone(ctx));
            aside(move || Ok(raft(&ctx, &look))).await
        }
        Command::Nodes => {
            let look = look(ctx).await?;
            aside(move || Ok(nodes(&look))).await
        }
        Command::Jobs { queue, status, limit } => {
            let look = look(ctx).await?;
            aside(move || Ok(jobs(&look, queue, status, limit))).await
        }
        Command::Job(id) => {
            let look = look(ctx).await?;
            aside(move || job(&look, id)).await
        }
        Command::Why(id) => {
            let look = look(ctx).await?;
            aside(move || why::answer(&look, id)).await
        }
        Command::Dead { limit } => {
            let look = look(ctx).await?;
            aside(move || Ok(dead(&look, limit))).await
        }
        Command::Workers { limit } => {
            let look = look(ctx).await?;
            aside(move || Ok(workers(&look, limit))).await
        }
        Command::Queues { limit } => {
            let look = look(ctx).await?;
            aside(move || Ok(queues(&look, limit))).await
        }
        Command::Cron { limit } => {
            let look = look(ctx).await?;
            aside(move || Ok(crons(&look, limit))).await
        }
        // These two are the dialogue's own.
        Command::Shell | Command::Quit => Ok(String::new()),
    }
}

/// Makes an answer on a thread that may take its time: a table may look at every job, and to drop the
/// last image of a former queue takes long as well.
async fn aside(make: impl FnOnce() -> Answered + Send + 'static) -> Answered {
    spawn_blocking(make).await
}

/// Asks the Raft thread something for text mode.
async fn ask(ctx: &Ctx, make: impl FnOnce(ReplyTo) -> Ask) -> Result<Answer, String> {
    let (session, answers) = channel::bounded(1);
    if ctx.shared.inbox.ask(make(ReplyTo::by(session, 0))).is_err() {
        return Err(
            "RESOURCE_EXHAUSTED the queue into the Raft thread is full, or it has ended".into()
        );
    }
    match timeout(ctx.config.patience.look, answers.recv()).await {
        Ok(Ok((_, answer))) => Ok(answer),
        Ok(Err(_)) => Err("UNAVAILABLE the Raft thread is ending".into()),
        Err(_) => Err(format!(
            "UNAVAILABLE the Raft thread did not answer within {:?}; try: metrics",
            ctx.config.patience.look
        )),
    }
}

async fn look(ctx: &Ctx) -> Result<Look, String> {
    match ask(ctx, |reply| Ask::Look { reply }).await? {
        Answer::Look(look) => Ok(*look),
        Answer::Reply(Reply::Refused(refusal)) => Err(refused(&refusal)),
        Answer::Reply(_) | Answer::Changes(_) | Answer::Image { .. } => {
            Err("INTERNAL not a local view".into())
        }
    }
}

fn refused(refusal: &crate::wire::message::Refusal) -> String {
    format!("{} {}", refusal.code.as_str(), plain(&refusal.message, 200))
}

/// The first line of every answer that may differ from node to node.
pub(super) fn local(look: &Look) -> String {
    let cluster = &look.cluster;
    let heard = cluster.leader.and_then(|leader| {
        let peer = look.raft.peers.iter().find(|peer| peer.id == leader)?;
        peer.ticks_since_heard
    });
    let contact = match (look.raft.role, cluster.leader, heard) {
        (Role::Leader, ..) => "leads".into(),
        (_, Some(_), Some(ticks)) => {
            format!("leader heard {} ms ago", ticks.saturating_mul(TICK_MS))
        }
        (_, Some(_), None) => "leader not heard yet".into(),
        (_, None, _) => "no leader".into(),
    };
    format!(
        "# local view of node {}, {contact}, applied {}\n",
        cluster.node,
        look.machine.applied_index()
    )
}

fn help(ctx: &Ctx, verb: Option<&str>) -> String {
    let mut text = String::new();
    if let Some((name, arguments, does, example)) =
        verb.and_then(|verb| VERBS.iter().find(|(name, ..)| *name == verb))
    {
        return format!(
            "{}\n  {does}\n  example: {example}\n",
            format!("{name} {arguments}").trim_end()
        );
    }
    text.push_str(&format!(
        "raftq {}, node {}, read-only; answers are this node's own view\n",
        ctx.shared.info.version, ctx.config.node
    ));
    let mut table = Table::new(&["COMMAND", "DOES", "EXAMPLE"]);
    for (name, arguments, does, example) in VERBS {
        let usage = format!("{name} {arguments}");
        table.row(vec![usage.trim_end().into(), does.into(), example.into()]);
    }
    text.push_str(&table.render());
    text.push_str("The beginning of a command will do: nc HOST PORT <<< stat\n");
    text
}

fn leader(ctx: &Ctx) -> Answered {
    let view = ctx.shared.view.load();
    match &view.leader {
        Some(hint) => Ok(format!("n{} {} term={}\n", hint.id, hint.addr, hint.term)),
        None => Err(format!("UNAVAILABLE no leader is known in term {}", view.term)),
    }
}

fn config(ctx: &Ctx) -> String {
    let info = &ctx.shared.info;
    let mut lines = vec![
        ("node", ctx.config.node.to_string()),
        ("dir", ctx.config.dir.to_string()),
        ("listen", ctx.config.listen.clone()),
        ("data", info.data.clone()),
        ("connections_max", ctx.config.connections_max.to_string()),
    ];
    lines.extend(info.config.iter().map(|(key, value)| (key.as_str(), value.clone())));
    pairs(&lines)
}

fn role(look: &Look) -> &'static str {
    match look.raft.role {
        _ if look.raft.healing.is_some() => "healing",
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::PreCandidate | Role::Candidate => "candidate",
    }
}

fn option<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

fn status(ctx: &Ctx, look: &Look) -> String {
    let (raft, cluster) = (&look.raft, &look.cluster);
    let view = ctx.shared.view.load();
    let counts = look.machine.counts();
    // A follower hears its leader only; of the others it cannot say that they are dead.
    let alive =
        cluster.from_leader.then(|| cluster.nodes.iter().filter(|node| node.is_alive).count());
    let uptime_s = (ctx.shared.wall)().since(ctx.shared.info.started) / 1000;
    let health = http::health(&ctx.shared).map_or_else(|reason| reason, |()| "ok".into());
    local(look)
        + &pairs(&[
            ("node", cluster.node.to_string()),
            ("version", ctx.shared.info.version.clone()),
            ("cluster", cluster.cluster_id.to_string()),
            ("role", role(look).into()),
            ("term", raft.term.to_string()),
            ("leader", option(cluster.leader)),
            ("ready", http::readiness(&ctx.shared).is_ok().to_string()),
            ("stopping", view.stopping.to_string()),
            ("health", health),
            ("nodes", cluster.nodes.len().to_string()),
            ("nodes_alive", option(alive)),
            ("commit_index", raft.commit_index.to_string()),
            ("applied_index", look.machine.applied_index().to_string()),
            ("last_index", raft.last_index.to_string()),
            ("snapshot_index", raft.snapshot_index.to_string()),
            ("jobs_pending", counts.pending.to_string()),
            ("jobs_held", counts.held.to_string()),
            ("jobs_running", counts.running.to_string()),
            ("jobs_completed", counts.completed.to_string()),
            ("jobs_failed", counts.failed.to_string()),
            ("jobs_cancelled", counts.cancelled.to_string()),
            ("workers_live", counts.workers_live.to_string()),
            ("connections", ctx.metrics().connections_open.value().to_string()),
            ("uptime_s", uptime_s.to_string()),
        ])
}

fn nodes(look: &Look) -> String {
    let cluster = &look.cluster;
    let mut table = Table::new(&[
        "ID", "ADDR", "ROLE", "ALIVE", "MATCH", "LAG", "APPLIED", "CONTACT", "DIGEST",
    ]);
    let last = look.raft.last_index;
    for node in &cluster.nodes {
        let mark = if cluster.leader == Some(node.id) { "*" } else { "" };
        let is_known = cluster.from_leader || node.id == cluster.node;
        let number = |value: Index| if is_known { value.to_string() } else { "-".into() };
        table.row(vec![
            format!("{}{mark}", node.id),
            node.addr.clone(),
            node.role.clone(),
            match (node.is_alive, cluster.from_leader) {
                (true, _) => "yes".into(),
                (false, true) => "no".into(),
                (false, false) => "-".into(),
            },
            number(node.match_index),
            number(Index(last.0.saturating_sub(node.match_index.0))),
            number(node.applied_index),
            contact(look, node),
            digest(node),
        ]);
    }
    local(look) + &table.render()
}

fn contact(look: &Look, node: &NodeStatus) -> String {
    if node.id == look.cluster.node {
        return "self".into();
    }
    let peer = look.raft.peers.iter().find(|peer| peer.id == node.id);
    match peer.and_then(|peer| peer.ticks_since_heard) {
        Some(ticks) => format!("{}ms", ticks.saturating_mul(TICK_MS)),
        None => "-".into(),
    }
}

/// The first digits are enough for an eye to compare.
fn digest(node: &NodeStatus) -> String {
    let digits: String = node.digest.chars().take(8).collect();
    if digits.is_empty() { "-".into() } else { format!("{digits}@{}", node.digest_index) }
}

fn raft(ctx: &Ctx, look: &Look) -> String {
    let raft = &look.raft;
    let metrics = ctx.metrics();
    let mut text = local(look)
        + &pairs(&[
            ("role", role(look).into()),
            ("term", raft.term.to_string()),
            ("voted_for", option(raft.vote)),
            ("leader", option(raft.leader)),
            ("commit_index", raft.commit_index.to_string()),
            ("applied_index", raft.applied_index.to_string()),
            ("durable_index", raft.durable_index.to_string()),
            ("last_index", raft.last_index.to_string()),
            ("first_index", raft.first_index.to_string()),
            ("memory_first_index", raft.window_first_index.to_string()),
            ("memory_entries", raft.window_entries.to_string()),
            ("memory_bytes", raft.window_bytes.to_string()),
            ("disk_bytes", metrics.log_disk_bytes.value().to_string()),
            ("snapshot_index", raft.snapshot_index.to_string()),
            ("snapshot_bytes", metrics.snapshot_bytes.value().to_string()),
            ("snapshots_sent", metrics.snapshots_sent.value().to_string()),
            ("snapshots_received", metrics.snapshots_received.value().to_string()),
            ("uncommitted_entries", raft.uncommitted_entries.to_string()),
            ("uncommitted_bytes", raft.uncommitted_bytes.to_string()),
            ("transferring_to", option(raft.transferring)),
            ("waiting", look.waiting.to_string()),
            ("refused_messages", raft.refused_messages.to_string()),
            ("longest_turn_us", metrics.turns.micros_max().to_string()),
            ("longest_turn_cpu_us", metrics.turn_cpu_micros_max.value().to_string()),
            ("longest_sync_us", metrics.syncs.micros_max().to_string()),
        ]);
    if raft.role == Role::Leader {
        let mut table = Table::new(&["PEER", "STATE", "MATCH", "NEXT", "ALIVE"]);
        for peer in &raft.peers {
            table.row(vec![
                peer.id.to_string(),
                if peer.is_healing {
                    format!("{:?}, healing", peer.state).to_lowercase()
                } else {
                    format!("{:?}", peer.state).to_lowercase()
                },
                peer.match_index.to_string(),
                peer.next_index.to_string(),
                if peer.is_alive { "yes".into() } else { "no".into() },
            ]);
        }
        text.push_str(&table.render());
    }
    text
}

/// How long ago something was, on the clock of the log.
fn age(look: &Look, at: Millis) -> String {
    let seconds = look.log_now.since(at) / 1000;
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn jobs(look: &Look, queue: Option<QueueName>, status: Option<Status>, limit: usize) -> String {
    let filter = Filter { status, queue, limit, ..Filter::default() };
    let (page, more) = look.machine.list(&filter);
    let mut table = Table::new(&["ID", "QUEUE", "STATUS", "ATT", "WORKER", "EXIT", "AGE"]);
    for job in &page {
        table.row(vec![
            job.id.to_string(),
            job.queue.to_string(),
            job.status.as_str().into(),
            job.attempt.to_string(),
            option(job.worker.as_ref()),
            option(job.exit_code),
            age(look, job.created_ms),
        ]);
    }
    let rest = if more { "# there are more: limit=N, or: raftq list --after ID\n" } else { "" };
    local(look) + &table.render() + rest
}

fn job(look: &Look, id: JobId) -> Answered {
    let Some(job) = look.machine.view(id) else { return Err(not_here(look, id)) };
    let body = match &job.body {
        Some(Body::Command(words)) => ("command", plain(&words.join(" "), COMMAND_CHARS_MAX)),
        Some(Body::Payload(bytes)) => ("payload_bytes", bytes.len().to_string()),
        None => ("body", "-".into()),
    };
    let options = job.options.as_deref().unwrap_or(Options::NONE);
    let mut text = local(look)
        + &pairs(&[
            ("id", job.id.to_string()),
            ("queue", job.queue.to_string()),
            ("status", job.status.as_str().into()),
            ("priority", options.priority.to_string()),
            ("tags", option((!options.tags.is_empty()).then(|| in_a_row(&options.tags)))),
            ("unique", option(options.unique.as_ref())),
            ("held_ms", option(job.held_ms)),
            ("ttl_ms", option(options.ttl_ms)),
            ("timeout_ms", option(options.timeout_ms)),
            ("retries", options.retries.to_string()),
            ("attempt", job.attempt.to_string()),
            ("worker", option(job.worker.as_ref())),
            ("fence", option(job.fence)),
            ("progress", option(job.progress.as_ref().map(Progress::in_words))),
            ("exit_code", option(job.exit_code)),
            ("error", option(job.error.as_ref())),
            ("created_ms", job.created_ms.to_string()),
            ("started_ms", option(job.started_ms)),
            ("finished_ms", option(job.finished_ms)),
            body,
            ("output_bytes", job.output.len().to_string()),
            ("output_cut", job.output_cut.to_string()),
        ]);
    text.push_str(&past(&job));
    text.push_str(&output(&job));
    Ok(text)
}

/// Says that a job is not here.
pub(super) fn not_here(look: &Look, id: JobId) -> String {
    let known = if look.machine.is_known(id) { "has ended and is forgotten" } else { "is unknown" };
    format!("NOT_FOUND job {id} {known} here")
}

fn in_a_row(tags: &Tags) -> String {
    let names: Vec<&str> = tags.as_slice().iter().map(Tag::as_str).collect();
    names.join(",")
}

/// The attempts before the last one, where there are any.
fn past(job: &JobView) -> String {
    if job.past.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["ATTEMPT", "WORKER", "STARTED_MS", "ENDED_MS", "EXIT", "ERROR"]);
    for past in &job.past {
        table.row(vec![
            past.attempt.to_string(),
            option(past.worker.as_ref()),
            past.started_ms.to_string(),
            past.ended_ms.to_string(),
            option(past.exit_code),
            past.error.clone(),
        ]);
    }
    table.render()
}

/// Jobs that failed looked at in one page, at most.
const DEAD_PAGE_MAX: usize = 10_000;

/// The jobs that failed last. The table lists them by id, which is by age: all of them are gone through, and
/// only the newest are kept.
fn dead(look: &Look, limit: usize) -> String {
    let mut newest: BTreeMap<(Millis, JobId), JobView> = BTreeMap::new();
    let mut after = None;
    loop {
        let status = Some(Status::Failed);
        let filter = Filter { status, after, limit: DEAD_PAGE_MAX, ..Filter::default() };
        let (page, more) = look.machine.list(&filter);
        after = page.last().map(|job| job.id);
        for job in page {
            newest.insert((job.finished_ms.unwrap_or_default(), job.id), job);
            if newest.len() > limit {
                newest.pop_first();
            }
        }
        if !more || after.is_none() {
            break;
        }
    }
    let mut table = Table::new(&["ID", "QUEUE", "ATT", "EXIT", "FAILED", "ERROR"]);
    for ((failed, _), job) in newest.iter().rev() {
        table.row(vec![
            job.id.to_string(),
            job.queue.to_string(),
            job.attempt.to_string(),
            option(job.exit_code),
            age(look, *failed),
            option(job.error.as_ref()),
        ]);
    }
    let total = look.machine.counts().failed;
    let shown = u64::try_from(newest.len()).unwrap_or(u64::MAX);
    let rest =
        if total > shown { format!("# {total} in all: raftq dead list\n") } else { String::new() };
    local(look) + &table.render() + &rest
}

/// The output, each line behind a bar, so that no line of it can be taken for one of ours.
fn output(job: &JobView) -> String {
    let shown: String =
        String::from_utf8_lossy(&job.output).chars().take(OUTPUT_CHARS_MAX).collect();
    shown.lines().map(|line| format!("| {}\n", plain(line, OUTPUT_CHARS_MAX))).collect()
}

fn workers(look: &Look, limit: usize) -> String {
    let mut table =
        Table::new(&["WORKER", "STATE", "RUNNING", "SLOTS", "SERVES", "TAGS", "REGISTERED"]);
    for worker in look.machine.workers().take(limit) {
        let serves = match &worker.serves {
            Serves::Commands => "commands".into(),
            Serves::Payloads(queues) => {
                let names: Vec<&str> = queues.iter().map(QueueName::as_str).collect();
                names.join(",")
            }
        };
        table.row(vec![
            worker.id.to_string(),
            worker.intake.beside(worker.state.as_str()),
            worker.running.len().to_string(),
            worker.slots.to_string(),
            serves,
            option((!worker.tags.is_empty()).then(|| in_a_row(&worker.tags))),
            age(look, worker.registered_ms),
        ]);
    }
    let total = look.machine.counts().workers;
    let shown = u64::try_from(limit).unwrap_or(u64::MAX);
    let rest = if total > shown { format!("# {total} in all\n") } else { String::new() };
    local(look) + &table.render() + &rest
}

fn queues(look: &Look, limit: usize) -> String {
    let mut table = Table::new(&[
        "QUEUE",
        "PENDING",
        "COMMANDS",
        "PAYLOADS",
        "HELD",
        "RUNNING",
        "COMPLETED",
        "FAILED",
        "CANCELLED",
        "RULES",
    ]);
    let machine: &Machine = &look.machine;
    for (name, queue) in machine.queues().take(limit) {
        let counts = &queue.counts;
        let numbers = [
            counts.pending(),
            counts.pending_commands,
            counts.pending_payloads,
            counts.held,
            counts.running,
            counts.completed,
            counts.failed,
            counts.cancelled,
        ];
        let mut cells = vec![name.to_string()];
        cells.extend(numbers.iter().map(ToString::to_string));
        cells.push(queue_view(name, queue).rules_in_words());
        table.row(cells);
    }
    local(look) + &table.render()
}

fn crons(look: &Look, limit: usize) -> String {
    let mut table =
        Table::new(&["CRON", "SPEC", "ZONE", "QUEUE", "NEXT_MS", "LAST_MS", "FIRED", "NOTE"]);
    let ms = |at: Option<Millis>| option(at.map(|at| at.to_string()));
    let crons = look.machine.crons();
    for cron in crons.after(None).take(limit) {
        let view = cron.view(false);
        table.row(vec![
            view.name.to_string(),
            view.spec.replace(' ', "_"),
            view.tz.clone(),
            view.queue.to_string(),
            ms(view.next_ms),
            ms(view.last_slot_ms),
            view.fired.to_string(),
            view.note(),
        ]);
    }
    let rest =
        if crons.len() > limit { format!("# {} in all\n", crons.len()) } else { String::new() };
    local(look) + &table.render() + &rest
}

async fn log_lines(ctx: &Arc<Ctx>, from: Option<Index>, limit: usize) -> Answered {
    let count = u32::try_from(limit).unwrap_or(u32::MAX);
    let from = match from {
        Some(from) => from,
        None => {
            let last = look(ctx).await?.raft.last_index;
            Index((last.0 + 1).saturating_sub(u64::from(count)).max(1))
        }
    };
    let arrived = (ctx.shared.clock)();
    let request = Request::ListLog { from, limit: count };
    match ask(ctx, |reply| Ask::Request { request, reply, arrived }).await? {
        Answer::Reply(Reply::Log(lines)) => Ok(log_table(&lines)),
        Answer::Reply(Reply::Refused(refusal)) => Err(refused(&refusal)),
        Answer::Reply(_) | Answer::Changes(_) | Answer::Image { .. } | Answer::Look(_) => {
            Err("INTERNAL not a page of the log".into())
        }
    }
}

fn log_table(lines: &[LogLine]) -> String {
    let mut table = Table::new(&["INDEX", "TERM", "KIND", "BYTES", "TIME_MS", "SUMMARY"]);
    for line in lines {
        table.row(vec![
            line.index.to_string(),
            line.term.to_string(),
            line.kind.clone(),
            line.bytes.to_string(),
            line.now_ms.to_string(),
            line.summary.clone(),
        ]);
    }
    table.render()
}
