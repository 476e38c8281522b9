//! `meshrollout preflight`: the core's own gates, without permission to write. On the live cluster,
//! or on files.

use super::cluster::Error;
use super::objects::From;
use super::{exit, fail, table};
use crate::api::parse;
use crate::config::Config;
use crate::files::Input;
use crate::observe::evidence::{self, Question};
use crate::observe::prometheus::Prometheus;
use crate::preflight::{FindingReport, InputSummary, PreflightReport, Source};
use crate::preflight::{html, junit, sarif};
use jiff::Timestamp;
use meshrollout_core::finding::{Level, Subject};
use meshrollout_core::gate::Gate;
use meshrollout_core::ident::{Namespace, Uid};
use meshrollout_core::plan::{Asked, Existing, Mission, Plan, Trigger};
use meshrollout_core::preflight::{Outlook, Preflight, STATIC};
use meshrollout_core::snapshot::Snapshot;
use meshrollout_core::waiver::Waivers;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Say what STRICT would break, namespace by namespace. Writes nothing.
///
/// Ends with 0 when every namespace is ready, 1 when something was found that weighs as much as
/// --fail-on says, 2 when it cannot be told, 64 for a wrong command line, 65 for input that cannot
/// be read, 69 when the cluster or the metrics source does not answer.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Only these namespaces.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Vec<String>,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// What weighs this much or more ends with 1.
    #[arg(long, value_enum, default_value = "hold", value_name = "LEVEL")]
    fail_on: FailOn,
    /// The operator's configuration, for its metrics sources; live cluster only.
    #[arg(long, value_name = "FILE", conflicts_with = "filename")]
    config: Option<PathBuf>,
    /// The metrics source to ask, by its name there; without one, traffic stays unknown.
    #[arg(long, value_name = "NAME", requires = "config")]
    metrics_source: Option<String>,
    #[command(flatten)]
    from: From,
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

/// What is looked at.
struct Scene {
    snapshot: Snapshot,
    plan: Plan,
    /// The gates whose evidence is there.
    gates: &'static [Gate],
    /// What cannot be seen, for the verdict of a namespace without an obstacle.
    unseen: Option<&'static str>,
    /// The files, if that is what is looked at.
    input: Option<Input>,
}

pub(super) async fn run(args: Args) -> ExitCode {
    let scene = match args.from.files() {
        Some(input) => input.map(from_files),
        None => live(&args).await,
    };
    let scene = match scene {
        Ok(scene) => scene,
        Err(code) => return code,
    };
    if let Some(missing) = args.namespace.iter().find(|name| !scene.knows(name)) {
        let problem = format!("there is no namespace {missing}");
        return fail(exit::BAD_INPUT, &Error::Nothing(problem));
    }
    let chosen = |name: &Namespace| {
        args.namespace.is_empty() || args.namespace.iter().any(|one| one == name.as_str())
    };
    let Scene { snapshot, plan, gates, unseen, .. } = &scene;
    let preflight = Preflight::run(plan, snapshot, gates, *unseen, chosen);
    let report = scene.report(&preflight);
    match print(&report, args.output, args.fail_on) {
        Ok(()) => scene.ends(&preflight, args.fail_on),
        // Whoever read has had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            scene.ends(&preflight, args.fail_on)
        }
        Err(error) => fail(exit::BAD_INPUT, &error),
    }
}

fn from_files(input: Input) -> Scene {
    Scene {
        snapshot: input.snapshot(Timestamp::now()),
        plan: plan(&Config::default(), input.waivers.clone()),
        gates: &STATIC,
        unseen: Some(
            "the objects show no obstacle; traffic, certificates and the control plane cannot be seen in files",
        ),
        input: Some(input),
    }
}

async fn live(args: &Args) -> Result<Scene, ExitCode> {
    let config = match &args.config {
        Some(path) => Config::load(path).map_err(|error| fail(exit::BAD_INPUT, &error))?,
        None => Config::default(),
    };
    let plan = plan(&config, args.from.waivers().await?);
    let source = match &args.metrics_source {
        None => None,
        Some(name) => Some(config.metrics_source(name).cloned().ok_or_else(|| {
            let problem = format!("the configuration registers no metrics source {name:?}");
            fail(exit::BAD_INPUT, &Error::Nothing(problem))
        })?),
    };
    let objects = args.from.live(config.stale_watch).await?;
    let now = Timestamp::now();
    let telemetry = match &source {
        Some(source) => {
            let harm_window = plan.timing.harm_window;
            let question = Question { lookback: plan.gates.lookback, harm_window, since: None };
            evidence::gather(&Prometheus::new(source.clone()), &question, now).await
        }
        None => evidence::not_asked(now),
    };
    Ok(Scene {
        snapshot: objects.snapshot(Timestamp::now(), Arc::new(telemetry)),
        plan,
        gates: if source.is_some() { &Gate::ALL } else { &STATIC },
        unseen: source.is_none().then_some(
            "the objects show no obstacle; traffic, certificates and the control plane are not known without --metrics-source",
        ),
        input: None,
    })
}

impl Scene {
    fn knows(&self, namespace: &str) -> bool {
        self.snapshot.namespaces.contains_key(&Namespace::from(namespace))
    }

    fn report(&self, preflight: &Preflight) -> PreflightReport {
        let input = match &self.input {
            None => InputSummary { source: "cluster", ..InputSummary::default() },
            Some(input) => InputSummary {
                source: "files",
                skipped: input.skipped,
                templates: input.templates,
                broken: input.broken.clone(),
            },
        };
        let place = |subject: &Subject| {
            let place = self.input.as_ref()?.place(subject)?;
            Some(Source { file: place.file.to_string(), line: place.line })
        };
        PreflightReport::new(preflight, input, place)
    }

    /// What was found counts before what could not be read, and that before what is not known.
    fn ends(&self, preflight: &Preflight, fail_on: FailOn) -> ExitCode {
        let is_broken = self.input.as_ref().is_some_and(|input| !input.broken.is_empty());
        let is_open = preflight.outlook() != Outlook::Ready || self.unseen.is_some();
        match (preflight.reaches(fail_on.level()), is_broken, is_open) {
            (true, _, _) => ExitCode::from(exit::FINDINGS),
            (false, true, _) => ExitCode::from(exit::BAD_INPUT),
            // Objects alone never prove that nothing sends plaintext.
            (false, false, true) => ExitCode::from(exit::UNKNOWN),
            (false, false, false) => ExitCode::SUCCESS,
        }
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

fn print(report: &PreflightReport, output: Output, fail_on: FailOn) -> io::Result<()> {
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
        Output::Html => write!(out, "{}", html::page(report))?,
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

/// The gates with their defaults, and what rollouts that are there answer for; there are no stages
/// to think of.
fn plan(config: &Config, waivers: Waivers) -> Plan {
    Plan {
        name: "preflight".into(),
        uid: Uid::new(""),
        action: Mission::Observe,
        paused: false,
        stages: vec![],
        gates: parse::default_settings(),
        rollback: Trigger::Automatic,
        existing: Existing::Refuse,
        asked: Asked::default(),
        claimed: BTreeMap::new(),
        waivers,
        operator_namespace: Namespace::new(&config.operator_namespace),
        timing: parse::timing(config),
    }
}
