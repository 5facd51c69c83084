//! What a node counts, in atomics that anybody may raise and nobody waits for, told as Prometheus text.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::jobs::job::Status;
use crate::jobs::machine::Machine;
use crate::raft::core::{Raft, Role};
use crate::types::Ticks;
use crate::wire::message::Code;

/// A number that anybody may raise or set. Relaxed everywhere: the numbers are for people and
/// graphs, and order nothing.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// Adds one.
    pub fn raise(&self) {
        self.add(1);
    }

    /// Adds some.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Takes one away.
    pub fn lower(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Puts another value in its place.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Keeps the larger of its value and this one.
    pub fn at_least(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }

    /// Returns its value.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns its value and begins anew at 0.
    pub fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// Upper bounds of a [`Histogram`]'s buckets, in microseconds; one more bucket takes the rest.
pub const BUCKETS_MICROS: [u64; 12] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000];

/// How long something takes: counts by bucket, the sum, the longest ever and since it was last asked.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Number; BUCKETS_MICROS.len()],
    count: Number,
    micros_sum: Number,
    micros_max: Number,
    micros_max_recent: Number,
}

impl Histogram {
    /// Counts one that took so many microseconds.
    pub fn observe(&self, micros: u64) {
        let fits = BUCKETS_MICROS.iter().position(|bound| micros <= *bound);
        if let Some(bucket) = fits.and_then(|at| self.buckets.get(at)) {
            bucket.raise();
        }
        self.count.raise();
        self.micros_sum.add(micros);
        self.micros_max.at_least(micros);
        self.micros_max_recent.at_least(micros);
    }

    /// Counts one that took so long.
    pub fn observe_duration(&self, took: Duration) {
        self.observe(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// Returns how many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.value()
    }

    /// Returns the longest ever, in microseconds.
    #[must_use]
    pub fn micros_max(&self) -> u64 {
        self.micros_max.value()
    }
}

/// Everything a node counts. The first half is raised by the sockets, the second is set by the Raft,
/// storage and snapshot threads.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Connections open now.
    pub connections_open: Number,
    /// Connections accepted.
    pub connections_accepted: Number,
    /// Connections closed at once for want of room.
    pub connections_refused: Number,
    /// Connections closed because they said nothing in time.
    pub connections_silent: Number,
    /// Connections closed at their first byte, which means nothing.
    pub connections_noise: Number,
    /// Failures to accept, for want of descriptors for instance.
    pub accept_errors: Number,
    /// Handshakes accepted.
    pub handshakes_accepted: Number,
    /// Handshakes refused or left unfinished.
    pub handshakes_refused: Number,
    /// Sessions of clients open now.
    pub sessions_open: Number,
    /// Frames received.
    pub frames_received: Number,
    /// Frames sent.
    pub frames_sent: Number,
    /// Connections closed for a frame that is none.
    pub frames_bad: Number,
    /// Requests received.
    pub requests: Number,
    /// Jobs submitted by clients, whatever became of them.
    pub submits: Number,
    /// Places in the proposal lane taken by submits; several share one.
    pub submits_shared: Number,
    /// Refusals sent, by code, in the order of [`Code::ALL`].
    pub refusals: [Number; Code::ALL.len()],
    /// Answers that came after their request was given up.
    pub answers_late: Number,
    /// Answers that the Raft thread wrote itself.
    pub answers_direct: Number,
    /// Connections cut because their other end read too slowly.
    pub readers_slow: Number,
    /// Messages sent to peers.
    pub peer_messages_sent: Number,
    /// Messages to peers dropped: no link, or its queue full.
    pub peer_messages_dropped: Number,
    /// Messages received from peers.
    pub peer_messages_received: Number,
    /// Messages from peers dropped: the Raft thread's lane full.
    pub peer_messages_refused: Number,
    /// Links to peers that stand now.
    pub peer_links_up: Number,
    /// Snapshots sent whole.
    pub snapshots_sent: Number,
    /// Snapshots received whole.
    pub snapshots_received: Number,
    /// Bytes of snapshots sent.
    pub snapshot_sent_bytes: Number,
    /// Bytes of snapshots received.
    pub snapshot_received_bytes: Number,
    /// Transfers gone on with where they had broken.
    pub snapshots_resumed: Number,
    /// Text commands answered.
    pub text_commands: Number,
    /// HTTP requests answered.
    pub http_requests: Number,

    /// How long the turns of the Raft thread take.
    pub turns: Histogram,
    /// Those of them that others took for it, each for the one thing it brought.
    pub turns_visited: Number,
    /// The most work in one turn, in microseconds of the thread's own time on a core.
    pub turn_cpu_micros_max: Number,
    /// When the Raft thread last ended a turn, in ticks of the node's clock; 0 before the first.
    pub turned_at: Number,
    /// How long one batch takes to be written and synced.
    pub syncs: Histogram,
    /// Bytes written to the log.
    pub log_written_bytes: Number,
    /// Bytes of the log on disk.
    pub log_disk_bytes: Number,
    /// Entries of the log in memory.
    pub log_memory_entries: Number,
    /// Bytes of the log in memory.
    pub log_memory_bytes: Number,
    /// Bytes of the newest snapshot file.
    pub snapshot_bytes: Number,
    /// The newest snapshot's index.
    pub snapshot_index: Number,
    /// Snapshots written here.
    pub snapshots_written: Number,
    /// Proposals in the Raft thread's inbox when it was last looked at.
    pub proposals_waiting: Number,
    /// Requests that wait for the Raft thread's answer.
    pub waiters: Number,
    /// The term.
    pub term: Number,
    /// The role: 0 follower, 1 candidate, 2 leader.
    pub role: Number,
    /// The leader's id; 0 for none.
    pub leader: Number,
    /// Changes of the term since the start.
    pub term_changes: Number,
    /// The commit index.
    pub commit_index: Number,
    /// The applied index.
    pub applied_index: Number,
    /// The last entry's index.
    pub last_index: Number,
    /// Jobs known, by status, in the order of [`Status::ALL`].
    pub jobs: [Number; Status::ALL.len()],
    /// Jobs that wait for a time to come.
    pub jobs_held: Number,
    /// Bytes of the jobs that failed and are kept.
    pub dead_bytes: Number,
    /// Jobs that failed and were forgotten, because a limit asked for it and not a user.
    pub dead_dropped: Number,
    /// Crons.
    pub crons: Number,
    /// Jobs that crons have submitted at their slots.
    pub crons_fired: Number,
    /// Workers that live.
    pub workers_live: Number,
    /// Bytes the queue keeps in memory, by its own count.
    pub machine_bytes: Number,
}

impl Metrics {
    /// Counts a refusal by its code.
    pub fn refused(&self, code: Code) {
        if let Some(number) =
            Code::ALL.iter().position(|c| *c == code).and_then(|at| self.refusals.get(at))
        {
            number.raise();
        }
    }

    /// Returns how many refusals of this code were sent.
    #[must_use]
    pub fn refusals_of(&self, code: Code) -> u64 {
        let at = Code::ALL.iter().position(|c| *c == code);
        at.and_then(|at| self.refusals.get(at)).map_or(0, Number::value)
    }

    /// Counts one turn of the Raft thread: how long it took, how much of that was work (the rest it waited
    /// for a core), and when it ended on the node's clock.
    pub fn turn(&self, took: Duration, worked: Duration, now: Ticks) {
        self.turns.observe_duration(took);
        self.turn_cpu_micros_max.at_least(u64::try_from(worked.as_micros()).unwrap_or(u64::MAX));
        self.turned_at.set(now.0);
    }

    /// Sets what consensus and the queue say of themselves; cheap enough for every turn.
    pub fn observe(&self, raft: &Raft, machine: &Machine) {
        let status = raft.status();
        if status.term.0 > self.term.value() {
            self.term_changes.raise();
        }
        self.term.set(status.term.0);
        self.role.set(match status.role {
            Role::Follower => 0,
            Role::PreCandidate | Role::Candidate => 1,
            Role::Leader => 2,
        });
        self.leader.set(status.leader.map_or(0, |leader| leader.0));
        self.commit_index.set(status.commit_index.0);
        self.applied_index.set(machine.applied_index().0);
        self.last_index.set(status.last_index.0);
        self.log_memory_entries.set(number(status.window_entries));
        self.log_memory_bytes.set(number(status.window_bytes));
        self.snapshot_index.set(status.snapshot_index.0);
        let counts = machine.counts();
        for (status, gauge) in Status::ALL.iter().zip(&self.jobs) {
            gauge.set(counts.of(*status));
        }
        self.jobs_held.set(counts.held);
        self.dead_bytes.set(counts.dead_bytes);
        self.dead_dropped.set(counts.dead_dropped);
        self.crons.set(number(machine.crons().len()));
        self.crons_fired.set(machine.crons_fired());
        self.workers_live.set(counts.workers_live);
        self.machine_bytes.set(counts.resident_bytes);
    }

    /// Tells the metrics as Prometheus text. A scrape begins the "recent" maxima anew; a look by a
    /// person does not.
    #[must_use]
    pub fn render(&self, scrape: bool) -> String {
        let mut page = Page::default();
        self.render_sockets(&mut page);
        self.render_peers(&mut page);
        self.render_raft(&mut page);
        self.render_disk(&mut page);
        self.render_jobs(&mut page);
        page.histogram("raftq_turn", "Turns of the Raft thread", &self.turns, scrape);
        page.gauge(
            "turn_cpu_micros_max",
            "The most work in one turn of the Raft thread; a longer turn waited for a core.",
            &self.turn_cpu_micros_max,
        );
        page.histogram("raftq_sync", "Batches written and synced", &self.syncs, scrape);
        page.text
    }

    fn render_sockets(&self, page: &mut Page) {
        page.gauge("connections_open", "Connections open now.", &self.connections_open);
        page.counter(
            "connections_accepted_total",
            "Connections accepted.",
            &self.connections_accepted,
        );
        page.head("connections_dropped_total", "Connections closed without service.", "counter");
        for (reason, number) in [
            ("full", &self.connections_refused),
            ("silent", &self.connections_silent),
            ("noise", &self.connections_noise),
            ("bad_frame", &self.frames_bad),
            ("slow_reader", &self.readers_slow),
        ] {
            page.labelled("connections_dropped_total", "reason", reason, number);
        }
        page.counter(
            "accept_errors_total",
            "Failures to accept a connection.",
            &self.accept_errors,
        );
        page.counter(
            "handshakes_accepted_total",
            "Handshakes accepted.",
            &self.handshakes_accepted,
        );
        page.counter("handshakes_refused_total", "Handshakes refused.", &self.handshakes_refused);
        page.gauge("sessions_open", "Sessions of clients open now.", &self.sessions_open);
        page.counter("frames_received_total", "Frames received.", &self.frames_received);
        page.counter("frames_sent_total", "Frames sent.", &self.frames_sent);
        page.counter("requests_total", "Requests received.", &self.requests);
        page.counter("submits_total", "Jobs submitted, whatever became of them.", &self.submits);
        page.counter(
            "submit_places_total",
            "Places in the proposal lane that submits took.",
            &self.submits_shared,
        );
        page.head("refusals_total", "Refusals sent, by code.", "counter");
        for (code, number) in Code::ALL.iter().zip(&self.refusals) {
            page.labelled("refusals_total", "code", code.as_str(), number);
        }
        page.counter(
            "answers_late_total",
            "Answers that came after their request was given up.",
            &self.answers_late,
        );
        page.counter(
            "answers_direct_total",
            "Answers written by the Raft thread itself.",
            &self.answers_direct,
        );
        page.counter("text_commands_total", "Text commands answered.", &self.text_commands);
        page.counter("http_requests_total", "HTTP requests answered.", &self.http_requests);
    }

    fn render_peers(&self, page: &mut Page) {
        page.gauge("peer_links_up", "Links to other nodes that stand now.", &self.peer_links_up);
        page.counter(
            "peer_messages_sent_total",
            "Messages sent to other nodes.",
            &self.peer_messages_sent,
        );
        page.counter(
            "peer_messages_received_total",
            "Messages received from other nodes.",
            &self.peer_messages_received,
        );
        page.head(
            "peer_messages_dropped_total",
            "Messages dropped: no room, or no link.",
            "counter",
        );
        page.labelled(
            "peer_messages_dropped_total",
            "direction",
            "out",
            &self.peer_messages_dropped,
        );
        page.labelled(
            "peer_messages_dropped_total",
            "direction",
            "in",
            &self.peer_messages_refused,
        );
        page.counter("snapshots_sent_total", "Snapshots sent whole.", &self.snapshots_sent);
        page.counter(
            "snapshots_received_total",
            "Snapshots received whole.",
            &self.snapshots_received,
        );
        page.counter(
            "snapshots_resumed_total",
            "Transfers resumed where they had broken.",
            &self.snapshots_resumed,
        );
        page.counter(
            "snapshot_sent_bytes_total",
            "Bytes of snapshots sent.",
            &self.snapshot_sent_bytes,
        );
        page.counter(
            "snapshot_received_bytes_total",
            "Bytes of snapshots received.",
            &self.snapshot_received_bytes,
        );
    }

    fn render_raft(&self, page: &mut Page) {
        page.gauge("term", "The current term.", &self.term);
        page.gauge("role", "0 follower, 1 candidate, 2 leader.", &self.role);
        page.gauge("leader_id", "The leader's id, 0 for none.", &self.leader);
        page.counter(
            "term_changes_total",
            "Changes of the term since the start.",
            &self.term_changes,
        );
        page.gauge("commit_index", "The last entry known to be committed.", &self.commit_index);
        page.gauge("applied_index", "The last entry applied.", &self.applied_index);
        page.gauge("last_index", "The last entry of the log.", &self.last_index);
        page.counter(
            "turns_visited_total",
            "Turns taken by whoever brought something, while the Raft thread had nothing to do.",
            &self.turns_visited,
        );
        page.gauge(
            "proposals_waiting",
            "Proposals in the Raft thread's inbox.",
            &self.proposals_waiting,
        );
        page.gauge(
            "waiters",
            "Requests that wait for an answer of the Raft thread.",
            &self.waiters,
        );
    }

    fn render_disk(&self, page: &mut Page) {
        page.counter(
            "log_written_bytes_total",
            "Bytes written to the log.",
            &self.log_written_bytes,
        );
        page.gauge("log_disk_bytes", "Bytes of the log on disk.", &self.log_disk_bytes);
        page.gauge("log_memory_entries", "Entries of the log in memory.", &self.log_memory_entries);
        page.gauge("log_memory_bytes", "Bytes of the log in memory.", &self.log_memory_bytes);
        page.gauge("snapshot_bytes", "Bytes of the newest snapshot file.", &self.snapshot_bytes);
        page.gauge("snapshot_index", "Index of the newest snapshot.", &self.snapshot_index);
        page.counter("snapshots_written_total", "Snapshots written here.", &self.snapshots_written);
    }

    fn render_jobs(&self, page: &mut Page) {
        page.head("jobs", "Jobs known to this node, by status.", "gauge");
        for (status, number) in Status::ALL.iter().zip(&self.jobs) {
            page.labelled("jobs", "status", status.as_str(), number);
        }
        page.gauge(
            "jobs_held",
            "Pending jobs that wait for a time to come: a start, or a retry.",
            &self.jobs_held,
        );
        page.gauge("dead_bytes", "Bytes of the jobs kept that failed.", &self.dead_bytes);
        page.counter(
            "dead_dropped_total",
            "Jobs that failed and were forgotten for want of room or by age, not by a user.",
            &self.dead_dropped,
        );
        page.gauge("crons", "Crons.", &self.crons);
        page.counter(
            "crons_fired_total",
            "Jobs that crons have submitted at their slots.",
            &self.crons_fired,
        );
        page.gauge("workers_live", "Workers that live.", &self.workers_live);
        page.gauge(
            "machine_bytes",
            "Bytes the queue keeps, by its own count.",
            &self.machine_bytes,
        );
    }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// A page of Prometheus text on its way.
#[derive(Debug, Default)]
struct Page {
    text: String,
}

impl Page {
    /// Writing to a `String` cannot fail; the result is dropped here once instead of everywhere.
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        let written = self.text.write_fmt(line);
        debug_assert!(written.is_ok(), "a string takes every line");
        self.text.push('\n');
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        self.line(format_args!("# HELP raftq_{name} {help}"));
        self.line(format_args!("# TYPE raftq_{name} {kind}"));
    }

    fn gauge(&mut self, name: &str, help: &str, number: &Number) {
        self.head(name, help, "gauge");
        self.line(format_args!("raftq_{name} {}", number.value()));
    }

    fn counter(&mut self, name: &str, help: &str, number: &Number) {
        self.head(name, help, "counter");
        self.line(format_args!("raftq_{name} {}", number.value()));
    }

    fn labelled(&mut self, name: &str, label: &str, value: &str, number: &Number) {
        self.line(format_args!("raftq_{name}{{{label}=\"{value}\"}} {}", number.value()));
    }

    fn histogram(&mut self, name: &str, what: &str, histogram: &Histogram, scrape: bool) {
        let seconds = |micros: u64| format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
        self.line(format_args!("# HELP {name}_seconds {what}, how long each took."));
        self.line(format_args!("# TYPE {name}_seconds histogram"));
        let mut below = 0;
        for (bound, bucket) in BUCKETS_MICROS.iter().zip(&histogram.buckets) {
            below += bucket.value();
            self.line(format_args!("{name}_seconds_bucket{{le=\"{}\"}} {below}", seconds(*bound)));
        }
        let count = histogram.count.value();
        self.line(format_args!("{name}_seconds_bucket{{le=\"+Inf\"}} {count}"));
        self.line(format_args!("{name}_seconds_sum {}", seconds(histogram.micros_sum.value())));
        self.line(format_args!("{name}_seconds_count {count}"));
        let recent = if scrape {
            histogram.micros_max_recent.take()
        } else {
            histogram.micros_max_recent.value()
        };
        for (suffix, which, micros) in [
            ("max", "the longest since the start", histogram.micros_max.value()),
            ("max_recent", "the longest since the last scrape", recent),
        ] {
            self.line(format_args!("# HELP {name}_micros_{suffix} {what}: {which}."));
            self.line(format_args!("# TYPE {name}_micros_{suffix} gauge"));
            self.line(format_args!("{name}_micros_{suffix} {micros}"));
        }
    }
}
