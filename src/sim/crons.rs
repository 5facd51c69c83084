//! Crons in a simulated world: what clients ask of them, and what every slot is held against.

use std::collections::BTreeMap;

use fastrand::Rng;

use crate::jobs::command::{CronFire, Fired};
use crate::jobs::cron::{CronChange, Missed, NewCron, ON_TIME_MS};
use crate::jobs::crons::Cron;
use crate::jobs::job::Body;
use crate::jobs::options::Options;
use crate::sim::checks::Violation;
use crate::types::{CronName, Index, JobId, Millis, QueueName};
use crate::wire::message::Request;

/// The queue of their jobs; clients submit nothing to it.
pub const QUEUE: &str = "cron";

/// From one slot to the next, ms.
const PERIOD_MS: u64 = 2000;

/// Tells whether a job is of a cron.
#[must_use]
pub fn is_of_cron(queue: &QueueName) -> bool {
    queue.as_str() == QUEUE
}

fn name(which: bool) -> CronName {
    CronName::new(if which { "x" } else { "y" }).expect("a letter is a name")
}

/// Draws what a client asks about crons.
#[must_use]
pub fn draw(rng: &mut Rng) -> Request {
    let name = name(rng.bool());
    let change = match rng.u32(0..8) {
        0 => CronChange::Pause,
        1 => CronChange::Resume,
        2 => CronChange::Remove,
        _ => return Request::AddCron(Box::new(new_cron(name, rng))),
    };
    Request::ChangeCron { name, change }
}

fn new_cron(name: CronName, rng: &mut Rng) -> NewCron {
    let missed = Missed::ALL.get(rng.usize(0..Missed::ALL.len())).copied().unwrap_or_default();
    // Where nobody runs commands its jobs end all the same.
    let options = Options { ttl_ms: Some(PERIOD_MS), ..Options::default() };
    NewCron {
        name,
        spec: format!("@every {PERIOD_MS}ms"),
        tz: "UTC".into(),
        missed,
        queue: QueueName::new(QUEUE).expect("letters are a name"),
        body: Body::Command(vec!["true".into()]),
        options: Options::shared(options),
    }
}

/// Takes back every cron that a client may have added.
pub fn removals() -> impl Iterator<Item = Request> {
    [true, false]
        .map(|which| (name(which), CronChange::Remove))
        .into_iter()
        .map(|(name, change)| Request::ChangeCron { name, change })
}

/// The newest slot that each cron has fired: of each, slots rise, so that none is fired twice.
#[derive(Debug, Default)]
pub struct CronWatch {
    newest: BTreeMap<(CronName, Index), Millis>,
    fired: u64,
}

impl CronWatch {
    /// Returns how many slots became jobs.
    #[must_use]
    pub fn fired(&self) -> u64 {
        self.fired
    }

    /// Looks at one slot: `cron` is as it was before the entry, and `now` the time when it was applied.
    ///
    /// # Errors
    /// A promise that was broken.
    pub fn slot(
        &mut self,
        cron: Option<&Cron>,
        fire: &CronFire,
        fired: Fired,
        now: Millis,
    ) -> Result<(), Violation> {
        let slot = fire.slot_ms;
        let told = |what: &str| Err(format!("cron {}: slot {slot} {what}, at {now}", fire.name));
        let is_late = now.since(slot) >= ON_TIME_MS;
        match fired {
            Fired::Stale => return Ok(()),
            Fired::Skipped if !is_late => return told("was on time and is left out"),
            Fired::Submitted(_) | Fired::Refused | Fired::Skipped => {}
        }
        let former = self.newest.insert((fire.name.clone(), fire.created), slot);
        if former.is_some_and(|former| former >= slot) {
            return told("was fired before, or one after it");
        }
        if slot > now {
            return told("has not come yet");
        }
        let next = fire.next_ms.unwrap_or_default();
        if next < Millis(slot.0 + PERIOD_MS) || !next.since(slot).is_multiple_of(PERIOD_MS) {
            return told(&format!("is followed by {next}"));
        }
        // What is left out between the two must have been missed: the last of it is the youngest.
        let left_out = Millis(next.0 - PERIOD_MS);
        if left_out > slot && now.since(left_out) < ON_TIME_MS {
            return told(&format!("has {left_out} left out after it, which was on time"));
        }
        if let Fired::Submitted(job) = fired {
            self.fired += 1;
            let is_own = job.0.first_chunk::<6>() == JobId::new(slot, 0).0.first_chunk::<6>();
            if !is_own || cron.is_none_or(|cron| cron.next_ms != Some(slot)) {
                return told(&format!("became job {job}, and was not waited for"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE: u64 = 100_000 + ON_TIME_MS;

    fn watch(
        watch: &mut CronWatch,
        slot: u64,
        next: u64,
        fired: Fired,
        now: u64,
    ) -> Result<(), Violation> {
        let new = std::sync::Arc::new(new_cron(name(true), &mut Rng::with_seed(1)));
        let cron = Cron { next_ms: Some(Millis(slot)), ..Cron::new(new, Index(1), Millis(1)) };
        let (slot_ms, next_ms) = (Millis(slot), Some(Millis(next)));
        let fire = CronFire { name: name(true), created: Index(1), slot_ms, next_ms };
        watch.slot(Some(&cron), &fire, fired, Millis(now))
    }

    fn submitted(slot: u64) -> Fired {
        Fired::Submitted(JobId::new(Millis(slot), 7))
    }

    fn red(slot: u64, next: u64, fired: Fired, now: u64, why: &str) {
        let fault = watch(&mut CronWatch::default(), slot, next, fired, now).expect_err(why);
        assert!(fault.contains(why), "{fault}");
    }

    #[test]
    fn good_slots_pass() {
        let mut all = CronWatch::default();
        assert_eq!(watch(&mut all, 100_000, 102_000, submitted(100_000), 100_005), Ok(()));
        assert_eq!(watch(&mut all, 100_000, 102_000, Fired::Stale, 100_005), Ok(()));
        assert_eq!(watch(&mut all, 102_000, 104_000, Fired::Refused, 103_000), Ok(()));
        assert_eq!(watch(&mut all, 104_000, 150_000, Fired::Skipped, 209_000), Ok(()));
        assert_eq!(all.fired(), 1);
    }

    #[test]
    fn each_fault_goes_red() {
        let mut twice = CronWatch::default();
        assert_eq!(watch(&mut twice, 100_000, 102_000, submitted(100_000), 100_005), Ok(()));
        let again = watch(&mut twice, 100_000, 102_000, submitted(100_000), 100_005);
        assert!(again.unwrap_err().contains("fired before"));
        red(100_000, 102_000, Fired::Skipped, LATE - 1, "was on time and is left out");
        red(100_000, 102_000, submitted(100_000), 99_999, "has not come yet");
        red(100_000, 104_000, submitted(100_000), 100_005, "left out after it");
        red(100_000, 101_000, submitted(100_000), 100_005, "is followed by");
        red(100_000, 108_000, Fired::Skipped, LATE + 100, "left out after it");
        red(100_000, 102_000, submitted(100_001), 100_005, "was not waited for");
    }
}
