//! Bytes to typed messages and back; no socket. What `wire-spec.md` says, this does.
//!
//! [`frame`] cuts a stream into frames and checks them; [`kind`] numbers them. The body of a frame is read
//! by the room of its kind: [`hello`] the handshake, [`request`] and [`reply`] what clients and workers
//! say and hear ([`reads`] how a read is done, [`reasons`] why a job waits), [`refusal`] every no, [`peer`] Raft, [`bulk`] snapshots. All of them read with [`named`]
//! (maps, evolvable) or [`positional`] (arrays, hot), and answer with [`error::WireError`].

pub mod bulk;
pub mod crons;
pub mod error;
pub mod frame;
pub mod hello;
mod jobs_in;
pub mod kind;
pub mod message;
pub mod named;
pub mod peer;
pub mod positional;
pub mod reads;
pub mod reasons;
pub mod refusal;
pub mod reply;
pub mod request;
