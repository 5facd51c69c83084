//! What goes wrong in a world, drawn before it begins: a list of faults, each with its time and its numbers, of
//! which a run can leave out any.

use std::fmt;

use fastrand::Rng;

use crate::types::NodeId;

/// A set of nodes, one bit each; bit 0 is node 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Nodes(pub(super) u8);

impl Nodes {
    /// Tells whether a node is one of them.
    #[must_use]
    pub(super) fn has(self, id: NodeId) -> bool {
        id.0 >= 1 && id.0 <= 8 && self.0 >> (id.0 - 1) & 1 == 1
    }

    fn one(dice: &mut Rng, count: u64) -> Self {
        Self(1 << dice.u64(0..count))
    }

    fn all(count: u64) -> Self {
        Self(u8::MAX >> (8 - count))
    }

    /// Some of them, and not all, unless there is one only.
    fn some(dice: &mut Rng, count: u64) -> Self {
        let all = Self::all(count);
        if count < 2 { all } else { Self(dice.u8(1..all.0)) }
    }

    fn others(self, count: u64) -> Self {
        Self(Self::all(count).0 & !self.0)
    }
}

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> =
            (1..=8).filter(|id| self.has(NodeId(*id))).map(|id| id.to_string()).collect();
        write!(f, "{}", names.join("+"))
    }
}

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Victim {
    /// These.
    Of(Nodes),
    /// Whoever leads then.
    Leader,
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(nodes) => write!(f, "node {nodes}"),
            Self::Leader => f.write_str("the leader"),
        }
    }
}

/// What goes wrong. Times are in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Processes end at once, or lose their power too, and come back; `again`: the power fails at that call of
    /// the disk when they do.
    Crash { who: Victim, power: bool, torn: bool, down_ms: u64, again: Option<u64> },
    /// Messages from some to others are lost, one way or both; now and then, if it flaps.
    Cut { from: Nodes, to: Nodes, both: bool, flap_ms: u64, for_ms: u64 },
    /// The leader's messages do not leave, or none reach it, or both.
    LeaderAlone { leave: bool, reach: bool, for_ms: u64 },
    /// So many percent of all messages are lost.
    Lose { percent: u32, for_ms: u64 },
    /// So many percent of all messages come twice.
    Repeat { percent: u32, for_ms: u64 },
    /// Messages take up to so long, and overtake each other.
    Delay { ms: u64, for_ms: u64 },
    /// Transfers of snapshots break off, each chunk with so many percent, or come in a wrong order.
    BreakTransfers { percent: u32, for_ms: u64 },
    /// A node stands still.
    Pause { who: Victim, for_ms: u64 },
    /// The leader stands still, and wakes some time before anybody can tell it what happened meanwhile.
    Asleep { for_ms: u64, alone_ms: u64 },
    /// A node gets a core only so often.
    Starve { who: Victim, every_ms: u64, for_ms: u64 },
    /// A wall clock jumps.
    Jump { who: Victim, by_ms: i64 },
    /// Syncs take so long.
    SlowDisk { who: Victim, sync_ms: u64, for_ms: u64 },
    /// A disk does nothing at all.
    HangDisk { who: Victim, for_ms: u64 },
    /// A call of the disk fails, after so many.
    FailDisk { who: Victim, calls: u64 },
    /// A disk has no room for new files.
    FullDisk { who: Victim, for_ms: u64 },
    /// What is durable on a disk is damaged while its node is down; so long after it noticed it is told to heal, at
    /// once with 0, only at the end of the round with nothing.
    Rot { node: NodeId, dice: u64, down_ms: u64, heal_after_ms: Option<u64> },
    /// A worker dies, or stands still, and comes back later.
    Worker { dice: u64 },
}

/// A fault, when, and by what number it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its number in the world, from 1.
    pub id: u32,
    /// In which round of the world, from 0.
    pub round: usize,
    /// When, from the beginning of the round, in ms.
    pub at_ms: u64,
    /// What.
    pub(super) what: What,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, ms) = (self.at_ms / 1000, self.at_ms % 1000);
        let round = self.round + 1;
        write!(f, "{:4}  round {round}, {seconds:3}.{ms:03} s: {}", self.id, self.what)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash { who, power, torn, down_ms, again } => {
                let how = match (power, torn) {
                    (false, _) => "is killed",
                    (true, false) => "loses its power",
                    (true, true) => "loses its power in the middle of a write",
                };
                write!(f, "{who} {how}, down for {down_ms} ms")?;
                match again {
                    Some(calls) => write!(f, ", and once more at call {calls} of its start"),
                    None => Ok(()),
                }
            }
            Self::Cut { from, to, both, flap_ms, for_ms } => {
                let way = if *both { "and" } else { "to" };
                let flaps = if *flap_ms > 0 { ", on and off" } else { "" };
                write!(f, "no message from {from} {way} {to}{flaps}, for {for_ms} ms")
            }
            Self::LeaderAlone { leave, reach, for_ms } => {
                let what = match (leave, reach) {
                    (true, true) => "is alone",
                    (true, false) => "hears and is not heard",
                    (false, _) => "is heard and hears nothing",
                };
                write!(f, "the leader {what}, for {for_ms} ms")
            }
            Self::Lose { percent, for_ms } => {
                write!(f, "{percent} % of all messages are lost, for {for_ms} ms")
            }
            Self::Repeat { percent, for_ms } => {
                write!(f, "{percent} % of all messages come twice, for {for_ms} ms")
            }
            Self::Delay { ms, for_ms } => {
                write!(f, "messages take up to {ms} ms, for {for_ms} ms")
            }
            Self::BreakTransfers { percent, for_ms } => {
                write!(f, "{percent} % of the chunks of snapshots go astray, for {for_ms} ms")
            }
            Self::Pause { who, for_ms } => write!(f, "{who} stands still for {for_ms} ms"),
            Self::Asleep { for_ms, alone_ms } => write!(
                f,
                "the leader stands still for {for_ms} ms, and is alone until {alone_ms} ms after"
            ),
            Self::Starve { who, every_ms, for_ms } => {
                write!(f, "{who} gets a core every {every_ms} ms only, for {for_ms} ms")
            }
            Self::Jump { who, by_ms } => write!(f, "the clock of {who} jumps by {by_ms} ms"),
            Self::SlowDisk { who, sync_ms, for_ms } => {
                write!(f, "syncs of {who} take {sync_ms} ms, for {for_ms} ms")
            }
            Self::HangDisk { who, for_ms } => write!(f, "the disk of {who} hangs for {for_ms} ms"),
            Self::FailDisk { who, calls } => {
                write!(f, "the disk of {who} fails with an I/O error after {calls} calls")
            }
            Self::FullDisk { who, for_ms } => {
                write!(f, "the disk of {who} is full for {for_ms} ms")
            }
            Self::Rot { node, down_ms, heal_after_ms, .. } => {
                write!(
                    f,
                    "node {node} is killed, down for {down_ms} ms, and its disk is damaged; "
                )?;
                match heal_after_ms {
                    Some(0) => f.write_str("it heals when it starts"),
                    Some(after_ms) => write!(f, "it is told to heal after {after_ms} ms"),
                    None => f.write_str("it is told to heal in the end"),
                }
            }
            Self::Worker { .. } => f.write_str("a worker dies or stands still"),
        }
    }
}

/// Which kinds of faults there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// Messages and connections.
    pub net: bool,
    /// Disks, and crashes, which show what is on them.
    pub disk: bool,
    /// Clocks and pauses.
    pub time: bool,
}

impl Groups {
    /// All of them.
    pub const ALL: Self = Self { net: true, disk: true, time: true };
    /// None of them.
    pub const NONE: Self = Self { net: false, disk: false, time: false };
}

/// What may go wrong, without numbers.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Crash,
    PowerAll,
    Halves,
    OneWay,
    Bridge,
    LeaderAlone,
    Flap,
    Lose,
    Repeat,
    Delay,
    BreakTransfers,
    Pause,
    Starve,
    Jump,
    SlowDisk,
    HangDisk,
    FailDisk,
    FullDisk,
    Rot,
    Worker,
}

const NET: [Kind; 9] = [
    Kind::Halves,
    Kind::OneWay,
    Kind::Bridge,
    Kind::LeaderAlone,
    Kind::Flap,
    Kind::Lose,
    Kind::Repeat,
    Kind::Delay,
    Kind::BreakTransfers,
];
const DISK: [Kind; 7] = [
    Kind::Crash,
    Kind::PowerAll,
    Kind::SlowDisk,
    Kind::HangDisk,
    Kind::FailDisk,
    Kind::FullDisk,
    Kind::Rot,
];
const TIME: [Kind; 3] = [Kind::Pause, Kind::Starve, Kind::Jump];

/// From one leader that falls asleep to the next, at most, in ms.
const ASLEEP_EVERY_MS_MAX: u64 = 20_000;

/// Draws the faults of a world, whose rounds have these faulty times, in ms. Some worlds have leaders that fall asleep,
/// by the dice of `sleep`.
pub(super) fn draw(
    groups: Groups,
    nodes: u64,
    rounds: &[u64],
    dice: &mut Rng,
    sleep: &mut Rng,
) -> Vec<Fault> {
    let mut kinds: Vec<Kind> = Vec::new();
    for (wanted, group) in
        [(groups.net, &NET[..]), (groups.disk, &DISK[..]), (groups.time, &TIME[..])]
    {
        kinds.extend(group.iter().filter(|_| wanted));
    }
    if groups != Groups::NONE {
        kinds.push(Kind::Worker);
    }
    // Each world has its own kinds of trouble, and its own measure of each: some have none at all.
    let calm = dice.u32(0..20) == 0;
    let share = dice.u32(10..90);
    let mut faults = Vec::new();
    for kind in kinds {
        if calm || dice.u32(0..100) >= share {
            continue;
        }
        let mean_ms = 1000 << dice.u32(1..6);
        for (round, faulty_ms) in rounds.iter().enumerate() {
            let mut at_ms = dice.u64(0..mean_ms);
            while at_ms < *faulty_ms {
                faults.push(Fault { id: 0, round, at_ms, what: what(kind, nodes, dice) });
                at_ms += dice.u64(mean_ms / 4..mean_ms * 2);
            }
        }
    }
    if groups.net && groups.time && !calm && sleep.u32(0..3) == 0 {
        for (round, faulty_ms) in rounds.iter().enumerate() {
            let mut at_ms = sleep.u64(0..ASLEEP_EVERY_MS_MAX);
            while at_ms < *faulty_ms {
                let (for_ms, alone_ms) = (sleep.u64(300..3000), sleep.u64(10..400));
                let what = What::Asleep { for_ms, alone_ms };
                faults.push(Fault { id: 0, round, at_ms, what });
                at_ms += for_ms + sleep.u64(0..ASLEEP_EVERY_MS_MAX);
            }
        }
    }
    faults.sort_by_key(|fault| (fault.round, fault.at_ms));
    for (id, fault) in (1..).zip(&mut faults) {
        fault.id = id;
    }
    faults
}

/// Draws who is hit: often the leader, which matters most.
fn victim(nodes: u64, dice: &mut Rng) -> Victim {
    if dice.u32(0..3) == 0 { Victim::Leader } else { Victim::Of(Nodes::one(dice, nodes)) }
}

/// How long something lasts: mostly short, sometimes long enough for everybody to notice.
fn lasts(dice: &mut Rng) -> u64 {
    let max = [300, 1500, 4000, 10_000];
    let max = max.get(dice.usize(0..max.len())).copied().unwrap_or(1000);
    dice.u64(20..max)
}

fn what(kind: Kind, nodes: u64, dice: &mut Rng) -> What {
    let for_ms = lasts(dice);
    let who = victim(nodes, dice);
    match kind {
        Kind::Crash => {
            let who = if dice.u32(0..4) == 0 { Victim::Of(Nodes::some(dice, nodes)) } else { who };
            let again = (dice.u32(0..8) == 0).then(|| dice.u64(0..20));
            // Some stay down for long: they need a snapshot then.
            What::Crash { who, power: dice.bool(), torn: dice.bool(), down_ms: for_ms, again }
        }
        Kind::PowerAll => {
            let again = (dice.u32(0..8) == 0).then(|| dice.u64(0..20));
            let who = Victim::Of(Nodes::all(nodes));
            What::Crash { who, power: true, torn: dice.bool(), down_ms: dice.u64(20..2000), again }
        }
        Kind::Halves => {
            let from = Nodes::some(dice, nodes);
            What::Cut { from, to: from.others(nodes), both: true, flap_ms: 0, for_ms }
        }
        Kind::OneWay => {
            let from = Nodes::some(dice, nodes);
            What::Cut { from, to: from.others(nodes), both: false, flap_ms: 0, for_ms }
        }
        Kind::Bridge => {
            // One node hears both halves, which do not hear each other.
            let bridge = Nodes::one(dice, nodes);
            let from = Nodes(Nodes::some(dice, nodes).0 & !bridge.0);
            let to = Nodes(from.others(nodes).0 & !bridge.0);
            What::Cut { from, to, both: true, flap_ms: 0, for_ms }
        }
        Kind::LeaderAlone => {
            let leave = dice.bool();
            What::LeaderAlone { leave, reach: !leave || dice.bool(), for_ms }
        }
        Kind::Flap => {
            let from = Nodes::one(dice, nodes);
            let flap_ms = dice.u64(30..600);
            What::Cut { from, to: from.others(nodes), both: dice.bool(), flap_ms, for_ms }
        }
        Kind::Lose => What::Lose { percent: dice.u32(1..50), for_ms },
        Kind::Repeat => What::Repeat { percent: dice.u32(1..50), for_ms },
        Kind::Delay => What::Delay { ms: dice.u64(5..400), for_ms },
        Kind::BreakTransfers => What::BreakTransfers { percent: dice.u32(5..80), for_ms },
        Kind::Pause => What::Pause { who, for_ms },
        Kind::Starve => What::Starve { who, every_ms: dice.u64(60..500), for_ms },
        Kind::Jump => {
            let far = [2000, 60_000, 4 * 3_600_000];
            let far = far.get(dice.usize(0..far.len())).copied().unwrap_or(1000);
            What::Jump { who, by_ms: dice.i64(-far..=far) }
        }
        Kind::SlowDisk => What::SlowDisk { who, sync_ms: dice.u64(10..600), for_ms },
        Kind::HangDisk => What::HangDisk { who, for_ms },
        Kind::FailDisk => What::FailDisk { who, calls: dice.u64(0..12) },
        Kind::FullDisk => What::FullDisk { who, for_ms },
        Kind::Rot => {
            let node = NodeId(dice.u64(1..=nodes));
            let (damage, down_ms) = (dice.u64(..), dice.u64(20..3000));
            let mut dice = Rng::with_seed(!damage);
            let heal_after_ms = match dice.u32(0..4) {
                0 => Some(0),
                1 => None,
                _ => Some(dice.u64(1..15_000)),
            };
            What::Rot { node, dice: damage, down_ms, heal_after_ms }
        }
        Kind::Worker => What::Worker { dice: dice.u64(..) },
    }
}
