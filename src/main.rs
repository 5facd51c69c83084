//! The program `raftq`: parse, dispatch, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    raftq::cli::run::main(std::env::args_os())
}
