//! Bugs planted on purpose, to see the checks go red: compiled in by the feature `planted-bugs` alone, which
//! no release has.
//!
//! A checker that was never seen to fail proves nothing. Each variant breaks one rule of the production
//! code at the place that keeps it; `scripts/planted.sh` runs them all and says which check caught each.
//! Without the feature [`is_planted`] is the constant `false`, and nothing of it remains in the program.

#[cfg(feature = "planted-bugs")]
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// A rule that can be broken. The names are those of the command line, in kebab case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// Entries count as durable as soon as they are handed to the disk (raft-rules: sync before the answer).
    AckBeforeSync = 1,
    /// The vote never reaches the disk: after a restart a node votes twice in one term.
    VoteNotPersisted,
    /// A leader commits entries of former terms by counting (Raft paper §5.4.2, Figure 8).
    OldTermCommit,
    /// A follower commits up to its own last entry, verified or not (Raft paper, Figure 2).
    CommitUnverified,
    /// A follower cuts its log behind every message, conflict or not (Raft paper §5.3).
    TruncateWithoutConflict,
    /// A leader answers reads without asking whether it still leads (Ongaro thesis §6.4).
    StaleRead,
    /// A snapshot says nothing of the term of its last entry.
    SnapshotWithoutTerm,
    /// Creations and renames are not made durable.
    DirectoryNotSynced,
    /// Damage in the middle of the log counts as its torn end.
    DamageAsTornTail,
    /// A chunk of a snapshot is taken for whatever place is wanted.
    ChunkOutOfOrder,
    /// A repeated submit makes the job anew.
    SubmitTwice,
    /// A report counts whatever its fence.
    FenceUnchecked,
    /// A worker's silence is measured with the wall clock.
    LeaseByWallClock,
    /// A new leader judges workers by what it has not heard yet.
    LostWithoutGrace,
    /// A report counts after the job was cancelled.
    CompletedAfterCancel,
    /// What a command does to the queue depends on chance, as the order of a hash map would have it.
    UnstableOrder,
    /// A node that heals from lost data votes (Raft paper §5.2: once in a term, and it has forgotten in which).
    HealVotes,
    /// A leader answers a node that heals with what is committed, and makes no entry for it.
    HealUnwitnessed,
}

impl Bug {
    /// All of them, in order.
    pub const ALL: [Self; 18] = [
        Self::AckBeforeSync,
        Self::VoteNotPersisted,
        Self::OldTermCommit,
        Self::CommitUnverified,
        Self::TruncateWithoutConflict,
        Self::StaleRead,
        Self::SnapshotWithoutTerm,
        Self::DirectoryNotSynced,
        Self::DamageAsTornTail,
        Self::ChunkOutOfOrder,
        Self::SubmitTwice,
        Self::FenceUnchecked,
        Self::LeaseByWallClock,
        Self::LostWithoutGrace,
        Self::CompletedAfterCancel,
        Self::UnstableOrder,
        Self::HealVotes,
        Self::HealUnwitnessed,
    ];

    /// Returns the name that the command line knows it by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AckBeforeSync => "ack-before-sync",
            Self::VoteNotPersisted => "vote-not-persisted",
            Self::OldTermCommit => "old-term-commit",
            Self::CommitUnverified => "commit-unverified",
            Self::TruncateWithoutConflict => "truncate-without-conflict",
            Self::StaleRead => "stale-read",
            Self::SnapshotWithoutTerm => "snapshot-without-term",
            Self::DirectoryNotSynced => "directory-not-synced",
            Self::DamageAsTornTail => "damage-as-torn-tail",
            Self::ChunkOutOfOrder => "chunk-out-of-order",
            Self::SubmitTwice => "submit-twice",
            Self::FenceUnchecked => "fence-unchecked",
            Self::LeaseByWallClock => "lease-by-wall-clock",
            Self::LostWithoutGrace => "lost-without-grace",
            Self::CompletedAfterCancel => "completed-after-cancel",
            Self::UnstableOrder => "unstable-order",
            Self::HealVotes => "heal-votes",
            Self::HealUnwitnessed => "heal-unwitnessed",
        }
    }
}

/// The bug of this process; 0: none.
#[cfg(feature = "planted-bugs")]
static PLANTED: AtomicU8 = AtomicU8::new(0);

/// How often [`tosses`] was asked.
#[cfg(feature = "planted-bugs")]
static TOSSES: AtomicU64 = AtomicU64::new(0);

/// Plants a bug in this process, or takes the one that is there out again.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    TOSSES.store(0, Ordering::Relaxed);
    PLANTED.store(bug.map_or(0, |bug| bug as u8), Ordering::Relaxed);
}

/// Tells whether this bug is planted.
#[cfg(feature = "planted-bugs")]
#[must_use]
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.load(Ordering::Relaxed) == bug as u8
}

/// Tells whether this bug is planted: never, in a build without the feature.
#[cfg(not(feature = "planted-bugs"))]
#[must_use]
pub const fn is_planted(_bug: Bug) -> bool {
    false
}

/// Tosses a coin if this bug is planted, the same way in each run of one thread; without the feature, never true.
#[cfg(feature = "planted-bugs")]
#[must_use]
pub fn tosses(bug: Bug) -> bool {
    is_planted(bug)
        && (TOSSES.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62) == 0
}

/// Tosses no coin, in a build without the feature.
#[cfg(not(feature = "planted-bugs"))]
#[must_use]
pub const fn tosses(_bug: Bug) -> bool {
    false
}
