//! The gates. Every one is evaluated every time; none can be off, and Unknown never passes one.

pub mod certificate;
pub mod destination_rule;
pub mod exposure;
pub mod injection;
pub mod plaintext;
pub mod policy;
pub mod proxy;
pub mod refusal_signal;
pub mod telemetry;

use crate::finding::{Code, Finding, Level};
use crate::ident::{Namespace, WorkloadRef};
use crate::injection::Injector;
use crate::plan::{OnIdle, Plan, Settings};
use crate::snapshot::Snapshot;
use crate::workload::NamespaceFacts;
use std::collections::BTreeMap;
use std::fmt;

/// One question that must be answered before STRICT.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Gate {
    /// Can every server in scope speak mutual TLS, now and after a restart?
    Injection,
    /// Did anybody send plaintext?
    Plaintext,
    /// Is the evidence complete?
    Telemetry,
    /// Does any client's rule turn mutual TLS off?
    DestinationRules,
    /// Would our policy be the effective one, and change nothing else?
    Policies,
    /// Does certificate rotation work?
    Certificates,
    /// Is the control plane healthy, so that the switch and a rollback take effect?
    Proxies,
    /// Does anybody come in who can never speak mutual TLS?
    Exposure,
    /// Would anything show us harm?
    RefusalSignal,
}

/// What a gate says.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Verdict {
    /// Nothing in the way.
    Pass,
    /// Wait and look again.
    Hold,
    /// A person must act.
    Block,
}

/// What a gate looks at.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The plan, for settings and times.
    pub plan: &'a Plan,
    /// The observed cluster.
    pub snapshot: &'a Snapshot,
    /// The namespace in question.
    pub facts: &'a NamespaceFacts,
}

/// All gates' answers for one namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    findings: BTreeMap<Gate, Vec<Finding>>,
    acknowledged: usize,
}

impl Gate {
    /// Every gate. A gate that is not here is not evaluated: `tests/stories` and the model
    /// would fail.
    pub const ALL: [Gate; 9] = [
        Gate::Injection,
        Gate::Plaintext,
        Gate::Telemetry,
        Gate::DestinationRules,
        Gate::Policies,
        Gate::Certificates,
        Gate::Proxies,
        Gate::Exposure,
        Gate::RefusalSignal,
    ];

    fn examine(self, context: Context<'_>) -> Vec<Finding> {
        match self {
            Self::Injection => injection::examine(context),
            Self::Plaintext => plaintext::examine(context),
            Self::Telemetry => telemetry::examine(context),
            Self::DestinationRules => destination_rule::examine(context),
            Self::Policies => policy::examine(context),
            Self::Certificates => certificate::examine(context),
            Self::Proxies => proxy::examine(context),
            Self::Exposure => exposure::examine(context),
            Self::RefusalSignal => refusal_signal::examine(context),
        }
    }

    /// `level` as the plan wants it: three gates may be lowered to Warn.
    fn lowered(self, level: Level, settings: &Settings) -> Level {
        match self {
            Self::Injection => settings.injection.apply(level),
            Self::Plaintext => settings.plaintext.apply(level),
            Self::DestinationRules => settings.destination_rules.apply(level),
            Self::Telemetry
            | Self::Policies
            | Self::Certificates
            | Self::Proxies
            | Self::Exposure
            | Self::RefusalSignal => level,
        }
    }
}

impl Evaluation {
    /// Runs every gate for one namespace.
    pub fn run(plan: &Plan, snapshot: &Snapshot, facts: &NamespaceFacts) -> Self {
        let context = Context { plan, snapshot, facts };
        let mut acknowledged = 0;
        let findings = Gate::ALL
            .into_iter()
            .map(|gate| {
                let mut findings = gate.examine(context);
                for finding in &mut findings {
                    finding.level = match (finding.code, plan.gates.on_idle) {
                        (Code::NothingSeen, OnIdle::Allow) => finding.level.min(Level::Warn),
                        _ => gate.lowered(finding.level, &plan.gates),
                    };
                    let waived = plan.waivers.acknowledge(finding, snapshot.at);
                    acknowledged += usize::from(waived);
                }
                findings.sort();
                findings.dedup();
                (gate, findings)
            })
            .collect();
        Self { findings, acknowledged }
    }

    /// So many findings would stop the namespace if nobody answered for them.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged
    }

    /// What one gate says. A gate that was not evaluated holds.
    pub fn verdict_of(&self, gate: Gate) -> Verdict {
        let Some(findings) = self.findings.get(&gate) else { return Verdict::Hold };
        findings.iter().map(|finding| Verdict::from(finding.level)).max().unwrap_or(Verdict::Pass)
    }

    /// What all gates say together: the worst of them.
    pub fn verdict(&self) -> Verdict {
        Gate::ALL.into_iter().map(|gate| self.verdict_of(gate)).max().unwrap_or(Verdict::Hold)
    }

    /// What one gate found.
    pub fn findings_of(&self, gate: Gate) -> &[Finding] {
        self.findings.get(&gate).map_or(&[], Vec::as_slice)
    }

    /// All findings, the heaviest first.
    pub fn findings(&self) -> Vec<&Finding> {
        let mut all: Vec<_> = self.findings.values().flatten().collect();
        all.sort_by(|a, b| b.level.cmp(&a.level).then_with(|| a.cmp(b)));
        all.dedup();
        all
    }

    /// The findings that stop this namespace.
    pub fn obstacles(&self) -> Vec<&Finding> {
        self.findings().into_iter().filter(|finding| finding.level >= Level::Hold).collect()
    }

    /// Some finding has this code, and is more than information.
    pub fn warns_of(&self, code: Code) -> bool {
        let mut all = self.findings.values().flatten();
        all.any(|finding| finding.code == code && finding.level > Level::Inform)
    }

    /// Some finding has this code.
    pub fn has(&self, code: Code) -> bool {
        self.findings.values().flatten().any(|finding| finding.code == code)
    }
}

impl From<Level> for Verdict {
    fn from(level: Level) -> Self {
        match level {
            Level::Inform | Level::Warn => Self::Pass,
            Level::Hold => Self::Hold,
            Level::Block => Self::Block,
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Injection => "injection",
            Self::Plaintext => "plaintext",
            Self::Telemetry => "telemetry",
            Self::DestinationRules => "destinationRules",
            Self::Policies => "policies",
            Self::Certificates => "certificates",
            Self::Proxies => "proxies",
            Self::Exposure => "exposure",
            Self::RefusalSignal => "refusalSignal",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "Pass",
            Self::Hold => "Hold",
            Self::Block => "Block",
        })
    }
}

/// What an unknown metrics answer is called.
fn unknown_metrics(cause: &crate::reading::Cause, namespace: &Namespace, what: &str) -> Finding {
    use crate::finding::Subject;
    use crate::reading::Cause;
    let (code, remedy) = match cause {
        Cause::SourceUnavailable(_) | Cause::NotRead(_) | Cause::Malformed(_) => (
            Code::SourceUnavailable,
            "check that the metrics source is up and that the operator can reach it",
        ),
        Cause::PartialAnswer(_) => (
            Code::PartialAnswer,
            "find the missing store or remote in the metrics source's own log",
        ),
        Cause::Ambiguous(_) => (
            Code::AmbiguousSeries,
            "let one scrape job, or one replica with deduplication, serve these series",
        ),
        Cause::StaleWatch { .. } => {
            (Code::StaleWatch, "check the operator's connection to the apiserver")
        }
    };
    Finding::new(code, Subject::namespace(namespace), format!("{what} is not known: {cause}"))
        .remedy(remedy)
}

/// None where they are not known, which the gate injection says.
fn injectors(snapshot: &Snapshot) -> &[Injector] {
    snapshot.injectors.known().map_or(&[], Vec::as_slice)
}

/// What makes its pods anew.
fn restart(workload: &WorkloadRef) -> String {
    let WorkloadRef { namespace, kind, name } = workload;
    format!("kubectl rollout restart {}/{name} -n {namespace}", kind.to_lowercase())
}

/// `a, b, c and 4 more`.
fn list(names: impl IntoIterator<Item = String>) -> String {
    const SHOWN: usize = 3;
    let names: Vec<_> = names.into_iter().collect();
    match names.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => {
            format!(
                "{} and {more} more",
                names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ")
            )
        }
        _ => names.join(", "),
    }
}
