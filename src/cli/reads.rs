//! How a verb that only reads does so: what all of them take, and the reads themselves.

use clap::Args;

use crate::cli::exit::{Exit, Failure, narrate};
use crate::cli::session::Session;
use crate::cli::values;
use crate::client::reads::Page;
use crate::jobs::job::JobView;
use crate::jobs::reason::Explanation;
use crate::types::{Index, JobId};
use crate::wire::message::{Filter, QueueFilter, QueueView, Reply, Request, WorkerView};
use crate::wire::reads::Consistency;

/// Options of every verb that only reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args)]
pub struct ReadArgs {
    /// Read what the asked node has, at once, though it may be old: also without a leader. With several addresses it is
    /// any of these nodes.
    #[arg(long, conflicts_with = "min_index", help_heading = "How it is read")]
    pub stale: bool,

    /// Read what the asked node has, once it has applied entry N of the log; exit code 4 if --timeout comes first.
    #[arg(long, value_name = "N", value_parser = values::number, help_heading = "How it is read")]
    #[arg(allow_negative_numbers = true)]
    pub min_index: Option<u64>,

    /// Say on stderr which entry of the log the answer goes up to. Without --stale and --min-index it has all that was
    /// acknowledged before.
    #[arg(long, help_heading = "How it is read")]
    pub show_index: bool,
}

/// The entries that the answers of one verb go up to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    first: Option<Index>,
    last: Option<Index>,
}

impl Seen {
    /// Notes one more answer.
    pub fn note(&mut self, index: Option<Index>) {
        self.first = self.first.or(index);
        self.last = index.or(self.last);
    }
}

impl ReadArgs {
    /// Returns how to read, if that was said.
    #[must_use]
    pub fn consistency(&self) -> Option<Consistency> {
        match (self.stale, self.min_index) {
            (true, _) => Some(Consistency::Stale),
            (false, Some(index)) => Some(Consistency::MinIndex(Index(index))),
            (false, None) => self.show_index.then_some(Consistency::Linearizable),
        }
    }

    /// Says which entries the answers go up to, if that was asked for.
    pub fn tell(&self, seen: Seen) {
        match (seen.first, seen.last) {
            (Some(first), Some(last)) if self.show_index && first == last => {
                narrate(&format!("raftq: read at index {first}"));
            }
            (Some(first), Some(last)) if self.show_index => {
                narrate(&format!("raftq: read page by page, at index {first} to {last}"));
            }
            (Some(_) | None, _) => {}
        }
    }

    fn ask(&self, read: Request, session: &Session) -> Result<Reply, Failure> {
        let (reply, index) = session.read(read, self.consistency())?;
        self.tell(Seen { first: index, last: index });
        Ok(reply)
    }

    /// Asks for a job.
    ///
    /// # Errors
    /// A [`Failure`], `NotFound` among them.
    pub fn job(&self, id: JobId, session: &Session) -> Result<JobView, Failure> {
        let reply = self.ask(Request::GetJob { id }, session)?;
        if let Reply::Job(job) = reply { Ok(*job) } else { Err(misplaced(&reply)) }
    }

    /// Asks why a job is where it is.
    ///
    /// # Errors
    /// A [`Failure`], `NotFound` among them.
    pub fn why(&self, id: JobId, session: &Session) -> Result<Explanation, Failure> {
        let reply = self.ask(Request::WhyJob { id }, session)?;
        if let Reply::Explained(explanation) = reply {
            Ok(*explanation)
        } else {
            Err(misplaced(&reply))
        }
    }

    /// Asks for the workers.
    ///
    /// # Errors
    /// A [`Failure`].
    pub fn workers(&self, session: &Session) -> Result<Vec<WorkerView>, Failure> {
        let reply = self.ask(Request::ListWorkers, session)?;
        if let Reply::Workers(workers) = reply { Ok(workers) } else { Err(misplaced(&reply)) }
    }

    /// Asks for a page of jobs; it says where it was read, and [`ReadArgs::tell`] tells the user.
    ///
    /// # Errors
    /// A [`Failure`].
    pub fn page(&self, filter: Filter, session: &Session) -> Result<Page, Failure> {
        let (reply, index) =
            session.read(Request::ListJobs(Box::new(filter)), self.consistency())?;
        let misplaced = misplaced(&reply);
        let page = Page::of(reply).map_err(|_other_answer| misplaced)?;
        Ok(Page { index, ..page })
    }

    /// Asks for the queues that have jobs or rules, in order of name.
    ///
    /// # Errors
    /// A [`Failure`].
    pub fn queues(&self, session: &Session) -> Result<Vec<QueueView>, Failure> {
        let mut queues: Vec<QueueView> = Vec::new();
        let mut seen = Seen::default();
        loop {
            let after = queues.last().map(|queue| queue.name.clone());
            let read = Request::ListQueues(QueueFilter { after, limit: 0 });
            let (reply, index) = session.read(read, self.consistency())?;
            seen.note(index);
            let Reply::Queues { queues: page, more } = reply else {
                return Err(misplaced(&reply));
            };
            let is_last = !more || page.is_empty();
            queues.extend(page);
            if is_last {
                self.tell(seen);
                return Ok(queues);
            }
        }
    }
}

/// Never happens: the client library lets no answer to another question through.
fn misplaced(reply: &Reply) -> Failure {
    let text = format!("a node gave an answer of kind 0x{:02x} to another question", reply.kind());
    Failure::new(Exit::Failure, text)
}
