//! What a running job says of itself, on its way to the cluster: at most one report a second is under way.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::client::moment::Moment;
use crate::jobs::intake::ProgressReport;
use crate::types::{Fence, JobId};

/// From one report about a job to the next, at least. What is said meanwhile waits, and the newest wins.
pub(crate) const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Reports of progress of one worker under way, at most; those of other jobs wait.
const UNDER_WAY_MAX: usize = 64;

/// What one job has said.
#[derive(Clone, Debug)]
struct Note {
    job: JobId,
    /// What is to be told.
    newest: Option<(u8, String)>,
    /// What is being told.
    told: Option<(u8, String)>,
    due: Moment,
}

/// What all jobs of a worker have said; at most as many as run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    notes: BTreeMap<Fence, Note>,
}

impl Notes {
    /// Takes what a job that runs says.
    pub(crate) fn say(&mut self, job: JobId, fence: Fence, progress: (u8, String), now: Moment) {
        let note =
            self.notes.entry(fence).or_insert(Note { job, newest: None, told: None, due: now });
        note.newest = Some(progress);
    }

    /// Takes the reports to send now.
    pub(crate) fn due(&mut self, now: Moment) -> Vec<ProgressReport> {
        let free = UNDER_WAY_MAX.saturating_sub(self.under_way());
        let due = self.notes.iter_mut().filter(|(_, note)| note.waits() && note.due <= now);
        due.take(free).filter_map(|(fence, note)| note.begin(*fence, now)).collect()
    }

    /// Takes the last word of a job that ends, if it was not told yet, and forgets the job.
    pub(crate) fn last_word(&mut self, fence: Fence, now: Moment) -> Option<ProgressReport> {
        let mut note = self.notes.remove(&fence)?;
        if note.waits() { note.begin(fence, now) } else { None }
    }

    /// Hears what became of a report; one that came to nothing is told again, unless there is a newer one.
    pub(crate) fn heard(&mut self, fence: Fence, again: bool) {
        let Some(note) = self.notes.get_mut(&fence) else { return };
        let told = note.told.take();
        if again && note.newest.is_none() {
            note.newest = told;
        }
    }

    /// Forgets a job.
    pub(crate) fn forget(&mut self, fence: Fence) {
        self.notes.remove(&fence);
    }

    /// Forgets every job.
    pub(crate) fn clear(&mut self) {
        self.notes.clear();
    }

    /// Returns when the next report is due.
    pub(crate) fn wake_at(&self) -> Option<Moment> {
        if self.under_way() >= UNDER_WAY_MAX {
            return None;
        }
        self.notes.values().filter(|note| note.waits()).map(|note| note.due).min()
    }

    fn under_way(&self) -> usize {
        self.notes.values().filter(|note| note.told.is_some()).count()
    }
}

impl Note {
    fn waits(&self) -> bool {
        self.newest.is_some() && self.told.is_none()
    }

    fn begin(&mut self, fence: Fence, now: Moment) -> Option<ProgressReport> {
        let (percent, note) = self.newest.take()?;
        self.told = Some((percent, note.clone()));
        self.due = now.after(PROGRESS_EVERY);
        Some(ProgressReport { job: self.job, fence, percent, note })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: JobId = JobId([1; 16]);

    fn percents(reports: &[ProgressReport]) -> Vec<u8> {
        reports.iter().map(|report| report.percent).collect()
    }

    #[test]
    fn one_report_a_second_is_under_way_and_the_newest_wins() {
        let mut notes = Notes::default();
        let mut sent = Vec::new();
        for now in 0..3500 {
            notes.say(JOB, Fence(1), (u8::try_from(now / 40).unwrap(), String::new()), Moment(now));
            let due = notes.due(Moment(now));
            if !due.is_empty() {
                notes.heard(Fence(1), false);
            }
            sent.extend(percents(&due));
        }
        assert_eq!(sent, [0, 25, 50, 75]);
    }

    #[test]
    fn nothing_is_sent_while_an_answer_is_awaited_and_what_was_lost_is_sent_again() {
        let mut notes = Notes::default();
        let say = |notes: &mut Notes, percent| {
            notes.say(JOB, Fence(1), (percent, String::new()), Moment(0));
        };
        say(&mut notes, 1);
        assert_eq!(percents(&notes.due(Moment(0))), [1]);
        say(&mut notes, 2);
        assert!(notes.due(Moment(9000)).is_empty() && notes.wake_at().is_none());
        notes.heard(Fence(1), true);
        assert_eq!(percents(&notes.due(Moment(9000))), [2], "the newer one");
        notes.heard(Fence(1), true);
        assert_eq!(percents(&notes.due(Moment(99_000))), [2], "once more");
        say(&mut notes, 100);
        assert!(notes.last_word(Fence(1), Moment(99_000)).is_none(), "one is under way");
        assert!(notes.wake_at().is_none());
    }

    #[test]
    fn last_word_of_a_job_is_sent_before_its_end() {
        let mut notes = Notes::default();
        notes.say(JOB, Fence(1), (40, String::new()), Moment(0));
        assert_eq!(percents(&notes.due(Moment(0))), [40]);
        notes.heard(Fence(1), false);
        notes.say(JOB, Fence(1), (100, "done".into()), Moment(5));
        assert!(notes.due(Moment(5)).is_empty());
        assert_eq!(notes.last_word(Fence(1), Moment(6)).map(|it| it.percent), Some(100));
        assert_eq!(notes.last_word(Fence(1), Moment(6)), None);
    }

    #[test]
    fn so_many_are_under_way_and_no_more() {
        let mut notes = Notes::default();
        for fence in 0..100 {
            notes.say(JOB, Fence(fence), (1, String::new()), Moment(0));
        }
        assert_eq!(notes.due(Moment(0)).len(), UNDER_WAY_MAX);
        assert_eq!((notes.due(Moment(0)).len(), notes.wake_at()), (0, None));
        notes.heard(Fence(0), false);
        assert_eq!(notes.due(Moment(0)).len(), 1);
    }
}
