//! `meshrollout preflight`: the core's own gates, without permission to write. On the live cluster,
//! or on files.

use super::scene::{Look, Scene};
use super::{exit, fail, table};
use crate::preflight::{FindingReport, Graph, InputSummary, PreflightReport, Source};
use crate::preflight::{html, junit, sarif};
use meshrollout_core::finding::{Level, Subject};
use meshrollout_core::preflight::{Outlook, Preflight};
use std::io::{self, Write};
use std::process::ExitCode;

/// Say what STRICT would break, namespace by namespace. Writes nothing.
///
/// Ends with 0 when every namespace is ready, 1 when something was found that weighs as much as
/// --fail-on says, 2 when it cannot be told, 64 for a wrong command line, 65 for input that cannot
/// be read, 69 when the cluster or the metrics source does not answer.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// How it is printed.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// What weighs this much or more ends with 1.
    #[arg(long, value_enum, default_value = "hold", value_name = "LEVEL")]
    fail_on: FailOn,
    #[command(flatten)]
    look: Look,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs: a PreflightReport.
    Json,
    /// The same as YAML.
    Yaml,
    /// For code hosts: SARIF 2.1.0.
    Sarif,
    /// For CI systems.
    Junit,
    /// One page for a change ticket.
    Html,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum FailOn {
    /// Only what a person must act on.
    Block,
    /// Also what has to be waited for.
    Hold,
    /// Also what is worth a look.
    Warn,
}

pub(super) async fn run(args: Args) -> ExitCode {
    let scene = match args.look.scene().await {
        Ok(scene) => scene,
        Err(code) => return code,
    };
    let Scene { snapshot, plan, gates, unseen, .. } = &scene;
    let preflight = Preflight::run(plan, snapshot, gates, *unseen, |name| args.look.chose(name));
    let report = report(&scene, &preflight);
    match print(&scene, &report, args.output, args.fail_on) {
        // Whoever read may have had enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(exit::BAD_INPUT, &error),
        _ => ends(&scene, &preflight, args.fail_on),
    }
}

fn report(scene: &Scene, preflight: &Preflight) -> PreflightReport {
    let input = match &scene.input {
        None => InputSummary { source: "cluster", ..InputSummary::default() },
        Some(input) => InputSummary {
            source: "files",
            skipped: input.skipped,
            templates: input.templates,
            broken: input.broken.clone(),
        },
    };
    let place = |subject: &Subject| {
        let place = scene.input.as_ref()?.place(subject)?;
        Some(Source { file: place.file.to_string(), line: place.line })
    };
    PreflightReport::new(preflight, input, place)
}

/// What was found counts before what could not be read, and that before what is not known.
fn ends(scene: &Scene, preflight: &Preflight, fail_on: FailOn) -> ExitCode {
    let is_open = preflight.outlook() != Outlook::Ready || scene.unseen.is_some();
    match (preflight.reaches(fail_on.level()), scene.is_broken(), is_open) {
        (true, _, _) => ExitCode::from(exit::FINDINGS),
        (false, true, _) => ExitCode::from(exit::BAD_INPUT),
        // Objects alone never prove that nothing sends plaintext.
        (false, false, true) => ExitCode::from(exit::UNKNOWN),
        (false, false, false) => ExitCode::SUCCESS,
    }
}

impl FailOn {
    fn level(self) -> Level {
        match self {
            Self::Block => Level::Block,
            Self::Hold => Level::Hold,
            Self::Warn => Level::Warn,
        }
    }
}

fn print(
    scene: &Scene,
    report: &PreflightReport,
    output: Output,
    fail_on: FailOn,
) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let fails = |finding: &FindingReport| finding.weighs(fail_on.level());
    match output {
        Output::Table => people(report, &mut out)?,
        Output::Json => {
            serde_json::to_writer_pretty(&mut out, report)?;
            writeln!(out)?;
        }
        Output::Yaml => {
            write!(out, "{}", serde_saphyr::to_string(report).map_err(io::Error::other)?)?;
        }
        Output::Sarif => {
            serde_json::to_writer_pretty(&mut out, &sarif::sarif(report))?;
            writeln!(out)?;
        }
        Output::Junit => {
            write!(out, "{}", junit::junit(report, fails).map_err(io::Error::other)?)?;
        }
        Output::Html => write!(out, "{}", html::page(report, &Graph::of(&scene.snapshot)))?,
    }
    out.flush()
}

fn people(report: &PreflightReport, out: &mut impl Write) -> io::Result<()> {
    let mut verdicts = table(&["NAMESPACE", "VERDICT", "WHY"]);
    for one in &report.namespaces {
        verdicts.add_row([one.name.as_str(), one.verdict, one.why.as_str()]);
    }
    writeln!(out, "{verdicts}")?;
    if !report.findings.is_empty() {
        writeln!(out)?;
    }
    for found in &report.findings {
        writeln!(out, "{} {} [{}] {}", found.code, found.name, found.level, found.about())?;
        writeln!(out, "    {}", found.message)?;
        for fact in &found.evidence {
            writeln!(out, "    seen: {fact}")?;
        }
        if let Some(Source { file, line }) = &found.source {
            writeln!(out, "    at:   {file}:{line}")?;
        }
        for (index, line) in found.remedy.lines().enumerate() {
            // A text to be pasted begins where the shell wants its end to stand.
            writeln!(out, "{}{line}", if index == 0 { "    do:   " } else { "" })?;
        }
    }
    let summary = &report.summary;
    write!(
        out,
        "\n{} namespaces with workloads, {} findings",
        summary.namespaces,
        report.findings.len()
    )?;
    if summary.input.source == "files" {
        let InputSummary { skipped, templates, broken, .. } = &summary.input;
        write!(
            out,
            ", {skipped} objects of other kinds skipped, {} documents not readable",
            broken.len()
        )?;
        if *templates > 0 {
            write!(out, ", {templates} templates left out (render them first: helm template)")?;
        }
    }
    writeln!(out)
}
