//! Every message that can be, drawn at random.

#[path = "seeing_strategies.rs"]
mod seeing;

use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use raftq::jobs::change::{Change, Event, Position, What};
use raftq::jobs::command::{Registration, Release, StatusUpdate};
use raftq::jobs::cron::{CronChange, CronView, Missed, NewCron};
use raftq::jobs::intake::{Intake, PERCENT_MAX, Progress, ProgressReport};
use raftq::jobs::job::{Assignment, AttemptView, Body, JobView, NewJob, Serves, Status, Verdict};
use raftq::jobs::options::{DURATION_MS_MAX, Options, PRIORITY_MAX, RETRIES_MAX, Tags};
use raftq::jobs::rules::{LIMIT_MAX, QueueChange, RATE_COUNT_MAX, Rate};
use raftq::raft::message::{
    AppendOutcome, Configuration, Entry, EntryKind, Message, SnapshotMeta, Voter,
};
use raftq::types::{
    ClusterId, CronName, DirId, Fence, Incarnation, Index, JobId, Millis, NodeId, QueueName, Tag,
    Term, UniqueKey, WorkerId,
};
use raftq::wire::bulk::BulkMessage;
use raftq::wire::crons::{CronAdded, CronChanged, CronFilter};
use raftq::wire::hello::Reject;
use raftq::wire::hello::{Hello, PeerHello, Role, Welcome};
use raftq::wire::message::{
    ClusterStatus, Code, Filter, LeaderHint, LogLine, NodeStatus, QueueChanged, QueueFilter,
    QueueView, Refusal, Reply, Request, Submitted, WAIT_MS_MAX, Watch, Watched, Withdrawn,
    WorkerView,
};
use raftq::wire::peer::PeerMessage;
use raftq::wire::request::LIST_LOG_MAX;

use crate::support::Any;

fn job_id() -> impl Strategy<Value = JobId> {
    any::<[u8; 16]>().prop_map(JobId)
}

fn queue() -> impl Strategy<Value = QueueName> {
    "[A-Za-z0-9._-]{1,64}".prop_map(|text| QueueName::new(&text).expect("a name"))
}

fn intake() -> impl Strategy<Value = Intake> {
    prop_oneof![Just(Intake::Open), Just(Intake::Quiet), Just(Intake::Drain)]
}

fn held() -> impl Strategy<Value = Vec<(JobId, Fence)>> {
    vec((job_id(), number().prop_map(Fence)), 0..5)
}

fn worker() -> impl Strategy<Value = WorkerId> {
    "[A-Za-z0-9._-]{1,64}".prop_map(|text| WorkerId::new(&text).expect("a name"))
}

fn data(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..200_u64, any::<u64>()]
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        ("[a-z]{1,9}", vec("[^\0]{0,40}", 0..20))
            .prop_map(|(program, words)| Body::Command([vec![program], words].concat())),
        data(400).prop_map(Body::Payload),
    ]
}

pub(crate) fn new_job() -> impl Strategy<Value = NewJob> {
    (job_id(), queue(), body(), options()).prop_map(|(id, queue, body, options)| NewJob {
        id,
        queue,
        body,
        options,
    })
}

fn status() -> impl Strategy<Value = Status> {
    prop::sample::select(Status::ALL.to_vec())
}

fn hint() -> impl Strategy<Value = LeaderHint> {
    (number(), "[a-z0-9.:]{0,40}", number()).prop_map(|(id, addr, term)| LeaderHint {
        id: NodeId(id),
        addr,
        term: Term(term),
    })
}

fn refusal() -> impl Strategy<Value = Refusal> {
    let code = prop::sample::select(Code::ALL.to_vec());
    let fields = (code, ".{0,100}", any::<bool>(), option::of(number()), option::of(hint()));
    (fields, option::of(number())).prop_map(|(fields, incarnation)| {
        let (code, message, unknown, retry_after_ms, leader) = fields;
        let incarnation = incarnation.map(Incarnation);
        Refusal { code, message, unknown, retry_after_ms, leader, incarnation }
    })
}

fn results<T: std::fmt::Debug>(
    ok: impl Strategy<Value = T>,
) -> impl Strategy<Value = Vec<Result<T, Refusal>>> {
    vec(prop_oneof![ok.prop_map(Ok), refusal().prop_map(Err)], 0..6)
}

fn serves() -> impl Strategy<Value = Serves> {
    let queues = prop::collection::btree_set(queue(), 1..5);
    prop_oneof![
        Just(Serves::Commands),
        queues.prop_map(|queues| Serves::Payloads(queues.into_iter().collect())),
    ]
}

pub(crate) fn update() -> impl Strategy<Value = StatusUpdate> {
    let verdict =
        (any::<bool>(), option::of(any::<i32>()), data(200), any::<bool>(), option::of(".{0,99}"));
    (job_id(), number(), verdict).prop_map(
        |(job, fence, (completed, exit_code, output, output_cut, error))| StatusUpdate {
            job,
            fence: Fence(fence),
            verdict: Verdict { completed, exit_code, output, output_cut, error },
        },
    )
}

fn tags() -> impl Strategy<Value = Tags> {
    vec("[a-z]{1,9}(=[a-z0-9/:.]{1,9})?", 0..4)
        .prop_map(|tags| Tags::new(tags.iter().map(|tag| Tag::new(tag).expect("a tag"))))
}

/// Options within their bounds; `None` for those that ask for nothing.
fn options() -> impl Strategy<Value = Option<Arc<Options>>> {
    let ms = || option::of(1..=DURATION_MS_MAX);
    let start = prop_oneof![
        Just((None, None)),
        (0..=DURATION_MS_MAX).prop_map(|ms| (Some(ms), None)),
        number().prop_map(|at| (None, Some(Millis(at)))),
    ];
    let backoff = (0..=DURATION_MS_MAX, 0..=DURATION_MS_MAX);
    let key = ("[ -~é]{1,60}", ms()).prop_map(|(key, ms)| (UniqueKey::new(&key).ok(), ms));
    let key = prop_oneof![Just((None, None)), key];
    let whole = (0..=PRIORITY_MAX, start, ms(), ms(), 0..=RETRIES_MAX, backoff, tags(), key)
        .prop_map(
            |(priority, (delay_ms, at_ms), ttl_ms, timeout_ms, retries, backoff, tags, key)| {
                Options {
                    priority,
                    delay_ms,
                    at_ms,
                    ttl_ms,
                    timeout_ms,
                    retries,
                    backoff_ms: backoff.0.min(backoff.1),
                    backoff_max_ms: backoff.0.max(backoff.1),
                    tags,
                    unique: key.0,
                    unique_for_ms: key.1,
                }
            },
        );
    prop_oneof![Just(None), whole.prop_map(Options::shared)]
}

fn past() -> impl Strategy<Value = AttemptView> {
    let times = (number(), number());
    (any::<u32>(), option::of(worker()), number(), times, option::of(any::<i32>()), ".{0,99}")
        .prop_map(|(attempt, worker, fence, times, exit_code, error)| AttemptView {
            attempt,
            worker,
            fence: Fence(fence),
            started_ms: Millis(times.0),
            ended_ms: Millis(times.1),
            exit_code,
            error,
        })
}

fn rate() -> impl Strategy<Value = Rate> {
    (1..=RATE_COUNT_MAX, 1..=DURATION_MS_MAX).prop_map(|(count, per_ms)| Rate { count, per_ms })
}

fn queue_change() -> impl Strategy<Value = QueueChange> {
    prop_oneof![
        Just(QueueChange::Pause),
        Just(QueueChange::Resume),
        Just(QueueChange::Drain),
        option::of(1..=LIMIT_MAX).prop_map(QueueChange::Limit),
        option::of(rate()).prop_map(QueueChange::Rate),
    ]
}

fn cron_name() -> impl Strategy<Value = CronName> {
    "[A-Za-z0-9._-]{1,64}".prop_map(|text| CronName::new(&text).expect("a name"))
}

fn spec() -> impl Strategy<Value = String> {
    let minutes =
        (0..60u8, 1..60u8).prop_map(|(minute, step)| format!("{minute}/{step} * * jan,3 *"));
    prop_oneof![Just("@hourly".into()), minutes, (1..999u32).prop_map(|s| format!("@every {s}s"))]
}

fn missed() -> impl Strategy<Value = Missed> {
    prop::sample::select(Missed::ALL.to_vec())
}

fn new_cron() -> impl Strategy<Value = NewCron> {
    (cron_name(), spec(), "[A-Za-z/_+-]{1,64}", missed(), new_job()).prop_map(
        |(name, spec, tz, missed, NewJob { queue, body, options, .. })| {
            let plain = options.map(|it| Options { at_ms: None, ..Options::clone(&it) });
            let options = plain.and_then(Options::shared);
            NewCron { name, spec, tz, missed, queue, body, options }
        },
    )
}

fn cron_change() -> impl Strategy<Value = CronChange> {
    prop_oneof![
        Just(CronChange::Pause),
        Just(CronChange::Resume),
        Just(CronChange::Remove),
        job_id().prop_map(CronChange::Trigger),
    ]
}

fn cron_view() -> impl Strategy<Value = CronView> {
    let ms = || option::of(number().prop_map(Millis));
    let last = (ms(), option::of(job_id()), option::of("[^\0]{0,40}"));
    (new_cron(), number(), ms(), ms(), last, number(), any::<bool>()).prop_map(
        |(new, number, paused_ms, next_ms, last, fired, with_body)| CronView {
            name: new.name,
            spec: new.spec,
            tz: new.tz,
            missed: new.missed,
            queue: new.queue,
            created_ms: Millis(number),
            paused_ms,
            next_ms,
            last_slot_ms: last.0,
            last_job: last.1,
            last_error: last.2,
            fired,
            skipped: number,
            options: new.options,
            body: with_body.then_some(new.body),
        },
    )
}

fn queue_view() -> impl Strategy<Value = QueueView> {
    let counts = (number(), number(), number(), number());
    let times = (option::of(number()), option::of(number()));
    (queue(), counts, times, option::of(any::<u32>()), option::of(rate())).prop_map(
        |(name, counts, times, limit, rate)| QueueView {
            name,
            pending: counts.0,
            held: counts.1,
            running: counts.2,
            completed: counts.3,
            failed: counts.0,
            cancelled: counts.1,
            paused_ms: times.0.map(Millis),
            draining_ms: times.1.map(Millis),
            limit,
            rate,
        },
    )
}

fn view(with_body: bool) -> impl Strategy<Value = JobView> {
    let body = body().prop_map(move |body| with_body.then_some(body));
    let times = (number(), option::of(number()), option::of(number()), option::of(number()));
    let asked = (options(), vec(past(), 0..3));
    let texts = (data(200), any::<bool>(), option::of(".{0,99}"));
    let held = (any::<u32>(), option::of(worker()), option::of(number()), option::of(any::<i32>()));
    (job_id(), queue(), status(), held, texts, times, (asked, body)).prop_map(
        move |(id, queue, status, held, texts, times, ((options, past), body))| {
            let (attempt, worker, fence, exit_code) = held;
            JobView {
                id,
                queue,
                status,
                attempt,
                worker,
                fence: fence.map(Fence),
                exit_code,
                output: texts.0,
                output_cut: texts.1,
                error: texts.2,
                created_ms: Millis(times.0),
                started_ms: times.1.map(Millis),
                finished_ms: times.2.map(Millis),
                options,
                held_ms: times.3.map(Millis),
                progress: times.3.map(|at| Progress {
                    percent: 7,
                    note: if at % 2 == 0 { String::new() } else { "half".into() },
                    at_ms: Millis(at),
                }),
                past: if with_body { past } else { Vec::new() },
                body,
            }
        },
    )
}

fn requests() -> impl Strategy<Value = Request> {
    let start = || (worker(), number().prop_map(Incarnation));
    prop_oneof![
        Just(Request::Ping),
        Just(Request::ListWorkers),
        new_job().prop_map(Request::SubmitJob),
        vec(new_job(), 0..5).prop_map(Request::SubmitBatch),
        job_id().prop_map(|id| Request::GetJob { id }),
        (
            option::of(status()),
            option::of(queue()),
            option::of(worker()),
            option::of(job_id()),
            0..=1000_u32
        )
            .prop_map(|(status, queue, worker, after, limit)| {
                Request::ListJobs(Box::new(Filter {
                    status,
                    queue,
                    worker,
                    after,
                    limit,
                    ..Filter::default()
                }))
            }),
        seeing::reads(),
        (vec(job_id(), 0..9), 0..=WAIT_MS_MAX)
            .prop_map(|(ids, wait_ms)| Request::WaitJobs { ids, wait_ms }),
        vec(job_id(), 0..9).prop_map(|ids| Request::CancelJobs { ids }),
        any::<bool>().prop_map(|local| Request::GetClusterStatus { local }),
        (number(), 0..=LIST_LOG_MAX)
            .prop_map(|(from, limit)| Request::ListLog { from: Index(from), limit }),
        option::of(number()).prop_map(|to| Request::TransferLeadership { to: to.map(NodeId) }),
        (option::of(queue()), 1..=1000_u32)
            .prop_map(|(after, limit)| { Request::ListQueues(QueueFilter { after, limit }) }),
        (queue(), queue_change())
            .prop_map(|(queue, change)| Request::ChangeQueue { queue, change }),
        vec(job_id(), 0..9).prop_map(|ids| Request::RetryJobs { ids }),
        vec(job_id(), 0..9).prop_map(|ids| Request::PurgeJobs { ids }),
        watches().prop_map(Request::Watch),
        (worker(), intake()).prop_map(|(worker, intake)| Request::ChangeWorker { worker, intake }),
        (job_id(), number(), 0..=PERCENT_MAX, ".{0,60}").prop_map(|(job, fence, percent, note)| {
            Request::ReportProgress(ProgressReport { job, fence: Fence(fence), percent, note })
        }),
        new_cron().prop_map(|cron| Request::AddCron(Box::new(cron))),
        (cron_name(), cron_change())
            .prop_map(|(name, change)| Request::ChangeCron { name, change }),
        (option::of(cron_name()), option::of(cron_name()), 1..=1000_u32)
            .prop_map(|(name, after, limit)| Request::ListCrons(CronFilter { name, after, limit })),
        (start(), 1..=4096_u32, serves(), tags(), option::of(number())).prop_map(
            |((worker, incarnation), slots, serves, tags, gave_up)| {
                Request::RegisterWorker(Registration {
                    worker,
                    incarnation: incarnation.min(Incarnation::MAX),
                    slots,
                    serves,
                    tags,
                    gave_up: gave_up.map(Incarnation),
                })
            }
        ),
        (start(), any::<bool>(), held()).prop_map(|((worker, incarnation), draining, held)| {
            Request::Heartbeat { worker, incarnation, draining, held }
        }),
        (start(), number(), 0..=256_u32, 0..=WAIT_MS_MAX).prop_map(
            |((worker, incarnation), after, max, wait_ms)| {
                Request::Reserve { worker, incarnation, after: Fence(after), max, wait_ms }
            }
        ),
        update().prop_map(Request::UpdateJobStatus),
        vec(update(), 0..5).prop_map(Request::BatchUpdateJobStatus),
        (start(), vec((job_id(), number().prop_map(Fence)), 0..5), any::<bool>()).prop_map(
            |((worker, incarnation), jobs, leaving)| {
                Request::ReleaseJobs(Release { worker, incarnation, jobs, leaving })
            }
        ),
    ]
}

fn position() -> impl Strategy<Value = Position> {
    (number(), any::<u32>()).prop_map(|(index, n)| Position { index: Index(index), n })
}

fn watches() -> impl Strategy<Value = Watch> {
    let from = prop_oneof![
        Just((None, false)),
        Just((None, true)),
        position().prop_map(|at| (Some(at), false))
    ];
    (from, option::of(queue()), option::of(job_id()), 0..=WAIT_MS_MAX).prop_map(
        |((after, oldest), queue, job, wait_ms)| Watch { after, oldest, queue, job, wait_ms },
    )
}

fn events() -> impl Strategy<Value = Event> {
    let whose = (
        option::of(job_id()),
        option::of(queue()),
        option::of(any::<u32>()),
        option::of(any::<u8>()),
        option::of(worker()),
    );
    let how = (
        option::of(number()),
        option::of(any::<i32>()),
        option::of("[ -~]{0,40}"),
        option::of(number()),
        option::of(queue_change()),
    );
    (position(), number(), prop::sample::select(What::ALL.as_slice()), whose, how).prop_map(
        |(position, now, what, whose, how)| {
            let (job, queue, attempt, priority, worker) = whose;
            let (fence, exit_code, error, held, rule) = how;
            let change = Change {
                what,
                job,
                queue,
                attempt,
                priority,
                worker,
                fence: fence.map(Fence),
                exit_code,
                error: error.map(Into::into),
                held_ms: held.map(Millis),
                rule,
            };
            Event { position, now_ms: Millis(now), change }
        },
    )
}

fn assignments() -> impl Strategy<Value = Vec<Assignment>> {
    let one = (job_id(), queue(), any::<u32>(), body());
    (0..1_000_000_u64, vec(one, 0..5)).prop_map(|(first, jobs)| {
        let jobs = jobs.into_iter().zip(first..);
        let assignment = |((id, queue, attempt, body), fence)| Assignment {
            id,
            queue,
            attempt,
            fence: Fence(fence),
            timeout_ms: None,
            body,
        };
        jobs.map(assignment).collect()
    })
}

fn node_status() -> impl Strategy<Value = NodeStatus> {
    (
        number(),
        "[a-z0-9.:]{0,40}",
        "[a-z]{0,9}",
        any::<bool>(),
        number(),
        number(),
        number(),
        "[0-9a-f]{32}",
    )
        .prop_map(
            |(id, addr, role, is_alive, match_index, applied_index, digest_index, digest)| {
                NodeStatus {
                    id: NodeId(id),
                    addr,
                    role,
                    is_alive,
                    match_index: Index(match_index),
                    applied_index: Index(applied_index),
                    digest_index: Index(digest_index),
                    digest,
                }
            },
        )
}

fn replies() -> impl Strategy<Value = Reply> {
    let submitted =
        || (job_id(), any::<bool>()).prop_map(|(id, created)| Submitted { id, created });
    let status_of_all = (
        any::<[u8; 16]>(),
        any::<bool>(),
        number(),
        option::of(number()),
        vec(node_status(), 0..4),
    );
    prop_oneof![
        Just(Reply::Pong),
        Just(Reply::Registered),
        submitted().prop_map(Reply::Submitted),
        results(submitted()).prop_map(Reply::SubmittedBatch),
        (number(), intake(), vec((number(), option::of(status())), 0..5)).prop_map(
            |(term, intake, over)| {
                let withdrawn = |(fence, status)| Withdrawn { fence: Fence(fence), status };
                let withdrawn = over.into_iter().map(withdrawn).collect();
                Reply::HeartbeatAck { term: Term(term), intake, withdrawn }
            }
        ),
        any::<u32>().prop_map(|running| Reply::WorkerChanged { running }),
        Just(Reply::ProgressNoted),
        results(Just(())).prop_map(Reply::Updated),
        any::<u32>().prop_map(|count| Reply::Released { count }),
        assignments().prop_map(Reply::Reserved),
        view(true).prop_map(|job| Reply::Job(Box::new(job))),
        (vec(view(false), 0..5), any::<bool>(), option::of(job_id()))
            .prop_map(|(jobs, more, after)| Reply::Jobs { jobs, more, after }),
        seeing::explanations(),
        (number(), view(true)).prop_map(|(index, job)| Reply::ReadAt {
            index: Index(index),
            reply: Box::new(Reply::Job(Box::new(job))),
        }),
        results(view(false)).prop_map(Reply::Waited),
        results(status()).prop_map(Reply::Cancelled),
        results(Just(())).prop_map(Reply::Retried),
        results(Just(())).prop_map(Reply::Purged),
        (vec(events(), 0..5), position())
            .prop_map(|(events, next)| Reply::Watched(Watched { events, next })),
        (any::<bool>(), option::of(number())).prop_map(|(created, next)| {
            Reply::CronAdded(CronAdded { created, next_ms: next.map(Millis) })
        }),
        (option::of(number()), option::of(job_id())).prop_map(|(next, job)| {
            Reply::CronChanged(CronChanged { next_ms: next.map(Millis), job })
        }),
        (vec(cron_view(), 0..4), any::<bool>())
            .prop_map(|(crons, more)| Reply::Crons { crons, more }),
        (number(), number()).prop_map(|(pending, running)| {
            Reply::QueueChanged(QueueChanged { pending, running })
        }),
        (vec(queue_view(), 0..4), any::<bool>())
            .prop_map(|(queues, more)| Reply::Queues { queues, more }),
        vec((worker(), number(), serves(), tags(), any::<u32>()), 0..4).prop_map(|workers| {
            let view = |(id, incarnation, serves, tags, slots)| WorkerView {
                id,
                incarnation: Incarnation(incarnation),
                serves,
                tags,
                slots,
                running: slots / 2,
                state: "live".into(),
                registered_ms: Millis(5),
                intake: if slots % 2 == 0 { Intake::Open } else { Intake::Quiet },
            };
            Reply::Workers(workers.into_iter().map(view).collect())
        }),
        status_of_all.prop_map(|(cluster, from_leader, term, leader, nodes)| {
            Reply::ClusterStatus(Box::new(ClusterStatus {
                cluster_id: ClusterId(cluster),
                node: NodeId(1),
                from_leader,
                term: Term(term),
                leader: leader.map(NodeId),
                commit_index: Index(term),
                nodes,
            }))
        }),
        vec((number(), number(), ".{0,30}"), 0..4).prop_map(|lines| {
            let line = |(index, term, summary)| LogLine {
                index: Index(index),
                term: Term(term),
                kind: "noop".into(),
                bytes: 5,
                now_ms: Millis(6),
                summary,
            };
            Reply::Log(lines.into_iter().map(line).collect())
        }),
        number().prop_map(|to| Reply::Transferred { to: NodeId(to) }),
        refusal().prop_map(Reply::Refused),
    ]
}

fn meta() -> impl Strategy<Value = SnapshotMeta> {
    let voter = ("[a-z0-9.:]{0,30}", option::of(any::<[u8; 16]>()));
    (number(), number(), any::<[u8; 16]>(), vec(voter, 1..=7)).prop_map(
        |(index, term, cluster, voters)| {
            let voters = voters.into_iter().zip(1..);
            let voters =
                voters.map(|((addr, dir), id)| Voter { id: NodeId(id), addr, dir: dir.map(DirId) });
            SnapshotMeta {
                index: Index(index),
                term: Term(term),
                configuration: Configuration {
                    cluster: ClusterId(cluster),
                    voters: voters.collect(),
                },
            }
        },
    )
}

fn append() -> impl Strategy<Value = Message> {
    let kinds = vec![EntryKind::Noop, EntryKind::Configuration, EntryKind::Command];
    let entry = (number(), prop::sample::select(kinds), data(60));
    ([number(), number(), number(), number(), number()], 0..u64::MAX - 10, vec(entry, 0..6))
        .prop_map(|([term, prev_term, commit, session, round], prev, entries)| {
            let entries = entries.into_iter().zip(prev + 1..);
            let entries = entries.map(|((term, kind, data), index)| Entry {
                index: Index(index),
                term: Term(term),
                kind,
                data,
            });
            Message::AppendEntries {
                term: Term(term),
                prev_index: Index(prev),
                prev_term: Term(prev_term),
                entries: entries.collect(),
                commit_index: Index(commit),
                session,
                round,
            }
        })
}

fn messages() -> impl Strategy<Value = Message> {
    let pair = || (number().prop_map(Index), number().prop_map(Term));
    let term = || number().prop_map(Term);
    let outcome = prop_oneof![
        number().prop_map(|index| AppendOutcome::Accepted { match_index: Index(index) }),
        (number(), pair()).prop_map(|(prev, (hint_index, hint_term))| {
            AppendOutcome::Rejected { prev_index: Index(prev), hint_index, hint_term }
        }),
    ];
    prop_oneof![
        (term(), pair()).prop_map(|(term, (last_index, last_term))| Message::PreVote {
            term,
            last_index,
            last_term
        }),
        (term(), any::<bool>()).prop_map(|(term, granted)| Message::PreVoteReply { term, granted }),
        (term(), pair(), any::<bool>()).prop_map(|(term, (last_index, last_term), transfer)| {
            Message::Vote { term, last_index, last_term, transfer }
        }),
        (term(), any::<bool>()).prop_map(|(term, granted)| Message::VoteReply { term, granted }),
        append(),
        (term(), outcome, number(), number(), option::of(number())).prop_map(
            |(term, outcome, session, round, healing)| Message::AppendReply {
                term,
                outcome,
                session,
                round,
                healing,
            },
        ),
        (term(), meta()).prop_map(|(term, meta)| Message::InstallSnapshot { term, meta }),
        term().prop_map(|term| Message::TimeoutNow { term }),
        (term(), number(), any::<bool>()).prop_map(|(term, token, healing)| Message::ReadIndex {
            term,
            token,
            healing
        }),
        (term(), number(), option::of(number())).prop_map(|(term, token, index)| {
            Message::ReadIndexReply { term, token, index: index.map(Index) }
        }),
    ]
}

fn peer_messages() -> impl Strategy<Value = PeerMessage> {
    let digest = (number().prop_map(Index), any::<u128>());
    (any::<u16>(), number(), number(), vec(digest, 0..=4), messages()).prop_map(
        |(group, wall, applied, digests, message)| PeerMessage {
            group,
            wall_ms: Millis(wall),
            applied_index: Index(applied),
            digests,
            message,
        },
    )
}

fn bulk() -> impl Strategy<Value = BulkMessage> {
    let id = any::<[u8; 16]>;
    prop_oneof![
        (number(), meta(), id(), number()).prop_map(|(term, meta, id, bytes)| BulkMessage::Offer {
            term: Term(term),
            meta,
            id,
            bytes
        }),
        (id(), number()).prop_map(|(id, offset)| BulkMessage::Accept { id, offset }),
        (number(), any::<bool>(), ".{0,50}").prop_map(|(term, held, reason)| {
            BulkMessage::Decline { term: Term(term), held, reason }
        }),
        (id(), number(), data(500)).prop_map(|(id, offset, data)| BulkMessage::Chunk {
            id,
            offset,
            data
        }),
        (id(), number()).prop_map(|(id, offset)| BulkMessage::Window { id, offset }),
        id().prop_map(|id| BulkMessage::Done { id }),
    ]
}

fn handshakes() -> impl Strategy<Value = Any> {
    let peer = (number(), any::<[u8; 16]>(), number(), any::<u32>());
    let hello = (any::<(u32, u32, [u8; 16], bool)>(), "[ -~]{0,128}", option::of(peer)).prop_map(
        |((a, b, cluster, bulk), agent, peer)| {
            let peer = peer.map(|(node, dir, expects, peers_crc)| PeerHello {
                node: NodeId(node),
                dir: DirId(dir),
                expects: NodeId(expects),
                peers_crc,
            });
            let role = match (&peer, bulk) {
                (None, _) => Role::Client,
                (Some(_), false) => Role::Raft,
                (Some(_), true) => Role::Bulk,
            };
            let (version_min, version_max) = (a.min(b), a.max(b));
            Any::Hello(Hello {
                version_min,
                version_max,
                cluster: ClusterId(cluster),
                role,
                agent,
                peer,
            })
        },
    );
    let nodes = vec((number().prop_map(NodeId), "[a-z0-9.:]{0,40}"), 0..8);
    let welcome =
        (any::<(u32, [u8; 16], [u8; 16], u32, u32)>(), number(), option::of(hint()), nodes);
    let welcome =
        welcome.prop_map(|((version, cluster, dir, frame, flight), node, leader, nodes)| {
            Any::Welcome(Welcome {
                version,
                cluster: ClusterId(cluster),
                node: NodeId(node),
                dir: DirId(dir),
                leader,
                nodes,
                frame_bytes_max: frame,
                in_flight_max: flight,
            })
        });
    let code = prop::sample::select(Code::ALL.to_vec());
    let reject = (code, ".{0,99}", any::<(u32, u32)>()).prop_map(|(code, message, versions)| {
        Any::Reject(Reject { code, message, version_min: versions.0, version_max: versions.1 })
    });
    prop_oneof![hello, welcome, reject]
}

pub(crate) fn any_message() -> impl Strategy<Value = Any> {
    prop_oneof![
        handshakes(),
        requests().prop_map(Any::Request),
        replies().prop_map(Any::Reply),
        peer_messages().prop_map(Any::Peer),
        bulk().prop_map(Any::Bulk),
    ]
}
