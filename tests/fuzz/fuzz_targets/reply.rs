//! Fuzzes the entry `reply` of `entry.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| raftq_fuzz::run("reply", input));
