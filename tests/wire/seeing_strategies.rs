//! Reads, and reasons why jobs wait, drawn at random.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use raftq::jobs::reason::{Chosen, Explanation, Reason};
use raftq::types::{Fence, Index, Millis};
use raftq::wire::message::{Filter, QueueFilter, Reply, Request};
use raftq::wire::reads::Consistency;

use super::{job_id, number, queue, rate, status, tags, worker};

pub(super) fn reads() -> impl Strategy<Value = Request> {
    let times = (option::of(number()), option::of(number()));
    let filter = (option::of(status()), tags(), option::of(".{1,60}"), times, option::of(job_id()))
        .prop_map(|(status, tags, text, times, after)| Filter {
            status,
            after,
            limit: 7,
            tag: tags.as_slice().first().cloned(),
            text,
            since_ms: times.0.map(Millis),
            until_ms: times.1.map(Millis),
            ..Filter::default()
        });
    let read = prop_oneof![
        Just(Request::ListWorkers),
        job_id().prop_map(|id| Request::GetJob { id }),
        job_id().prop_map(|id| Request::WhyJob { id }),
        filter.prop_map(|filter| Request::ListJobs(Box::new(filter))),
        option::of(queue()).prop_map(|after| Request::ListQueues(QueueFilter { after, limit: 5 })),
    ];
    let consistency = prop_oneof![
        Just(None),
        Just(Some(Consistency::Linearizable)),
        Just(Some(Consistency::Stale)),
        number().prop_map(|index| Some(Consistency::MinIndex(Index(index)))),
    ];
    (read, consistency).prop_map(|(read, consistency)| match consistency {
        Some(consistency) => Request::ReadAt { consistency, read: Box::new(read) },
        None => read,
    })
}

fn reason() -> impl Strategy<Value = Reason> {
    let millis = || number().prop_map(Millis);
    let code = || option::of(any::<i32>());
    let chosen = (any::<u32>(), any::<u32>(), any::<u32>())
        .prop_map(|(running, slots, free_workers)| Chosen { running, slots, free_workers });
    prop_oneof![
        millis().prop_map(|until_ms| Reason::Delayed { until_ms }),
        (any::<u32>(), option::of(millis()), code(), ".{0,60}").prop_map(
            |(attempt, until_ms, exit_code, error)| Reason::Retry {
                attempt,
                until_ms,
                exit_code,
                error
            }
        ),
        millis().prop_map(|since_ms| Reason::Paused { since_ms }),
        any::<bool>().prop_map(|is_payload| Reason::NoWorker { is_payload }),
        number().prop_map(|workers| Reason::Closed { workers }),
        (tags(), number()).prop_map(|(tags, workers)| Reason::NoWorkerWithTags {
            missing: tags.as_slice().to_vec(),
            tags,
            workers
        }),
        (number(), any::<u32>()).prop_map(|(running, limit)| Reason::AtLimit { running, limit }),
        (millis(), rate()).prop_map(|(until_ms, rate)| Reason::Rate { until_ms, rate }),
        (number(), number(), number()).prop_map(|(workers, running, slots)| Reason::Full {
            workers,
            running,
            slots
        }),
        (any::<u8>(), number(), number(), any::<bool>()).prop_map(
            |(priority, ahead, higher, is_more)| Reason::Behind {
                priority,
                ahead,
                higher,
                is_more
            }
        ),
        Just(Reason::Next),
        millis().prop_map(|until_ms| Reason::Expires { until_ms }),
        (worker(), millis(), number(), any::<u32>(), option::of(number()), chosen).prop_map(
            |(worker, since_ms, fence, attempt, timeout_ms, chosen)| Reason::Running {
                worker,
                since_ms,
                fence: Fence(fence),
                attempt,
                timeout_ms,
                chosen
            }
        ),
        (millis(), any::<u32>(), option::of(worker()), code(), option::of(".{0,60}")).prop_map(
            |(since_ms, attempt, worker, exit_code, error)| Reason::Ended {
                since_ms,
                attempt,
                worker,
                exit_code,
                error
            }
        ),
    ]
}

pub(super) fn explanations() -> impl Strategy<Value = Reply> {
    (job_id(), queue(), status(), number(), number(), vec(reason(), 0..9)).prop_map(
        |(id, queue, status, now, index, reasons)| {
            let (now_ms, index) = (Millis(now), Index(index));
            let explanation = Explanation { id, queue, status, now_ms, index, reasons };
            Reply::Explained(Box::new(explanation))
        },
    )
}
