//! `meshrollout plan`: stages, from who calls whom.

use super::cluster::Error;
use super::scene::{Look, Scene};
use super::{exit, fail};
use crate::api::{Action, ApprovalPolicy, MeshRollout, MeshRolloutSpec, Stage};
use meshrollout_core::gate::policy::is_strict;
use meshrollout_core::ident::Namespace;
use meshrollout_core::order::{calls, stages};
use meshrollout_core::preflight::{Outlook, Preflight};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

/// As many stages, and as many names in one, as a MeshRollout may have.
const STAGES: usize = 32;
const NAMES: usize = 200;

/// Propose stages: whoever calls before whom they call. Prints a MeshRollout that only observes, and
/// in its comments what would change. Writes nothing.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The rollout's name.
    #[arg(long, value_name = "NAME", default_value = "mesh")]
    name: String,
    /// Namespaces that come after all others: of the metrics source, of what watches the mesh.
    #[arg(long, value_name = "NAMESPACE")]
    last: Vec<String>,
    #[command(flatten)]
    look: Look,
}

pub(super) async fn run(args: Args) -> ExitCode {
    let scene = match args.look.scene().await {
        Ok(scene) => scene,
        Err(code) => return code,
    };
    let written = proposal(&args, &scene).map(|text| {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush())
    });
    match written {
        Err(problem) => fail(exit::BAD_INPUT, &Error::Nothing(problem)),
        Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
            fail(exit::BAD_INPUT, &error)
        }
        Ok(_) if scene.is_broken() => ExitCode::from(exit::BAD_INPUT),
        Ok(_) => ExitCode::SUCCESS,
    }
}

/// `1 stage`, `2 stages`.
fn many(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn proposal(args: &Args, scene: &Scene) -> Result<String, String> {
    let Scene { snapshot, plan, gates, unseen, .. } = scene;
    let preflight = Preflight::run(plan, snapshot, gates, *unseen, |name| args.look.chose(name));
    let of = |name: &Namespace| snapshot.namespace(name);
    let (done, open): (Vec<_>, Vec<_>) = preflight
        .namespaces
        .iter()
        .partition(|one| of(&one.name).is_some_and(|facts| is_strict(&snapshot.policies, facts)));
    let names: BTreeSet<_> = open.iter().map(|one| one.name.clone()).collect();
    let left_out = done.iter().fold(String::new(), |text, one| {
        text + &format!("# {}: STRICT already, left out\n", one.name)
    });
    if names.is_empty() {
        return match done.is_empty() {
            true => Err("there is no namespace with workloads to be planned for".into()),
            false => Ok(format!("# Nothing is left to be made STRICT.\n{left_out}")),
        };
    }
    let calls: BTreeSet<_> = calls(snapshot).into_keys().collect();
    let last = args.last.iter().map(Namespace::new).collect();
    let order = stages(&names, &calls, &last);
    let parts: Vec<Vec<String>> = order
        .iter()
        .flat_map(|stage| {
            let names: Vec<_> = stage.iter().map(ToString::to_string).collect();
            names.chunks(NAMES).map(<[String]>::to_vec).collect::<Vec<_>>()
        })
        .collect();
    if parts.len() > STAGES {
        return Err(format!(
            "it would take {} stages, and a MeshRollout has {STAGES} at most: plan some namespaces at a time with -n",
            parts.len()
        ));
    }

    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "# {} in {}: whoever calls before whom they call.",
        many(names.len(), "namespace"),
        many(parts.len(), "stage")
    );
    if unseen.is_some() {
        let _ = writeln!(
            text,
            "# Traffic was not looked at: who calls whom is known from clients' rules alone."
        );
    }
    for one in &open {
        let workloads = of(&one.name).map_or(0, |facts| facts.servers().count());
        let callers: Vec<_> =
            calls.iter().filter(|(_, to)| *to == one.name).map(|(from, _)| from.as_str()).collect();
        let by = match callers.as_slice() {
            [] => String::new(),
            callers => format!(", called by {}", callers.join(", ")),
        };
        let _ =
            writeln!(text, "# {}: {} would be STRICT{by}", one.name, many(workloads, "workload"));
        if one.outlook == Outlook::Blocked {
            let _ = writeln!(text, "#   blocked: {}", one.why);
        }
    }
    text += &left_out;
    let stage = |(index, namespaces): (usize, Vec<String>)| Stage {
        name: format!("stage-{}", index + 1),
        namespaces: Some(namespaces),
        namespace_selector: None,
        soak: Stage::default_soak(),
        bake: Stage::default_bake(),
        max_concurrent: Stage::default_max_concurrent(),
        approval: ApprovalPolicy::Automatic,
    };
    let spec = MeshRolloutSpec {
        action: Action::Observe,
        paused: false,
        metrics_source: args.look.metrics_source(),
        stages: parts.into_iter().enumerate().map(stage).collect(),
        gates: Default::default(),
        acknowledgements: vec![],
        exceptions: vec![],
        rollback: Default::default(),
        existing_policies: Default::default(),
        deletion_policy: Default::default(),
    };
    let manifest = serde_saphyr::to_string(&MeshRollout::new(&args.name, spec))
        .map_err(|error| format!("the rollout cannot be written as YAML: {error}"))?;
    Ok(text + &manifest)
}
