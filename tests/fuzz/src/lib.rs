//! The fuzz targets' common part: the entries, and an allocator that counts.

#[path = "../entry.rs"]
mod entry;
mod meter;

/// Runs one input through the entry of a target.
pub fn run(target: &str, input: &[u8]) {
    entry::run(target, input);
}
