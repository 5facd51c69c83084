//! The client library: its decisions alone, its calls against scripted nodes, and its worker.

#![expect(clippy::unwrap_used, reason = "a failure to set the scene fails the test")]
#![expect(clippy::wildcard_enum_match_arm, reason = "whatever else it is fails the test")]

#[path = "client_library/calls.rs"]
mod calls;
#[path = "client_library/core.rs"]
mod core;
#[path = "client_library/fake.rs"]
mod fake;
#[path = "client_library/worker.rs"]
mod worker;
