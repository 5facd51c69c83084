//! The scopes that are searched, from those of seconds to those of many minutes, and what each shows.

use crate::scope::{Scope, Sight, Start};

/// What the others are made from: little of everything.
const LEAST: Scope = Scope {
    name: "least",
    start: Start::Empty,
    terms: 2,
    entries: 2,
    messages: 2,
    crashes: 0,
    damages: 0,
    duplicates: 0,
    reads: 0,
    proposes: false,
    heartbeats: false,
    compacts: false,
    pre_votes: false,
    syncs_at_once: false,
    one_by_one: false,
    watches_words: true,
    sights: &[],
};

/// A cluster from its first moment, through elections, crashes and slow disks.
pub(crate) const BIRTH: Scope = Scope {
    name: "birth",
    crashes: 1,
    sights: &[Sight::Leader, Sight::Commit, Sight::CommitAfterCrash],
    ..LEAST
};

/// The same with pre-votes as they travel.
pub(crate) const PRE_VOTES: Scope = Scope {
    name: "pre-votes",
    pre_votes: true,
    syncs_at_once: true,
    sights: &[Sight::Leader, Sight::Commit],
    ..LEAST
};

/// A leader with a log, clients, heartbeats and copies of messages; then another one.
pub(crate) const CHANGE: Scope = Scope {
    name: "change of leader",
    start: Start::Led,
    entries: 3,
    proposes: true,
    heartbeats: true,
    duplicates: 1,
    syncs_at_once: true,
    sights: &[Sight::TwoLeaders, Sight::CommitOfTwoTerms],
    ..LEAST
};

/// A follower behind the log: offer, snapshot, reset, and a crash in the middle of it.
pub(crate) const BEHIND: Scope = Scope {
    name: "snapshot for one behind",
    start: Start::Behind,
    entries: 3,
    crashes: 1,
    proposes: true,
    sights: &[Sight::Install, Sight::CommitAfterInstall, Sight::CommitOfTwoTerms],
    ..LEAST
};

/// Nodes that let go of their logs, fall, and vote.
pub(crate) const COMPACTED: Scope = Scope {
    name: "compacted logs",
    start: Start::Led,
    entries: 3,
    crashes: 1,
    proposes: true,
    compacts: true,
    syncs_at_once: true,
    sights: &[Sight::CommitOfTwoTerms, Sight::Install],
    ..LEAST
};

/// Figure 8 of the Raft paper: the dangerous state is reached, and nothing is committed in it; what
/// is there may be overwritten, or committed along with an entry of the leader's own term.
pub(crate) const FIGURE_8: Scope = Scope {
    name: "figure 8",
    start: Start::Figure8,
    terms: 4,
    syncs_at_once: true,
    one_by_one: true,
    sights: &[Sight::Danger, Sight::DangerOverwritten, Sight::DangerCommitted],
    ..LEAST
};

/// Reads at leaders that may be none any more.
pub(crate) const READS: Scope = Scope {
    name: "reads",
    start: Start::Led,
    reads: 1,
    syncs_at_once: true,
    sights: &[Sight::ReadAnswered, Sight::TwoLeaders],
    ..LEAST
};

/// One disk loses everything, whoever's and whenever, and its node heals: what it said before and what it
/// says afterwards never contradict each other.
pub(crate) const HEALING: Scope = Scope {
    name: "healing",
    entries: 3,
    damages: 1,
    syncs_at_once: true,
    sights: &[Sight::Healed, Sight::HealedLeads, Sight::CommitOfTwoTerms],
    ..LEAST
};

/// How long a search may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// Seconds, unoptimised: with all tests.
    Small,
    /// A few minutes, optimised, on two cores.
    Middle,
    /// Minutes each for the first four, which were seen to end: terms up to 2 and one crash, disks that sync at
    /// once with 4 messages in flight or 3 and two entries, disks that sync when they like with 2. The others were
    /// not, nor were 3 messages and disks that sync when they like (8,559,379 states in 575 s).
    Large,
}

/// Returns the scopes of a size.
pub(crate) fn scopes(size: Size) -> Vec<Scope> {
    match size {
        Size::Small => vec![
            Scope { terms: 1, entries: 1, ..BIRTH },
            Scope { terms: 1, entries: 1, ..PRE_VOTES },
            Scope { heartbeats: false, duplicates: 0, entries: 2, ..CHANGE },
            Scope { crashes: 0, syncs_at_once: true, ..BEHIND },
            Scope { terms: 1, entries: 2, sights: &[Sight::CommitAfterCrash], ..COMPACTED },
            Scope { terms: 3, sights: &[Sight::Danger, Sight::DangerCommitted], ..FIGURE_8 },
            READS,
            Scope {
                start: Start::Led,
                terms: 1,
                entries: 2,
                messages: 1,
                heartbeats: true,
                sights: &[Sight::Healed],
                ..HEALING
            },
        ],
        Size::Middle => vec![
            Scope { terms: 1, entries: 1, messages: 4, ..BIRTH },
            Scope { crashes: 0, sights: &[Sight::Leader, Sight::CommitOfTwoTerms], ..BIRTH },
            Scope { syncs_at_once: true, ..BIRTH },
            PRE_VOTES,
            Scope { syncs_at_once: true, ..BEHIND },
            Scope {
                terms: 1,
                crashes: 0,
                heartbeats: true,
                sights: &[Sight::Install, Sight::CommitAfterInstall],
                ..BEHIND
            },
            FIGURE_8,
            Scope { messages: 3, ..READS },
            HEALING,
        ],
        Size::Large => vec![
            Scope { entries: 1, syncs_at_once: true, messages: 4, ..BIRTH },
            Scope { syncs_at_once: true, messages: 3, ..BIRTH },
            Scope { entries: 1, ..BIRTH },
            BIRTH,
            CHANGE,
            Scope { heartbeats: true, crashes: 0, syncs_at_once: true, ..BEHIND },
            BEHIND,
            COMPACTED,
            Scope { messages: 3, ..FIGURE_8 },
            Scope { messages: 3, reads: 2, crashes: 1, terms: 3, entries: 3, ..READS },
            Scope { start: Start::Led, heartbeats: true, ..HEALING },
            Scope { messages: 4, ..BIRTH },
        ],
    }
}

/// Reads a scope from words such as `start=led terms=3 reads`; what is not named is as in the least.
pub(crate) fn custom(words: &str) -> Scope {
    let mut scope = Scope { name: "custom", ..LEAST };
    for word in words.split_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or((word, "1"));
        let number = || value.parse::<u8>().unwrap_or_else(|_| panic!("{word}: no number"));
        match key {
            "start" => {
                scope.start = match value {
                    "empty" => Start::Empty,
                    "led" => Start::Led,
                    "behind" => Start::Behind,
                    "figure8" => Start::Figure8,
                    _ => panic!("{word}: empty, led, behind or figure8"),
                }
            }
            "terms" => scope.terms = number().into(),
            "entries" => scope.entries = number().into(),
            "messages" => scope.messages = number().into(),
            "crashes" => scope.crashes = number(),
            "damages" => scope.damages = number(),
            "duplicates" => scope.duplicates = number(),
            "reads" => scope.reads = number(),
            "proposes" => scope.proposes = number() > 0,
            "heartbeats" => scope.heartbeats = number() > 0,
            "compacts" => scope.compacts = number() > 0,
            "pre_votes" => scope.pre_votes = number() > 0,
            "syncs_at_once" => scope.syncs_at_once = number() > 0,
            "one_by_one" => scope.one_by_one = number() > 0,
            "watches_words" => scope.watches_words = number() > 0,
            _ => panic!("{word}: no such limit"),
        }
    }
    scope
}

/// A bug that a scope must show.
#[cfg(feature = "planted-bugs")]
pub(crate) fn planted(bug: raftq::planted::Bug) -> Option<Scope> {
    use raftq::planted::Bug;
    // What is said too early is not what should catch these: the harm that comes of it should.
    let scope = match bug {
        Bug::AckBeforeSync => {
            Scope { start: Start::Led, terms: 1, proposes: true, watches_words: false, ..LEAST }
        }
        Bug::VoteNotPersisted => {
            Scope { terms: 1, entries: 1, messages: 3, crashes: 1, watches_words: false, ..LEAST }
        }
        Bug::OldTermCommit => FIGURE_8,
        Bug::CommitUnverified => CHANGE,
        Bug::TruncateWithoutConflict => {
            Scope { terms: 1, messages: 3, one_by_one: true, heartbeats: false, ..CHANGE }
        }
        Bug::StaleRead => READS,
        Bug::SnapshotWithoutTerm => COMPACTED,
        Bug::DirectoryNotSynced
        | Bug::DamageAsTornTail
        | Bug::ChunkOutOfOrder
        | Bug::SubmitTwice
        | Bug::FenceUnchecked
        | Bug::LeaseByWallClock
        | Bug::LostWithoutGrace
        | Bug::CompletedAfterCancel
        | Bug::UnstableOrder
        | Bug::HealVotes
        | Bug::HealUnwitnessed => return None,
    };
    Some(Scope { sights: &[], ..scope })
}
