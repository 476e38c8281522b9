//! Kinds of work that ends.

use super::{PodCondition, PodTemplate, meta};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
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
    CronJob, NamespaceResourceScope, "batch", "cronjobs", {
        /// What it says.
        spec: CronJobSpec,
    }
}

/// When Jobs are made, and from what.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct CronJobSpec {
    /// In five fields, or by one of their names.
    pub schedule: String,
    /// None is made.
    pub suspend: Option<bool>,
    /// From this.
    pub job_template: JobTemplate,
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
    /// Whole: it is read as a pod's template, and for the words in it.
    pub template: serde_json::Value,
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
