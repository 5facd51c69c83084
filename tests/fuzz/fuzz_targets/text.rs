//! Fuzzes the entry `text` of `entry.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| raftq_fuzz::run("text", input));
