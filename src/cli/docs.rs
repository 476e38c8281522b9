//! `meshrollout docs`: what is printed from the code.

use super::{Args as Whole, exit, fail};
use crate::manual;
use clap::CommandFactory;
use clap_complete::Shell;
use std::io::{self, Write};
use std::process::ExitCode;

/// Print a part of the manual that is made from the program itself.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    page: Page,
}

#[derive(Clone, Copy, Debug, clap::Subcommand)]
enum Page {
    /// The reference of all findings, as Markdown.
    Findings,
    /// The reference of all commands, as Markdown.
    Commands,
    /// The rights that commands need which only look, as a ClusterRole.
    Rights,
    /// The man page.
    Man,
    /// A script that completes the command line.
    Completions {
        /// For this shell.
        #[arg(value_enum)]
        shell: Shell,
    },
}

pub(super) fn run(args: &Args) -> ExitCode {
    let mut text = vec![];
    let written = match args.page {
        Page::Findings => text.write_all(manual::findings().as_bytes()),
        Page::Commands => text.write_all(commands().as_bytes()),
        Page::Rights => text.write_all(manual::rights().as_bytes()),
        Page::Man => clap_mangen::Man::new(Whole::command()).render(&mut text),
        Page::Completions { shell } => {
            clap_complete::generate(shell, &mut Whole::command(), "meshrollout", &mut text);
            Ok(())
        }
    };
    match written.and_then(|()| io::stdout().lock().write_all(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read has had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(exit::BAD_INPUT, &error),
    }
}

/// What `--help` says, of each command.
fn commands() -> String {
    let mut page = String::from(
        "# Commands\n\nPrinted by `meshrollout docs commands`. The program is a plugin of kubectl as well: \
         as `kubectl-meshrollout` on the PATH it is called `kubectl meshrollout`.\n",
    );
    let mut whole = Whole::command();
    whole.build();
    add(&mut page, &mut whole, "meshrollout");
    page
}

fn add(page: &mut String, command: &mut clap::Command, name: &str) {
    let help = command.render_long_help().to_string();
    let help: Vec<_> = help.lines().map(str::trim_end).collect();
    page.push_str(&format!("\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end()));
    for below in command.get_subcommands_mut().filter(|below| below.get_name() != "help") {
        let name = format!("{name} {}", below.get_name());
        add(page, below, &name);
    }
}
