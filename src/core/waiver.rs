//! What somebody has looked at and answers for: findings that are acknowledged, ports and workloads
//! that are excepted. Each names exactly what it lowers, says who answers for it, and ends.

use crate::finding::{Finding, Level, Subject};
use crate::gate::policy::Target;
use crate::ident::{Port, WorkloadRef};
use jiff::Timestamp;
use std::collections::BTreeSet;

/// Who answers for it, why, and until when.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Answer {
    /// Who.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// From then on it counts for nothing.
    pub expires: Timestamp,
}

/// Lowers one finding on one subject to a warning.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Acknowledgement {
    /// The finding's stable code, as `MR0204`.
    pub code: String,
    /// Exactly what the finding is about, the port included.
    pub subject: Subject,
    /// Who answers for it.
    pub answer: Answer,
}

/// Declares that ports of a workload, or all of it, stay PERMISSIVE. The policy that says so is a
/// person's to write.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Exception {
    /// Whose.
    pub workload: WorkloadRef,
    /// Container ports; none: the whole workload.
    pub ports: BTreeSet<Port>,
    /// Who answers for it.
    pub answer: Answer,
}

/// All that somebody answers for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Waivers {
    /// Findings.
    pub acknowledgements: Vec<Acknowledgement>,
    /// Ports and workloads.
    pub exceptions: Vec<Exception>,
}

impl Waivers {
    /// These as well.
    pub fn add(&mut self, more: Self) {
        self.acknowledgements.extend(more.acknowledgements);
        self.exceptions.extend(more.exceptions);
    }

    /// Lowers `finding` to a warning if somebody answers for it at `now`. True when that made a
    /// difference.
    pub fn acknowledge(&self, finding: &mut Finding, now: Timestamp) -> bool {
        let answered = self.acknowledgements.iter().find(|one| {
            one.code == finding.code.id() && one.subject == finding.subject && one.answer.holds(now)
        });
        let Some(one) = answered.filter(|_| finding.level > Level::Warn) else { return false };
        finding.level = Level::Warn;
        finding.evidence.push(format!("acknowledged by {}", one.answer.words()));
        true
    }

    /// The exception that covers `target`, whether it still holds or not; of two the one that
    /// holds longer.
    pub(crate) fn exception(&self, target: &Target<'_>) -> Option<&Exception> {
        let covers = |one: &&Exception| {
            let whole = one.ports.is_empty();
            one.workload == *target.workload
                && (whole || target.port.is_some_and(|port| one.ports.contains(&port)))
        };
        self.exceptions.iter().filter(covers).max_by_key(|one| one.answer.expires)
    }

    /// Lines for the text that a plan is approved under.
    pub(crate) fn canonical(&self) -> String {
        let mut lines: Vec<_> = self
            .acknowledgements
            .iter()
            .map(|Acknowledgement { code, subject, answer }| {
                format!("acknowledged {code} {:?} {}\n", subject.to_string(), answer.expires)
            })
            .chain(self.exceptions.iter().map(|Exception { workload, ports, answer }| {
                let WorkloadRef { namespace, kind, name } = workload;
                let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
                format!(
                    "excepted {kind:?} {:?} {name:?} {} {}\n",
                    namespace.as_str(),
                    ports.join(" "),
                    answer.expires
                )
            }))
            .collect();
        lines.sort();
        lines.dedup();
        lines.concat()
    }
}

impl Answer {
    /// It still counts at `now`.
    pub fn holds(&self, now: Timestamp) -> bool {
        now < self.expires
    }

    /// `OWNER until TIME: REASON`.
    pub(crate) fn words(&self) -> String {
        format!("{} until {:.0}: {}", self.owner, self.expires, self.reason)
    }
}
