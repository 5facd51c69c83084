//! The lines in which jobs wait, and who takes from which.

use crate::jobs::options::Tags;
use crate::types::QueueName;

/// What kind of work a line has. Built-in workers take the commands of every queue; workers of one's own the
/// payloads of their queues.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Commands, whatever their queue.
    Commands,
    /// Payloads of one queue.
    Payloads(QueueName),
}

/// All jobs that exactly the same workers take: they are given out in one order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    /// The work.
    pub work: Work,
    /// What the worker must have.
    pub tags: Tags,
}

impl Class {
    /// Returns the first class of this work: that of jobs which ask for no tag.
    #[must_use]
    pub fn untagged(work: Work) -> Self {
        Self { work, tags: Tags::default() }
    }
}

/// One line: the jobs of one queue and one class. A queue that is closed closes all its lines, so they sort
/// by queue first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lane {
    /// The queue.
    pub queue: QueueName,
    /// The class.
    pub class: Class,
}

impl Lane {
    /// Returns what sorts before every line of a queue, or is its first one.
    #[must_use]
    pub fn first_of(queue: QueueName) -> Self {
        Self { queue, class: Class::untagged(Work::Commands) }
    }
}
