//! What a command that only looks is shown: the live cluster, with or without a metrics source, or
//! files.

use super::cluster::Error;
use super::objects::From;
use super::{exit, fail};
use crate::api::{MetricsSourceRef, parse};
use crate::config::Config;
use crate::files::Input;
use crate::observe::evidence::{self, Question};
use crate::observe::prometheus::Prometheus;
use jiff::Timestamp;
use meshrollout_core::gate::Gate;
use meshrollout_core::ident::{Namespace, Uid};
use meshrollout_core::plan::{Asked, Existing, Mission, Plan, Trigger};
use meshrollout_core::preflight::STATIC;
use meshrollout_core::snapshot::Snapshot;
use meshrollout_core::waiver::Waivers;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// What is looked at.
#[derive(clap::Args, Debug)]
pub(super) struct Look {
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

/// What is seen.
pub(super) struct Scene {
    pub(super) snapshot: Snapshot,
    pub(super) plan: Plan,
    /// The gates whose evidence is there.
    pub(super) gates: &'static [Gate],
    /// What cannot be seen, for the verdict of a namespace without an obstacle.
    pub(super) unseen: Option<&'static str>,
    /// The files, if that is what is looked at.
    pub(super) input: Option<Input>,
}

impl Look {
    /// What there is to see. A namespace that is asked for and not there is an error.
    pub(super) async fn scene(&self) -> Result<Scene, ExitCode> {
        let scene = match self.from.files() {
            Some(input) => Scene::of_files(input?),
            None => self.live().await?,
        };
        let known = &scene.snapshot.namespaces;
        let mut asked = self.namespace.iter();
        match asked.find(|name| !known.contains_key(&Namespace::from(name.as_str()))) {
            None => Ok(scene),
            Some(missing) => {
                let problem = format!("there is no namespace {missing}");
                Err(fail(exit::BAD_INPUT, &Error::Nothing(problem)))
            }
        }
    }

    /// The metrics source that was asked, as a rollout names it.
    pub(super) fn metrics_source(&self) -> Option<MetricsSourceRef> {
        self.metrics_source.as_ref().map(|name| MetricsSourceRef { name: name.clone() })
    }

    /// The namespace is one of those that are asked for.
    pub(super) fn chose(&self, name: &Namespace) -> bool {
        self.namespace.is_empty() || self.namespace.iter().any(|one| one == name.as_str())
    }

    async fn live(&self) -> Result<Scene, ExitCode> {
        let config = match &self.config {
            Some(path) => Config::load(path).map_err(|error| fail(exit::BAD_INPUT, &error))?,
            None => Config::default(),
        };
        let plan = plan(&config, self.from.waivers().await?);
        let source = match &self.metrics_source {
            None => None,
            Some(name) => Some(config.metrics_source(name).cloned().ok_or_else(|| {
                let problem = format!("the configuration registers no metrics source {name:?}");
                fail(exit::BAD_INPUT, &Error::Nothing(problem))
            })?),
        };
        let objects = self.from.live(config.stale_watch).await?;
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
}

impl Scene {
    fn of_files(input: Input) -> Self {
        Self {
            snapshot: input.snapshot(Timestamp::now()),
            plan: plan(&Config::default(), input.waivers.clone()),
            gates: &STATIC,
            unseen: Some(
                "the objects show no obstacle; traffic, certificates and the control plane cannot be seen in files",
            ),
            input: Some(input),
        }
    }

    /// Some of the files could not be read.
    pub(super) fn is_broken(&self) -> bool {
        self.input.as_ref().is_some_and(|input| !input.broken.is_empty())
    }
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
        approvals: vec![],
        source: None,
        waivers,
        operator_namespace: Namespace::new(&config.operator_namespace),
        timing: parse::timing(config),
    }
}
