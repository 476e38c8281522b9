//! `meshrollout preflight`: the core's own gates, without permission to write. From files for now.

use super::{exit, fail, table};
use crate::api::parse;
use crate::config::Config;
use crate::files::Input;
use jiff::Timestamp;
use meshrollout_core::finding::{Finding, Level};
use meshrollout_core::gate::{Evaluation, Gate};
use meshrollout_core::ident::{Namespace, Uid};
use meshrollout_core::plan::{Asked, Mission, Plan, Trigger};
use std::path::PathBuf;
use std::process::ExitCode;

/// Say what STRICT would break, namespace by namespace. Writes nothing.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// A file or folder of manifests, or of `kubectl get -o yaml|json` output; `-` is standard
    /// input. May be given more than once.
    #[arg(short = 'f', long = "filename", value_name = "PATH", required = true)]
    filename: Vec<PathBuf>,
    /// Only these namespaces.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Vec<String>,
}

/// The gates that files can answer. The others ask what was measured.
const STATIC: [Gate; 3] = [Gate::Injection, Gate::DestinationRules, Gate::Policies];

pub(super) fn run(args: &Args) -> ExitCode {
    let input = match Input::read(&args.filename) {
        Ok(input) => input,
        Err(error) => return fail(exit::BAD_INPUT, &error),
    };
    for broken in &input.broken {
        eprintln!("warning: {broken}");
    }
    let snapshot = input.snapshot(Timestamp::now());
    let plan = plan();
    let chosen = |name: &Namespace| {
        let asked =
            args.namespace.is_empty() || args.namespace.iter().any(|one| one == name.as_str());
        asked && !snapshot.is_forbidden(name, &plan.operator_namespace)
    };
    let mut verdicts = table(&["NAMESPACE", "VERDICT", "WHY"]);
    let mut findings: Vec<Finding> = vec![];
    let (mut blocked, mut known) = (false, 0);
    for (name, facts) in snapshot.namespaces.iter().filter(|(name, _)| chosen(name)) {
        if facts.servers().next().is_none() {
            continue;
        }
        known += 1;
        let evaluation = Evaluation::run(&plan, &snapshot, facts);
        let here: Vec<_> =
            STATIC.iter().flat_map(|gate| evaluation.findings_of(*gate)).cloned().collect();
        let worst = here.iter().filter(|found| found.level >= Level::Hold).max();
        let (verdict, why) = match worst {
            Some(found) => ("Blocked", found.message.clone()),
            None => (
                "Undecided",
                "the objects show no obstacle; traffic, certificates and the control plane cannot be seen in files".to_owned(),
            ),
        };
        blocked |= worst.is_some();
        verdicts.add_row([name.as_str(), verdict, &why]);
        findings.extend(here);
    }
    findings.sort_by(|a, b| b.level.cmp(&a.level).then_with(|| a.cmp(b)));
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
    println!(
        "\n{known} namespaces with workloads, {} findings, {} objects of other kinds skipped, {} documents not readable",
        findings.len(),
        input.skipped,
        input.broken.len()
    );
    match (blocked, input.broken.is_empty()) {
        (true, _) => ExitCode::from(exit::FINDINGS),
        (false, false) => ExitCode::from(exit::BAD_INPUT),
        // Files alone never prove that nothing sends plaintext.
        (false, true) => ExitCode::from(exit::UNKNOWN),
    }
}

/// The gates with their defaults; there are no stages to think of.
fn plan() -> Plan {
    let config = Config::default();
    Plan {
        name: "preflight".into(),
        uid: Uid::new(""),
        action: Mission::Observe,
        paused: false,
        stages: vec![],
        gates: parse::default_settings(),
        rollback: Trigger::Automatic,
        asked: Asked::default(),
        operator_namespace: Namespace::new(&config.operator_namespace),
        timing: parse::timing(&config),
    }
}
