//! The handlers of a library worker: what runs for one job, and what becomes of its result.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_std::task;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::jobs::job::{Assignment, Body, ERROR_BYTES_MAX, OUTPUT_BYTES_MAX, Verdict};
use crate::types::{Fence, JobId, QueueName};
use crate::wire::refusal::cut;

/// What a handler is told about the attempt it runs.
#[derive(Clone, Debug)]
pub struct Context {
    id: JobId,
    queue: QueueName,
    attempt: u32,
    fence: Fence,
    abandoned: Arc<AtomicBool>,
}

impl Context {
    pub(crate) fn new(assignment: &Assignment, abandoned: Arc<AtomicBool>) -> Self {
        Self {
            id: assignment.id,
            queue: assignment.queue.clone(),
            attempt: assignment.attempt,
            fence: assignment.fence,
            abandoned,
        }
    }

    /// Returns the job's id.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Returns the job's queue.
    #[must_use]
    pub fn queue(&self) -> &QueueName {
        &self.queue
    }

    /// Returns which attempt this is, from 1 on: above 1, a former worker was lost with the job.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns the token of the attempt, higher than that of every former one. Hand it to whatever the job
    /// writes to, so that it can refuse a lower one than it has seen.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// Tells whether the job is another worker's by now and this result will not count. Async handlers
    /// are dropped then; a blocking one should look here from time to time, and return.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }
}

/// What every handler comes down to: the last bytes of output, or why it failed.
pub(crate) type Handled = Result<Bytes, String>;

/// A handler of any kind.
pub(crate) type Handler = Arc<dyn Fn(Context, Bytes) -> BoxFuture<'static, Handled> + Send + Sync>;

/// One handler for each queue.
pub(crate) type Handlers = BTreeMap<QueueName, Handler>;

/// Wraps a handler that is a future.
pub(crate) fn of_async<H, F, O, E>(handler: H) -> Handler
where
    H: Fn(Context, Bytes) -> F + Send + Sync + 'static,
    F: Future<Output = Result<O, E>> + Send + 'static,
    O: Into<Bytes>,
    E: fmt::Display,
{
    Arc::new(move |context, payload| {
        // The handler itself may panic before it returns its future.
        match catch_unwind(AssertUnwindSafe(|| handler(context, payload))) {
            Ok(future) => AssertUnwindSafe(future)
                .catch_unwind()
                .map(|result| match result {
                    Ok(Ok(output)) => Ok(output.into()),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(panic) => Err(panic_text(panic.as_ref())),
                })
                .boxed(),
            Err(panic) => futures::future::ready(Err(panic_text(panic.as_ref()))).boxed(),
        }
    })
}

/// Wraps a handler that blocks its thread; it gets one of those kept for that.
pub(crate) fn of_blocking<H, O, E>(handler: H) -> Handler
where
    H: Fn(Context, Bytes) -> Result<O, E> + Send + Sync + 'static,
    O: Into<Bytes>,
    E: fmt::Display,
{
    let handler = Arc::new(handler);
    Arc::new(move |context, payload| {
        let handler = Arc::clone(&handler);
        task::spawn_blocking(move || {
            match catch_unwind(AssertUnwindSafe(|| handler(context, payload))) {
                Ok(Ok(output)) => Ok(output.into()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(panic) => Err(panic_text(panic.as_ref())),
            }
        })
        .boxed()
    })
}

/// Runs the handler for an assignment.
pub(crate) fn run(
    handlers: &Handlers,
    context: Context,
    assignment: Assignment,
) -> BoxFuture<'static, Handled> {
    let why = match (handlers.get(&assignment.queue), assignment.body) {
        (Some(handler), Body::Payload(payload)) => return handler(context, payload),
        (Some(_), Body::Command(_)) => "this worker runs no commands".into(),
        (None, _) => format!("this worker has no handler for the queue {}", assignment.queue),
    };
    futures::future::ready(Err(why)).boxed()
}

/// Makes what a handler returned a report within its bounds: the end of the output, the start of the error.
pub(crate) fn verdict(handled: Handled) -> Verdict {
    let (completed, mut output, error) = match handled {
        Ok(output) => (true, output, None),
        Err(error) => (false, Bytes::new(), Some(cut(&error, ERROR_BYTES_MAX).to_owned())),
    };
    let dropped = output.len().saturating_sub(OUTPUT_BYTES_MAX);
    if dropped > 0 {
        // A copy, or the whole output would stay in memory until the report is answered.
        output = Bytes::copy_from_slice(&output.split_off(dropped));
    }
    Verdict { completed, exit_code: None, output, output_cut: dropped > 0, error }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    format!("the handler panicked: {}", text.as_deref().unwrap_or("no message"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment(body: Body) -> Assignment {
        let queue = QueueName::new("mail").unwrap();
        Assignment {
            id: JobId([1; 16]),
            queue,
            attempt: 1,
            fence: Fence(7),
            timeout_ms: None,
            body,
        }
    }

    fn handle(handler: Handler, body: Body) -> Verdict {
        let handlers = Handlers::from([(QueueName::new("mail").unwrap(), handler)]);
        let assignment = assignment(body);
        let context = Context::new(&assignment, Arc::default());
        verdict(task::block_on(run(&handlers, context, assignment)))
    }

    #[test]
    fn handler_that_panics_fails_its_attempt_alone() {
        let payload = || Body::Payload(Bytes::from_static(b"x"));
        let early = of_async(|_, _| {
            if true {
                panic!("early {}", 1);
            }
            async { Ok::<_, String>("") }
        });
        let late =
            of_async(|_, _| async { if true { panic!("late") } else { Ok::<_, String>("") } });
        let blocking =
            of_blocking(|_, _| if true { panic!("blocking") } else { Ok::<_, String>("") });
        for (handler, text) in [(early, "early 1"), (late, "late"), (blocking, "blocking")] {
            let verdict = handle(handler, payload());
            assert!(!verdict.completed);
            assert_eq!(verdict.error, Some(format!("the handler panicked: {text}")));
        }
    }

    #[test]
    fn output_too_long_keeps_its_end_and_an_error_its_start() {
        let long = of_async(|_, payload: Bytes| async move {
            let mut output = vec![b'a'; OUTPUT_BYTES_MAX];
            output.extend_from_slice(&payload);
            Ok::<_, String>(output)
        });
        let verdict = handle(long, Body::Payload(Bytes::from_static(b"end")));
        assert!(verdict.completed && verdict.output_cut && verdict.output.ends_with(b"end"));
        assert_eq!(verdict.output.len(), OUTPUT_BYTES_MAX);
        let wrong = of_blocking(|_, _| Err::<Bytes, _>("é".repeat(ERROR_BYTES_MAX)));
        let error = handle(wrong, Body::Payload(Bytes::new())).error.unwrap();
        assert_eq!(error.len(), ERROR_BYTES_MAX);
    }

    #[test]
    fn command_given_to_a_handler_fails_with_the_reason() {
        let never = of_async(|_, _| async { Ok::<_, String>("") });
        let error = handle(never, Body::Command(vec!["true".into()])).error.unwrap();
        assert_eq!(error, "this worker runs no commands");
    }
}
