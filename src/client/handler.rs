//! The handlers of a library worker: what runs for one job, and what becomes of its result.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use async_std::task;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::client::context::Context;
use crate::jobs::job::{Assignment, Body, ERROR_BYTES_MAX, OUTPUT_BYTES_MAX, Verdict};
use crate::types::QueueName;
use crate::wire::refusal::cut;

/// A handler of any kind: what it comes to is how its attempt ended.
pub(crate) type Handler = Arc<dyn Fn(Context, Bytes) -> BoxFuture<'static, Verdict> + Send + Sync>;

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
                    Ok(Ok(output)) => verdict(Ok(output.into())),
                    Ok(Err(error)) => verdict(Err(error.to_string())),
                    Err(panic) => verdict(Err(panic_text(panic.as_ref()))),
                })
                .boxed(),
            Err(panic) => futures::future::ready(verdict(Err(panic_text(panic.as_ref())))).boxed(),
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
                Ok(Ok(output)) => verdict(Ok(output.into())),
                Ok(Err(error)) => verdict(Err(error.to_string())),
                Err(panic) => verdict(Err(panic_text(panic.as_ref()))),
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
) -> BoxFuture<'static, Verdict> {
    let why = match (handlers.get(&assignment.queue), assignment.body) {
        (Some(handler), Body::Payload(payload)) => return handler(context, payload),
        (Some(_), Body::Command(_)) => "this worker runs no commands".into(),
        (None, _) => format!("this worker has no handler for the queue {}", assignment.queue),
    };
    futures::future::ready(verdict(Err(why))).boxed()
}

/// Makes what a handler returned a report within its bounds: its output is the job's result, all of it. One that is
/// too long fails the attempt, for half a result is worse than none; of an error the start is kept.
fn verdict(handled: Result<Bytes, String>) -> Verdict {
    let (completed, output, error) = match handled {
        Ok(output) if output.len() > OUTPUT_BYTES_MAX => {
            let error = format!(
                "the result has {} bytes, and a job keeps {OUTPUT_BYTES_MAX} at most: store it elsewhere and \
                 return where it is",
                output.len()
            );
            (false, Bytes::new(), Some(error))
        }
        Ok(output) => (true, output, None),
        Err(error) => (false, Bytes::new(), Some(cut(&error, ERROR_BYTES_MAX).to_owned())),
    };
    Verdict { completed, exit_code: None, output, output_cut: false, error }
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
    use crate::types::{Fence, JobId};

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
        let (context, _hold) = Context::new(&assignment, futures::channel::mpsc::channel(1).0);
        task::block_on(run(&handlers, context, assignment))
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
    fn result_too_long_fails_its_attempt_and_an_error_keeps_its_start() {
        let echo = of_async(|_, payload: Bytes| async move { Ok::<_, String>(payload) });
        let result = |bytes| Body::Payload(Bytes::from(vec![b'a'; bytes]));
        let whole = handle(Arc::clone(&echo), result(OUTPUT_BYTES_MAX));
        assert!(whole.completed && !whole.output_cut && whole.output.len() == OUTPUT_BYTES_MAX);
        let long = handle(echo, result(OUTPUT_BYTES_MAX + 1));
        assert!(!long.completed && long.output.is_empty());
        let error = long.error.unwrap();
        assert!(error.starts_with("the result has 16385 bytes"), "{error}");
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
