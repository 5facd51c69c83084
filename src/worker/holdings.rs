//! What a worker holds: jobs that wait for a slot, commands that run, fences that were seen.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::jobs::job::Assignment;
use crate::types::{Fence, JobId};

/// Fences remembered, at most. Past it the lowest is forgotten, and everything at or below it is
/// taken for begun: fences only rise, so nothing new is that old.
pub const SEEN_MAX: usize = 65_536;

/// The jobs of one worker, as a value without a clock or a process.
///
/// - Never more than `slots` commands run, those included that were told to end and have not yet.
/// - Never more than `slots` jobs wait.
/// - No fence is begun twice, whatever is told how often.
#[derive(Debug)]
pub struct Holdings {
    slots: usize,
    /// In order of arrival.
    waiting: VecDeque<Assignment>,
    running: BTreeMap<Fence, Running>,
    seen: BTreeSet<Fence>,
    /// Every fence up to here counts as seen.
    seen_floor: Fence,
}

/// A command that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// The job.
    pub job: JobId,
    /// What its end is for.
    pub fate: Fate,
}

/// What to do with a command's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Report it.
    Report,
    /// Give the job back: it was ended because the worker leaves.
    GiveBack,
    /// Nothing: the job was taken away.
    Forget,
}

/// The jobs whose commands died with their guard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// In the middle of their work: each has used up an attempt.
    pub died: Vec<(JobId, Fence)>,
    /// While they were being ended in order: they are given back.
    pub given_back: Vec<(JobId, Fence)>,
}

/// What became of an assignment that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It waits for a slot.
    Waits,
    /// It was seen before.
    Known,
    /// As many as there are slots wait already. No leader that counts assigns so many.
    NoRoom,
}

impl Holdings {
    /// Holds nothing yet.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self {
            slots,
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            seen: BTreeSet::new(),
            seen_floor: Fence(0),
        }
    }

    /// Takes an assignment that was not seen before.
    pub fn take(&mut self, assignment: &Assignment) -> Taken {
        if assignment.fence <= self.seen_floor || !self.seen.insert(assignment.fence) {
            return Taken::Known;
        }
        if self.seen.len() > SEEN_MAX
            && let Some(lowest) = self.seen.pop_first()
        {
            self.seen_floor = lowest;
        }
        if self.waiting.len() >= self.slots {
            return Taken::NoRoom;
        }
        self.waiting.push_back(assignment.clone());
        Taken::Waits
    }

    /// Lets a job go that was taken away. Returns whether its command runs and has to be ended.
    pub fn withdraw(&mut self, fence: Fence) -> bool {
        self.waiting.retain(|assignment| assignment.fence != fence);
        match self.running.get_mut(&fence) {
            Some(running) if running.fate != Fate::Forget => {
                running.fate = Fate::Forget;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Returns the fences of jobs that are held here and not in `held`.
    #[must_use]
    pub fn missing_from(&self, held: &[Assignment]) -> Vec<Fence> {
        let held: BTreeSet<Fence> = held.iter().map(|assignment| assignment.fence).collect();
        let waiting = self.waiting.iter().map(|assignment| assignment.fence);
        let running = self.running.keys().copied();
        waiting.chain(running).filter(|fence| !held.contains(fence)).collect()
    }

    /// Moves the job that waits longest into a free slot, and returns it to be begun.
    pub fn begin(&mut self) -> Option<Assignment> {
        if self.running.len() >= self.slots {
            return None;
        }
        let assignment = self.waiting.pop_front()?;
        let running = Running { job: assignment.id, fate: Fate::Report };
        self.running.insert(assignment.fence, running);
        Some(assignment)
    }

    /// Frees the slot of a command that has ended; `None` if there was none.
    pub fn ended(&mut self, fence: Fence) -> Option<Running> {
        self.running.remove(&fence)
    }

    /// Lets everything go: the right to all of it is lost. What runs keeps its slot until it ends.
    pub fn give_up(&mut self) {
        self.waiting.clear();
        for running in self.running.values_mut() {
            running.fate = Fate::Forget;
        }
    }

    /// Takes out the jobs that wait, to be given back.
    pub fn give_back_waiting(&mut self) -> Vec<(JobId, Fence)> {
        self.waiting.drain(..).map(|assignment| (assignment.id, assignment.fence)).collect()
    }

    /// Marks what runs to be given back at its end. Returns which commands have to be ended.
    pub fn give_back_running(&mut self) -> Vec<Fence> {
        let mut fences = Vec::new();
        for (fence, running) in &mut self.running {
            if running.fate == Fate::Report {
                running.fate = Fate::GiveBack;
                fences.push(*fence);
            }
        }
        fences
    }

    /// Frees every slot: the commands died with their guard.
    pub fn lose_running(&mut self) -> Lost {
        let mut lost = Lost::default();
        for (fence, running) in std::mem::take(&mut self.running) {
            match running.fate {
                Fate::Report => lost.died.push((running.job, fence)),
                Fate::GiveBack => lost.given_back.push((running.job, fence)),
                Fate::Forget => {}
            }
        }
        lost
    }

    /// Returns how many commands run, those included that are ending.
    #[must_use]
    pub fn running_count(&self) -> usize {
        self.running.len()
    }

    /// Tells whether a command runs that was told to end.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.running.values().any(|running| running.fate != Fate::Report)
    }

    /// Returns how many jobs wait for a slot.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::job::Body;
    use crate::types::QueueName;

    fn assignment(fence: u64) -> Assignment {
        Assignment {
            id: JobId([u8::try_from(fence % 251).unwrap(); 16]),
            queue: QueueName::default(),
            attempt: 1,
            fence: Fence(fence),
            timeout_ms: None,
            body: Body::Command(vec!["true".into()]),
        }
    }

    fn begin_all(holdings: &mut Holdings) -> Vec<u64> {
        std::iter::from_fn(|| holdings.begin()).map(|assignment| assignment.fence.0).collect()
    }

    #[test]
    fn job_told_twice_is_begun_once_even_after_its_end() {
        let mut holdings = Holdings::new(2);
        assert_eq!(holdings.take(&assignment(5)), Taken::Waits);
        assert_eq!(holdings.take(&assignment(5)), Taken::Known);
        assert_eq!(begin_all(&mut holdings), [5]);
        assert_eq!(holdings.take(&assignment(5)), Taken::Known);
        assert!(holdings.ended(Fence(5)).is_some());
        assert_eq!(holdings.take(&assignment(5)), Taken::Known);
        assert_eq!(begin_all(&mut holdings), [0; 0]);
    }

    #[test]
    fn withdrawn_command_keeps_its_slot_until_it_has_ended() {
        let mut holdings = Holdings::new(1);
        holdings.take(&assignment(1));
        assert_eq!(begin_all(&mut holdings), [1]);
        assert!(!holdings.is_ending());
        assert!(holdings.withdraw(Fence(1)));
        assert!(holdings.is_ending());
        assert!(!holdings.withdraw(Fence(1)), "it is ended once");
        holdings.take(&assignment(2));
        assert_eq!(begin_all(&mut holdings), [0; 0]);
        assert_eq!(holdings.ended(Fence(1)).unwrap().fate, Fate::Forget);
        assert_eq!(begin_all(&mut holdings), [2]);
    }

    #[test]
    fn withdrawn_job_that_waits_is_never_begun() {
        let mut holdings = Holdings::new(2);
        holdings.take(&assignment(1));
        assert!(!holdings.withdraw(Fence(1)));
        assert_eq!(holdings.take(&assignment(1)), Taken::Known);
        assert_eq!(begin_all(&mut holdings), [0; 0]);
    }

    #[test]
    fn more_waiting_than_slots_are_not_taken() {
        let mut holdings = Holdings::new(2);
        let taken: Vec<_> = (1..=3).map(|fence| holdings.take(&assignment(fence))).collect();
        assert_eq!(taken, [Taken::Waits, Taken::Waits, Taken::NoRoom]);
    }

    #[test]
    fn what_is_missing_from_the_list_is_found_running_or_waiting() {
        let mut holdings = Holdings::new(2);
        for fence in [1, 2] {
            holdings.take(&assignment(fence));
        }
        begin_all(&mut holdings);
        holdings.take(&assignment(3));
        assert_eq!(holdings.missing_from(&[assignment(1), assignment(9)]), [Fence(3), Fence(2)]);
    }

    #[test]
    fn giving_up_forgets_all_and_leaving_gives_all_back() {
        let mut holdings = Holdings::new(1);
        holdings.take(&assignment(1));
        begin_all(&mut holdings);
        holdings.take(&assignment(2));
        assert_eq!(holdings.give_back_waiting(), [(assignment(2).id, Fence(2))]);
        assert_eq!(holdings.give_back_running(), [Fence(1)]);
        assert_eq!(holdings.give_back_running(), [Fence(0); 0], "it is ended once");
        let given_back = vec![(assignment(1).id, Fence(1))];
        assert_eq!(holdings.lose_running(), Lost { died: Vec::new(), given_back });
        holdings.take(&assignment(3));
        begin_all(&mut holdings);
        holdings.give_up();
        assert_eq!(holdings.lose_running(), Lost::default());
        holdings.take(&assignment(4));
        begin_all(&mut holdings);
        let died = vec![(assignment(4).id, Fence(4))];
        assert_eq!(holdings.lose_running(), Lost { died, given_back: Vec::new() });
        assert_eq!(holdings.running_count(), 0);
    }

    #[test]
    fn memory_of_fences_is_bounded_and_forgets_none() {
        let mut holdings = Holdings::new(1);
        let last = u64::try_from(SEEN_MAX).unwrap() + 10;
        for fence in 1..=last {
            assert_eq!(holdings.take(&assignment(fence)), Taken::Waits);
            holdings.give_back_waiting();
        }
        assert_eq!(holdings.seen.len(), SEEN_MAX);
        for fence in [1, 10, 11, last] {
            assert_eq!(holdings.take(&assignment(fence)), Taken::Known, "fence {fence}");
        }
    }
}
