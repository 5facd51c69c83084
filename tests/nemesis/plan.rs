//! The schedule: which faults come when. A function of the seed, the length and the number of nodes alone.

use fastrand::Rng;

/// Whom a fault is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Whoever leads when it begins.
    Leader,
    /// These.
    These(Vec<usize>),
    /// All.
    All,
}

/// Which links carry nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// These nodes are apart from all others, who are together.
    Alone(Who),
    /// Nothing leaves these nodes; they hear everybody.
    Mute(Who),
    /// Nothing reaches these nodes; everybody hears them.
    Deaf(Who),
    /// Two groups, and one node that is with both.
    Bridge {
        /// The node between.
        middle: usize,
        /// One group.
        group: Vec<usize>,
    },
    /// Apart and together again, a few times a second.
    Flapping(Who),
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Killed, and started again at the end.
    Kill(Who),
    /// Asked to end, and started again.
    Restart(Who),
    /// Stopped, and continued at the end.
    Pause(Who),
    /// The wall clock is so many seconds off until the end.
    Clock(Who, i64),
    /// Links that carry nothing.
    Cut(Shape),
    /// Every message takes longer.
    Delay {
        /// By so much.
        ms: u64,
        /// And up to so much more.
        jitter_ms: u64,
    },
    /// So many of a hundred packets are lost.
    Loss {
        /// Of a hundred.
        percent: u32,
    },
    /// Links carry so much.
    Narrow {
        /// Kilobytes a second.
        kb_s: u32,
    },
    /// Every connection between nodes is torn.
    Reset,
}

/// The kinds of faults, for colours and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Dead by SIGKILL.
    Kill,
    /// Restarted in good order.
    Restart,
    /// Stopped.
    Pause,
    /// A wrong clock.
    Clock,
    /// Cut off.
    Cut,
    /// Slow, lossy, narrow or torn links.
    Slow,
}

impl Kind {
    /// Every kind, in the order of the legend.
    pub const ALL: [Self; 6] =
        [Self::Kill, Self::Restart, Self::Pause, Self::Cut, Self::Slow, Self::Clock];

    /// Returns the words of the legend.
    pub fn words(self) -> &'static str {
        match self {
            Self::Kill => "killed (kill -9)",
            Self::Restart => "restarted",
            Self::Pause => "stopped (SIGSTOP)",
            Self::Cut => "cut off",
            Self::Slow => "slow or lossy links",
            Self::Clock => "wrong clock",
        }
    }
}

impl Fault {
    /// Returns its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Kill(_) => Kind::Kill,
            Self::Restart(_) => Kind::Restart,
            Self::Pause(_) => Kind::Pause,
            Self::Clock(..) => Kind::Clock,
            Self::Cut(_) => Kind::Cut,
            Self::Delay { .. } | Self::Loss { .. } | Self::Narrow { .. } | Self::Reset => {
                Kind::Slow
            }
        }
    }

    /// Returns what happens, without whom it happens to.
    pub fn words(&self) -> String {
        match self {
            Self::Kill(who) => format!("kill -9 {}", who.words()),
            Self::Restart(who) => format!("restart {}", who.words()),
            Self::Pause(who) => format!("stop {}", who.words()),
            Self::Clock(who, seconds) => format!("clock of {} {seconds:+} s", who.words()),
            Self::Cut(Shape::Alone(who)) => format!("cut off {}", who.words()),
            Self::Cut(Shape::Mute(who)) => format!("one way: nothing leaves {}", who.words()),
            Self::Cut(Shape::Deaf(who)) => format!("one way: nothing reaches {}", who.words()),
            Self::Cut(Shape::Bridge { middle, group }) => {
                format!("bridge: {group:?} hear the others through node {middle} alone")
            }
            Self::Cut(Shape::Flapping(who)) => format!("flapping link of {}", who.words()),
            Self::Delay { ms, jitter_ms } => format!("delay {ms}+{jitter_ms} ms"),
            Self::Loss { percent } => format!("loss {percent} %"),
            Self::Narrow { kb_s } => format!("links of {kb_s} kB/s"),
            Self::Reset => "every connection torn".into(),
        }
    }

    /// Tells whether whom it hits cannot act with the others all the while: over a bridge, and between the
    /// flaps of a link, it can.
    pub fn takes_away(&self) -> bool {
        match self {
            Self::Kill(_) | Self::Restart(_) | Self::Pause(_) => true,
            Self::Cut(shape) => !matches!(shape, Shape::Bridge { .. } | Shape::Flapping(_)),
            Self::Clock(..)
            | Self::Delay { .. }
            | Self::Loss { .. }
            | Self::Narrow { .. }
            | Self::Reset => false,
        }
    }

    fn is_of_network(&self) -> bool {
        matches!(self.kind(), Kind::Cut | Kind::Slow)
    }
}

impl Who {
    fn words(&self) -> String {
        match self {
            Self::Leader => "the leader".into(),
            Self::All => "all nodes".into(),
            Self::These(nodes) => match nodes.as_slice() {
                [one] => format!("node {one}"),
                several => format!("nodes {several:?}"),
            },
        }
    }
}

/// One fault and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// When it begins.
    pub at_ms: u64,
    /// When it is healed.
    pub until_ms: u64,
    /// What it is.
    pub fault: Fault,
}

/// The whole schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Faults of processes and clocks, one after the other.
    pub processes: Vec<Step>,
    /// Faults of the network, one after the other, beside those.
    pub network: Vec<Step>,
}

/// Nothing goes wrong before this: the cluster is whole first.
const CALM_FIRST_MS: u64 = 2_000;

/// Once in so long everything is well for a while, and the cluster must be whole.
const CALM_EVERY_MS: u64 = 60_000;

/// How long that takes.
pub const CALM_MS: u64 = 8_000;

/// Draws the schedule of a run.
pub fn plan(seed: u64, faults_ms: u64, nodes: usize) -> Plan {
    let mut dice = Rng::with_seed(seed);
    let processes = track(&mut dice, faults_ms, nodes, processes);
    let network = track(&mut dice, faults_ms, nodes, network);
    debug_assert!(network.iter().all(|step| step.fault.is_of_network()));
    Plan { processes, network }
}

/// One fault after the other with pauses between them; every kind comes once before one comes again.
fn track(
    dice: &mut Rng,
    faults_ms: u64,
    nodes: usize,
    deck: fn(&mut Rng, usize) -> Vec<(Fault, u64)>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut cards: Vec<(Fault, u64)> = Vec::new();
    let mut at_ms = CALM_FIRST_MS + dice.u64(0..1_500);
    loop {
        let Some((fault, lasts_ms)) = cards.pop() else {
            cards = deck(dice, nodes);
            dice.shuffle(&mut cards);
            continue;
        };
        let until_ms = at_ms + lasts_ms;
        if until_ms + 1_000 > faults_ms {
            return steps;
        }
        // The calm is at the end of each minute, and everything is healed before it begins.
        let calm_ms = (at_ms / CALM_EVERY_MS + 1) * CALM_EVERY_MS - CALM_MS;
        if until_ms > calm_ms && faults_ms > CALM_EVERY_MS {
            at_ms = calm_ms + CALM_MS + dice.u64(0..1_000);
            cards.push((fault, lasts_ms));
            continue;
        }
        steps.push(Step { at_ms, until_ms, fault });
        at_ms = until_ms + dice.u64(800..3_500);
    }
}

/// Returns the ends of the calm times: moments at which the cluster must be whole.
pub fn calm_ends_ms(faults_ms: u64) -> Vec<u64> {
    (1..).map(|minute| minute * CALM_EVERY_MS).take_while(|at_ms| *at_ms < faults_ms).collect()
}

fn one(dice: &mut Rng, nodes: usize) -> Who {
    Who::These(vec![dice.usize(1..=nodes)])
}

/// As many nodes as may fail, drawn.
fn minority(dice: &mut Rng, nodes: usize) -> Vec<usize> {
    some(dice, nodes, (nodes - 1) / 2)
}

fn some(dice: &mut Rng, nodes: usize, count: usize) -> Vec<usize> {
    let mut ids: Vec<usize> = (1..=nodes).collect();
    dice.shuffle(&mut ids);
    ids.truncate(count);
    ids.sort_unstable();
    ids
}

/// One of each fault of processes and clocks, and how long it lasts.
fn processes(dice: &mut Rng, nodes: usize) -> Vec<(Fault, u64)> {
    let hours = |dice: &mut Rng| i64::from(dice.i32(1..=5)) * 3_600;
    let short_ms = 250..900;
    let long_ms = 3_500..6_500;
    vec![
        (Fault::Kill(one(dice, nodes)), dice.u64(500..4_000)),
        (Fault::Kill(Who::Leader), dice.u64(500..4_000)),
        (Fault::Kill(Who::Leader), dice.u64(100..600)),
        (Fault::Kill(Who::These(minority(dice, nodes))), dice.u64(1_500..5_000)),
        (Fault::Kill(Who::All), dice.u64(300..1_500)),
        (Fault::Restart(one(dice, nodes)), dice.u64(300..1_000)),
        (Fault::Restart(Who::Leader), dice.u64(300..1_000)),
        // Shorter and longer than the leases of leaders (0.6 s) and workers (3 s).
        (Fault::Pause(Who::Leader), dice.u64(short_ms.clone())),
        (Fault::Pause(Who::Leader), dice.u64(long_ms.clone())),
        (Fault::Pause(one(dice, nodes)), dice.u64(short_ms)),
        (Fault::Pause(Who::These(minority(dice, nodes))), dice.u64(long_ms)),
        (Fault::Clock(one(dice, nodes), hours(dice)), dice.u64(1_500..5_000)),
        (Fault::Clock(Who::Leader, -hours(dice)), dice.u64(1_500..5_000)),
        (Fault::Clock(Who::These(minority(dice, nodes)), hours(dice)), dice.u64(1_500..5_000)),
    ]
}

/// One of each fault of the network, and how long it lasts.
fn network(dice: &mut Rng, nodes: usize) -> Vec<(Fault, u64)> {
    let long_ms = 2_000..6_500;
    let middle = dice.usize(1..=nodes);
    let mut others: Vec<usize> = (1..=nodes).filter(|id| *id != middle).collect();
    dice.shuffle(&mut others);
    others.truncate((nodes - 1) / 2);
    others.sort_unstable();
    let cuts = [
        Shape::Alone(Who::Leader),
        Shape::Alone(one(dice, nodes)),
        Shape::Alone(Who::These(some(dice, nodes, nodes / 2))),
        Shape::Alone(Who::These(some(dice, nodes, nodes / 2))),
        Shape::Mute(Who::Leader),
        Shape::Deaf(Who::Leader),
        Shape::Mute(one(dice, nodes)),
        Shape::Deaf(one(dice, nodes)),
        Shape::Bridge { middle, group: others },
        Shape::Flapping(Who::Leader),
        Shape::Flapping(one(dice, nodes)),
    ];
    let mut deck: Vec<(Fault, u64)> =
        cuts.into_iter().map(|shape| (Fault::Cut(shape), dice.u64(long_ms.clone()))).collect();
    let ms = dice.u64(5..60);
    deck.push((Fault::Delay { ms, jitter_ms: ms / 2 }, dice.u64(long_ms.clone())));
    deck.push((Fault::Loss { percent: dice.u32(2..15) }, dice.u64(long_ms.clone())));
    deck.push((Fault::Narrow { kb_s: dice.u32(64..512) }, dice.u64(long_ms)));
    deck.push((Fault::Reset, 300));
    deck
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan_of_a_seed_is_always_the_same_and_another_for_another() {
        assert_eq!(plan(7, 300_000, 5), plan(7, 300_000, 5));
        assert_ne!(plan(7, 300_000, 5), plan(8, 300_000, 5));
    }

    #[test]
    fn faults_leave_the_end_of_each_minute_calm_and_the_run_healed() {
        for seed in 0..200 {
            let plan = plan(seed, 300_000, 5);
            for step in plan.processes.iter().chain(&plan.network) {
                assert!(step.until_ms <= 300_000);
                let (from, until) = (step.at_ms % CALM_EVERY_MS, step.until_ms % CALM_EVERY_MS);
                assert!(from <= until && until <= CALM_EVERY_MS - CALM_MS, "{step:?}");
            }
            assert!(plan.processes.len() > 20 && plan.network.len() > 20);
        }
    }
}
