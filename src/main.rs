//! The `nightschool` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    nightschool::cli::main()
}
