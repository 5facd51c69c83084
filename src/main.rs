//! The program `raftq`: parse, dispatch, exit code.

use std::process::ExitCode;

/// A job is many small allocations, made by one thread and freed by another.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    raftq::cli::run::main(std::env::args_os())
}
