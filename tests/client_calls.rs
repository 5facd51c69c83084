//! The client over real sockets, against nodes that misbehave in every way they can.

#![expect(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]
#![expect(clippy::disallowed_methods, reason = "a test's threads need no names")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a script answers a few requests of many")]

mod client_node;

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_std::future::timeout;
use async_std::task::block_on;
use futures::future::join_all;
use raftq::client::blocking;
use raftq::client::client::{CallOptions, Client};
use raftq::client::error::Error;
use raftq::client::job::Job;
use raftq::jobs::job::{JobView, Status};
use raftq::types::{ClusterId, Fence, Index, JobId, Millis, NodeId, QueueName, Term, WorkerId};
use raftq::wire::frame::{Frame, IGNORABLE};
use raftq::wire::hello::Reject;
use raftq::wire::message::{ClusterStatus, Code, Filter, Refusal, Reply, Request, Submitted};

use client_node::{CLUSTER, LONG, Line, Node, encoded, hint, nobody, silent, take};

fn client(seeds: &[&str]) -> Client {
    Client::builder().seeds(seeds.iter().copied()).dice(1).build().unwrap()
}

fn hasty(seeds: &[&str], request_timeout: Duration) -> Client {
    let builder = Client::builder().seeds(seeds.iter().copied()).dice(1);
    builder.request_timeout(request_timeout).build().unwrap()
}

fn run<T>(what: impl Future<Output = T>) -> T {
    block_on(timeout(LONG, what)).expect("it takes for ever")
}

fn job() -> Job {
    Job::payload("mail", "hello").id(JobId([7; 16]))
}

fn view(id: JobId, status: Status) -> JobView {
    JobView {
        id,
        queue: QueueName::default(),
        status,
        attempt: 1,
        worker: Some(WorkerId::built_in(NodeId(1))),
        fence: Some(Fence(4096)),
        exit_code: Some(0),
        output: bytes::Bytes::new(),
        output_cut: false,
        error: None,
        created_ms: Millis(1),
        started_ms: None,
        finished_ms: None,
        options: None,
        held_ms: None,
        progress: None,
        past: Vec::new(),
        body: None,
    }
}

#[test]
fn first_seed_that_refuses_costs_nothing() {
    let dead = nobody();
    let node = Node::bind();
    let addr = node.addr.clone();
    node.serve(take);
    let client = client(&[&dead, &addr]);
    let quick = timeout(Duration::from_millis(1500), client.submit(job()));
    assert!(run(quick).unwrap().unwrap().created);
}

#[test]
fn first_seed_that_is_silent_costs_a_head_start() {
    let (_listener, dead) = silent();
    let node = Node::bind();
    let addr = node.addr.clone();
    node.serve(take);
    let client = client(&[&dead.to_string(), &addr]);
    // Far below the two seconds that a connection may take.
    let quick = timeout(Duration::from_millis(1500), client.submit(job()));
    assert!(run(quick).unwrap().unwrap().created);
}

#[test]
fn follower_redirects_to_the_leader_which_is_asked_from_then_on() {
    let (leader, follower) = (Node::bind(), Node::bind());
    let (addr, seed) = (leader.addr.clone(), follower.addr.clone());
    let at_leader = leader.serve(take);
    let at_follower = follower.serve(move |line, corr, _| {
        line.reply(corr, Reply::Refused(Refusal::not_leader(hint(&addr, 3))));
    });
    let client = client(&[&seed]);
    for _ in 0..5 {
        run(client.submit(job())).unwrap();
    }
    assert_eq!((at_follower.requests().len(), at_leader.requests().len()), (1, 5));
    assert_eq!((at_follower.connections(), at_leader.connections()), (1, 1));
    // What the first node said of the cluster was told to the second.
    assert_eq!(at_follower.hellos()[0].cluster, ClusterId::default());
    assert_eq!(at_leader.hellos()[0].cluster, CLUSTER);
}

#[test]
fn leader_named_in_the_welcome_is_asked_straight_away() {
    let (leader, mut follower) = (Node::bind(), Node::bind());
    follower.welcome.leader = Some(hint(&leader.addr, 3));
    let seed = follower.addr.clone();
    let at_leader = leader.serve(take);
    let at_follower = follower.serve(take);
    run(client(&[&seed]).submit(job())).unwrap();
    assert_eq!((at_follower.requests().len(), at_leader.requests().len()), (0, 1));
}

#[test]
fn hint_of_an_older_term_is_not_followed() {
    let (old, new, middle) = (Node::bind(), Node::bind(), Node::bind());
    let (old_addr, new_addr, seed) = (old.addr.clone(), new.addr.clone(), middle.addr.clone());
    let at_old = old.serve(|_, _, request| panic!("the old leader is asked: {request:?}"));
    let asked = Arc::new(AtomicUsize::new(0));
    let asks = Arc::clone(&asked);
    let back = seed.clone();
    // The new leader steps down once, and then is the leader again.
    new.serve(move |line, corr, request| match asks.fetch_add(1, Ordering::SeqCst) {
        0 => line.reply(corr, Reply::Refused(Refusal::not_leader(hint(&back, 7)))),
        _ => take(line, corr, request),
    });
    let mut hints = vec![hint(&old_addr, 6), hint(&new_addr, 7)];
    middle.serve(move |line, corr, _| {
        let last = hints.pop().unwrap_or_else(|| hint(&new_addr, 7));
        line.reply(corr, Reply::Refused(Refusal::not_leader(last)));
    });
    run(client(&[&seed]).submit(job())).unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert_eq!(at_old.connections(), 0);
}

#[test]
fn submit_whose_answer_is_lost_is_sent_again_with_the_same_id() {
    let node = Node::bind();
    let addr = node.addr.clone();
    let seen = node.serve(|line, corr, request| match (line.number, request) {
        (0, _) => line.close(),
        (_, Request::SubmitJob(job)) => {
            line.reply(corr, Reply::Submitted(Submitted { id: job.id, created: false }));
        }
        (_, other) => panic!("{other:?}"),
    });
    let submitted = run(client(&[&addr]).submit(Job::payload("mail", "hello"))).unwrap();
    assert!(!submitted.created);
    let requests = seen.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0], requests[1], "unchanged, with its id");
}

#[test]
fn full_node_is_asked_again_after_the_time_it_named() {
    let node = Node::bind();
    let addr = node.addr.clone();
    let mut refusals = 2;
    let seen = node.serve(move |line, corr, request| {
        if refusals > 0 {
            refusals -= 1;
            line.reply(corr, Reply::Refused(Refusal::exhausted("full", 150)));
        } else {
            take(line, corr, request);
        }
    });
    let client = client(&[&addr]);
    // The two pauses are 150 ms each, at least.
    let mut submit = Box::pin(client.submit(job()));
    assert!(run(timeout(Duration::from_millis(299), &mut submit)).is_err(), "too early");
    run(submit).unwrap();
    assert_eq!(seen.requests().len(), 3);
    assert_eq!(seen.connections(), 1);
}

#[test]
fn deadline_after_a_request_was_sent_means_unknown() {
    let node = Node::bind();
    let addr = node.addr.clone();
    node.serve(|_, _, _| {});
    let error = run(hasty(&[&addr], Duration::from_millis(300)).submit(job())).unwrap_err();
    assert!(matches!(&error, Error::Unknown(_)), "{error}");
    assert!(!error.is_definite() && error.is_retryable());
    assert_eq!(error.ids(), [JobId([7; 16])]);
    assert!(error.to_string().contains(&JobId([7; 16]).to_string()), "{error}");
    assert!(error.to_string().contains(&addr), "{error}");
}

#[test]
fn deadline_without_a_node_means_unreachable_and_definite() {
    let dead = nobody();
    let error = run(hasty(&[&dead], Duration::from_millis(300)).submit(job())).unwrap_err();
    assert!(matches!(&error, Error::Unreachable(_)) && error.is_definite(), "{error}");
    assert!(error.to_string().contains(&dead), "{error}");
    let (_listener, silent) = silent();
    let client = hasty(&[&silent.to_string()], Duration::from_millis(300));
    let error = run(client.submit(job())).unwrap_err();
    assert!(matches!(&error, Error::Unreachable(_)), "{error}");
}

#[test]
fn deadline_among_nodes_without_a_leader_is_definite() {
    let node = Node::bind();
    let addr = node.addr.clone();
    let seen = node.serve(|line, corr, _| {
        line.reply(corr, Reply::Refused(Refusal::unavailable("an election is on")));
    });
    let error = run(hasty(&[&addr], Duration::from_millis(400)).submit(job())).unwrap_err();
    assert!(matches!(&error, Error::NoLeader(_)) && error.is_definite(), "{error}");
    assert!(error.to_string().contains("an election is on"), "{error}");
    assert!(seen.requests().len() > 1);
}

#[test]
fn deadline_of_a_read_means_no_answer_and_definite() {
    let node = Node::bind();
    let addr = node.addr.clone();
    node.serve(|_, _, _| {});
    let error = run(hasty(&[&addr], Duration::from_millis(300)).get(JobId([7; 16]))).unwrap_err();
    assert!(matches!(&error, Error::Timeout(_)) && error.is_definite(), "{error}");
}

#[test]
fn requests_beyond_the_room_of_a_connection_wait_and_are_definite_if_never_sent() {
    let mut node = Node::bind();
    node.welcome.in_flight_max = 2;
    let addr = node.addr.clone();
    let seen = node.serve(|_, _, _| {});
    let client = hasty(&[&addr], Duration::from_millis(400));
    let errors = run(join_all((0..5).map(|_| client.submit(Job::payload("mail", "x")))));
    let unknown = errors.iter().filter(|error| matches!(error, Err(Error::Unknown(_)))).count();
    let definite = errors.iter().filter(|error| matches!(error, Err(Error::Timeout(_)))).count();
    assert_eq!((unknown, definite), (2, 3), "{errors:?}");
    assert_eq!(seen.requests().len(), 2, "what was given up is never sent");
}

#[test]
fn definite_refusal_reaches_the_caller_with_its_code() {
    let node = Node::bind();
    let addr = node.addr.clone();
    let seen = node.serve(|line, corr, _| {
        line.reply(corr, Reply::Refused(Refusal::not_found("no such job")));
    });
    let error = run(client(&[&addr]).get(JobId([7; 16]))).unwrap_err();
    assert_eq!(error.refusal().map(|refusal| refusal.code), Some(Code::NotFound));
    assert!(error.to_string().contains(&addr), "{error}");
    assert_eq!(seen.requests().len(), 1);
}

#[test]
fn late_answer_is_dropped_and_the_connection_goes_on() {
    let node = Node::bind();
    let addr = node.addr.clone();
    let mut held: Option<u32> = None;
    let seen = node.serve(move |line, corr, request| match (held.take(), request) {
        (None, Request::GetJob { .. }) => held = Some(corr),
        (Some(late), Request::GetJob { id }) => {
            // First the answer to the question that was given up, then one nobody asked.
            line.reply(late, Reply::Job(Box::new(view(JobId([1; 16]), Status::Failed))));
            line.reply(12_345, Reply::Pong);
            line.reply(corr, Reply::Job(Box::new(view(id, Status::Completed))));
        }
        (_, other) => panic!("{other:?}"),
    });
    let client = client(&[&addr]);
    run(async {
        let first = timeout(Duration::from_millis(100), client.get(JobId([1; 16]))).await;
        assert!(first.is_err(), "the caller went away");
        let job = client.get(JobId([2; 16])).await.unwrap();
        assert_eq!((job.id, job.status), (JobId([2; 16]), Status::Completed));
    });
    assert_eq!(seen.connections(), 1);
}

#[test]
fn frame_of_a_later_version_that_may_be_skipped_is_no_answer() {
    let node = Node::bind();
    let addr = node.addr.clone();
    let seen = node.serve(|line, corr, request| {
        let later = Frame { kind: 0xee, flags: IGNORABLE, ..Reply::Pong.to_frame(corr) };
        line.write(&encoded(&later));
        take(line, corr, request);
    });
    assert!(run(client(&[&addr]).submit(job())).unwrap().created);
    assert_eq!((seen.connections(), seen.requests().len()), (1, 1));
}

#[test]
fn request_given_up_before_it_left_is_never_sent() {
    let node = Node::bind();
    let addr = node.addr.clone();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let mut is_stuck = true;
    // The node reads nothing more until it is let go.
    let seen = node.serve(move |line, corr, request| {
        if std::mem::take(&mut is_stuck) {
            gone.recv().unwrap();
        }
        take(line, corr, request);
    });
    let client = client(&[&addr]);
    let given_up = JobId([9; 16]);
    run(async {
        // More than the buffers between here and there hold.
        let large = vec![0; 1 << 20];
        let mut larges =
            Box::pin(join_all((0..24).map(|_| client.submit(Job::payload("mail", large.clone())))));
        assert!(timeout(Duration::from_millis(200), &mut larges).await.is_err());
        let small = client.submit(Job::payload("mail", "x").id(given_up));
        assert!(timeout(Duration::from_millis(50), small).await.is_err());
        go.send(()).unwrap();
        assert!(larges.await.iter().all(Result::is_ok));
        client.submit(job()).await.unwrap();
    });
    let sent = seen.requests();
    assert_eq!(sent.len(), 25);
    let is_his =
        |request: &Request| matches!(request, Request::SubmitJob(job) if job.id == given_up);
    assert!(!sent.iter().any(is_his));
    assert_eq!(seen.connections(), 1);
}

#[test]
fn ten_thousand_submits_share_one_connection() {
    let node = Node::bind();
    let addr = node.addr.clone();
    // Answers come in the wrong order, seven at a time, and the last few at the end.
    let mut held: Vec<(u32, JobId)> = Vec::new();
    let mut count = 0;
    let seen = node.serve(move |line, corr, request| {
        let Request::SubmitJob(job) = request else { panic!("{request:?}") };
        held.push((corr, job.id));
        count += 1;
        if held.len() == 7 || count == 10_000 {
            while let Some((corr, id)) = held.pop() {
                line.reply(corr, Reply::Submitted(Submitted { id, created: true }));
            }
        }
    });
    let client = client(&[&addr]);
    let ids: Vec<JobId> =
        (0..10_000_u32).map(|at| JobId::new(Millis(u64::from(at)), u128::from(at))).collect();
    let submits = ids.iter().map(|id| client.submit(Job::payload("mail", "x").id(*id)));
    let submitted = run(join_all(submits));
    for (id, submitted) in ids.iter().zip(submitted) {
        assert_eq!(submitted.unwrap().id, *id);
    }
    assert_eq!(seen.connections(), 1);
    assert_eq!(seen.requests().len(), 10_000);
}

#[test]
fn node_that_closes_midway_loses_no_submit() {
    let node = Node::bind();
    let addr = node.addr.clone();
    let mut count = 0;
    // The first connection breaks with hundreds in flight, some answered.
    let seen = node.serve(move |line, corr, request| {
        count += 1;
        match (line.number, count) {
            (0, 300) => line.close(),
            (0, 200..300) => {}
            _ => take(line, corr, request),
        }
    });
    let client = client(&[&addr]);
    let submits = (0..1000).map(|_| client.submit(Job::payload("mail", "x")));
    let submitted = run(join_all(submits));
    assert!(submitted.iter().all(Result::is_ok), "{submitted:?}");
    assert_eq!(seen.connections(), 2);
}

#[test]
fn frozen_node_is_left_long_before_the_request_times_out() {
    let (frozen, well) = (Node::bind(), Node::bind());
    let seeds = [frozen.addr.clone(), well.addr.clone()];
    let at_frozen = frozen.serve_pings(false, |_, _, _| {});
    well.serve(take);
    let client = client(&[&seeds[0], &seeds[1]]);
    let quick = timeout(Duration::from_secs(5), client.submit(job()));
    assert!(run(quick).unwrap().unwrap().created);
    assert_eq!(at_frozen.requests().len(), 1);
}

#[test]
fn slow_node_that_answers_pings_is_not_left() {
    let node = Node::bind();
    let addr = node.addr.clone();
    let seen = node.serve(|line, corr, request| {
        let line = line.clone();
        std::thread::spawn(move || {
            // Longer than the silence that would count as death.
            std::thread::sleep(Duration::from_millis(2500));
            take(&line, corr, request);
        });
    });
    run(client(&[&addr]).submit(job())).unwrap();
    assert_eq!((seen.connections(), seen.requests().len()), (1, 1));
}

#[test]
fn garbage_from_a_node_breaks_that_connection_alone() {
    let (bad, good) = (Node::bind(), Node::bind());
    let seeds = [bad.addr.clone(), good.addr.clone()];
    bad.serve(|line, _, _| line.write(&[0xff; 64]));
    good.serve(take);
    let client = client(&[&seeds[0], &seeds[1]]);
    assert!(run(client.submit(job())).unwrap().created);
}

#[test]
fn something_else_at_the_address_is_told_apart() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _gone =
                std::io::Write::write_all(&mut stream.unwrap(), b"HTTP/1.1 400 Bad\r\n\r\n")
                    .is_err();
        }
    });
    let error = run(hasty(&[&addr], Duration::from_millis(200)).submit(job())).unwrap_err();
    assert!(error.to_string().contains("something else than raftq"), "{error}");
}

#[test]
fn closed_client_tells_those_who_wait_and_those_who_come() {
    let node = Node::bind();
    let addr = node.addr.clone();
    let (arrived, arrivals) = async_std::channel::bounded(1);
    node.serve(move |_, _, _| arrived.try_send(()).unwrap());
    let client = client(&[&addr]);
    run(async {
        let waiting = async_std::task::spawn({
            let client = client.clone();
            async move { client.submit(job()).await }
        });
        arrivals.recv().await.unwrap();
        client.close().await;
        assert!(matches!(waiting.await, Err(Error::Unknown(_))));
        let error = client.submit(job()).await.unwrap_err();
        assert!(
            matches!(&error, Error::Unreachable(_)) && error.to_string().contains("closed"),
            "{error}"
        );
    });
}

#[test]
fn batch_is_split_and_each_job_has_its_result_in_its_place() {
    let node = Node::bind();
    let addr = node.addr.clone();
    let mut full_once = true;
    let seen = node.serve(move |line, corr, request| {
        let Request::SubmitBatch(jobs) = request else { panic!("{request:?}") };
        let results = jobs.iter().map(|job| match &job.queue {
            queue if queue.as_str() == "odd" => Err(Refusal::already_exists("other content")),
            queue if queue.as_str() == "full" && std::mem::take(&mut full_once) => {
                Err(Refusal::exhausted("full", 1))
            }
            _ => Ok(Submitted { id: job.id, created: true }),
        });
        let results = results.collect();
        line.reply(corr, Reply::SubmittedBatch(results));
    });
    let queues = (0..200).map(|at| match at {
        17 => "odd",
        18 => "full",
        19 => "no such/queue",
        _ => "mail",
    });
    let jobs = queues.map(|queue| Job::payload(queue, "x"));
    let results = run(client(&[&addr]).submit_batch(jobs)).unwrap();
    assert_eq!(results.len(), 200);
    let refused: Vec<(usize, Code)> = results
        .iter()
        .enumerate()
        .filter_map(|(at, result)| result.as_ref().err().map(|refusal| (at, refusal.code)))
        .collect();
    assert_eq!(refused, [(17, Code::AlreadyExists), (19, Code::InvalidArgument)]);
    let sizes: Vec<usize> = seen
        .requests()
        .iter()
        .map(|request| match request {
            Request::SubmitBatch(jobs) => jobs.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sizes, [128, 1, 71], "the one refused for now went again, before the rest");
}

#[test]
fn wait_polls_on_until_all_have_ended_and_survives_a_leader() {
    let (first, second) = (Node::bind(), Node::bind());
    let seeds = [first.addr.clone(), second.addr.clone()];
    let (a, b) = (JobId([1; 16]), JobId([2; 16]));
    let mut polls = 0;
    // The first node tells that one has ended, then dies.
    first.serve(move |line, corr, _| {
        polls += 1;
        match polls {
            1 => line.reply(
                corr,
                Reply::Waited(vec![Ok(view(a, Status::Completed)), Ok(view(b, Status::Running))]),
            ),
            _ => line.close(),
        }
    });
    let at_second = second.serve(move |line, corr, _| {
        line.reply(corr, Reply::Waited(vec![Err(Refusal::not_found("forgotten"))]));
    });
    let client = client(&[&seeds[0], &seeds[1]]);
    let results = run(client.wait(&[a, b], None)).unwrap();
    assert_eq!(results[0].as_ref().unwrap().status, Status::Completed);
    assert_eq!(results[1].as_ref().unwrap_err().code, Code::NotFound);
    let asked = at_second.requests();
    assert!(
        matches!(&asked[..], [Request::WaitJobs { ids, .. }] if *ids == [b]),
        "only what is still open: {asked:?}"
    );
}

#[test]
fn wait_with_a_limit_returns_what_there_is() {
    let node = Node::bind();
    let addr = node.addr.clone();
    node.serve(|line, corr, request| {
        let Request::WaitJobs { ids, wait_ms } = request else { panic!("{request:?}") };
        let line = line.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(wait_ms));
            let views = ids.iter().map(|id| Ok(view(*id, Status::Running)));
            line.reply(corr, Reply::Waited(views.collect()));
        });
    });
    let results = run(client(&[&addr]).wait(&[JobId([1; 16])], Some(Duration::from_millis(200))));
    assert_eq!(results.unwrap()[0].as_ref().unwrap().status, Status::Running);
    let results = run(client(&[&addr]).wait(&[JobId([1; 16])], Some(Duration::ZERO)));
    assert_eq!(results.unwrap().len(), 1);
}

fn status(from_leader: bool, term: u64) -> ClusterStatus {
    ClusterStatus {
        cluster_id: CLUSTER,
        node: NodeId(1),
        from_leader,
        term: Term(term),
        leader: None,
        commit_index: Index(1),
        nodes: Vec::new(),
    }
}

fn tells(view: ClusterStatus) -> impl FnMut(&Line, u32, Request) + Send {
    move |line, corr, _| line.reply(corr, Reply::ClusterStatus(Box::new(view.clone())))
}

#[test]
fn cluster_status_without_a_leader_is_the_newest_view_marked_so() {
    let (one, two) = (Node::bind(), Node::bind());
    let seeds = [one.addr.clone(), two.addr.clone(), nobody()];
    one.serve(tells(status(false, 3)));
    two.serve(tells(status(false, 5)));
    let client = hasty(&[&seeds[0], &seeds[1], &seeds[2]], Duration::from_millis(1000));
    let status = run(client.cluster_status()).unwrap();
    assert!(!status.from_leader);
    assert_eq!(status.term, Term(5));
}

#[test]
fn cluster_status_of_the_leader_is_preferred() {
    let (one, two) = (Node::bind(), Node::bind());
    let (seed, leader) = (one.addr.clone(), two.addr.clone());
    one.serve(move |line, corr, _| {
        line.reply(corr, Reply::Refused(Refusal::not_leader(hint(&leader, 5))));
    });
    two.serve(tells(status(true, 5)));
    assert!(run(client(&[&seed]).cluster_status()).unwrap().from_leader);
}

#[test]
fn call_to_a_named_node_asks_that_one() {
    let (one, two) = (Node::bind(), Node::bind());
    let (seed, other) = (one.addr.clone(), two.addr.clone());
    one.serve(take);
    let at_two = two.serve(|line, corr, _| line.reply(corr, Reply::Log(Vec::new())));
    let client = client(&[&seed]);
    run(client.submit(job())).unwrap();
    run(client.log_of(&other, Index(1), 10)).unwrap();
    assert_eq!(at_two.requests(), [Request::ListLog { from: Index(1), limit: 10 }]);
    let options = CallOptions::timeout(Duration::from_millis(200)).node(nobody());
    let error = run(client.call(Request::Ping, options)).unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error}");
}

#[test]
fn blocking_client_needs_no_async_around_it() {
    let node = Node::bind();
    let addr = node.addr.clone();
    let order = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::clone(&order);
    node.serve(move |line, corr, request| {
        asked.lock().unwrap().push(request.name());
        match request {
            Request::ListJobs(_) => {
                line.reply(corr, Reply::Jobs { jobs: Vec::new(), more: false, after: None })
            }
            Request::CancelJobs { ids } => {
                line.reply(corr, Reply::Cancelled(vec![Ok(Status::Cancelled); ids.len()]));
            }
            Request::ListWorkers => line.reply(corr, Reply::Workers(Vec::new())),
            Request::TransferLeadership { .. } => {
                line.reply(corr, Reply::Transferred { to: NodeId(2) });
            }
            other => take(line, corr, other),
        }
    });
    let client = blocking::Client::builder().seeds([addr]).name("test/1").build().unwrap();
    client.submit(job()).unwrap();
    client.submit_batch([job()]).unwrap();
    assert_eq!(client.list(Filter::default()).unwrap(), (Vec::new(), false));
    assert_eq!(client.cancel(&[JobId([7; 16]); 2]).unwrap(), vec![Ok(Status::Cancelled); 2]);
    assert_eq!(client.workers().unwrap(), []);
    assert_eq!(client.transfer(None).unwrap(), NodeId(2));
    client.close();
    assert_eq!(order.lock().unwrap().len(), 6);
}

#[test]
fn builder_refuses_what_cannot_be_right() {
    let none = Client::builder().build();
    assert!(matches!(none, Err(Error::Invalid(_))));
    for wrong in ["localhost", ":7101", "localhost:", "localhost:99999"] {
        let built = Client::builder().seeds([wrong]).build();
        assert!(matches!(built, Err(Error::Invalid(text)) if text.contains(wrong)), "{wrong}");
    }
    assert!(Client::builder().seeds(["localhost:7101", "[::1]:7102"]).build().is_ok());
}

#[test]
fn client_that_every_node_rejects_is_told_at_once_and_why() {
    let (mut one, mut two) = (Node::bind(), Node::bind());
    let reject = Reject::new(Code::FailedPrecondition, "this is another cluster");
    (one.reject, two.reject) = (Some(reject.clone()), Some(reject));
    let seeds = [one.addr.clone(), two.addr.clone()];
    one.serve(take);
    two.serve(take);
    let quick = timeout(Duration::from_secs(5), async {
        client(&[&seeds[0], &seeds[1]]).submit(job()).await
    });
    let error = run(quick).unwrap().unwrap_err();
    assert!(
        error.is_definite() && error.to_string().contains("this is another cluster"),
        "{error}"
    );
}

#[test]
fn node_that_rejects_is_passed_over_for_one_that_does_not() {
    let (mut one, two) = (Node::bind(), Node::bind());
    one.reject = Some(Reject::new(Code::FailedPrecondition, "this is another cluster"));
    let seeds = [one.addr.clone(), two.addr.clone()];
    one.serve(take);
    two.serve(take);
    assert!(run(client(&[&seeds[0], &seeds[1]]).submit(job())).unwrap().created);
}

#[test]
fn node_of_another_cluster_is_asked_nothing() {
    let (mut other, own) = (Node::bind(), Node::bind());
    other.welcome.cluster = ClusterId([0xee; 16]);
    let (elsewhere, seed) = (other.addr.clone(), own.addr.clone());
    let at_other = other.serve(|_, _, request| panic!("the other cluster is asked: {request:?}"));
    let mut is_first = true;
    own.serve(move |line, corr, request| {
        if std::mem::take(&mut is_first) {
            return line.reply(corr, Reply::Refused(Refusal::not_leader(hint(&elsewhere, 7))));
        }
        take(line, corr, request);
    });
    assert!(run(client(&[&seed]).submit(job())).unwrap().created);
    assert_eq!((at_other.connections() > 0, at_other.requests().len()), (true, 0));
}
