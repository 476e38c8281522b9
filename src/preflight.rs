//! The result of `preflight` as a contract with programs: one model, from which every format is
//! printed.

mod graph;
pub mod html;
pub mod junit;
pub mod sarif;

pub use graph::Graph;

use crate::manual::finding_page;
use meshrollout_core::finding::{self, Finding, Level};
use meshrollout_core::gate::Gate;
use meshrollout_core::preflight::{Outlook, Preflight};
use serde::Serialize;

/// All that preflight says.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PreflightReport {
    api_version: &'static str,
    kind: &'static str,
    /// In numbers.
    pub summary: Summary,
    /// Each namespace with workloads, by name.
    pub namespaces: Vec<NamespaceReport>,
    /// What was found, the heaviest first.
    pub findings: Vec<FindingReport>,
}

/// What preflight says, in numbers.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Ready, Blocked or Undecided: the worst of all namespaces.
    pub verdict: &'static str,
    /// Namespaces with workloads.
    pub namespaces: usize,
    /// Those of which every gate passes.
    pub ready: usize,
    /// Those in which something would break.
    pub blocked: usize,
    /// Those of which it cannot be told.
    pub undecided: usize,
    /// Findings by weight.
    pub findings: ByLevel,
    /// What was read.
    pub input: InputSummary,
}

/// Findings by weight.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ByLevel {
    /// A person must act.
    pub block: usize,
    /// Wait and look again.
    pub hold: usize,
    /// Worth a look.
    pub warn: usize,
    /// Good to know.
    pub inform: usize,
}

/// What was read, and what was not.
#[derive(Clone, Debug, Default, Serialize)]
pub struct InputSummary {
    /// `cluster` or `files`.
    pub source: &'static str,
    /// Objects of kinds that are not looked at.
    pub skipped: usize,
    /// Sources of templates, which are no objects before they are rendered.
    pub templates: usize,
    /// Documents that could not be read: file, line and why.
    pub broken: Vec<String>,
}

/// What would become of one namespace.
#[derive(Clone, Debug, Serialize)]
pub struct NamespaceReport {
    /// Which.
    pub name: String,
    /// Ready, Blocked or Undecided.
    pub verdict: &'static str,
    /// Why.
    pub why: String,
}

/// One finding.
#[derive(Clone, Debug, Serialize)]
pub struct FindingReport {
    /// `MR0401`.
    pub code: &'static str,
    /// `ClientTlsDisabled`.
    pub name: &'static str,
    /// block, hold, warn or inform.
    pub level: &'static str,
    /// The gate that found it.
    pub gate: String,
    /// What it is about.
    pub subject: SubjectReport,
    /// One sentence.
    pub message: String,
    /// What it stands on.
    pub evidence: Vec<String>,
    /// What to do.
    pub remedy: String,
    /// Where more is said of this code.
    pub docs: String,
    /// Where the subject stands in the files, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    #[serde(skip)]
    weight: Level,
}

/// What a finding is about.
#[derive(Clone, Debug, Serialize)]
pub struct SubjectReport {
    /// Its kind.
    pub kind: String,
    /// Its namespace, if it is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// The port, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// Where an object stands.
#[derive(Clone, Debug, Serialize)]
pub struct Source {
    /// The file, as it was named.
    pub file: String,
    /// The line where the object begins, from one.
    pub line: usize,
}

impl PreflightReport {
    /// What `preflight` found. `place` says where the subject of a finding stands.
    pub fn new(
        preflight: &Preflight,
        input: InputSummary,
        place: impl Fn(&finding::Subject) -> Option<Source>,
    ) -> Self {
        let namespaces: Vec<_> = preflight
            .namespaces
            .iter()
            .map(|one| NamespaceReport {
                name: one.name.to_string(),
                verdict: one.outlook.name(),
                why: one.why.clone(),
            })
            .collect();
        let of = |outlook: Outlook| {
            preflight.namespaces.iter().filter(|one| one.outlook == outlook).count()
        };
        let mut findings = ByLevel::default();
        for (_, finding) in &preflight.findings {
            *match finding.level {
                Level::Block => &mut findings.block,
                Level::Hold => &mut findings.hold,
                Level::Warn => &mut findings.warn,
                Level::Inform => &mut findings.inform,
            } += 1;
        }
        let summary = Summary {
            verdict: preflight.outlook().name(),
            namespaces: namespaces.len(),
            ready: of(Outlook::Ready),
            blocked: of(Outlook::Blocked),
            undecided: of(Outlook::Undecided),
            findings,
            input,
        };
        let found = |(gate, finding): &(Gate, Finding)| {
            FindingReport::new(*gate, finding, place(&finding.subject))
        };
        Self {
            api_version: "meshrollout.dev/v1alpha1",
            kind: "PreflightReport",
            summary,
            namespaces,
            findings: preflight.findings.iter().map(found).collect(),
        }
    }
}

impl FindingReport {
    /// It weighs `level` or more.
    pub fn weighs(&self, level: Level) -> bool {
        self.weight >= level
    }

    fn new(gate: Gate, finding: &Finding, source: Option<Source>) -> Self {
        let Finding { level, code, subject, message, evidence, remedy, value: _, threshold: _ } =
            finding;
        Self {
            code: code.id(),
            name: code.name(),
            level: level.name(),
            gate: gate.to_string(),
            subject: SubjectReport {
                kind: subject.kind.clone(),
                namespace: subject.namespace.as_ref().map(ToString::to_string),
                name: subject.name.clone(),
                port: subject.port.map(|port| port.0),
            },
            message: message.clone(),
            evidence: evidence.clone(),
            remedy: remedy.clone(),
            docs: finding_page(*code),
            source,
            weight: *level,
        }
    }

    /// The subject in words: `Deployment shop/web:8080`.
    pub fn about(&self) -> String {
        let SubjectReport { kind, namespace, name, port } = &self.subject;
        let namespace = namespace.as_ref().filter(|_| kind != "Namespace");
        let namespace = namespace.map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{kind} {namespace}{name}{port}")
    }
}
