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
use jiff::Timestamp;
use meshrollout_core::finding::{Finding, Level};
use meshrollout_core::gate::{Evaluation, Gate};
use meshrollout_core::ident::{Namespace, Uid};
use meshrollout_core::plan::{Asked, Existing, Mission, Plan, Trigger};
use meshrollout_core::snapshot::Snapshot;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Say what STRICT would break, namespace by namespace. Writes nothing.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Only these namespaces.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Vec<String>,
    /// The operator's configuration, for its metrics sources; live cluster only.
    #[arg(long, value_name = "FILE", conflicts_with = "filename")]
    config: Option<PathBuf>,
    /// The metrics source to ask, by its name there; without one, traffic stays unknown.
    #[arg(long, value_name = "NAME", requires = "config")]
    metrics_source: Option<String>,
    #[command(flatten)]
    from: From,
}

/// The gates that objects alone can answer. The others ask what was measured.
const STATIC: [Gate; 3] = [Gate::Injection, Gate::DestinationRules, Gate::Policies];

/// What is looked at.
struct Scene {
    snapshot: Snapshot,
    plan: Plan,
    /// The gates whose evidence is there.
    gates: &'static [Gate],
    /// What cannot be seen, for the verdict of a namespace without an obstacle.
    unseen: Option<&'static str>,
    /// A line about the input, for the end.
    footnote: String,
    /// Some of the input could not be read.
    broken: bool,
}

pub(super) async fn run(args: Args) -> ExitCode {
    let scene = match args.from.files() {
        Some(input) => input.map(|input| from_files(&input)),
        None => live(&args).await,
    };
    match scene {
        Ok(scene) => tell(&scene, &args.namespace),
        Err(code) => code,
    }
}

fn from_files(input: &Input) -> Scene {
    Scene {
        snapshot: input.snapshot(Timestamp::now()),
        plan: plan(&Config::default()),
        gates: &STATIC,
        unseen: Some(
            "the objects show no obstacle; traffic, certificates and the control plane cannot be seen in files",
        ),
        footnote: format!(
            ", {} objects of other kinds skipped, {} documents not readable",
            input.skipped,
            input.broken.len()
        ),
        broken: !input.broken.is_empty(),
    }
}

async fn live(args: &Args) -> Result<Scene, ExitCode> {
    let config = match &args.config {
        Some(path) => Config::load(path).map_err(|error| fail(exit::BAD_INPUT, &error))?,
        None => Config::default(),
    };
    let plan = plan(&config);
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
        footnote: String::new(),
        broken: false,
    })
}

fn tell(scene: &Scene, asked: &[String]) -> ExitCode {
    let Scene { snapshot, plan, .. } = scene;
    let chosen = |name: &Namespace| {
        let asked = asked.is_empty() || asked.iter().any(|one| one == name.as_str());
        asked && !snapshot.is_forbidden(name, &plan.operator_namespace)
    };
    let mut verdicts = table(&["NAMESPACE", "VERDICT", "WHY"]);
    let mut findings: Vec<Finding> = vec![];
    let (mut obstacles, mut known) = (false, 0);
    for (name, facts) in snapshot.namespaces.iter().filter(|(name, _)| chosen(name)) {
        if facts.servers().next().is_none() {
            continue;
        }
        known += 1;
        let evaluation = Evaluation::run(plan, snapshot, facts);
        let here: Vec<_> =
            scene.gates.iter().flat_map(|gate| evaluation.findings_of(*gate)).cloned().collect();
        let worst = here.iter().filter(|found| found.level >= Level::Hold).max();
        let (verdict, why) = match (worst, scene.unseen) {
            (Some(found), _) if found.level == Level::Block => ("Blocked", found.message.as_str()),
            (Some(found), _) => ("Held", found.message.as_str()),
            (None, Some(unseen)) => ("Undecided", unseen),
            (None, None) => ("Ready", "every gate passes now; a rollout asks for a soak as well"),
        };
        obstacles |= worst.is_some();
        verdicts.add_row([name.as_str(), verdict, why]);
        findings.extend(here);
    }
    findings.sort_by(|a, b| b.level.cmp(&a.level).then_with(|| a.cmp(b)));
    findings.dedup();
    println!("{verdicts}");
    if !findings.is_empty() {
        println!();
    }
    for found in &findings {
        println!("{} {} [{}] {}", found.code, found.code.name(), found.level, found.subject);
        println!("    {}", found.message);
        for fact in &found.evidence {
            println!("    seen: {fact}");
        }
        if !found.remedy.is_empty() {
            println!("    do:   {}", found.remedy);
        }
    }
    println!("\n{known} namespaces with workloads, {} findings{}", findings.len(), scene.footnote);
    match (obstacles, scene.broken, scene.unseen) {
        (true, _, _) => ExitCode::from(exit::FINDINGS),
        (false, true, _) => ExitCode::from(exit::BAD_INPUT),
        // Objects alone never prove that nothing sends plaintext.
        (false, false, Some(_)) => ExitCode::from(exit::UNKNOWN),
        (false, false, None) => ExitCode::SUCCESS,
    }
}

/// The gates with their defaults; there are no stages to think of.
fn plan(config: &Config) -> Plan {
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
        operator_namespace: Namespace::new(&config.operator_namespace),
        timing: parse::timing(config),
    }
}
