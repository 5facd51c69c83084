//! Text mode, for people with `nc`: [`dialogue`] reads lines ([`lines`] cuts them) and writes answers,
//! [`command`] parses them, [`answers`] says what each comes to, [`table`] lays it out.
//!
//! Every answer comes from this node alone and says so: text mode works without a quorum, since that
//! is when people type. Nothing here changes anything.

pub mod answers;
pub mod command;
pub mod dialogue;
pub mod lines;
pub mod table;
mod why;
