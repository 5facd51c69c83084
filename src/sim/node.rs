//! One simulated node: its replica and its disk, its clock, and what ails it.

use fastrand::Rng;

use crate::raft::effects::Persist;
use crate::replica::core::Replica;
use crate::replica::input::Input;
use crate::sim::disk::SimDisk;
use crate::sim::event::Asker;
use crate::sim::network::For;
use crate::sim::settings::Settings;
use crate::sim::store::Store;
use crate::storage::healing::ASIDE;
use crate::storage::log::segment_name;
use crate::types::{DirId, Millis, NodeId, TICK_MS, Ticks};

/// Inputs that wait in a node that does not look at them, at most; a peer's message beyond is dropped, as its lane
/// drops it.
const WAITING_MAX: usize = 512;

/// How often a node that stands still is looked at, in ms.
const SLEEP_MS: u64 = 50;

/// Bytes the disk writes whole or not at all, and misplaces as a whole.
const SECTOR_BYTES: u64 = 512;

/// Damage to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rot {
    /// Which.
    pub(super) dice: u64,
    /// How long after it was noticed the node is told to heal; never, if it says nothing.
    pub(super) heal_after_ms: Option<u64>,
}

/// A node.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) disk: SimDisk,
    pub(super) dice: Rng,
    pub(super) replica: Option<Replica<Asker>>,
    pub(super) store: Option<Store>,
    pub(super) settings: Settings,
    pub(super) dir: DirId,
    /// Rises with each start: what was under way in a former life is void.
    pub(super) life: u64,
    pub(super) started: u64,
    pub(super) paused_until: u64,
    pub(super) wall_ahead_ms: i64,
    /// What came and is not looked at yet.
    pub(super) waiting: Vec<Input<Asker>>,
    pub(super) starved: For<u64>,
    pub(super) slow: For<u64>,
    pub(super) hung_until: u64,
    pub(super) full_until: u64,
    /// Its disk was damaged, and it is not whole again.
    pub(super) rotted: bool,
    /// Why it does not start any more: nobody can help it.
    pub(super) out: Option<String>,
    /// What it found damaged at a start: it waits for somebody to tell it to heal.
    pub(super) damage: Option<String>,
    /// How long that takes; never before the end of the round, if it says nothing.
    pub(super) heal_after_ms: Option<u64>,
    /// At its next start it is told to heal.
    pub(super) told_to_heal: bool,
    /// The batch that was under way when it last ended: it is on the disk or not.
    pub(super) doubtful: Option<Persist>,
    /// Where the last record of its log begins.
    pub(super) last_record: (u64, u64),
    /// The power fails at that call of its next start.
    pub(super) cut_at_start: Option<u64>,
    /// Its disk is damaged before its next start.
    pub(super) rots: Option<Rot>,
    /// When it is to start again; a start that another one followed is void.
    pub(super) starts_at: u64,
    /// Its id, term, commit index, last entry and applied entry when it was looked at last.
    pub(super) state: [u64; 5],
}

impl Node {
    pub(super) fn new(id: NodeId, mut dice: Rng) -> Self {
        // One clock of each world may be an hour wrong, either way.
        let wall_ahead_ms = if id == NodeId(1) { dice.i64(-1..=1) * 3_600_000 } else { 0 };
        Self {
            id,
            disk: SimDisk::default(),
            settings: Settings::draw(id, &mut dice),
            dice,
            replica: None,
            store: None,
            dir: DirId::default(),
            life: 0,
            started: 0,
            paused_until: 0,
            wall_ahead_ms,
            waiting: Vec::new(),
            starved: For::default(),
            slow: For::default(),
            hung_until: 0,
            full_until: 0,
            rotted: false,
            out: None,
            damage: None,
            heal_after_ms: None,
            told_to_heal: false,
            doubtful: None,
            last_record: (0, 0),
            cut_at_start: None,
            rots: None,
            starts_at: 0,
            state: [0; 5],
        }
    }

    pub(super) fn ticks(&self, now: u64) -> Ticks {
        Ticks((now - self.started) / TICK_MS)
    }

    pub(super) fn wall(&self, now: u64) -> Millis {
        Millis(now.saturating_add_signed(self.wall_ahead_ms))
    }

    /// How long until it looks at its clock again.
    pub(super) fn tick_ms(&self, now: u64) -> u64 {
        let every = self.starved.at(now).unwrap_or(self.settings.tick_ms);
        every.max(self.paused_until.saturating_sub(now).min(SLEEP_MS))
    }

    /// Notes that it is whole again: its disk may be damaged once more.
    pub(super) fn healed(&mut self) {
        self.rotted = false;
        // Nobody wants to look at what was set aside, or nobody has come to delete it.
        if self.dice.bool() {
            for (name, _) in self.disk.files() {
                if name.starts_with(ASIDE) {
                    self.disk.lose(&name);
                }
            }
        }
    }

    /// Draws how long its disk takes for a sync.
    pub(super) fn sync_ms(&mut self, now: u64) -> u64 {
        let max = self.slow.at(now).unwrap_or(self.settings.sync_ms_max);
        let done = now + self.dice.u64(1..=max.max(1));
        done.max(self.hung_until) - now
    }

    /// Takes what came; a message for which there is no room is dropped.
    pub(super) fn wait(&mut self, input: Input<Asker>) {
        let droppable = matches!(input, Input::Peer { .. } | Input::Request { .. });
        if !droppable || self.waiting.len() < WAITING_MAX {
            self.waiting.push(input);
        }
    }

    /// Tells whether what comes waits for the next tick.
    pub(super) fn gathers(&mut self, now: u64) -> bool {
        let percent = self.settings.together_percent;
        self.starved.at(now).is_some() || percent > 0 && self.dice.u32(0..100) < percent
    }

    /// Damages what is durable on its disk, but for the last record of the log: that one may pass for a torn end.
    /// Returns what was done, if there was something to do it to.
    pub(super) fn rot(&mut self, dice: u64) -> Option<String> {
        let mut dice = Rng::with_seed(dice);
        let (segment, end) = self.last_record;
        let newest = segment_name(segment);
        // Without its identity a node is out for good: seldom.
        let spares_identity = dice.u32(0..4) > 0;
        let mut targets: Vec<(String, u64)> = Vec::new();
        for (name, bytes) in self.disk.files() {
            let bytes = bytes as u64;
            let reach = match name.as_str() {
                "identity" if !spares_identity => bytes,
                log if log.starts_with("log-") && log < newest.as_str() => bytes,
                log if log.starts_with("log-") && log == newest.as_str() => end.min(bytes),
                snapshot if snapshot.starts_with("snap-") => bytes,
                _ => 0,
            };
            if reach > 0 {
                targets.push((name, reach));
            }
        }
        if targets.is_empty() {
            return None;
        }
        let (name, reach) = targets.swap_remove(dice.usize(0..targets.len()));
        let whole_sectors = reach / SECTOR_BYTES;
        let is_newest = name == newest;
        let byte = |at: u64| usize::try_from(at).unwrap_or_default();
        let done = match dice.u32(0..8) {
            0 if !is_newest && name != "identity" => {
                self.disk.lose(&name);
                format!("{name} is gone")
            }
            1 if !is_newest => {
                let bytes = dice.u64(0..reach);
                self.disk.rot(&name, |content| content.truncate(byte(bytes)));
                format!("{name} is cut to {bytes} bytes")
            }
            2 | 3 if whole_sectors > 0 => {
                let sector = dice.u64(0..whole_sectors) * SECTOR_BYTES;
                let from = dice.bool().then(|| dice.u64(0..whole_sectors) * SECTOR_BYTES);
                self.disk.rot(&name, |content| {
                    let other = match from {
                        Some(from) => content
                            .get(byte(from)..byte(from + SECTOR_BYTES))
                            .map(<[u8]>::to_vec)
                            .unwrap_or_default(),
                        None => vec![0; byte(SECTOR_BYTES)],
                    };
                    if let Some(place) = content.get_mut(byte(sector)..byte(sector) + other.len()) {
                        place.copy_from_slice(&other);
                    }
                });
                match from {
                    Some(from) => {
                        format!("{name}: the sector at {from} was written over that at {sector}")
                    }
                    None => format!("{name}: the sector at {sector} is zeroes"),
                }
            }
            _ => {
                let at = dice.u64(0..reach);
                let bit = dice.u32(0..8);
                self.disk.rot(&name, |content| {
                    if let Some(place) = content.get_mut(byte(at)) {
                        *place ^= 1 << bit;
                    }
                });
                format!("{name}: bit {bit} of byte {at} is flipped")
            }
        };
        Some(done)
    }
}
