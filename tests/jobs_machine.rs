//! The replicated job queue: every command and its every answer, properties, choices, images.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test's helper that meets what it did not expect should end the test"
)]

#[path = "jobs_machine/changes.rs"]
mod changes;
#[path = "jobs_machine/codec.rs"]
mod codec;
#[path = "jobs_machine/commands.rs"]
mod commands;
#[path = "jobs_machine/crons.rs"]
mod crons;
#[path = "jobs_machine/image.rs"]
mod image;
#[path = "jobs_machine/lists.rs"]
mod lists;
#[path = "jobs_machine/options.rs"]
mod options;
#[path = "jobs_machine/properties.rs"]
mod properties;
#[path = "jobs_machine/queues.rs"]
mod queues;
#[path = "jobs_machine/retention.rs"]
mod retention;
#[path = "jobs_machine/saying.rs"]
mod saying;
#[path = "jobs_machine/scheduling.rs"]
mod scheduling;
#[path = "jobs_machine/support.rs"]
mod support;
#[path = "jobs_machine/unique.rs"]
mod unique;
#[path = "jobs_machine/why.rs"]
mod why;
#[path = "jobs_machine/workers.rs"]
mod workers;
