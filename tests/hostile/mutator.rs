//! Changes of known inputs, the same in every run.

/// Values that length and number fields break at.
const ODD: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000, 0x7fff_ffff, 0xffff_ffff, 1 << 63, u64::MAX];

/// Heads of MessagePack that promise much, or mean nothing.
const HEADS: [&[u8]; 9] = [
    b"\xc1",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xdc\x04\x00",
    b"\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xc7\x00\x00",
];

/// Draws one change after the other.
pub(crate) struct Mutator<'a> {
    pool: &'a [&'a [u8]],
    pub(crate) dice: fastrand::Rng,
}

impl<'a> Mutator<'a> {
    pub(crate) fn new(target: &str, pool: &'a [&'a [u8]]) -> Self {
        let seed =
            target.bytes().fold(1, |seed: u64, byte| seed.wrapping_mul(31) + u64::from(byte));
        Self { pool, dice: fastrand::Rng::with_seed(seed) }
    }

    /// Draws the next input, and which one it was made of.
    pub(crate) fn next(&mut self) -> (usize, Vec<u8>) {
        let of = self.dice.usize(..self.pool.len());
        let mut bytes = self.pool[of].to_vec();
        for _ in 0..self.dice.usize(1..5) {
            self.change(&mut bytes);
        }
        (of, bytes)
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.dice.usize(..=bytes.len());
        match self.dice.u8(..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.dice.u8(..8),
            1 if at < bytes.len() => bytes[at] = self.dice.u8(..),
            2 => bytes.truncate(at),
            3 => {
                let end = self.dice.usize(at..=bytes.len()).min(at + 32);
                drop(bytes.drain(at..end));
            }
            4 => {
                let width = [1, 2, 4, 8][self.dice.usize(..4)];
                let odd = ODD[self.dice.usize(..ODD.len())];
                let (big, little) = (odd.to_be_bytes(), odd.to_le_bytes());
                let number = if self.dice.bool() { &big[8 - width..] } else { &little[..width] };
                let end = (at + width).min(bytes.len());
                drop(bytes.splice(at..end, number.iter().copied()));
            }
            5 => {
                let head = HEADS[self.dice.usize(..HEADS.len())];
                let end = (at + self.dice.usize(..=head.len())).min(bytes.len());
                drop(bytes.splice(at..end, head.iter().copied()));
            }
            6 => {
                let other = self.pool[self.dice.usize(..self.pool.len())];
                let from = self.dice.usize(..=other.len());
                let to = self.dice.usize(from..=other.len()).min(from + 256);
                drop(bytes.splice(at..at, other[from..to].iter().copied()));
            }
            _ => {
                let end = self.dice.usize(at..=bytes.len()).min(at + 64);
                let again = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, again));
            }
        }
    }
}
