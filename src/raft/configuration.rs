//! Configurations as log entries: their bytes, their rules, and which one is in force where.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::pack::{self, PackError};
use crate::raft::message::{Configuration, SnapshotMeta};
use crate::raft::quorum::VOTERS_MAX;
use crate::types::{Index, NodeId};

/// Bytes that are not a configuration. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// Not the MessagePack of a configuration.
    #[error("not a configuration: {0}")]
    Malformed(#[from] PackError),
    /// No voter, or more than [`VOTERS_MAX`].
    #[error("a configuration has 1 to {VOTERS_MAX} voters, this one has {0}")]
    VoterCount(usize),
    /// An id of 0, twice the same id, or ids out of order.
    #[error("the voters' ids are not 1 or more, each once, in ascending order")]
    VoterOrder,
}

/// Writes a configuration as the data of an entry: MessagePack, a map with named keys.
///
/// # Panics
/// Never: a configuration holds only what MessagePack can say.
#[must_use]
pub fn encode(configuration: &Configuration) -> Bytes {
    let mut data = BytesMut::new();
    pack::encode_named(configuration, &mut data).expect("ids, texts and bytes are MessagePack");
    data.freeze()
}

/// Reads the data of a configuration entry.
///
/// # Errors
/// [`ConfigurationError`] if it is none, or breaks the rules that [`check`] names.
pub fn decode(data: &[u8]) -> Result<Configuration, ConfigurationError> {
    let configuration = pack::decode(data)?;
    check(&configuration)?;
    Ok(configuration)
}

/// Checks the rules of a configuration: 1 to [`VOTERS_MAX`] voters, ascending ids above 0.
///
/// # Errors
/// [`ConfigurationError`] naming the rule that is broken.
pub fn check(configuration: &Configuration) -> Result<(), ConfigurationError> {
    let count = configuration.voters.len();
    if !(1..=VOTERS_MAX).contains(&count) {
        return Err(ConfigurationError::VoterCount(count));
    }
    let mut previous = NodeId(0);
    for voter in &configuration.voters {
        if voter.id <= previous {
            return Err(ConfigurationError::VoterOrder);
        }
        previous = voter.id;
    }
    Ok(())
}

/// Tells whether two configurations have the same voters; addresses and directories may differ.
#[must_use]
pub fn same_voters(one: &Configuration, other: &Configuration) -> bool {
    one.voters.iter().map(|voter| voter.id).eq(other.voters.iter().map(|voter| voter.id))
}

/// Which configuration is in force at which index of the log.
///
/// - Never empty: the first one is that of the snapshot, or of the bootstrap at index 0.
/// - Ascending by index; all have the same voters, since voters are neither added nor removed yet.
#[derive(Clone, Debug)]
pub(super) struct Configurations(VecDeque<(Index, Configuration)>);

impl Configurations {
    /// Starts with the configuration that holds from `index` on.
    pub(super) fn new(index: Index, configuration: Configuration) -> Self {
        if let Err(error) = check(&configuration) {
            panic!("the configuration at index {index} is broken: {error}");
        }
        Self(VecDeque::from([(index, configuration)]))
    }

    /// Returns the newest one: a configuration is in force from its append on, committed or not.
    pub(super) fn in_force(&self) -> &Configuration {
        &self.0.back().expect("never empty").1
    }

    /// Returns the one in force at `index`.
    pub(super) fn at(&self, index: Index) -> Option<&Configuration> {
        self.0.iter().rev().find(|(from, _)| *from <= index).map(|(_, configuration)| configuration)
    }

    /// Adds the one that the entry at `index` holds.
    ///
    /// # Panics
    /// If it has other voters than the one before it. Such an entry came through a verified log, so
    /// that some node has written what no node of this version writes: to go on would be to guess.
    pub(super) fn append(&mut self, index: Index, configuration: Configuration) {
        assert!(
            same_voters(self.in_force(), &configuration),
            "the configuration entry at index {index} changes the set of voters, which this \
             version cannot do: {configuration:?}"
        );
        self.0.push_back((index, configuration));
    }

    /// Takes back those of the entries at `from` and after it, which were cut from the log.
    pub(super) fn truncate_from(&mut self, from: Index) {
        while self.0.len() > 1 && self.0.back().is_some_and(|(index, _)| *index >= from) {
            self.0.pop_back();
        }
    }

    /// Forgets those that no index from `first` on needs.
    pub(super) fn release(&mut self, first: Index) {
        while self.0.get(1).is_some_and(|(index, _)| *index < first) {
            self.0.pop_front();
        }
    }

    /// Starts anew from a snapshot.
    pub(super) fn reset(&mut self, meta: &SnapshotMeta) {
        *self = Self::new(meta.index, meta.configuration.clone());
    }
}
