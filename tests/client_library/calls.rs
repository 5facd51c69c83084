//! The client against scripted nodes on real sockets: what a call survives, and what it tells when it does not.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::fake::{Act, Fake, dead_addr, id, not_leader, refuse, take, welcome};
use async_std::channel;
use async_std::net::TcpListener;
use async_std::task::block_on;
use futures::FutureExt as _;
use futures::future::join_all;
use raftq::client::client::{CallOptions, Client};
use raftq::client::clock::now_ms;
use raftq::client::error::Error;
use raftq::client::{blocking, job::Job};
use raftq::jobs::job::{JobView, NewJob, Status};
use raftq::types::{ClusterId, Index, Millis, NodeId, QueueName, Term};
use raftq::wire::hello::Reject;
use raftq::wire::message::{ClusterStatus, Code, Refusal, Reply, Request, Submitted};

/// Far longer than anything here takes: a test that gets there has failed.
const LONG: Duration = Duration::from_secs(60);

fn client(seeds: &[&str]) -> Client {
    let builder = Client::builder().seeds(seeds.iter().copied());
    builder.connect_timeout(LONG).request_timeout(LONG).build().unwrap()
}

fn job(number: u64) -> NewJob {
    Job::command(["true"]).id(id(number)).build()
}

fn view(number: u64, status: Status) -> JobView {
    JobView {
        id: id(number),
        queue: QueueName::default(),
        status,
        attempt: 1,
        worker: None,
        fence: None,
        exit_code: None,
        output: bytes::Bytes::new(),
        output_cut: false,
        error: None,
        created_ms: Millis(1),
        started_ms: None,
        finished_ms: None,
        body: None,
    }
}

#[test]
fn first_seed_dead_next_answers() {
    block_on(async {
        let dead = dead_addr().await;
        let fake = Fake::start(take).await;
        let submitted = client(&[&dead, &fake.addr]).submit(job(1)).await.unwrap();
        assert_eq!(submitted, Submitted { id: id(1), created: true });
    });
}

#[test]
fn seed_that_accepts_and_never_greets_is_raced_by_the_next() {
    block_on(async {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent_addr = silent.local_addr().unwrap().to_string();
        let fake = Fake::start(take).await;
        let client = client(&[&silent_addr, &fake.addr]);
        let began_ms = now_ms();
        client.submit(job(1)).await.unwrap();
        assert!(now_ms() - began_ms < 30_000, "waited for the silent one");
        client.submit(job(2)).await.unwrap();
        assert_eq!(fake.connections(), 1);
    });
}

#[test]
fn redirect_is_followed_and_remembered() {
    block_on(async {
        let leader = Fake::start(take).await;
        let addr = leader.addr.clone();
        let follower = Fake::start(move |_| not_leader(&addr, 3)).await;
        let client = client(&[&follower.addr]);
        client.submit(job(1)).await.unwrap();
        client.clone().submit(job(2)).await.unwrap();
        assert_eq!((follower.asked().len(), leader.asked().len()), (1, 2));
        assert_eq!(leader.connections(), 1, "clones share a connection");
        let hellos = leader.hellos.lock().unwrap().clone();
        assert_eq!(hellos[0].cluster, ClusterId([7; 16]), "learnt from the follower");
    });
}

#[test]
fn reply_lost_after_send_is_sent_again_with_the_same_id() {
    block_on(async {
        let mut taken = BTreeSet::new();
        let fake = Fake::start(move |request| {
            let Request::SubmitJob(job) = request else { panic!("{request:?}") };
            if taken.insert(job.id) {
                return Act::Break;
            }
            Act::Say(Reply::Submitted(Submitted { id: job.id, created: false }))
        })
        .await;
        let submitted = client(&[&fake.addr]).submit(Job::command(["true"])).await.unwrap();
        assert!(!submitted.created);
        let asked = fake.asked();
        assert_eq!(asked.len(), 2);
        assert_eq!(asked[0], asked[1]);
    });
}

#[test]
fn exhausted_then_success_waits_as_told() {
    block_on(async {
        let mut times = 0;
        let fake = Fake::start(move |request| {
            times += 1;
            if times == 1 { refuse(Refusal::exhausted("full", 200)) } else { take(request) }
        })
        .await;
        let began_ms = now_ms();
        client(&[&fake.addr]).submit(job(1)).await.unwrap();
        assert!(now_ms() - began_ms >= 200);
        assert_eq!(fake.asked().len(), 2);
    });
}

#[test]
fn deadline_tells_unknown_from_definite() {
    block_on(async {
        let options = CallOptions::timeout(Duration::from_millis(400));
        let submit = Request::SubmitJob(job(1));
        let get = Request::GetJob { id: id(1) };
        let silent = Fake::start(|_| Act::Ignore).await;
        let error = client(&[&silent.addr]).call(submit.clone(), options).await.unwrap_err();
        assert!(matches!(error, Error::Unknown(_)) && !error.is_definite(), "{error:?}");
        let error = client(&[&silent.addr]).call(get, options).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable(_)) && error.is_definite(), "{error:?}");
        let dead = dead_addr().await;
        let error = client(&[&dead]).call(submit.clone(), options).await.unwrap_err();
        assert!(matches!(&error, Error::Unreachable(why) if why.contains(&dead)), "{error:?}");
        let leaderless = Fake::start(|_| refuse(Refusal::unavailable("no leader"))).await;
        let error = client(&[&leaderless.addr]).call(submit.clone(), options).await.unwrap_err();
        assert!(matches!(error, Error::NoLeader(_)) && error.is_definite(), "{error:?}");
        let undecided = Fake::start(|_| refuse(Refusal::deadline_exceeded())).await;
        let error = client(&[&undecided.addr]).call(submit, options).await.unwrap_err();
        assert!(matches!(error, Error::Unknown(_)), "{error:?}");
    });
}

#[test]
fn definite_refusal_is_told_at_once() {
    block_on(async {
        let fake = Fake::start(|_| refuse(Refusal::already_exists("another job"))).await;
        let error = client(&[&fake.addr]).submit(job(1)).await.unwrap_err();
        assert_eq!(error.refusal().map(|refusal| refusal.code), Some(Code::AlreadyExists));
        assert!(error.is_definite() && !error.is_retryable());
        assert_eq!(fake.asked().len(), 1);
    });
}

#[test]
fn rejected_by_every_node_is_told_at_once() {
    block_on(async {
        let reject = Reject::new(Code::FailedPrecondition, "another version");
        let fake = Fake::start_with(Err(reject), |_| Act::Ignore).await;
        let error = client(&[&fake.addr]).submit(job(1)).await.unwrap_err();
        assert!(error.to_string().contains("another version"), "{error}");
        assert!(error.is_definite() && !error.is_retryable());
    });
}

#[test]
fn leader_that_falls_silent_is_left_for_the_next() {
    block_on(async {
        let frozen = Fake::start(|_| Act::Ignore).await;
        let next = Fake::start(take).await;
        let client = client(&[&frozen.addr, &next.addr]);
        let options = CallOptions::timeout(Duration::from_millis(1_500));
        client.call(Request::SubmitJob(job(1)), options).await.unwrap();
        client.call(Request::SubmitJob(job(2)), options).await.unwrap();
        assert_eq!(frozen.asked().len(), 1, "the second call knows better");
    });
}

#[test]
fn five_thousand_submits_share_one_connection_and_its_room() {
    const ROOM: u32 = 64;
    block_on(async {
        let greeting = welcome()
            .map(|welcome| raftq::wire::message::Welcome { in_flight_max: ROOM, ..welcome });
        let in_flight = Arc::new(Mutex::new((0, 0)));
        let counted = Arc::clone(&in_flight);
        let fake = Fake::start_with(greeting, move |request| {
            let Request::SubmitJob(job) = request else { panic!("{request:?}") };
            let id = job.id;
            let counted = Arc::clone(&counted);
            {
                let mut counts = counted.lock().unwrap();
                counts.0 += 1;
                counts.1 = counts.0.max(counts.1);
            }
            Act::Later(
                async move {
                    async_std::task::yield_now().await;
                    counted.lock().unwrap().0 -= 1;
                    Reply::Submitted(Submitted { id, created: true })
                }
                .boxed(),
            )
        })
        .await;
        let client = client(&[&fake.addr]);
        let submits = (0..5_000).map(|number| {
            let client = client.clone();
            async_std::task::spawn(async move { client.submit(job(number)).await })
        });
        let submits: Vec<_> = submits.collect();
        for (number, submitted) in (0..).zip(join_all(submits).await) {
            assert_eq!(submitted.unwrap().id, id(number), "an answer to another's question");
        }
        assert_eq!((fake.connections(), fake.asked().len()), (1, 5_000));
        let most = in_flight.lock().unwrap().1;
        assert!(most > 1 && most <= ROOM, "{most} in flight at once");
    });
}

#[test]
fn dropped_call_leaves_the_connection_in_step() {
    block_on(async {
        let (release, released) = channel::unbounded::<()>();
        let fake = Fake::start(move |request| {
            let Request::SubmitJob(job) = request else { panic!("{request:?}") };
            let id = job.id;
            if id != crate::fake::id(1) {
                return take(request);
            }
            let released = released.clone();
            Act::Later(
                async move {
                    released.recv().await.unwrap();
                    Reply::Submitted(Submitted { id, created: true })
                }
                .boxed(),
            )
        })
        .await;
        let client = client(&[&fake.addr]);
        client.submit(job(0)).await.unwrap();
        let dropped = client.submit(job(1));
        let other = client.submit(job(2));
        futures::pin_mut!(dropped, other);
        // The first call is sent before the second is answered, and then dropped.
        match futures::future::select(dropped, other).await {
            futures::future::Either::Left(_) => panic!("answered too early"),
            futures::future::Either::Right((submitted, _dropped)) => {
                assert_eq!(submitted.unwrap().id, id(2));
            }
        }
        release.send(()).await.unwrap();
        for number in 3..10 {
            assert_eq!(client.submit(job(number)).await.unwrap().id, id(number));
        }
        assert_eq!(fake.connections(), 1);
    });
}

#[test]
fn batches_are_split_by_count_and_bytes_and_answered_in_order() {
    block_on(async {
        let fake = Fake::start(|request| {
            let Request::SubmitBatch(jobs) = request else { panic!("{request:?}") };
            let result = |job: &NewJob| Ok(Submitted { id: job.id, created: true });
            Act::Say(Reply::SubmittedBatch(jobs.iter().map(result).collect()))
        })
        .await;
        let client = client(&[&fake.addr]);
        let results = client.submit_batch((0..5_000).map(job).collect()).await.unwrap();
        let ids: Vec<_> = results.into_iter().map(|result| result.unwrap().id).collect();
        assert_eq!(ids, (0..5_000).map(id).collect::<Vec<_>>());
        let large =
            |number| Job::payload(QueueName::default(), vec![0; 600 << 10]).id(id(number)).build();
        let mut jobs: Vec<_> = (0..3).map(large).collect();
        jobs.insert(1, Job::command([""]).id(id(9)).build());
        let results = client.submit_batch(jobs).await.unwrap();
        assert_eq!(results[1].as_ref().unwrap_err().code, Code::InvalidArgument);
        assert_eq!(results[3].as_ref().unwrap().id, id(2));
        let lens = fake.asked().into_iter().map(|request| match request {
            Request::SubmitBatch(jobs) => jobs.len(),
            _ => 0,
        });
        assert_eq!(lens.collect::<Vec<_>>(), [4096, 904, 1, 1, 1]);
        assert_eq!(client.submit_batch(Vec::new()).await, Ok(Vec::new()));
    });
}

#[test]
fn batch_that_fails_after_another_hides_nothing() {
    block_on(async {
        let mut times = 0;
        let fake = Fake::start(move |request| {
            let Request::SubmitBatch(jobs) = request else { panic!("{request:?}") };
            times += 1;
            if times > 1 {
                return refuse(Refusal::internal("broken").with_unknown_outcome());
            }
            let result = |job: &NewJob| Ok(Submitted { id: job.id, created: true });
            Act::Say(Reply::SubmittedBatch(jobs.iter().map(result).collect()))
        })
        .await;
        let builder = Client::builder().seeds([fake.addr.as_str()]);
        let client = builder.request_timeout(Duration::from_millis(300)).build().unwrap();
        let results = client.submit_batch((0..9_000).map(job).collect()).await.unwrap();
        assert_eq!(results.len(), 9_000);
        assert!(results[4_095].is_ok());
        assert!(results[4_096].as_ref().unwrap_err().unknown, "sent, and not answered");
        assert!(!results[8_192].as_ref().unwrap_err().unknown, "never sent");
    });
}

#[test]
fn wait_goes_on_through_breaks_and_elections() {
    block_on(async {
        let mut times = 0;
        let fake = Fake::start(move |request| {
            let Request::WaitJobs { ids, wait_ms } = request else { panic!("{request:?}") };
            assert!(*wait_ms <= 10_000);
            times += 1;
            match times {
                1 => Act::Break,
                2 => refuse(Refusal::unavailable("no leader")),
                3 => Act::Say(Reply::Waited(vec![
                    Ok(view(1, Status::Completed)),
                    Ok(view(2, Status::Running)),
                    Err(Refusal::not_found("gone")),
                    Err(Refusal::exhausted("no room", 1)),
                ])),
                _ => {
                    assert_eq!(*ids, [id(2), id(4)], "only those that have not ended");
                    let ended = |number| Ok(view(number, Status::Failed));
                    Act::Say(Reply::Waited(vec![ended(2), ended(4)]))
                }
            }
        })
        .await;
        let ids = [1, 2, 3, 4, 1].map(id);
        let results = client(&[&fake.addr]).wait(&ids, None).await.unwrap();
        let status = |at: usize| results[at].as_ref().unwrap().status;
        assert_eq!(results.len(), 5);
        assert_eq!(
            (status(0), status(1), status(3)),
            (Status::Completed, Status::Failed, Status::Failed)
        );
        assert_eq!(results[2].as_ref().unwrap_err().code, Code::NotFound);
        assert_eq!(status(4), Status::Completed);
    });
}

#[test]
fn wait_with_a_time_returns_the_jobs_as_they_are() {
    block_on(async {
        let fake =
            Fake::start(|_| Act::Say(Reply::Waited(vec![Ok(view(1, Status::Running))]))).await;
        let client = client(&[&fake.addr]);
        let results = client.wait(&[id(1)], Some(Duration::ZERO)).await.unwrap();
        assert_eq!(results[0].as_ref().unwrap().status, Status::Running);
        let dead = dead_addr().await;
        let builder = Client::builder().seeds([dead]);
        let client = builder.request_timeout(Duration::from_millis(100)).build().unwrap();
        let error = client.wait(&[id(1)], Some(Duration::from_millis(50))).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
    });
}

#[test]
fn cluster_without_leader_tells_a_nodes_own_view() {
    block_on(async {
        let status = ClusterStatus {
            cluster_id: ClusterId([7; 16]),
            node: NodeId(1),
            from_leader: false,
            term: Term(4),
            leader: None,
            commit_index: Index(9),
            nodes: Vec::new(),
        };
        let own = status.clone();
        let fake = Fake::start(move |request| match request {
            Request::GetClusterStatus { local: true } => {
                Act::Say(Reply::ClusterStatus(Box::new(own.clone())))
            }
            _ => refuse(Refusal::not_leader(None)),
        })
        .await;
        assert_eq!(client(&[&fake.addr]).cluster_status().await, Ok(status));
    });
}

#[test]
fn closed_client_refuses_and_ends_its_calls() {
    block_on(async {
        let fake = Fake::start(|_| Act::Ignore).await;
        let client = client(&[&fake.addr]);
        let other = client.clone();
        let called = async_std::task::spawn(async move { other.submit(job(1)).await });
        while fake.asked().is_empty() {
            async_std::task::yield_now().await;
        }
        client.close();
        assert!(matches!(called.await, Err(Error::Unknown(_))));
        assert!(matches!(client.submit(job(2)).await, Err(Error::Invalid(_))));
    });
}

#[test]
fn seeds_that_are_no_addresses_are_refused() {
    for seeds in [vec![], vec!["host"], vec!["host:port"], vec![":1"]] {
        assert!(matches!(Client::builder().seeds(seeds).build(), Err(Error::Invalid(_))));
    }
}

#[test]
fn blocking_client_asks_the_same() {
    let fake = block_on(Fake::start(take));
    let client = blocking::Client::builder().seeds([fake.addr.as_str()]).name("me").build();
    assert_eq!(client.unwrap().submit(job(1)).unwrap().id, id(1));
    assert_eq!(fake.hellos.lock().unwrap()[0].agent, "me");
}
