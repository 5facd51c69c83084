//! The network between the nodes: who hears whom, what is lost, and how long the rest takes.

use fastrand::Rng;

use crate::sim::faults::Nodes;
use crate::types::NodeId;

/// A wall: messages from some to others are lost.
#[derive(Clone, Copy, Debug)]
struct Wall {
    from: Nodes,
    to: Nodes,
    both: bool,
    /// It stands and falls in turns of this length; 0: it stands.
    flap_ms: u64,
    since: u64,
    until: u64,
}

/// Something that holds for a while.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct For<T> {
    value: T,
    until: u64,
}

impl<T: Copy> For<T> {
    /// Lets it hold until a time.
    pub(super) fn new(value: T, until: u64) -> Self {
        Self { value, until }
    }

    /// Returns it as long as it holds.
    pub(super) fn at(&self, now: u64) -> Option<T> {
        (now < self.until).then_some(self.value)
    }
}

/// The network.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) dice: Rng,
    walls: Vec<Wall>,
    delay_ms_max: u64,
    pub(super) lose: For<u32>,
    pub(super) repeat: For<u32>,
    pub(super) delay: For<u64>,
    pub(super) astray: For<u32>,
}

impl Network {
    pub(super) fn new(mut dice: Rng) -> Self {
        Self {
            delay_ms_max: dice.u64(1..5),
            dice,
            walls: Vec::new(),
            lose: For::default(),
            repeat: For::default(),
            delay: For::default(),
            astray: For::default(),
        }
    }

    /// Puts a wall up.
    pub(super) fn cut(
        &mut self,
        now: u64,
        from: Nodes,
        to: Nodes,
        both: bool,
        flap_ms: u64,
        for_ms: u64,
    ) {
        self.walls.retain(|wall| now < wall.until);
        self.walls.push(Wall { from, to, both, flap_ms, since: now, until: now + for_ms });
    }

    /// Tells whether a message of one node reaches another.
    pub(super) fn reaches(&self, now: u64, from: NodeId, to: NodeId) -> bool {
        !self.walls.iter().any(|wall| {
            let stands = wall.flap_ms == 0 || ((now - wall.since) / wall.flap_ms).is_multiple_of(2);
            let between = wall.from.has(from) && wall.to.has(to)
                || wall.both && wall.to.has(from) && wall.from.has(to);
            now < wall.until && stands && between
        })
    }

    fn chance(&mut self, percent: Option<u32>) -> bool {
        percent.is_some_and(|percent| self.dice.u32(0..100) < percent)
    }

    /// Tells whether a message is lost on the way.
    pub(super) fn loses(&mut self, now: u64) -> bool {
        let percent = self.lose.at(now);
        self.chance(percent)
    }

    /// Tells whether a message comes twice.
    pub(super) fn repeats(&mut self, now: u64) -> bool {
        let percent = self.repeat.at(now);
        self.chance(percent)
    }

    /// Tells whether a chunk of a snapshot goes astray.
    pub(super) fn strays(&mut self, now: u64) -> bool {
        let percent = self.astray.at(now);
        self.chance(percent)
    }

    /// Draws how long a message takes.
    pub(super) fn takes(&mut self, now: u64) -> u64 {
        let max = self.delay.at(now).unwrap_or(self.delay_ms_max);
        self.dice.u64(1..=max)
    }

    /// Takes down all walls; nothing goes wrong any more.
    pub(super) fn heal(&mut self) {
        self.walls.clear();
        self.lose = For::default();
        self.repeat = For::default();
        self.delay = For::default();
        self.astray = For::default();
    }
}
