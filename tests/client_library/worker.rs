//! The library worker against a scripted node: registers, heartbeats, handles, reports, gives up, and leaves.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_std::channel::{self, Receiver, Sender};
use async_std::task::block_on;
use bytes::Bytes;
use raftq::client::client::Client;
use raftq::client::clock::now_ms;
use raftq::client::error::Error;
use raftq::client::worker::{StopReport, Worker};
use raftq::jobs::command::{Registration, Release, StatusUpdate};
use raftq::jobs::job::{Assignment, Body, OUTPUT_BYTES_MAX, Serves};
use raftq::types::{Fence, QueueName, Term, WorkerId};
use raftq::wire::message::{Refusal, Reply, Request};

use crate::fake::{Act, Fake, id, refuse};

/// What the scripted node has heard, and what it hands out.
#[derive(Default)]
struct Book {
    jobs: Vec<Assignment>,
    registrations: Vec<Registration>,
    updates: Vec<StatusUpdate>,
    releases: Vec<Release>,
}

type Shared = Arc<Mutex<Book>>;

fn book(jobs: Vec<Assignment>) -> Shared {
    Arc::new(Mutex::new(Book { jobs, ..Book::default() }))
}

fn job(number: u64, queue: &str, payload: &'static str) -> Assignment {
    Assignment {
        id: id(number),
        queue: QueueName::new(queue).unwrap(),
        attempt: 1,
        fence: Fence(number),
        body: Body::Payload(Bytes::from_static(payload.as_bytes())),
    }
}

/// A node that does its part, but for what `first` decides otherwise; after `enough` reports it says stop.
async fn node(
    book: &Shared,
    enough: usize,
    stop: Sender<()>,
    mut first: impl FnMut(&mut Book, &Request) -> Option<Act> + Send + 'static,
) -> Fake {
    let book = Arc::clone(book);
    Fake::start(move |request| {
        let mut book = book.lock().unwrap();
        if let Some(act) = first(&mut book, request) {
            return act;
        }
        Act::Say(match request {
            Request::RegisterWorker(registration) => {
                book.registrations.push(registration.clone());
                Reply::Registered
            }
            Request::Heartbeat { .. } => Reply::HeartbeatAck { term: Term(1) },
            Request::Reserve { after, max, .. } => {
                let new = book.jobs.iter().filter(|job| job.fence > *after);
                let new: Vec<_> = new.take(*max as usize).cloned().collect();
                if new.is_empty() {
                    return Act::Ignore;
                }
                Reply::Reserved(new)
            }
            Request::BatchUpdateJobStatus(updates) => {
                book.updates.extend(updates.iter().cloned());
                if book.updates.len() >= enough {
                    stop.try_send(()).unwrap();
                }
                Reply::Updated(vec![Ok(()); updates.len()])
            }
            Request::ReleaseJobs(release) => {
                book.releases.push(release.clone());
                Reply::Released { count: u32::try_from(release.jobs.len()).unwrap() }
            }
            other => panic!("a worker does not send {other:?}"),
        })
    })
    .await
}

fn worker(fake: &Fake) -> Worker {
    let client = Client::builder().seeds([fake.addr.as_str()]).build().unwrap();
    Worker::new(client).name("tester")
}

fn stops() -> (Sender<()>, Receiver<()>) {
    channel::unbounded()
}

#[test]
fn handlers_run_and_every_end_is_reported() {
    block_on(async {
        let jobs = vec![
            job(1, "mail", "good"),
            job(2, "mail", "bad"),
            job(3, "mail", "panic"),
            job(4, "resize", "good"),
            job(5, "resize", "panic"),
            job(6, "mail", "large"),
        ];
        let book = book(jobs);
        let (stop, stopped) = stops();
        let fake = node(&book, 6, stop, |_, _| None).await;
        let report = worker(&fake)
            .slots(2)
            .handle("mail", |job| async move {
                match job.payload.as_ref() {
                    b"bad" => Err(format!("no such address in attempt {}", job.attempt)),
                    b"panic" => panic!("out of stamps"),
                    b"large" => Ok(vec![b'x'; OUTPUT_BYTES_MAX + 1]),
                    other => Ok([b"sent ", other].concat()),
                }
            })
            .handle_blocking("resize", |job| {
                assert_eq!(job.payload, "good", "not an image");
                Ok(job.payload)
            })
            .run_until(stopped.recv())
            .await
            .unwrap();
        assert_eq!(report, StopReport { completed: 3, failed: 3, ..StopReport::default() });
        let book = book.lock().unwrap();
        let mut updates = book.updates.clone();
        updates.sort_by_key(|update| update.fence);
        let error = |at: usize| updates[at].verdict.error.clone().unwrap();
        assert_eq!(
            updates.iter().map(|update| update.job).collect::<Vec<_>>(),
            [1, 2, 3, 4, 5, 6].map(id)
        );
        assert!(updates[0].verdict.completed);
        assert_eq!(updates[0].verdict.output, "sent good");
        assert_eq!(error(1), "no such address in attempt 1");
        assert_eq!(error(2), "the handler panicked: out of stamps");
        assert_eq!(updates[3].verdict.output, "good");
        assert!(error(4).contains("not an image"), "{}", error(4));
        assert_eq!(updates[5].verdict.output.len(), OUTPUT_BYTES_MAX);
        assert!(updates[5].verdict.output_cut);
        let registration = &book.registrations[0];
        assert_eq!((registration.slots, registration.gave_up), (2, false));
        let queues = ["mail", "resize"].map(|name| QueueName::new(name).unwrap());
        assert_eq!(registration.serves, Serves::Payloads(queues.to_vec()));
        let release = &book.releases[0];
        assert!(release.leaving && release.jobs.is_empty());
        assert_eq!(release.worker, WorkerId::new("tester").unwrap());
    });
}

#[test]
fn report_without_an_answer_is_sent_again_unchanged() {
    block_on(async {
        let book = book(vec![job(1, "mail", "good")]);
        let (stop, stopped) = stops();
        let mut tries = 0;
        let fake = node(&book, 1, stop, move |_, request| {
            let is_report = matches!(request, Request::BatchUpdateJobStatus(_));
            tries += u32::from(is_report);
            match tries {
                1 if is_report => Some(Act::Break),
                2 if is_report => Some(refuse(Refusal::unavailable("no leader"))),
                _ => None,
            }
        })
        .await;
        let worker = worker(&fake).handle("mail", |job| async move { Ok(job.payload) });
        let report = worker.run_until(stopped.recv()).await.unwrap();
        assert_eq!(report.completed, 1);
        let asked = fake.asked();
        let is_report = |request: &&Request| matches!(request, Request::BatchUpdateJobStatus(_));
        let reports: Vec<_> = asked.iter().filter(is_report).collect();
        assert_eq!(reports.len(), 3);
        assert!(reports.iter().all(|report| *report == reports[0]));
    });
}

/// Tells when the future that holds it is dropped.
struct Guard(Sender<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.try_send(()).unwrap();
    }
}

/// Handles attempt 1 for ever, and every later one at once.
fn stuck_at_first(worker: Worker, begun: Sender<()>, dropped: Sender<()>) -> Worker {
    worker.handle("mail", move |job| {
        let (begun, guard) = (begun.clone(), Guard(dropped.clone()));
        async move {
            let _guard = guard;
            begun.send(()).await.unwrap();
            if job.attempt == 1 {
                futures::future::pending::<()>().await;
            }
            Ok("done")
        }
    })
}

/// Gives the one job again, under a new fence, to a start that gave up the first.
fn again(book: &mut Book, registration: &Registration) {
    if registration.gave_up {
        let second = |job: Assignment| Assignment { attempt: 2, fence: Fence(9), ..job };
        book.jobs = book.jobs.drain(..1).map(second).collect();
    }
}

#[test]
fn heartbeat_refused_abandons_the_jobs_and_registers_anew() {
    block_on(async {
        let book = book(vec![job(1, "mail", "good")]);
        let (stop, stopped) = stops();
        let (begun, has_begun) = stops();
        let (dropped, was_dropped) = stops();
        let fake = node(&book, 1, stop, |book, request| match request {
            Request::RegisterWorker(registration) => {
                again(book, registration);
                None
            }
            Request::Heartbeat { incarnation, .. } => {
                let is_first = book.registrations[0].incarnation == *incarnation;
                is_first.then(|| refuse(Refusal::failed_precondition("judged lost")))
            }
            _ => None,
        })
        .await;
        let worker = stuck_at_first(worker(&fake), begun, dropped);
        let report = worker.run_until(stopped.recv()).await.unwrap();
        assert_eq!((report.completed, report.abandoned), (1, 1));
        has_begun.try_recv().unwrap();
        was_dropped.recv().await.unwrap();
        let book = book.lock().unwrap();
        let [first, second] = book.registrations.as_slice() else { panic!("two starts") };
        assert_ne!(first.incarnation, second.incarnation);
        assert!(!first.gave_up && second.gave_up);
        assert_eq!(book.updates[0].fence, Fence(9), "nothing of the abandoned attempt is told");
    });
}

#[test]
fn three_seconds_without_an_answered_heartbeat_void_the_start() {
    block_on(async {
        let book = book(vec![job(1, "mail", "good")]);
        let (stop, stopped) = stops();
        let (begun, _has_begun) = stops();
        let (dropped, was_dropped) = stops();
        let fake = node(&book, 1, stop, |book, request| match request {
            Request::RegisterWorker(registration) => {
                again(book, registration);
                None
            }
            Request::Heartbeat { incarnation, .. } => {
                (book.registrations[0].incarnation == *incarnation).then_some(Act::Ignore)
            }
            _ => None,
        })
        .await;
        let began_ms = now_ms();
        let worker = stuck_at_first(worker(&fake), begun, dropped);
        let report = worker.run_until(stopped.recv()).await.unwrap();
        assert!(now_ms() - began_ms >= 3_000);
        assert_eq!((report.completed, report.abandoned), (1, 1));
        was_dropped.recv().await.unwrap();
        assert_eq!(book.lock().unwrap().registrations.len(), 2);
    });
}

#[test]
fn shutdown_drains_and_lets_the_running_job_end() {
    block_on(async {
        let book = book(vec![job(1, "mail", "good")]);
        let (stop, _stopped) = stops();
        let (begun, has_begun) = stops();
        let (drained, has_drained) = stops();
        let fake = node(&book, 1, stop, move |_, request| {
            if let Request::Heartbeat { draining: true, .. } = request {
                drained.try_send(()).unwrap();
            }
            None
        })
        .await;
        let worker = worker(&fake).grace(Duration::from_secs(60)).handle("mail", move |_job| {
            let (begun, has_drained) = (begun.clone(), has_drained.clone());
            async move {
                begun.send(()).await.unwrap();
                has_drained.recv().await.unwrap();
                Ok("done")
            }
        });
        let report = worker.run_until(has_begun.recv()).await.unwrap();
        assert_eq!(report, StopReport { completed: 1, ..StopReport::default() });
        assert_eq!(book.lock().unwrap().releases.len(), 1);
    });
}

#[test]
fn job_that_outlasts_the_grace_is_given_back() {
    block_on(async {
        let book = book(vec![job(1, "mail", "good")]);
        let (stop, _stopped) = stops();
        let (begun, has_begun) = stops();
        let (dropped, was_dropped) = stops();
        let fake = node(&book, 1, stop, |_, _| None).await;
        let worker = stuck_at_first(worker(&fake).grace(Duration::ZERO), begun, dropped);
        let report = worker.run_until(has_begun.recv()).await.unwrap();
        assert_eq!(report, StopReport { released: 1, ..StopReport::default() });
        was_dropped.recv().await.unwrap();
        let book = book.lock().unwrap();
        assert_eq!(book.releases[0].jobs, [(id(1), Fence(1))]);
        assert!(book.releases[0].leaving && book.updates.is_empty());
    });
}

#[test]
fn stale_result_is_dropped_and_counted() {
    block_on(async {
        let book = book(vec![job(1, "mail", "good")]);
        let (stop, stopped) = stops();
        let fake = node(&book, usize::MAX, stop.clone(), move |_, request| {
            let Request::BatchUpdateJobStatus(_) = request else { return None };
            stop.try_send(()).unwrap();
            Some(Act::Say(Reply::Updated(vec![Err(Refusal::stale_fence("taken away"))])))
        })
        .await;
        let worker = worker(&fake).handle("mail", |job| async move { Ok(job.payload) });
        let report = worker.run_until(stopped.recv()).await.unwrap();
        assert_eq!(report, StopReport { refused: 1, ..StopReport::default() });
    });
}

#[test]
fn worker_that_cannot_be_is_refused() {
    block_on(async {
        let client = Client::builder().seeds(["127.0.0.1:1"]).build().unwrap();
        let good =
            || Worker::new(client.clone()).handle("mail", |job| async move { Ok(job.payload) });
        let workers = [
            Worker::new(client.clone()),
            good().handle_blocking("mail", |job| Ok(job.payload)),
            good().handle("no queue", |job| async move { Ok(job.payload) }),
            good().slots(0),
            good().name("no name"),
        ];
        for worker in workers {
            let result = worker.run_until(futures::future::ready(())).await;
            assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
        }
    });
}
