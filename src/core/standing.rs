//! Where one namespace stands: told by the policies that really are there, not by what was
//! remembered.

use crate::clearance::our_policy;
use crate::finding::{Code, Finding, Level, Subject};
use crate::gate::Evaluation;
use crate::gate::policy::{is_strict, ours, targets};
use crate::mode::Mode;
use crate::plan::Plan;
use crate::policy::{Ours, Policy, RolledBack};
use crate::progress::{Heard, Memory, Requests};
use crate::proxies::{self, late};
use crate::snapshot::Snapshot;
use crate::workload::NamespaceFacts;
use jiff::{SignedDuration, Timestamp};
use std::fmt::Write;

/// Where one namespace stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Its stage.
    pub stage: usize,
    /// Its place in the life of a rollout.
    pub state: State,
    /// What the gates say.
    pub evaluation: Evaluation,
    /// How long it is watched after STRICT: the longer of the bake it was switched under and that
    /// of the plan now. `None` without a stage to tell.
    pub bake: Option<SignedDuration>,
    /// Harm, drift and the like: what the gates do not know.
    pub findings: Vec<Finding>,
}

/// The life of a namespace.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum State {
    /// An earlier stage comes first.
    Pending,
    /// PERMISSIVE is about to be pinned.
    Preparing,
    /// The gates are asked again and again until they have held for the soak.
    Proving,
    /// Proven; a person has to approve.
    AwaitingApproval,
    /// Proven; STRICT is being written.
    Enforcing,
    /// STRICT, and watched for harm.
    Watching,
    /// STRICT, watched long enough; guarded from now on.
    Enforced,
    /// STRICT was taken back.
    RolledBack,
    /// A person must act.
    Blocked,
    /// STRICT already by somebody else's policy: nothing to write.
    Exempt,
}

impl State {
    /// Its name: a condition's reason, an event's, a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Preparing => "Preparing",
            Self::Proving => "Proving",
            Self::AwaitingApproval => "AwaitingApproval",
            Self::Enforcing => "Enforcing",
            Self::Watching => "Watching",
            Self::Enforced => "Enforced",
            Self::RolledBack => "RolledBack",
            Self::Blocked => "Blocked",
            Self::Exempt => "Exempt",
        }
    }

    /// Nothing more is to be done here.
    pub fn is_done(self) -> bool {
        match self {
            Self::Enforced | Self::Exempt => true,
            Self::Pending
            | Self::Preparing
            | Self::Proving
            | Self::AwaitingApproval
            | Self::Enforcing
            | Self::Watching
            | Self::RolledBack
            | Self::Blocked => false,
        }
    }
}

impl Standing {
    /// Something is found that would hold it.
    pub fn is_held(&self) -> bool {
        let mut findings = self.findings.iter();
        !self.evaluation.obstacles().is_empty() || findings.any(|found| found.level >= Level::Hold)
    }
}

/// Where a namespace stands, told by the policies that really are there.
pub(crate) fn stand(
    plan: &Plan,
    snapshot: &Snapshot,
    facts: &NamespaceFacts,
    stage: usize,
    memory: &Memory,
    requests: &Requests,
) -> Standing {
    let evaluation = Evaluation::run(plan, snapshot, facts);
    let mut findings = vec![];
    let state = match our_policy(plan, snapshot, &facts.name) {
        // What is watched is taken back on harm, whatever another hand put around our STRICT.
        Some(policy) if policy.has_drifted() && !(policy.is_our_strict() && is_baking(memory)) => {
            State::Blocked
        }
        Some(Policy { ours: Some(ours), .. }) => {
            let retry = requests.retry.as_ref();
            let retried = retry.and_then(|retry| retry.forgives_until(plan.timing.max_skew));
            let state = written(ours, memory, retried);
            if let (State::RolledBack, Some(back)) = (state, &ours.rolled_back) {
                let in_vain = retry.filter(|_| retried.is_none());
                findings.extend(taken_back(plan, snapshot, facts, back, in_vain));
            }
            state
        }
        Some(_) | None if memory.bake.is_some() => {
            findings.push(
                Finding::new(
                    Code::PolicyDrifted,
                    Subject::new("PeerAuthentication", &facts.name, "default"),
                    format!("our policy in {} was deleted; we do not fight", facts.name),
                )
                .remedy(format!(
                    "agree with whoever deleted it; then: kubectl meshrollout retry {}",
                    plan.name
                )),
            );
            State::Blocked
        }
        Some(_) | None => unwritten(snapshot, facts, &evaluation, &mut findings),
    };
    let bake = bake(plan, snapshot, facts, stage);
    Standing { stage, state, evaluation, bake, findings }
}

fn is_baking(memory: &Memory) -> bool {
    memory.bake.is_none_or(|bake| !bake.complete)
}

/// An edit does not shorten what is under way; it may make it longer.
fn bake(
    plan: &Plan,
    snapshot: &Snapshot,
    facts: &NamespaceFacts,
    stage: usize,
) -> Option<SignedDuration> {
    let ours = our_policy(plan, snapshot, &facts.name).and_then(|policy| policy.ours.as_ref());
    let noted = ours.and_then(|ours| ours.bake);
    let planned = plan.stages.get(stage).map(|stage| stage.bake);
    // One that left the plan before bakes were noted takes the last stage's.
    noted.max(planned).or_else(|| plan.stages.last().map(|stage| stage.bake))
}

fn written(ours: &Ours, memory: &Memory, retried_at: Option<Timestamp>) -> State {
    match (ours.strict_since, &ours.rolled_back) {
        (Some(since), _) => {
            let done = memory.bake.is_some_and(|bake| bake.complete && bake.strict_since == since);
            if done { State::Enforced } else { State::Watching }
        }
        (None, Some(back)) if retried_at.is_none_or(|retried| retried < back.at) => {
            State::RolledBack
        }
        (None, _) => State::Proving,
    }
}

/// Why STRICT was taken back, and whether that took effect: every server must accept plaintext
/// again, whatever other policies say.
fn taken_back(
    plan: &Plan,
    snapshot: &Snapshot,
    facts: &NamespaceFacts,
    back: &RolledBack,
    in_vain: Option<&Heard>,
) -> Vec<Finding> {
    let mut said = format!("rolled back at {:.0}: {}", back.at, back.because);
    if let Some(Heard { value, .. }) = in_vain {
        let _ =
            write!(said, "; the retry {value:?} is no time that has come, and forgives nothing");
    }
    let why = Finding::new(Code::HarmAfterStrict, Subject::namespace(&facts.name), said)
        .remedy(format!("mend it, then: kubectl meshrollout retry {}", plan.name));
    let still = targets(facts).into_iter().find_map(|target| {
        let effective = target.mode(&snapshot.policies);
        let effective = effective.known().filter(|it| it.mode == Mode::Strict)?;
        let by = effective.decided_by.policy().map_or("a policy".to_owned(), |policy| {
            format!("peerauthentication {}/{}", policy.namespace, policy.name)
        });
        Some(
            Finding::new(
                Code::RollbackNotEffective,
                target.workload,
                format!(
                    "{} is rolled back, yet {} is still STRICT by {by}",
                    facts.name, target.workload
                ),
            )
            .remedy(format!("change or delete {by}")),
        )
    });
    let unheard = unheard(snapshot, facts).or_else(|| untaken(plan, snapshot, facts, back));
    std::iter::once(why).chain(still).chain(unheard).collect()
}

/// The sidecars that have not taken it go on refusing.
fn untaken(
    plan: &Plan,
    snapshot: &Snapshot,
    facts: &NamespaceFacts,
    back: &RolledBack,
) -> Option<Finding> {
    if snapshot.at.duration_since(back.at) <= plan.timing.acknowledgement {
        return None;
    }
    let late = late(snapshot, facts, back.at);
    let found = proxies::finding(facts, late.known()?, "the rollback was not taken")?;
    Some(Finding { code: Code::RollbackNotEffective, ..found })
}

/// With no control plane the proxies go on refusing plaintext, whatever the policies say.
fn unheard(snapshot: &Snapshot, facts: &NamespaceFacts) -> Option<Finding> {
    let plane = snapshot.telemetry.control_plane.known()?;
    let root = snapshot.policies.root();
    (plane.instances == 0).then(|| {
        Finding::new(
            Code::RollbackNotEffective,
            Subject::istiod(),
            format!(
                "{} is rolled back, yet istiod is down: its proxies are STRICT until it is up again",
                facts.name
            ),
        )
        .remedy(format!("kubectl rollout restart deployment istiod -n {root}"))
    })
}

/// Nothing of ours stands there. A pin may change no effective mode (S3).
fn unwritten(
    snapshot: &Snapshot,
    facts: &NamespaceFacts,
    evaluation: &Evaluation,
    findings: &mut Vec<Finding>,
) -> State {
    if [Code::PolicyOwnedByOther, Code::AnotherRolloutOwns].iter().any(|code| evaluation.has(*code))
    {
        return State::Blocked;
    }
    if is_strict(&snapshot.policies, facts) {
        findings.push(
            Finding::new(
                Code::StrictWithoutProof,
                Subject::namespace(&facts.name),
                format!("{} is STRICT already by a policy we did not write or prove", facts.name),
            )
            .at(Level::Warn),
        );
        return State::Exempt;
    }
    if pin_is_harmless(snapshot, facts) {
        return State::Preparing;
    }
    let inherited = snapshot.policies.service_guess(&facts.name, None);
    if let (Some(cause), false) = (inherited.cause(), evaluation.has(Code::EffectiveModeUnknown)) {
        findings.push(
            Finding::new(
                Code::EffectiveModeUnknown,
                Subject::namespace(&facts.name),
                format!("the mode in force in {} is not known: {cause}", facts.name),
            )
            .remedy("let both say the same, or give the namespace a policy of its own"),
        );
    }
    State::Blocked
}

/// With our PERMISSIVE added, every server's mode stays exactly what it is.
pub(crate) fn pin_is_harmless(snapshot: &Snapshot, facts: &NamespaceFacts) -> bool {
    let after = snapshot.policies.with(ours(snapshot, facts, Mode::Permissive));
    let guess = |policies: &crate::effective::Policies| {
        policies.service_guess(&facts.name, None).known().map(|guess| guess.mode)
    };
    guess(&snapshot.policies) == Some(Mode::Permissive)
        && targets(facts).iter().all(|target| {
            let mode = |policies| target.mode(policies).known().map(|now| now.mode);
            mode(&snapshot.policies).is_some() && mode(&snapshot.policies) == mode(&after)
        })
}
