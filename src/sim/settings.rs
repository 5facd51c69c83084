//! The limits of one life of a node, drawn small, so that what a real node meets once a day happens all the time.

use fastrand::Rng;

use crate::jobs::command::Limits;
use crate::raft::core::Config as RaftConfig;
use crate::storage::log::Options;
use crate::types::{NodeId, TICK_MS};

/// The limits and the pace of one life of a node.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) raft: RaftConfig,
    pub(super) storage: Options,
    pub(super) snapshot_bytes_min: u64,
    pub(super) history_bytes_max: u64,
    /// How often it looks at its clock, in ms.
    pub(super) tick_ms: u64,
    /// How long a sync takes at most, in ms.
    pub(super) sync_ms_max: u64,
    /// How much of what comes waits for its next tick, to be one turn with what else comes, in percent.
    pub(super) together_percent: u32,
}

/// Draws the limits of a cluster.
pub(super) fn limits(dice: &mut Rng) -> Limits {
    // No few jobs kept: a report that is sent again finds its job forgotten, and the model of a job would have to know
    // how late that may be. No age either: an hour more or less on one clock would make a job forgotten.
    Limits { finished_age_ms_max: u64::MAX / 4, attempts_max: dice.u32(2..5), ..Limits::default() }
}

impl Settings {
    /// Draws the limits of a life.
    pub(super) fn draw(id: NodeId, dice: &mut Rng) -> Self {
        let mut raft = RaftConfig::new(id);
        let small = |dice: &mut Rng| dice.u32(0..3) == 0;
        raft.window_entries_max = if dice.bool() { dice.usize(0..16) } else { dice.usize(16..200) };
        if small(dice) {
            raft.append_bytes_max = dice.usize(1..2000);
        }
        if small(dice) {
            raft.inflight_entries_max = dice.usize(1..20);
        }
        if small(dice) {
            raft.inflight_bytes_max = raft.append_bytes_max.max(dice.usize(1..4000));
        }
        if small(dice) {
            raft.uncommitted_entries_max = dice.usize(16..64);
        }
        if small(dice) {
            raft.window_bytes_max = dice.usize(8_000..40_000);
            raft.uncommitted_bytes_max = raft.window_bytes_max;
        }
        if small(dice) {
            raft.apply_entries_max = dice.usize(1..10);
            raft.apply_bytes_max = dice.usize(1..2000);
            raft.apply_read_bytes_max = dice.usize(1..2000);
        }
        if small(dice) {
            raft.persist_entries_max = dice.usize(1..10);
            raft.persist_bytes_max = dice.usize(1..2000);
        }
        let segment_bytes = 1 << dice.u32(10..15);
        Self {
            raft,
            storage: Options { segment_bytes, log_keep_bytes: dice.u64(0..3) * segment_bytes },
            snapshot_bytes_min: 1 << dice.u32(9..15),
            history_bytes_max: 1 << dice.u32(9..20),
            tick_ms: TICK_MS * dice.u64(1..=5),
            sync_ms_max: if dice.bool() { 2 } else { dice.u64(2..30) },
            together_percent: if dice.bool() { 0 } else { dice.u32(0..100) },
        }
    }
}
