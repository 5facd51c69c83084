//! Crons from a program: jobs that are submitted again and again.

use async_std::task;

use crate::client::blocking;
use crate::client::client::{Client, misplaced};
use crate::client::error::Error;
use crate::client::job::Job;
use crate::jobs::cron::{CronChange, CronView, Missed, NewCron, UTC};
use crate::types::CronName;
use crate::wire::crons::{CronAdded, CronChanged, CronFilter};
use crate::wire::message::{Reply, Request};

/// A cron to add: when, and which job.
///
/// ```no_run
/// # use raftq::client::{crons::Cron, client::Client, error::Error, job::Job};
/// # async fn example(client: &Client) -> Result<(), Error> {
/// let backup = Job::command(["./backup"]).retries(3);
/// client.add_cron(Cron::new("backup", "30 2 * * *", backup).zone("Europe/Berlin")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    name: String,
    spec: String,
    zone: String,
    missed: Missed,
    job: Job,
}

impl Cron {
    /// Describes one: its name, when (see [`crate::jobs::cron_spec::Spec`]), and the job of each slot. An id of the job
    /// is passed over: each has its own.
    #[must_use]
    pub fn new(name: impl Into<String>, spec: impl Into<String>, job: impl Into<Job>) -> Self {
        let (name, spec, zone) = (name.into(), spec.into(), UTC.into());
        Self { name, spec, zone, missed: Missed::default(), job: job.into() }
    }

    /// Sets the time zone by whose clock it goes, such as `Europe/Berlin`; UTC otherwise.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = zone.into();
        self
    }

    /// Sets what becomes of slots that were missed, because nobody led for a minute or more; they are left out
    /// otherwise.
    #[must_use]
    pub fn missed(mut self, missed: Missed) -> Self {
        self.missed = missed;
        self
    }

    /// Makes it what is sent.
    ///
    /// # Errors
    /// [`Error::Invalid`] if its name is none, or for what [`NewCron::fault`] finds.
    pub fn into_new(self) -> Result<NewCron, Error> {
        let name = CronName::new(&self.name)
            .map_err(|error| Error::Invalid(format!("the cron {:?}: {error}", self.name)))?;
        let job = self.job.into_new()?;
        let (spec, tz, missed) = (self.spec, self.zone, self.missed);
        let (queue, body, options) = (job.queue, job.body, job.options);
        let cron = NewCron { name, spec, tz, missed, queue, body, options };
        cron.fault().map_or(Ok(cron), |fault| Err(Error::Invalid(fault)))
    }
}

impl Client {
    /// Adds a cron, and returns its first slot. (`created: false`: the very same one was there before.)
    ///
    /// # Errors
    /// [`Error::Refused`] with `ALREADY_EXISTS` if another one has its name. Once the outcome is unknown, the same call
    /// may be made again.
    pub async fn add_cron(&self, cron: Cron) -> Result<CronAdded, Error> {
        self.add_new_cron(cron.into_new()?).await
    }

    /// Adds a cron as it is sent; see [`Self::add_cron`].
    ///
    /// # Errors
    /// As there.
    pub async fn add_new_cron(&self, cron: NewCron) -> Result<CronAdded, Error> {
        let Reply::CronAdded(added) = self.ask(Request::AddCron(Box::new(cron))).await? else {
            return Err(misplaced());
        };
        Ok(added)
    }

    /// Changes a cron. [`CronChange::Trigger`] takes an id from [`crate::client::job::new_id`].
    ///
    /// # Errors
    /// [`Error::Refused`] with `NOT_FOUND` if there is no such cron (any more). The same change made twice is the same
    /// as made once, but that a cron that was removed is not found.
    pub async fn change_cron(
        &self,
        name: CronName,
        change: CronChange,
    ) -> Result<CronChanged, Error> {
        let Reply::CronChanged(changed) = self.ask(Request::ChangeCron { name, change }).await?
        else {
            return Err(misplaced());
        };
        Ok(changed)
    }

    /// Asks for one cron, with what its jobs are.
    ///
    /// # Errors
    /// [`Error::Refused`] with `NOT_FOUND` if there is no such cron (any more).
    pub async fn cron(&self, name: CronName) -> Result<CronView, Error> {
        let filter = CronFilter { name: Some(name), ..CronFilter::default() };
        let Reply::Crons { crons, .. } = self.ask(Request::ListCrons(filter)).await? else {
            return Err(misplaced());
        };
        crons.into_iter().next().ok_or_else(misplaced)
    }

    /// Asks for every cron, in order of name.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn crons(&self) -> Result<Vec<CronView>, Error> {
        let mut crons: Vec<CronView> = Vec::new();
        loop {
            let after = crons.last().map(|cron| cron.name.clone());
            let request = Request::ListCrons(CronFilter { after, ..CronFilter::default() });
            let Reply::Crons { crons: page, more } = self.ask(request).await? else {
                return Err(misplaced());
            };
            let is_last = !more || page.is_empty();
            crons.extend(page);
            if is_last {
                return Ok(crons);
            }
        }
    }
}

impl blocking::Client {
    /// See [`Client::add_cron`].
    ///
    /// # Errors
    /// As there.
    pub fn add_cron(&self, cron: Cron) -> Result<CronAdded, Error> {
        task::block_on(self.as_async().add_cron(cron))
    }

    /// See [`Client::add_new_cron`].
    ///
    /// # Errors
    /// As there.
    pub fn add_new_cron(&self, cron: NewCron) -> Result<CronAdded, Error> {
        task::block_on(self.as_async().add_new_cron(cron))
    }

    /// See [`Client::change_cron`].
    ///
    /// # Errors
    /// As there.
    pub fn change_cron(&self, name: CronName, change: CronChange) -> Result<CronChanged, Error> {
        task::block_on(self.as_async().change_cron(name, change))
    }

    /// See [`Client::cron`].
    ///
    /// # Errors
    /// As there.
    pub fn cron(&self, name: CronName) -> Result<CronView, Error> {
        task::block_on(self.as_async().cron(name))
    }

    /// See [`Client::crons`].
    ///
    /// # Errors
    /// As there.
    pub fn crons(&self) -> Result<Vec<CronView>, Error> {
        task::block_on(self.as_async().crons())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cron_that_cannot_be_right_is_refused_before_it_is_sent() {
        let of = |name: &str, spec: &str| Cron::new(name, spec, Job::command(["true"])).into_new();
        assert_eq!(of("nightly", "@daily").map(|cron| cron.tz), Ok("UTC".into()));
        for (name, spec, why) in
            [("a b", "@daily", "a b"), ("c", "0 25 * * *", "field 2 (hour)"), ("c", "", "0 fields")]
        {
            let Err(Error::Invalid(text)) = of(name, spec) else { panic!("{name} {spec}") };
            assert!(text.contains(why), "{text}");
        }
        let at = Job::command(["true"]).at(crate::types::Millis(1));
        assert!(matches!(Cron::new("c", "@daily", at).into_new(), Err(Error::Invalid(_))));
    }
}
