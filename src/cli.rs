//! The command line: one file per subcommand.

use clap::{Parser, Subcommand};
use request::Verb;
use std::process::ExitCode;

mod approve;
mod cluster;
mod crd;
mod docs;
mod explain;
mod objects;
mod operator;
mod plan;
mod preflight;
mod request;
mod rollback;
mod scene;
mod status;
mod tls_check;

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
    /// Run the operator in the cluster.
    Operator(operator::Args),
    /// Say what STRICT would break, on the live cluster or from files. Writes nothing.
    Preflight(preflight::Args),
    /// Propose the stages of a rollout from who calls whom. Writes nothing.
    Plan(plan::Args),
    /// Say who speaks what to whom, today and under STRICT. Writes nothing.
    TlsCheck(tls_check::Args),
    /// Say where rollouts and their namespaces stand.
    Status(status::Args),
    /// Say why a rollout does not move, and what to do next.
    Explain(explain::Args),
    /// Approve a stage of a rollout as it is planned now.
    Approve(approve::Args),
    /// Take no new step; still watch, still roll back on harm.
    Pause(request::Args),
    /// Go on after a pause.
    Resume(request::Args),
    /// Stop; roll the stage in flight back; keep what earlier stages reached.
    Abort(request::Args),
    /// Prove again what was rolled back or aborted.
    Retry(request::Args),
    /// Put back PERMISSIVE where a rollout wrote STRICT, now; works with the operator down.
    Rollback(rollback::Args),
    /// Print a part of the manual that is made from the program itself.
    Docs(docs::Args),
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
        Command::Operator(args) => asynchronous(operator::run(args)),
        Command::Preflight(args) => asynchronous(preflight::run(args)),
        Command::Plan(args) => asynchronous(plan::run(args)),
        Command::TlsCheck(args) => asynchronous(tls_check::run(args)),
        Command::Status(args) => asynchronous(ended(status::run(args))),
        Command::Explain(args) => asynchronous(ended(explain::run(args))),
        Command::Approve(args) => asynchronous(ended(approve::run(args))),
        Command::Pause(args) => asynchronous(ended(request::run(Verb::Pause, args))),
        Command::Resume(args) => asynchronous(ended(request::run(Verb::Resume, args))),
        Command::Abort(args) => asynchronous(ended(request::run(Verb::Abort, args))),
        Command::Retry(args) => asynchronous(ended(request::run(Verb::Retry, args))),
        Command::Rollback(args) => asynchronous(rollback::run(args)),
        Command::Docs(args) => docs::run(&args),
    }
}

/// How a command that only fails by its cluster ended.
async fn ended(command: impl Future<Output = Result<(), cluster::Error>>) -> ExitCode {
    match command.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ (cluster::Error::NoRollout(_) | cluster::Error::Nothing(_))) => {
            fail(exit::BAD_INPUT, &error)
        }
        Err(error) => fail(exit::UNREACHABLE, &error),
    }
}

/// A table without borders, as kubectl prints one.
fn table(header: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING).set_header(header);
    table
}

/// Runs what talks to a cluster.
fn asynchronous(command: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => fail(exit::UNREACHABLE, &error),
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
