//! What would become of each namespace, asked of the same gates as in a rollout, by whoever only
//! wants to know.

use crate::finding::{Code, Finding, Level};
use crate::gate::{Evaluation, Gate};
use crate::ident::Namespace;
use crate::plan::Plan;
use crate::snapshot::Snapshot;
use std::collections::BTreeMap;

/// The gates that objects alone can answer, Certificates as far as it asks who believes whom. The
/// others ask what was measured.
pub const STATIC: [Gate; 5] =
    [Gate::Injection, Gate::DestinationRules, Gate::Policies, Gate::Certificates, Gate::Exposure];

/// What a gate of these says where nothing was measured, which is said once for all of them.
const UNMEASURED: Code = Code::CertificateUnknown;

/// What would become of a namespace.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Outlook {
    /// Every gate passes.
    Ready,
    /// It cannot be told: something is not known, or has not been seen for long enough.
    Undecided,
    /// Something would break, or is broken.
    Blocked,
}

/// All that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Preflight {
    /// Each namespace with servers in it.
    pub namespaces: Vec<Forecast>,
    /// What was found, the heaviest first; each once, by the first gate that found it.
    pub findings: Vec<(Gate, Finding)>,
}

/// What would become of one namespace, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Forecast {
    /// Which.
    pub name: Namespace,
    /// What would become of it.
    pub outlook: Outlook,
    /// The heaviest finding in words, or what has not been seen.
    pub why: String,
}

impl Preflight {
    /// Asks `gates` of every namespace that `chosen` admits and that is anybody's to change.
    /// `unseen` says what they leave open, if anything: where they find nothing, that is why it
    /// cannot be told.
    pub fn run(
        plan: &Plan,
        snapshot: &Snapshot,
        gates: &[Gate],
        unseen: Option<&str>,
        chosen: impl Fn(&Namespace) -> bool,
    ) -> Self {
        let mut namespaces = vec![];
        let mut found: BTreeMap<Finding, Gate> = BTreeMap::new();
        for (name, facts) in &snapshot.namespaces {
            let is_anybodys = !snapshot.is_forbidden(name, &plan.operator_namespace);
            if !chosen(name) || !is_anybodys || facts.servers().next().is_none() {
                continue;
            }
            let evaluation = Evaluation::run(plan, snapshot, facts);
            let mut worst: Option<&Finding> = None;
            for gate in gates {
                let said = |finding: &&Finding| unseen.is_none() || finding.code != UNMEASURED;
                for finding in evaluation.findings_of(*gate).iter().filter(said) {
                    // The first of the heaviest.
                    if finding.level >= Level::Hold
                        && worst.is_none_or(|worst| finding.level > worst.level)
                    {
                        worst = Some(finding);
                    }
                    found.entry(finding.clone()).or_insert(*gate);
                }
            }
            let (outlook, why) = match (worst, unseen) {
                (Some(worst), _) if worst.level == Level::Block => {
                    (Outlook::Blocked, worst.message.as_str())
                }
                (Some(worst), _) => (Outlook::Undecided, worst.message.as_str()),
                (None, Some(unseen)) => (Outlook::Undecided, unseen),
                (None, None) => {
                    (Outlook::Ready, "every gate passes now; a rollout asks for a soak as well")
                }
            };
            namespaces.push(Forecast { name: name.clone(), outlook, why: why.to_owned() });
        }
        let mut findings: Vec<_> =
            found.into_iter().map(|(finding, gate)| (gate, finding)).collect();
        findings.sort_by(|(_, a), (_, b)| b.level.cmp(&a.level).then_with(|| a.cmp(b)));
        Self { namespaces, findings }
    }

    /// What would become of all of them together.
    pub fn outlook(&self) -> Outlook {
        self.namespaces.iter().map(|one| one.outlook).max().unwrap_or(Outlook::Ready)
    }

    /// Something found weighs `level` or more.
    pub fn reaches(&self, level: Level) -> bool {
        self.findings.iter().any(|(_, finding)| finding.level >= level)
    }
}

impl Outlook {
    /// `Ready`, `Undecided`, `Blocked`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Undecided => "Undecided",
            Self::Blocked => "Blocked",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_tls::TlsMode;
    use crate::reading::Reading;
    use crate::testing::World;

    fn outlooks(world: &World, gates: &[Gate], unseen: Option<&str>) -> Vec<(String, Outlook)> {
        let (snapshot, _) = world.look();
        let preflight = Preflight::run(&world.plan, &snapshot, gates, unseen, |_| true);
        preflight.namespaces.into_iter().map(|one| (one.name.to_string(), one.outlook)).collect()
    }

    fn all(outlook: [Outlook; 3]) -> Vec<(String, Outlook)> {
        let names = ["catalog", "front", "orders"].map(str::to_owned);
        names.into_iter().zip(outlook).collect()
    }

    #[test]
    fn what_breaks_blocks_its_own_namespace_and_what_is_unseen_leaves_the_others_open() {
        use Outlook::{Blocked, Ready, Undecided};
        let mut world = World::shop();
        world.rule("front", "catalog.catalog.svc.cluster.local", TlsMode::Disable);
        let unseen = Some("traffic");
        assert_eq!(outlooks(&world, &STATIC, unseen), all([Blocked, Undecided, Undecided]));
        assert_eq!(outlooks(&world, &Gate::ALL, None), all([Blocked, Ready, Ready]));
        // Not heard of is not the same as silent.
        world.telemetry.mutual = Reading::Known(BTreeMap::new());
        assert_eq!(outlooks(&world, &Gate::ALL, None), all([Blocked, Undecided, Undecided]));
    }

    #[test]
    fn one_rule_that_misleads_clients_of_two_namespaces_is_found_once_for_each_host() {
        let mut world = World::shop();
        world.rule("front", "*.local", TlsMode::Disable);
        let (snapshot, _) = world.look();
        let run = |chosen: &str| {
            let chosen = Namespace::from(chosen);
            Preflight::run(&world.plan, &snapshot, &STATIC, None, |name| *name == chosen)
        };
        assert_eq!(run("catalog").findings.len(), 1);
        assert!(run("catalog").reaches(Level::Block));
        assert!(!run("nowhere").reaches(Level::Inform));
        assert_eq!(run("nowhere").outlook(), Outlook::Ready);
    }
}
