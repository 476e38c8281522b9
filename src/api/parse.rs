//! From what a user wrote to the core's plan: parsed once, with the field named in every error.
//!
//! The schema refuses most of this at admission; what depends on the operator's configuration, or
//! was stored before the schema refused it, is refused here.

use super::names::request;
use super::{
    Action, ApprovalPolicy, Duration, ExistingPolicies, GateLevel, Gates, LabelExpression,
    LabelOperator, MeshApproval, MeshRollout, MeshRolloutSpec, NamespaceSelector, OnIdle,
    RollbackTrigger, Stage,
};
use crate::api;
use crate::config::Config;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use meshrollout_core::finding::{Code, Subject};
use meshrollout_core::ident::{Namespace, Operator, Port, Requirement, Selector, Uid, WorkloadRef};
use meshrollout_core::plan::{
    self, Approval, Asked, Existing, Mission, Plan, Settings, Strictness, Targets, Timing, Trigger,
};
use meshrollout_core::waiver::{Acknowledgement, Answer, Exception, Waivers};
use std::collections::BTreeMap;

/// Why a rollout cannot be accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// A field has a value that cannot be used.
    #[error("{field}: {problem}")]
    Field {
        /// The field's path, as in `spec.stages[2].bake`.
        field: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The metrics source is not registered.
    #[error("spec.metricsSource: {0}")]
    MetricsSource(String),
    /// Definitions of our own kinds that are not this operator's.
    #[error(
        "of another version than this operator ({}), so that fields may have been dropped: CustomResourceDefinition {}; bring both to one version (`meshrollout crd` of that version prints them), then apply the rollout again",
        env!("CARGO_PKG_VERSION"),
        .0.join(", ")
    )]
    Definitions(Vec<String>),
}

/// As long as `status.requests` may hold.
const MAX_REQUEST: usize = 63;

/// The bake that the operator insists on: old connections drain for 45 s, and harm must have time
/// to show.
const MIN_BAKE: SignedDuration = SignedDuration::from_mins(5);

impl Refusal {
    /// The condition's reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Field { .. } => "InvalidSpec",
            Self::MetricsSource(_) => "MetricsSourceUnknown",
            Self::Definitions(_) => "DefinitionsDiffer",
        }
    }
}

/// The plan of a rollout, under this configuration. What other rollouts claim is not in it yet.
pub fn plan(rollout: &MeshRollout, config: &Config) -> Result<Plan, Refusal> {
    metrics_source(rollout, config)?;
    let spec = &rollout.spec;
    let stages = spec.stages.iter().enumerate();
    let stages =
        stages.map(|(index, given)| stage(&format!("spec.stages[{index}]"), given, config));
    let parts = Parts {
        stages: stages.collect::<Result<_, _>>()?,
        gates: settings(&spec.gates)?,
        waivers: waivers(spec)?,
    };
    Ok(of_parts(rollout, config, parts))
}

/// The plan of a rollout that is refused, without what is wrong with it: good for watching what it
/// has reached and taking it back, not for a step. Of what was reached in a stage that cannot be
/// read, it knows nothing.
pub fn as_far_as_it_goes(rollout: &MeshRollout, config: &Config) -> Plan {
    let lenient = Config { allow_short_times: true, ..config.clone() };
    let spec = &rollout.spec;
    let acknowledgements = spec.acknowledgements.iter().map(|one| acknowledgement("", one));
    let exceptions = spec.exceptions.iter().map(|one| exception("", one));
    let parts = Parts {
        stages: spec.stages.iter().filter_map(|given| stage("", given, &lenient).ok()).collect(),
        gates: settings(&spec.gates).unwrap_or_else(|_| default_settings()),
        waivers: Waivers {
            acknowledgements: acknowledgements.filter_map(Result::ok).collect(),
            exceptions: exceptions.filter_map(Result::ok).collect(),
        },
    };
    Plan { paused: true, ..of_parts(rollout, config, parts) }
}

/// What a spec can be wrong about.
struct Parts {
    stages: Vec<plan::Stage>,
    gates: Settings,
    waivers: Waivers,
}

fn of_parts(rollout: &MeshRollout, config: &Config, parts: Parts) -> Plan {
    let spec = &rollout.spec;
    Plan {
        name: rollout.name_any(),
        uid: Uid::new(rollout.uid().unwrap_or_default()),
        action: match spec.action {
            Action::Observe => Mission::Observe,
            Action::Enforce => Mission::Enforce,
        },
        paused: spec.paused,
        stages: parts.stages,
        gates: parts.gates,
        waivers: parts.waivers,
        rollback: match spec.rollback.trigger {
            RollbackTrigger::Automatic => Trigger::Automatic,
            RollbackTrigger::Manual => Trigger::Manual,
        },
        existing: match spec.existing_policies {
            ExistingPolicies::Refuse => Existing::Refuse,
            ExistingPolicies::Adopt => Existing::Adopt,
        },
        asked: asked(rollout),
        claimed: BTreeMap::new(),
        approvals: vec![],
        source: spec.metrics_source.as_ref().map(|source| source.name.clone()),
        operator_namespace: Namespace::new(&config.operator_namespace),
        timing: timing(config),
    }
}

/// What people ask for beside the spec.
fn asked(rollout: &MeshRollout) -> Asked {
    // As much as status remembers of it: the rest must not make it another request.
    let asked = |name: &str| {
        let value = rollout.annotations().get(name)?;
        Some(value.chars().take(MAX_REQUEST).collect())
    };
    Asked {
        abort: asked(request::ABORT),
        retry: asked(request::RETRY),
        rollback: asked(request::ROLLBACK),
    }
}

/// The operator's times, as the core wants them.
pub fn timing(config: &Config) -> Timing {
    Timing {
        interval: config.evaluation_interval,
        stale_watch: config.stale_watch,
        drain: config.drain,
        acknowledgement: config.proxy_acknowledgement,
        harm_window: config.harm_window,
        max_skew: config.max_clock_skew,
    }
}

/// The settings of a rollout that says nothing about gates.
pub fn default_settings() -> Settings {
    // The schema's own defaults: `a_rollout_that_says_little…` holds them to what is documented.
    settings(&Gates::default()).expect("the defaults are valid")
}

fn settings(gates: &Gates) -> Result<Settings, Refusal> {
    Ok(Settings {
        injection: strictness(gates.injection.level),
        plaintext: strictness(gates.plaintext.level),
        destination_rules: strictness(gates.destination_rules.level),
        lookback: length("spec.gates.plaintext.lookback", &gates.plaintext.lookback)?,
        on_idle: match gates.plaintext.on_idle {
            OnIdle::Hold => plan::OnIdle::Hold,
            OnIdle::Allow => plan::OnIdle::Allow,
        },
        min_remaining_percent: u8::try_from(gates.certificates.min_remaining_ratio)
            .ok()
            .filter(|percent| (1..50).contains(percent))
            .ok_or_else(|| {
                let problem = "must be 1 to 49: Istio renews at half of the lifetime";
                refuse("spec.gates.certificates.minRemainingRatio", problem)
            })?,
    })
}

fn metrics_source(rollout: &MeshRollout, config: &Config) -> Result<(), Refusal> {
    let registered: Vec<_> =
        config.metrics_sources.iter().map(|source| source.name.as_str()).collect();
    let known = match registered.as_slice() {
        [] => "the operator's configuration registers none".to_owned(),
        names => format!("registered are: {}", names.join(", ")),
    };
    match &rollout.spec.metrics_source {
        // The operator's own collection from the sidecars.
        None => Ok(()),
        Some(source) if registered.contains(&source.name.as_str()) => Ok(()),
        Some(source) => Err(Refusal::MetricsSource(format!(
            "no source {:?} is registered in the operator's configuration ({known})",
            source.name
        ))),
    }
}

fn stage(path: &str, given: &Stage, config: &Config) -> Result<plan::Stage, Refusal> {
    let targets = match (&given.namespaces, &given.namespace_selector) {
        (Some(names), None) => Targets::Named(names.iter().map(Namespace::new).collect()),
        (None, Some(selector)) => {
            Targets::Selected(self::selector(&format!("{path}.namespaceSelector"), selector)?)
        }
        (Some(_), Some(_)) | (None, None) => {
            return Err(refuse(path, "give exactly one of namespaces and namespaceSelector"));
        }
    };
    let bake = length(&format!("{path}.bake"), &given.bake)?;
    if bake.is_zero() || (bake < MIN_BAKE && !config.allow_short_times) {
        let problem = format!(
            "{} is too short: at least 5m, since old connections drain before harm shows",
            given.bake
        );
        return Err(refuse(&format!("{path}.bake"), problem));
    }
    Ok(plan::Stage {
        name: given.name.clone(),
        targets,
        soak: length(&format!("{path}.soak"), &given.soak)?,
        bake,
        max_concurrent: usize::try_from(given.max_concurrent)
            .ok()
            .filter(|count| *count > 0)
            .ok_or_else(|| refuse(&format!("{path}.maxConcurrent"), "must be at least 1"))?,
        needs_approval: match given.approval {
            ApprovalPolicy::Automatic => false,
            ApprovalPolicy::Required => true,
        },
    })
}

/// Those approvals that are of this rollout, and of no namesake.
pub fn approvals<'a>(
    rollout: &MeshRollout,
    all: impl IntoIterator<Item = &'a MeshApproval>,
) -> Vec<Approval> {
    all.into_iter()
        .filter(|one| one.spec.rollout == rollout.name_any())
        .filter(|one| Some(&one.spec.rollout_uid) == rollout.metadata.uid.as_ref())
        .map(|one| Approval {
            stage: one.spec.stage.clone(),
            plan_hash: one.spec.plan_hash.clone(),
        })
        .collect()
}

fn selector(path: &str, given: &NamespaceSelector) -> Result<Selector, Refusal> {
    let labels = given.match_labels.iter().map(|(key, value)| Requirement {
        key: key.clone(),
        operator: Operator::In(vec![value.clone()]),
    });
    let expressions = given.match_expressions.iter().map(requirement);
    let requirements: Vec<_> = labels.chain(expressions).collect();
    if requirements.is_empty() {
        return Err(refuse(path, "an empty selector would cover every namespace of the cluster"));
    }
    Ok(Selector::new(requirements))
}

fn requirement(given: &LabelExpression) -> Requirement {
    let values = given.values.clone();
    Requirement {
        key: given.key.clone(),
        operator: match given.operator {
            LabelOperator::In => Operator::In(values),
            LabelOperator::NotIn => Operator::NotIn(values),
            LabelOperator::Exists => Operator::Exists,
            LabelOperator::DoesNotExist => Operator::DoesNotExist,
        },
    }
}

/// What the rollout's author answers for. Each is refused with its field where it says nothing that
/// can be held against a finding.
pub fn waivers(spec: &MeshRolloutSpec) -> Result<Waivers, Refusal> {
    let acknowledgements =
        spec.acknowledgements.iter().enumerate().map(|(index, given)| {
            acknowledgement(&format!("spec.acknowledgements[{index}]"), given)
        });
    let exceptions = spec.exceptions.iter().enumerate();
    let exceptions =
        exceptions.map(|(index, given)| exception(&format!("spec.exceptions[{index}]"), given));
    Ok(Waivers {
        acknowledgements: acknowledgements.collect::<Result<_, _>>()?,
        exceptions: exceptions.collect::<Result<_, _>>()?,
    })
}

fn acknowledgement(path: &str, given: &api::Acknowledgement) -> Result<Acknowledgement, Refusal> {
    if Code::ALL.iter().all(|one| one.id() != given.code) {
        let problem = format!("no finding has the code {}", given.code);
        return Err(refuse(&format!("{path}.code"), problem));
    }
    let port = |port: i32| u16::try_from(port).map(Port);
    Ok(Acknowledgement {
        code: given.code.clone(),
        subject: Subject {
            kind: given.subject.kind.clone(),
            namespace: given.subject.namespace.as_ref().map(Namespace::new),
            name: given.subject.name.clone(),
            port: given
                .subject
                .port
                .map(port)
                .transpose()
                .map_err(|_| refuse(&format!("{path}.subject.port"), "is no port"))?,
        },
        answer: answer(&given.owner, &given.reason, &given.expires),
    })
}

fn exception(path: &str, given: &api::Exception) -> Result<Exception, Refusal> {
    let ports = given.ports.iter().map(|port| u16::try_from(*port).map(Port));
    Ok(Exception {
        workload: WorkloadRef::new(
            given.namespace.as_str(),
            &given.workload.kind,
            &given.workload.name,
        ),
        ports: ports
            .collect::<Result<_, _>>()
            .map_err(|_| refuse(&format!("{path}.ports"), "has no port"))?,
        answer: answer(&given.owner, &given.reason, &given.expires),
    })
}

fn answer(owner: &str, reason: &str, expires: &Time) -> Answer {
    Answer { owner: owner.into(), reason: reason.into(), expires: expires.0 }
}

fn strictness(level: GateLevel) -> Strictness {
    match level {
        GateLevel::Enforce => Strictness::Enforce,
        GateLevel::Warn => Strictness::Warn,
    }
}

fn length(field: &str, given: &Duration) -> Result<SignedDuration, Refusal> {
    given.parse().map_err(|error| refuse(field, error.to_string()))
}

fn refuse(field: &str, problem: impl Into<String>) -> Refusal {
    Refusal::Field { field: field.into(), problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn config() -> Config {
        Config::parse("metricsSources: [{name: main, url: 'http://prometheus:9090'}]").unwrap()
    }

    fn rollout(change: impl FnOnce(&mut Value)) -> MeshRollout {
        let mut object = json!({
            "apiVersion": "meshrollout.dev/v1alpha1", "kind": "MeshRollout",
            "metadata": {"name": "shop", "uid": "1", "annotations": {
                "meshrollout.dev/retry": "2026-01-01T00:00:00Z",
            }},
            "spec": {
                "metricsSource": {"name": "main"},
                "stages": [{"name": "canary", "namespaces": ["catalog"]}],
            },
        });
        change(&mut object);
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_rollout_that_says_little_gets_the_documented_defaults() {
        let plan = plan(&rollout(|_| ()), &config()).unwrap();
        assert_eq!(plan.action, Mission::Observe);
        let documented = Settings {
            injection: Strictness::Enforce,
            plaintext: Strictness::Enforce,
            destination_rules: Strictness::Enforce,
            lookback: SignedDuration::from_hours(24),
            on_idle: plan::OnIdle::Hold,
            min_remaining_percent: 25,
        };
        assert_eq!(plan.gates, documented);
        assert_eq!(default_settings(), documented);
        assert_eq!(plan.asked.retry.as_deref(), Some("2026-01-01T00:00:00Z"));
        let stage = &plan.stages[0];
        assert_eq!((stage.soak.as_mins(), stage.bake.as_mins(), stage.max_concurrent), (30, 15, 1));
        assert_eq!(stage.targets, Targets::Named(["catalog".into()].into()));
    }

    #[test]
    fn a_refusal_names_the_field_and_what_would_be_right() {
        for (pointer, value, begins) in [
            ("/spec/stages/0/bake", json!("30s"), "spec.stages[0].bake: 30s is too short"),
            ("/spec/stages/0/soak", json!("soon"), "spec.stages[0].soak: \"soon\" is not"),
            ("/spec/stages/0/namespaces", json!(null), "spec.stages[0]: give exactly one"),
            ("/spec/metricsSource/name", json!("maim"), "spec.metricsSource: no source \"maim\""),
        ] {
            let wrong = rollout(|object| {
                let (parent, field) = pointer.rsplit_once('/').unwrap();
                object.pointer_mut(parent).unwrap()[field] = value;
            });
            let refused = plan(&wrong, &config()).unwrap_err().to_string();
            assert!(refused.starts_with(begins), "{refused}");
        }
    }

    #[test]
    fn what_is_refused_goes_as_far_as_it_can_be_used() {
        let wrong = rollout(|object| {
            let spec = &mut object["spec"];
            spec["stages"] = json!([
                {"name": "short", "namespaces": ["catalog"], "bake": "1s"},
                {"name": "none"},
            ]);
            spec["gates"] = json!({"plaintext": {"lookback": "soon"}});
            let subject = json!({"kind": "Namespace", "name": "catalog"});
            let answer = |code: &str| {
                json!({"code": code, "subject": subject, "reason": "known", "owner": "me",
                    "expires": "2030-01-01T00:00:00Z"})
            };
            spec["acknowledgements"] = json!([answer("MR0999"), answer("MR0310")]);
        });
        assert!(plan(&wrong, &config()).is_err());
        let plan = as_far_as_it_goes(&wrong, &config());
        let names: Vec<_> = plan.stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(names, ["short"]);
        assert_eq!(plan.gates, default_settings());
        let codes = plan.waivers.acknowledgements.iter().map(|one| one.code.as_str());
        assert_eq!(codes.collect::<Vec<_>>(), ["MR0310"]);
        assert_eq!(plan.asked.retry.as_deref(), Some("2026-01-01T00:00:00Z"));
        assert!(plan.paused);
    }

    #[test]
    fn short_times_are_for_those_who_ask_for_them() {
        let short = rollout(|object| object["spec"]["stages"][0]["bake"] = json!("1s"));
        let config = Config { allow_short_times: true, ..config() };
        assert_eq!(plan(&short, &config).unwrap().stages[0].bake.as_secs(), 1);
    }
}
