//! Kinds of work that ends.

use super::{PodCondition, PodTemplate, meta, whole_meta};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::Deserialize;

kind! {
    /// A Job: what its pods are made from, and whether it is over.
    Job, NamespaceResourceScope, "batch", "jobs", {
        /// What it says.
        spec: JobSpec,
        /// How it is doing.
        status: JobStatus,
    }
}

kind! {
    /// A CronJob: when its Jobs are made, and what their pods are made from.
    CronJob, NamespaceResourceScope, "batch", "cronjobs", "whole_meta", {
        /// What it says.
        spec: CronJobSpec,
        /// How it is doing.
        status: CronJobStatus,
    }
}

/// When Jobs are made, and from what.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct CronJobSpec {
    /// In five fields, or by one of their names.
    pub schedule: String,
    /// Whose hours these are; without it the controller's.
    pub time_zone: Option<String>,
    /// None is made.
    pub suspend: Option<bool>,
    /// From this.
    pub job_template: JobTemplate,
}

/// How a CronJob is doing.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct CronJobStatus {
    /// When a Job of it was last to be made.
    pub last_schedule_time: Option<Time>,
    /// When a Job of it last ended well.
    pub last_successful_time: Option<Time>,
}

/// A Job to be made.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct JobTemplate {
    /// What it says.
    pub spec: JobTemplateSpec,
}

/// What a Job to be made says.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct JobTemplateSpec {
    /// The pods to be made.
    pub template: Made,
}

/// What pods are made from, and the words by which their containers are told what to do: commands,
/// arguments and the values of variables.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(try_from = "Option<serde_json::Value>")]
pub struct Made {
    /// As of all pods.
    pub template: PodTemplate,
    /// Of its containers.
    pub words: Vec<String>,
    /// Of its init containers, which may run before a sidecar does.
    pub early: Vec<String>,
    /// Where names are looked for besides its own namespace (`dnsConfig`).
    pub searches: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wordy {
    spec: Option<Words>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Words {
    containers: Option<Vec<ContainerWords>>,
    init_containers: Option<Vec<ContainerWords>>,
    dns_config: Option<DnsConfig>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DnsConfig {
    searches: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ContainerWords {
    command: Option<Vec<String>>,
    args: Option<Vec<String>>,
    env: Option<Vec<Variable>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Variable {
    value: Option<String>,
}

impl TryFrom<Option<serde_json::Value>> for Made {
    type Error = serde_json::Error;

    fn try_from(pods: Option<serde_json::Value>) -> Result<Self, Self::Error> {
        let Some(pods) = pods else { return Ok(Self::default()) };
        let Words { containers, init_containers, dns_config } =
            Wordy::deserialize(&pods)?.spec.unwrap_or_default();
        let words = |containers: Option<Vec<ContainerWords>>| {
            let words = containers.into_iter().flatten().flat_map(|one| {
                let env = one.env.into_iter().flatten().filter_map(|variable| variable.value);
                one.command.into_iter().chain(one.args).flatten().chain(env)
            });
            // As resolvers have them.
            words.map(|word| word.to_ascii_lowercase()).collect()
        };
        let (words, early) = (words(containers), words(init_containers));
        let searches = dns_config.and_then(|config| config.searches).unwrap_or_default();
        Ok(Self { template: PodTemplate::deserialize(pods)?, words, early, searches })
    }
}

/// What a Job's pods are made from.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct JobSpec {
    /// The pods to be made.
    pub template: PodTemplate,
}

/// How a Job is doing.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct JobStatus {
    /// Complete and Failed among them.
    pub conditions: Option<Vec<PodCondition>>,
}
