//! What a session decides by itself, before anything is asked of the Raft thread: who leads, and what nobody could run.

use crate::replica::view::View;
use crate::wire::message::{Refusal, Request};

/// How long a caller is asked to wait when a lane is full, in ms: some turns of the Raft thread.
pub const FULL_RETRY_MS: u64 = 20;

/// How long a caller is asked to wait when there is no leader, in ms: about one election.
pub const NO_LEADER_RETRY_MS: u64 = 150;

/// Makes the refusal for a full lane.
#[must_use]
pub fn full(message: &str) -> Refusal {
    Refusal::exhausted(message, FULL_RETRY_MS)
}

/// Makes the refusal of a node that cannot serve for the moment.
#[must_use]
pub fn unavailable(message: &str) -> Refusal {
    Refusal { retry_after_ms: Some(NO_LEADER_RETRY_MS), ..Refusal::unavailable(message) }
}

/// Makes the refusal for what changes nothing and was not answered in time.
#[must_use]
pub fn too_slow() -> Refusal {
    let message = "this node was too slow to answer; ask again, or another node";
    Refusal { unknown: false, message: message.into(), ..Refusal::deadline_exceeded() }
}

/// Makes the refusal of a node on its way out.
#[must_use]
pub fn stopping() -> Refusal {
    unavailable("this node is stopping; ask another one")
}

/// Who may answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    /// The leader alone.
    Leader,
    /// Any node that knows a leader, for it asks that one for a read index.
    SomeLeader,
    /// This node.
    Nobody,
}

fn needs(request: &Request) -> Needs {
    match request {
        Request::SubmitJob(_)
        | Request::SubmitBatch(_)
        | Request::RegisterWorker(_)
        | Request::Heartbeat { .. }
        | Request::UpdateJobStatus(_)
        | Request::BatchUpdateJobStatus(_)
        | Request::ReleaseJobs(_)
        | Request::CancelJobs { .. }
        | Request::RetryJobs { .. }
        | Request::PurgeJobs { .. }
        | Request::ChangeQueue { .. }
        | Request::ChangeWorker { .. }
        | Request::ReportProgress(_)
        | Request::AddCron(_)
        | Request::ChangeCron { .. }
        | Request::TransferLeadership { .. }
        | Request::GetClusterStatus { local: false } => Needs::Leader,
        Request::GetJob { .. }
        | Request::ListJobs(_)
        | Request::WaitJobs { .. }
        | Request::ListQueues(_)
        | Request::ListCrons(_)
        | Request::ListWorkers
        | Request::WhyJob { .. } => Needs::SomeLeader,
        Request::ReadAt { read, .. } if !request.is_local_read() => needs(read),
        Request::GetClusterStatus { local: true }
        | Request::Ping
        | Request::Reserve { .. }
        | Request::Watch(_)
        | Request::ReadAt { .. }
        | Request::ListLog { .. } => Needs::Nobody,
    }
}

/// Tells whether a request begins something that a node on its way out should not begin. Reports and
/// plain reads pass: they end things.
fn begins_work(request: &Request) -> bool {
    match request {
        Request::SubmitJob(_)
        | Request::SubmitBatch(_)
        | Request::RegisterWorker(_)
        | Request::Reserve { .. }
        | Request::WaitJobs { .. }
        | Request::Watch(_)
        | Request::RetryJobs { .. }
        | Request::TransferLeadership { .. } => true,
        Request::Ping
        | Request::Heartbeat { .. }
        | Request::UpdateJobStatus(_)
        | Request::BatchUpdateJobStatus(_)
        | Request::ReleaseJobs(_)
        | Request::GetJob { .. }
        | Request::ListJobs(_)
        | Request::CancelJobs { .. }
        | Request::PurgeJobs { .. }
        | Request::ChangeQueue { .. }
        | Request::ChangeWorker { .. }
        | Request::ReportProgress(_)
        | Request::AddCron(_)
        | Request::ChangeCron { .. }
        | Request::ListQueues(_)
        | Request::ListCrons(_)
        | Request::ListWorkers
        | Request::WhyJob { .. }
        | Request::ReadAt { .. }
        | Request::GetClusterStatus { .. }
        | Request::ListLog { .. } => false,
    }
}

/// Checks a request against the published view. What passes may be asked of the Raft thread.
///
/// Who leads is checked first: `NOT_LEADER` outranks everything, since a caller at the wrong node
/// should leave it, not wait for it.
///
/// # Errors
/// The refusal to answer with; it is definite.
pub fn admit(request: &Request, view: &View) -> Result<(), Refusal> {
    check_leader(needs(request), view)?;
    if view.stopping && begins_work(request) {
        return Err(stopping());
    }
    fault(request).map_or(Ok(()), |fault| Err(Refusal::invalid(fault)))
}

fn check_leader(needs: Needs, view: &View) -> Result<(), Refusal> {
    let elsewhere = view.leader.as_ref().filter(|hint| hint.id != view.node);
    match (needs, elsewhere) {
        (Needs::Nobody, _) | (Needs::SomeLeader, Some(_)) => Ok(()),
        _ if view.leads => Ok(()),
        (Needs::Leader, Some(hint)) => Err(Refusal::not_leader(Some(hint.clone()))),
        (Needs::Leader | Needs::SomeLeader, None) => {
            Err(unavailable("no leader is known; an election takes a moment"))
        }
    }
}

/// Says what is wrong with a job that nobody could run. The jobs of a batch are decided one by one when
/// they are applied, so that each has its answer; every other bound was checked as the frame was read.
fn fault(request: &Request) -> Option<String> {
    if let Request::SubmitJob(job) = request { job.fault() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::job::{Body, NewJob};
    use crate::raft::message::Configuration;
    use crate::types::{ClusterId, JobId, NodeId, QueueName, Term};
    use crate::wire::message::{Code, LeaderHint};

    fn view(leads: bool, leader: Option<u64>) -> View {
        let hint = |id| LeaderHint { id: NodeId(id), addr: "h:1".into(), term: Term(3) };
        View {
            node: NodeId(1),
            leads,
            term: Term(3),
            leader: leader.map(hint),
            configuration: Configuration { cluster: ClusterId::default(), voters: Vec::new() },
            ready: true,
            healing: false,
            stopping: false,
        }
    }

    fn job(words: &[&str]) -> NewJob {
        let body = Body::Command(words.iter().map(ToString::to_string).collect());
        NewJob { id: JobId::default(), queue: QueueName::default(), body, options: None }
    }

    fn code(request: Request, view: &View) -> Option<Code> {
        admit(&request, view).err().map(|refusal| refusal.code)
    }

    #[test]
    fn submit_goes_to_the_leader_only() {
        let submit = || Request::SubmitJob(job(&["true"]));
        assert_eq!(code(submit(), &view(true, Some(1))), None);
        assert_eq!(code(submit(), &view(false, Some(2))), Some(Code::NotLeader));
        assert_eq!(code(submit(), &view(false, None)), Some(Code::Unavailable));
        assert_eq!(code(submit(), &view(false, Some(1))), Some(Code::Unavailable), "taking office");
    }

    #[test]
    fn not_leader_outranks_a_fault_and_names_the_leader() {
        let request = Request::SubmitJob(job(&[]));
        let no = admit(&request, &view(false, Some(2))).expect_err("a follower");
        assert_eq!((no.code, no.leader.map(|hint| hint.id)), (Code::NotLeader, Some(NodeId(2))));
        assert_eq!(code(request, &view(true, Some(1))), Some(Code::InvalidArgument));
    }

    #[test]
    fn reads_pass_anywhere_a_leader_is_known() {
        let read = || Request::GetJob { id: JobId::default() };
        assert_eq!(code(read(), &view(false, Some(2))), None);
        assert_eq!(code(read(), &view(true, Some(1))), None);
        assert_eq!(code(read(), &view(false, None)), Some(Code::Unavailable));
    }

    #[test]
    fn cluster_status_is_the_leaders_unless_asked_for_the_nodes_own() {
        let ask = |local| Request::GetClusterStatus { local };
        assert_eq!(code(ask(false), &view(false, Some(2))), Some(Code::NotLeader));
        assert_eq!(code(ask(false), &view(false, None)), Some(Code::Unavailable));
        assert_eq!(code(ask(true), &view(false, Some(2))), None);
        assert_eq!(code(ask(true), &view(false, None)), None);
    }

    #[test]
    fn stopping_node_begins_nothing_and_ends_what_it_can() {
        let mut view = view(true, Some(1));
        view.stopping = true;
        assert_eq!(code(Request::SubmitJob(job(&["true"])), &view), Some(Code::Unavailable));
        assert_eq!(code(Request::CancelJobs { ids: Vec::new() }, &view), None);
        assert_eq!(code(Request::ListWorkers, &view), None);
    }
}
