//! What the replica of a node tells the worker built into it, in place of a long poll.

use std::collections::BTreeSet;

use crate::client::duty::Ask;
use crate::jobs::job::Assignment;
use crate::replica::view::Notice;
use crate::types::{Fence, Incarnation, NodeId};

/// The ear of a built-in worker.
#[derive(Debug)]
pub struct Home {
    node: NodeId,
    /// What was said and not yet heeded.
    notices: Vec<Notice>,
    /// The start that registers, or has.
    start: Option<Incarnation>,
    announced: bool,
}

/// What a worker is to begin, and what to end.
#[derive(Debug)]
pub struct News {
    /// The start that is meant.
    pub incarnation: Incarnation,
    /// In order of token.
    pub begin: Vec<Assignment>,
    /// Taken away.
    pub end: Vec<Fence>,
}

impl Home {
    /// Listens to a node.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self { node, notices: Vec::new(), start: None, announced: true }
    }

    /// Returns the node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Hears something.
    pub fn hear(&mut self, notices: Vec<Notice>) {
        self.notices.extend(notices);
    }

    /// Tells whether something was said and not heeded.
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.notices.is_empty()
    }

    /// Forgets everything: the worker's process is another one.
    pub fn forget(&mut self) {
        *self = Self::new(self.node);
    }

    /// Tells whether a call is none of a built-in worker: it is told of its jobs. Notes a start that registers.
    pub(crate) fn replaces(&mut self, ask: Ask) -> bool {
        if let Ask::Register { incarnation, .. } = ask
            && self.start != Some(incarnation)
        {
            self.start = Some(incarnation);
            self.announced = false;
        }
        matches!(ask, Ask::Reserve { .. })
    }

    /// Returns a start that the replica has not heard of.
    pub fn take_announcement(&mut self) -> Option<Incarnation> {
        if self.announced {
            return None;
        }
        self.announced = true;
        self.start
    }

    /// Gathers what was said of the start that is registered. What is said before it knows that it is stays; what
    /// is said of former starts is dropped.
    pub fn news(
        &mut self,
        registered: Option<Incarnation>,
        running: &BTreeSet<Fence>,
    ) -> Option<News> {
        let start = self.start?;
        if registered != Some(start) {
            self.notices.retain(|notice| meant(notice) == Some(start));
            return None;
        }
        let mut begin: Vec<Assignment> = Vec::new();
        let mut end = BTreeSet::new();
        for notice in std::mem::take(&mut self.notices) {
            if meant(&notice) != Some(start) {
                continue;
            }
            match notice {
                Notice::Begin { assignment, .. } => begin.push(assignment),
                Notice::Held { assignments, .. } => {
                    let held: BTreeSet<Fence> = assignments.iter().map(|it| it.fence).collect();
                    end.extend(running.difference(&held));
                    begin = assignments;
                }
                Notice::End { fence, .. } => {
                    begin.retain(|assignment| assignment.fence != fence);
                    end.insert(fence);
                }
                Notice::Leader => {}
            }
        }
        let end = end.into_iter().collect();
        Some(News { incarnation: start, begin, end })
    }
}

fn meant(notice: &Notice) -> Option<Incarnation> {
    match notice {
        Notice::Begin { incarnation, .. }
        | Notice::Held { incarnation, .. }
        | Notice::End { incarnation, .. } => Some(*incarnation),
        Notice::Leader => None,
    }
}
