//! The one binary: operator, command-line tool and kubectl plugin.

use std::process::ExitCode;

fn main() -> ExitCode {
    meshrollout::cli::run()
}
