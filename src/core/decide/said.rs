//! What a decision says when it is asked: where the rollout stands, and what stops it.

use super::{Decision, Standing, State};
use crate::finding::{Code, Finding, Level};
use crate::ident::Namespace;
use crate::plan::Plan;

impl Decision {
    /// The namespace that is proven alone, because its stage was finished before it came.
    pub fn newcomer(&self, plan: &Plan) -> Option<(&Namespace, &Standing)> {
        let current = self.current_stage?;
        let stage = plan.stages.get(current)?;
        let proven = |state| match state {
            State::Preparing | State::Proving | State::AwaitingApproval | State::Enforcing => true,
            State::Pending
            | State::Watching
            | State::Enforced
            | State::RolledBack
            | State::Blocked
            | State::Exempt => false,
        };
        self.namespaces
            .iter()
            .filter(|_| self.progress.finished.contains(&stage.name))
            .find(|(_, one)| one.stage == current && proven(one.state))
    }

    /// The namespaces whose next step is STRICT.
    pub fn enforcing(&self) -> impl Iterator<Item = &Namespace> {
        self.being(State::Enforcing)
    }

    /// The namespaces that are STRICT and watched for harm.
    pub fn watching(&self) -> impl Iterator<Item = &Namespace> {
        self.being(State::Watching)
    }

    fn being(&self, state: State) -> impl Iterator<Item = &Namespace> {
        let here = self.namespaces.iter().filter(move |(_, standing)| standing.state == state);
        here.map(|(name, _)| name)
    }

    /// The findings that stop the rollout now, the heaviest first.
    pub fn obstacles(&self) -> Vec<&Finding> {
        let mut all: Vec<_> = self.refused.iter().collect();
        for standing in self.namespaces.values() {
            // A later stage's findings are its team's report, not yet an obstacle.
            if Some(standing.stage) == self.current_stage || standing.state == State::Enforced {
                all.extend(standing.evaluation.obstacles());
                all.extend(standing.findings.iter().filter(|found| found.level >= Level::Hold));
            }
        }
        all.sort_by(|a, b| b.level.cmp(&a.level).then_with(|| a.cmp(b)));
        all.dedup();
        all
    }

    /// Something that is Enforced would break, or broke.
    pub fn is_threatened(&self) -> bool {
        let enforced = self.namespaces.values().filter(|one| one.state == State::Enforced);
        enforced.into_iter().any(Standing::is_held)
    }

    /// Every namespace is done and nothing threatens it.
    pub fn is_complete(&self) -> bool {
        self.refused.is_empty()
            && self.current_stage.is_none()
            && !self.namespaces.is_empty()
            && self.obstacles().is_empty()
            && !self
                .namespaces
                .values()
                .any(|one| one.evaluation.warns_of(Code::LooserPolicyRemains))
    }
}
