//! The core's only dice: a small generator, so that one seed replays one run.

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    /// Starts the sequence that `seed` stands for.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Draws a number in `min..=max`. The bias of the remainder does not matter for timeouts.
    pub(super) fn between(&mut self, min: u64, max: u64) -> u64 {
        assert!(min <= max, "no number in {min}..={max}");
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        min + mixed % (max - min + 1)
    }
}
