//! A client's requests: what is refused at once, what reaches the Raft thread, and that each is answered once.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use raftq::jobs::job::{Body, NewJob};
use raftq::jobs::machine::Machine;
use raftq::net::inbox::{
    Ask, PROPOSALS_MAX, ReplyTo, SUBMITS_SHARED_BYTES_MAX, SUBMITS_SHARED_MAX,
};
use raftq::net::shared::{Patience, SUBMIT_BYTES_MAX};
use raftq::replica::view::Answer;
use raftq::types::{Incarnation, JobId, NodeId, WorkerId};
use raftq::wire::frame::{Frame, IGNORABLE};
use raftq::wire::hello::IN_FLIGHT_MAX;
use raftq::wire::message::{Code, Refusal, Reply, Request, Submitted};

use crate::client::{Client, encoded, job, payload};
use crate::node::{LONG, Node, Plan, clock_now, hint, until, waiter};

fn taken(number: u32) -> Reply {
    Reply::Submitted(Submitted { id: job(number).id, created: true })
}

fn heartbeat() -> Request {
    let worker = WorkerId::built_in(NodeId(1));
    Request::Heartbeat { worker, incarnation: Incarnation(1), draining: false, held: Vec::new() }
}

/// Fills the lane of proposals, as if the Raft thread stood still.
fn fill_proposals(node: &Node) {
    let (session, _answers) = async_std::channel::bounded(1);
    for corr in 0..u32::try_from(PROPOSALS_MAX).unwrap() {
        let reply = ReplyTo::by(session.clone(), corr);
        let ask = Ask::Submits { jobs: vec![(job(corr), reply)], arrived: clock_now() };
        node.shared.inbox.ask(ask).unwrap();
    }
}

#[test]
fn submit_is_answered_when_the_raft_thread_says_so_and_not_before() {
    let node = Node::start();
    let mut client = Client::connect(node.addr);
    client.send(5, &Request::SubmitJob(job(1)));
    let ask = node.proposal();
    client.ping();
    waiter(ask).answer(taken(1).into());
    assert_eq!(client.reply(), (5, taken(1)));
}

#[test]
fn submits_read_together_share_places_within_their_bounds_and_in_order() {
    let node = Node::start();
    let mut client = Client::connect(node.addr);
    let count = 600_u32;
    let frames = (0..count).map(|corr| encoded(&Request::SubmitJob(job(corr)).to_frame(corr)));
    client.stream.write_all(&frames.flatten().collect::<Vec<u8>>()).unwrap();
    let (mut places, mut ids) = (0, Vec::new());
    while ids.len() < 600 {
        let Ask::Submits { jobs, .. } = node.proposal() else { panic!("only submits were sent") };
        assert!(jobs.len() <= SUBMITS_SHARED_MAX);
        places += 1;
        for (job, reply) in jobs {
            ids.push(job.id);
            reply.answer(Reply::Submitted(Submitted { id: job.id, created: true }).into());
        }
    }
    assert_eq!(ids, (0..count).map(|number| job(number).id).collect::<Vec<_>>());
    assert!(places < 100, "{places} places for {count} submits");
    let replies: BTreeMap<u32, Reply> = (0..count).map(|_| client.reply()).collect();
    assert!(replies.iter().all(|(corr, reply)| *reply == taken(*corr)) && replies.len() == 600);
    client.ping();
}

#[test]
fn large_submits_share_a_place_only_up_to_its_bytes() {
    let node = Node::start();
    let mut client = Client::connect(node.addr);
    let size = SUBMITS_SHARED_BYTES_MAX / 3;
    for corr in 0..8 {
        client.send(corr, &Request::SubmitJob(payload(corr, size)));
    }
    let mut taken = 0;
    while taken < 8 {
        let Ask::Submits { jobs, .. } = node.proposal() else { panic!("only submits were sent") };
        assert!(jobs.len() <= 2, "{} thirds with their heads in one place", jobs.len());
        taken += jobs.len();
    }
}

#[test]
fn cancels_pass_the_submits_before_them() {
    let node = Node::start();
    let mut client = Client::connect(node.addr);
    let cancel = Request::CancelJobs { ids: vec![job(1).id] };
    let mut bytes = encoded(&Request::SubmitJob(job(1)).to_frame(1));
    bytes.extend(encoded(&cancel.to_frame(2)));
    bytes.extend(encoded(&Request::SubmitJob(job(3)).to_frame(3)));
    client.stream.write_all(&bytes).unwrap();
    assert!(matches!(node.proposal(), Ask::Submits { jobs, .. } if jobs[0].0 == job(1)));
    assert!(matches!(node.proposal(), Ask::Submits { jobs, .. } if jobs[0].0 == job(3)));
    assert!(matches!(node.control(), Ask::Request { request, .. } if request == cancel));
}

#[test]
fn full_lane_refuses_submits_at_once_and_lets_reports_and_reads_through() {
    let node = Node::start();
    fill_proposals(&node);
    let mut client = Client::connect(node.addr);
    client.send(1, &Request::SubmitJob(job(1)));
    let (corr, refusal) = client.refusal();
    assert_eq!((corr, refusal.code, refusal.unknown), (1, Code::ResourceExhausted, false));
    assert!(refusal.retry_after_ms.is_some());
    client.send(2, &heartbeat());
    client.send(3, &Request::GetJob { id: job(1).id });
    let report = node.outlets.reports.recv_timeout(LONG).expect("the heartbeat");
    waiter(report).answer(
        Reply::HeartbeatAck {
            term: raftq::types::Term(4),
            intake: raftq::jobs::intake::Intake::Open,
            withdrawn: Vec::new(),
        }
        .into(),
    );
    waiter(node.read()).answer(Refusal::not_found("no").into());
    assert_eq!(client.reply().0 + client.reply().0, 5);
    client.send(4, &Request::CancelJobs { ids: vec![job(1).id] });
    waiter(node.control()).answer(Refusal::not_found("no").into());
    assert_eq!(client.reply().0, 4);
    assert_eq!(node.metrics().refusals_of(Code::ResourceExhausted), 1);
}

#[test]
fn commands_of_many_words_are_counted_as_the_memory_they_take() {
    let node = Node::start();
    let mut client = Client::connect(node.addr);
    let words = 40_000;
    let body = Body::Command(vec![String::from("w"); words]);
    assert!(body.memory() > 50 * words && body.len() == words);
    let batch = Request::SubmitBatch(vec![NewJob { body, ..job(1) }]);
    let fit = SUBMIT_BYTES_MAX / (50 * words);
    for corr in 0..u32::try_from(fit).unwrap() {
        client.send(corr + 1, &batch);
    }
    let (_, refusal) = client.refusal();
    assert_eq!(refusal.code, Code::ResourceExhausted);
    assert!(refusal.message.contains("bytes of submits"), "{}", refusal.message);
}

#[test]
fn not_leader_outranks_full() {
    let node = Node::start();
    fill_proposals(&node);
    node.publish(|view| {
        view.leads = false;
        view.leader = Some(hint(2));
    });
    let mut client = Client::connect(node.addr);
    client.send(1, &Request::SubmitJob(job(1)));
    let (_, refusal) = client.refusal();
    assert_eq!((refusal.code, refusal.leader), (Code::NotLeader, Some(hint(2))));
    node.publish(|view| view.leads = true);
    client.send(2, &Request::SubmitJob(job(1)));
    assert_eq!(client.refusal().1.code, Code::ResourceExhausted);
}

#[test]
fn node_without_leader_or_on_its_way_out_is_unavailable_at_once() {
    let node = Node::start();
    let mut client = Client::connect(node.addr);
    node.publish(|view| view.stopping = true);
    client.send(1, &Request::SubmitJob(job(1)));
    assert_eq!(client.refusal().1.code, Code::Unavailable);
    node.publish(|view| {
        view.stopping = false;
        view.leads = false;
        view.leader = None;
    });
    let confirmed = Request::GetClusterStatus { local: false };
    let read = Request::GetJob { id: job(1).id };
    for request in [Request::SubmitJob(job(1)), read, heartbeat(), confirmed] {
        client.send(2, &request);
        let (_, refusal) = client.refusal();
        assert_eq!((refusal.code, refusal.unknown), (Code::Unavailable, false), "{request:?}");
    }
    client.send(3, &Request::GetClusterStatus { local: true });
    assert!(matches!(node.read(), Ask::Request { .. }), "its own view is told without a leader");
}

#[test]
fn raft_thread_that_is_gone_is_unavailable() {
    let mut node = Node::start();
    let (_, others) = raftq::net::inbox::lanes();
    drop(std::mem::replace(&mut node.outlets, others));
    let mut client = Client::connect(node.addr);
    client.send(1, &Request::SubmitJob(job(1)));
    assert_eq!(client.refusal().1.code, Code::Unavailable);
}

#[test]
fn job_that_nobody_could_run_is_refused_before_it_is_proposed() {
    let node = Node::start();
    let mut client = Client::connect(node.addr);
    for words in [vec![], vec![String::new()]] {
        let empty = NewJob { body: Body::Command(words), ..job(1) };
        client.send(1, &Request::SubmitJob(empty));
        assert_eq!(client.refusal().1.code, Code::InvalidArgument);
    }
    assert_eq!(node.shared.inbox.proposals_waiting(), 0);
}

#[test]
fn request_nobody_answers_hears_deadline_exceeded_once_and_late_answers_are_dropped() {
    let patience = Patience { request: Duration::from_millis(80), ..Patience::default() };
    let node = Plan { patience, ..Plan::default() }.start();
    let mut client = Client::connect(node.addr);
    client.send(7, &Request::SubmitJob(job(1)));
    let late = waiter(node.proposal());
    let (corr, refusal) = client.refusal();
    assert_eq!((corr, refusal.code, refusal.unknown), (7, Code::DeadlineExceeded, true));
    // The client's number is used again; the late answer is not taken for this request's.
    client.send(7, &Request::SubmitJob(job(2)));
    let second = waiter(node.proposal());
    late.answer(taken(1).into());
    second.answer(taken(2).into());
    assert_eq!(client.reply(), (7, taken(2)));
    client.ping();
    assert_eq!(node.metrics().answers_late.value(), 1);
}

#[test]
fn wait_is_given_its_own_time_on_top() {
    let patience = Patience { request: Duration::from_millis(50), ..Patience::default() };
    let node = Plan { patience, ..Plan::default() }.start();
    let mut client = Client::connect(node.addr);
    client.send(1, &Request::WaitJobs { ids: vec![job(1).id], wait_ms: 400 });
    client.send(2, &Request::GetJob { id: job(1).id });
    assert_eq!(client.refusal().0, 2, "the plain read first");
    let (corr, refusal) = client.refusal();
    assert_eq!((corr, refusal.code, refusal.unknown), (1, Code::DeadlineExceeded, false));
}

#[test]
fn image_is_made_an_answer_outside_the_raft_thread() {
    let node = Node::start();
    let mut client = Client::connect(node.addr);
    client.send(4, &Request::ListJobs(Box::default()));
    let Ask::Request { request, reply, .. } = node.read() else { panic!("a read was asked") };
    reply.answer(Answer::Image { machine: Box::new(Machine::new()), request });
    assert_eq!(client.reply(), (4, Reply::Jobs { jobs: Vec::new(), more: false, after: None }));
}

#[test]
fn client_that_has_only_closed_its_sending_side_gets_every_answer() {
    let node = Node::start();
    let mut client = Client::connect(node.addr);
    client.send(1, &Request::SubmitJob(job(1)));
    client.send(2, &Request::GetJob { id: job(1).id });
    client.close_sending();
    let (submit, read) = (waiter(node.proposal()), waiter(node.read()));
    read.answer(Refusal::not_found("no").into());
    submit.answer(taken(1).into());
    let first = client.reply().0;
    assert_eq!(first + client.reply().0, 3);
    assert_eq!(client.frame(), None, "and then the end");
}

#[test]
fn frames_nobody_knows_are_refused_by_name_or_skipped_and_the_connection_goes_on() {
    let node = Node::start();
    let mut client = Client::connect(node.addr);
    let unknown = Frame::new(0x3F, 9, bytes::Bytes::new());
    client.send_frame(&Frame { flags: IGNORABLE, ..unknown.clone() });
    client.send_frame(&unknown);
    let (corr, refusal) = client.refusal();
    assert_eq!((corr, refusal.code), (9, Code::InvalidArgument));
    assert!(refusal.message.contains("0x3f"), "{}", refusal.message);
    // A node's frame from a client is refused as well: roles decide which frames are read.
    client.send_frame(&Frame::new(raftq::wire::kind::VOTE, 10, bytes::Bytes::new()));
    assert_eq!(client.refusal().1.code, Code::InvalidArgument);
    client.ping();
}

#[test]
fn one_request_too_many_in_flight_is_refused_at_once() {
    let node = Node::start();
    let mut client = Client::connect(node.addr);
    let request = Request::GetJob { id: JobId::default() };
    let held = std::thread::scope(|scope| {
        let reads = &node.outlets.reads;
        let holding = scope.spawn(move || {
            let take = |_| waiter(reads.recv_timeout(LONG).expect("a read"));
            (0..IN_FLIGHT_MAX).map(take).collect::<Vec<ReplyTo>>()
        });
        // Sent in parts that the lane of reads has room for.
        for part in 0..IN_FLIGHT_MAX / 512 {
            let corrs = part * 512..(part + 1) * 512;
            let frames: Vec<u8> = corrs.flat_map(|corr| encoded(&request.to_frame(corr))).collect();
            client.stream.write_all(&frames).unwrap();
            until("the part was taken", || {
                node.metrics().requests.value() >= u64::from((part + 1) * 512)
                    && node.outlets.reads.is_empty()
            });
        }
        holding.join().unwrap()
    });
    client.send(u32::MAX - 1, &request);
    let (corr, refusal) = client.refusal();
    assert_eq!((corr, refusal.code), (u32::MAX - 1, Code::ResourceExhausted));
    for reply in held {
        reply.answer(Refusal::not_found("no").into());
    }
    let answered: std::collections::BTreeSet<u32> =
        (0..IN_FLIGHT_MAX).map(|_| client.refusal().0).collect();
    assert_eq!(answered.len(), IN_FLIGHT_MAX as usize, "each exactly once");
    client.ping();
}

#[test]
fn reader_that_does_not_read_is_cut_off() {
    let patience = Patience { write: Duration::from_millis(200), ..Patience::default() };
    let node = Plan { patience, ..Plan::default() }.start();
    let mut client = Client::connect(node.addr);
    for corr in 0..24 {
        client.send(corr, &Request::GetJob { id: job(1).id });
    }
    let view = raftq::jobs::job::JobView {
        id: job(1).id,
        queue: job(1).queue,
        status: raftq::jobs::job::Status::Pending,
        attempt: 1,
        worker: None,
        fence: None,
        exit_code: None,
        output: bytes::Bytes::new(),
        output_cut: false,
        error: None,
        created_ms: raftq::types::Millis(1),
        started_ms: None,
        finished_ms: None,
        options: None,
        held_ms: None,
        progress: None,
        past: Vec::new(),
        body: Some(payload(1, 1 << 20).body),
    };
    for _ in 0..24 {
        waiter(node.read()).answer(Reply::Job(Box::new(view.clone())).into());
    }
    until("the session ended", || node.metrics().sessions_open.value() == 0);
    assert_eq!(node.metrics().readers_slow.value(), 1);
}

#[test]
fn draining_node_answers_what_it_has_and_takes_nothing_more() {
    let node = Node::start();
    let mut client = Client::connect(node.addr);
    client.send(1, &Request::SubmitJob(job(1)));
    let submit = waiter(node.proposal());
    node.net().stop_listening();
    submit.answer(taken(1).into());
    assert_eq!(client.reply(), (1, taken(1)));
    assert_eq!(client.frame(), None);
    until("nobody listens", || std::net::TcpStream::connect(node.addr).is_err());
}
