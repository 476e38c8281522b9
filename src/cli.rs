//! The command line: one file per subcommand.

use clap::{Parser, Subcommand};
use std::process::ExitCode;

mod crd;
mod preflight;

/// Exit codes, as `preflight` documents them.
pub mod exit {
    /// Something was found that holds or blocks.
    pub const FINDINGS: u8 = 1;
    /// Could not tell.
    pub const UNKNOWN: u8 = 2;
    /// The command line is wrong.
    pub const USAGE: u8 = 64;
    /// The input is wrong.
    pub const BAD_INPUT: u8 = 65;
    /// The cluster or the metrics source does not answer.
    pub const UNREACHABLE: u8 = 69;
}

/// Takes an Istio mesh from PERMISSIVE to STRICT mutual TLS, where it can prove that nothing
/// breaks.
#[derive(Debug, Parser)]
#[command(name = "meshrollout", version, propagate_version = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the CustomResourceDefinitions, or write them as files.
    Crd(crd::Args),
    /// Say what STRICT would break, from files. Writes nothing.
    Preflight(preflight::Args),
}

/// Parses the command line, runs it, and says how it ended.
pub fn run() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Printing fails only when nobody reads: then the exit code is all that is left to say.
            let _ = error.print();
            let code = if error.use_stderr() { exit::USAGE } else { 0 };
            return ExitCode::from(code);
        }
    };
    match args.command {
        Command::Crd(args) => crd::run(&args),
        Command::Preflight(args) => preflight::run(&args),
    }
}

/// Prints `error` with its causes and ends with `code`.
fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    eprint!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprint!(": {cause}");
        source = cause.source();
    }
    eprintln!();
    ExitCode::from(code)
}
