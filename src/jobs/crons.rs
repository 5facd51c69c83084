//! The crons of the machine: what each of them is, when it fires next, and what its slots have come to.
//!
//! A slot is fired by an entry that names it. It is followed only if it is the very one that its cron waits for, so that
//! two leaders that propose the same one, or one that proposes it twice, submit one job. When the slot after it comes,
//! the entry says too: time zones are a matter of the leader.

use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;

use crate::jobs::command::{
    AddCron, CronAddOutcome, CronChangeOutcome, CronFire, Fired, SubmitOutcome,
};
use crate::jobs::cron::{
    CRON_ERROR_BYTES_MAX, CRONS_MAX, CronChange, CronView, MADE_UP_MAX, Missed, NewCron, ON_TIME_MS,
};
use crate::jobs::digest::{Content, Fold, Sum};
use crate::jobs::job::NewJob;
use crate::jobs::machine::Machine;
use crate::jobs::options::Options;
use crate::jobs::resident;
use crate::types::{CronName, Index, JobId, Millis};

/// What a cron weighs in the limit on resident bytes beside what it was added with.
const CRON_BYTES: u64 = 512 + CRON_ERROR_BYTES_MAX as u64;

/// A cron as the machine keeps it.
///
/// - `next_ms` is none while it is paused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    /// What it was added with.
    pub new: Arc<NewCron>,
    /// The hash of that.
    pub content: Content,
    /// The entry that added it: another cron of the same name has another one.
    pub created: Index,
    /// When that was.
    pub created_ms: Millis,
    /// It submits nothing since then.
    pub paused_ms: Option<Millis>,
    /// The slot it waits for.
    pub next_ms: Option<Millis>,
    /// The last slot that came.
    pub last_slot_ms: Option<Millis>,
    /// The last job that it submitted.
    pub last_job: Option<JobId>,
    /// Why its last slot came to no job; at most [`CRON_ERROR_BYTES_MAX`] bytes.
    pub last_error: Option<Arc<str>>,
    /// Jobs that it has submitted at its slots.
    pub fired: u64,
    /// How often it has left out slots that were missed.
    pub skipped: u64,
    /// Missed slots that it has made up for since the last one on time; at most [`MADE_UP_MAX`].
    pub made_up: u32,
}

impl Cron {
    /// Makes one as it is when it was just added.
    #[must_use]
    pub fn new(new: Arc<NewCron>, created: Index, created_ms: Millis) -> Self {
        Self {
            content: content(&new),
            new,
            created,
            created_ms,
            paused_ms: None,
            next_ms: None,
            last_slot_ms: None,
            last_job: None,
            last_error: None,
            fired: 0,
            skipped: 0,
            made_up: 0,
        }
    }

    /// Tells whether its slot becomes a job, decided now.
    #[must_use]
    pub fn submits(&self, slot: Millis, now: Millis) -> bool {
        let is_late = now.since(slot) >= ON_TIME_MS;
        !is_late || self.made_up < made_up_max(self.new.missed)
    }

    /// Returns from when on its next slot is looked for, once this one is over: those before are left out.
    #[must_use]
    pub fn resumes_after(&self, slot: Millis, now: Millis) -> Millis {
        let is_late = now.since(slot) >= ON_TIME_MS;
        if is_late && self.made_up.saturating_add(1) >= made_up_max(self.new.missed) {
            return slot.max(Millis(now.0.saturating_sub(ON_TIME_MS)));
        }
        slot
    }

    /// Returns the id of the job of a slot: the same on every node, and the cron's own.
    #[must_use]
    pub fn job_id(&self, slot: Millis) -> JobId {
        let name = self.new.name.as_str().as_bytes();
        let hash = Fold::new(b'j').bytes(name).index(self.created).millis(slot).finish();
        JobId::new(slot, hash)
    }

    /// Makes its job under this id.
    #[must_use]
    pub fn job(&self, id: JobId) -> NewJob {
        let NewCron { queue, body, options, .. } = &*self.new;
        NewJob { id, queue: queue.clone(), body: body.clone(), options: options.clone() }
    }

    /// Tells users about it.
    #[must_use]
    pub fn view(&self, with_body: bool) -> CronView {
        let NewCron { name, spec, tz, missed, queue, body, options } = &*self.new;
        CronView {
            name: name.clone(),
            spec: spec.clone(),
            tz: tz.clone(),
            missed: *missed,
            queue: queue.clone(),
            created_ms: self.created_ms,
            paused_ms: self.paused_ms,
            next_ms: self.next_ms,
            last_slot_ms: self.last_slot_ms,
            last_job: self.last_job,
            last_error: self.last_error.as_deref().map(str::to_owned),
            fired: self.fired,
            skipped: self.skipped,
            options: options.clone(),
            body: with_body.then(|| body.clone()),
        }
    }

    /// Returns what it weighs in the limit on resident bytes.
    #[must_use]
    pub fn weight(&self) -> u64 {
        CRON_BYTES.saturating_add(u64::try_from(self.new.memory()).unwrap_or(u64::MAX))
    }

    /// Hashes it.
    fn record(&self) -> u128 {
        let number = |value: Option<Millis>| value.map_or(0, |value| value.0.saturating_add(1));
        Fold::new(b'c')
            .bytes(self.new.name.as_str().as_bytes())
            .id(&self.content.0)
            .index(self.created)
            .millis(self.created_ms)
            .u64(number(self.paused_ms))
            .u64(number(self.next_ms))
            .u64(number(self.last_slot_ms))
            .id(&self.last_job.unwrap_or_default().0)
            .bytes(self.last_error.as_deref().unwrap_or_default().as_bytes())
            .u64(self.fired)
            .u64(self.skipped)
            .u64(u64::from(self.made_up))
            .finish()
    }
}

/// Returns how many missed slots in a row become jobs.
fn made_up_max(missed: Missed) -> u32 {
    match missed {
        Missed::Skip => 0,
        Missed::Once => 1,
        Missed::All => MADE_UP_MAX,
    }
}

/// Hashes what a cron was added with.
pub(in crate::jobs) fn content(new: &NewCron) -> Content {
    let NewCron { name, spec, tz, missed, queue, body, options } = new;
    let (kind, body) = resident::pack(body);
    let options = options.as_deref().unwrap_or(Options::NONE);
    let job = resident::job_content(queue, kind, &body, Some(options));
    let mut fold = Fold::new(b'n');
    for text in [name.as_str(), spec, tz, missed.as_str()] {
        fold.bytes(text.as_bytes());
    }
    Content::of(fold.id(&job.0))
}

/// The crons, by name and by their next slot.
///
/// - `due` holds `(next_ms, name)` for exactly those in `by_name` that have a next slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crons {
    by_name: OrdMap<CronName, Arc<Cron>>,
    due: OrdMap<(Millis, CronName), ()>,
    bytes: u64,
    sum: Sum,
}

impl Crons {
    /// Returns one.
    #[must_use]
    pub fn get(&self, name: &CronName) -> Option<&Arc<Cron>> {
        self.by_name.get(name)
    }

    /// Returns how many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Tells whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Goes through those whose names come after this one, in order of name.
    pub fn after(&self, after: Option<&CronName>) -> impl Iterator<Item = &Arc<Cron>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_name.range::<_, CronName>((from, Bound::Unbounded)).map(|(_, cron)| cron)
    }

    /// Goes through those whose slot has come, the earliest first.
    pub fn due(&self, now: Millis) -> impl Iterator<Item = (Millis, &Arc<Cron>)> {
        let due = self.due.iter().take_while(move |((at, _), ())| *at <= now);
        due.filter_map(|((at, name), ())| Some((*at, self.by_name.get(name)?)))
    }

    /// Returns what they weigh in the limit on resident bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns their share of the digest.
    #[must_use]
    pub fn sum(&self) -> u128 {
        self.sum.value()
    }

    /// Puts one in the place of the one of its name, if there is one.
    pub(in crate::jobs) fn put(&mut self, cron: Cron) {
        let name = cron.new.name.clone();
        self.remove(&name);
        self.sum.add(cron.record());
        self.bytes += cron.weight();
        if let Some(next) = cron.next_ms {
            self.due.insert((next, name.clone()), ());
        }
        self.by_name.insert(name, Arc::new(cron));
    }

    /// Forgets one. Returns whether there was one.
    pub(in crate::jobs) fn remove(&mut self, name: &CronName) -> bool {
        let Some(cron) = self.by_name.remove(name) else { return false };
        self.sum.take(cron.record());
        self.bytes -= cron.weight();
        if let Some(next) = cron.next_ms {
            self.due.remove(&(next, name.clone()));
        }
        true
    }
}

impl Machine {
    /// Returns the crons.
    #[must_use]
    pub fn crons(&self) -> &Crons {
        &self.crons
    }

    /// Returns how many jobs crons have submitted at their slots, those of crons that are gone included.
    #[must_use]
    pub fn crons_fired(&self) -> u64 {
        self.crons_fired
    }

    /// Adds a cron, unless there is one of its name or no room.
    pub(in crate::jobs) fn add_cron(&mut self, add: &AddCron) -> CronAddOutcome {
        if let Some(fault) = add.cron.fault() {
            return CronAddOutcome::Invalid(fault);
        }
        if let Some(known) = self.crons.get(&add.cron.name) {
            return match known.content == content(&add.cron) {
                true => CronAddOutcome::Known { next_ms: known.next_ms },
                false => CronAddOutcome::AlreadyExists,
            };
        }
        if self.crons.len() >= CRONS_MAX {
            return CronAddOutcome::TooMany;
        }
        let next_ms = add.next_ms;
        let cron = Cron { next_ms, ..Cron::new(Arc::clone(&add.cron), self.applied, self.now) };
        let weight = self.resident_bytes().saturating_add(cron.weight());
        if weight > self.limits.resident_bytes_max {
            return CronAddOutcome::Exhausted;
        }
        self.crons.put(cron);
        CronAddOutcome::Created { next_ms }
    }

    /// Changes a cron; `next_ms` is its next slot, where the change is that it goes on.
    pub(in crate::jobs) fn change_cron(
        &mut self,
        name: &CronName,
        change: CronChange,
        next_ms: Option<Millis>,
    ) -> CronChangeOutcome {
        let Some(cron) = self.crons.get(name).map(Arc::clone) else {
            return CronChangeOutcome::NotFound;
        };
        let mut cron = Cron::clone(&cron);
        match change {
            CronChange::Pause => {
                cron.paused_ms = cron.paused_ms.or(Some(self.now));
                cron.next_ms = None;
            }
            CronChange::Resume if cron.paused_ms.is_none() => {}
            // Whoever proposed it did not know the cron: with no slot it would never fire again.
            CronChange::Resume if next_ms.is_none() => return CronChangeOutcome::NotFound,
            CronChange::Resume => {
                (cron.paused_ms, cron.next_ms, cron.made_up) = (None, next_ms, 0);
            }
            CronChange::Remove => {
                self.crons.remove(name);
                return CronChangeOutcome::Changed { next_ms: None };
            }
            CronChange::Trigger(id) => match self.submit(&cron.job(id)) {
                SubmitOutcome::Created | SubmitOutcome::Known => cron.last_job = Some(id),
                refused @ (SubmitOutcome::AlreadyExists
                | SubmitOutcome::Taken(_)
                | SubmitOutcome::Exhausted
                | SubmitOutcome::Draining
                | SubmitOutcome::Invalid(_)) => return CronChangeOutcome::Refused(id, refused),
            },
        }
        let next_ms = cron.next_ms;
        self.crons.put(cron);
        CronChangeOutcome::Changed { next_ms }
    }

    /// Fires one slot, if it is the one that its cron waits for and has come.
    pub(in crate::jobs) fn fire_cron(&mut self, fire: &CronFire) -> Fired {
        let slot = fire.slot_ms;
        let known = self.crons.get(&fire.name);
        let waits = |cron: &&Arc<Cron>| cron.created == fire.created && cron.next_ms == Some(slot);
        let Some(cron) = known.filter(waits).filter(|_| slot <= self.now).map(Arc::clone) else {
            return Fired::Stale;
        };
        let mut cron = Cron::clone(&cron);
        cron.last_slot_ms = Some(slot);
        // A slot that does not come after this one would be fired for ever.
        cron.next_ms = fire.next_ms.filter(|next| *next > slot);
        let fired = if cron.submits(slot, self.now) {
            let is_late = self.now.since(slot) >= ON_TIME_MS;
            cron.made_up = if is_late { cron.made_up + 1 } else { 0 };
            self.submit_of(&mut cron, slot)
        } else {
            cron.skipped += 1;
            Fired::Skipped
        };
        self.crons.put(cron);
        fired
    }

    /// Submits the job of a slot as anybody would, and notes what came of it.
    fn submit_of(&mut self, cron: &mut Cron, slot: Millis) -> Fired {
        let id = cron.job_id(slot);
        let error = match self.submit(&cron.job(id)) {
            SubmitOutcome::Created | SubmitOutcome::Known => {
                (cron.last_job, cron.last_error) = (Some(id), None);
                cron.fired += 1;
                self.crons_fired += 1;
                return Fired::Submitted(id);
            }
            SubmitOutcome::AlreadyExists => "another job has the id of this slot's".to_owned(),
            // So a cron whose jobs are unique has one at a time.
            SubmitOutcome::Taken(holder) => format!("job {holder} had its unique key"),
            SubmitOutcome::Exhausted => "the queue held all the bytes it may".to_owned(),
            SubmitOutcome::Draining => {
                format!("queue {} was being drained and took no new jobs", cron.new.queue)
            }
            SubmitOutcome::Invalid(fault) => fault,
        };
        cron.last_error = Some(cut(&error).into());
        Fired::Refused
    }
}

/// Cuts a text to what is kept of it.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(CRON_ERROR_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}
