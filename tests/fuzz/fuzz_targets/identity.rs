//! Fuzzes the entry `identity` of `entry.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| raftq_fuzz::run("identity", input));
