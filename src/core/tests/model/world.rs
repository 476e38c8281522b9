//! The state as the real `decide` is shown it: a plan, a snapshot and a clock.

use crate::event::How;
use crate::state::{Approved, Harm, Held, INTERVAL, Layout, State, Trouble, Words};
use jiff::SignedDuration;
use meshrollout_core::client_tls::TlsMode;
use meshrollout_core::exposure::Caller;
use meshrollout_core::ident::{Namespace, PodRef};
use meshrollout_core::mode::Mode;
use meshrollout_core::plan::{Approval, Existing, Mission, Plan, Stage, Targets};
use meshrollout_core::policy::{FIELD_MANAGER, OUR_NAME, Policy};
use meshrollout_core::reading::{Cause, Reading};
use meshrollout_core::snapshot::Source;
use meshrollout_core::testing::{SHOP, World, at, seconds};
use meshrollout_core::workload::Proxy;
use std::sync::OnceLock;

pub(crate) const ROOT: &str = "istio-system";

/// So many intervals.
pub(crate) fn length(intervals: u8) -> SignedDuration {
    seconds(i64::from(intervals) * INTERVAL)
}

/// The shop before anything has happened.
pub(crate) fn shop() -> World {
    static SHOP: OnceLock<World> = OnceLock::new();
    SHOP.get_or_init(World::shop).clone()
}

impl State {
    /// What a visit sees; one kind of trouble may be hidden from it.
    pub(crate) fn world(&self, how: How, hidden: Option<Trouble>) -> World {
        let mut world = shop();
        world.now = self.now();
        world.progress = self.progress.clone();
        self.plan(&mut world);
        if how == How::OnWatches {
            world.snapshot.source = Source::Watches;
        }
        if self.mesh_strict {
            world.set_policy(ROOT, OUR_NAME, Mode::Strict, None);
        }
        for (index, place) in self.places.iter().enumerate() {
            let name = SHOP[index];
            if place.age > 0 {
                world.edit(name, |facts| facts.uid = self.uid(index));
            }
            if let Some(held) = &place.policy {
                stand(&mut world, name, held);
            }
            match place.harm {
                Some(Harm::Hard) => world.failures(name, 2.0),
                Some(Harm::Soft) => errors(&mut world, name),
                None => {}
            }
        }
        for (index, place) in self.places.iter().enumerate() {
            if let Some(trouble) = place.trouble.filter(|trouble| Some(*trouble) != hidden) {
                trouble.happen(&mut world, SHOP[index]);
            }
        }
        if let Reading::Known(mesh) = &mut world.snapshot.mesh
            && self.rooted
        {
            mesh.roots.push(SHOP[0].into());
            let policies = world.snapshot.policies.clone();
            world.snapshot.policies = policies.with_further_roots([SHOP[0].into()]);
        }
        if how == How::WithoutMesh {
            world.snapshot.mesh = Reading::Unknown(Cause::NotRead("ConfigMap istio".into()));
        }
        if !self.source_up {
            let down = || Cause::SourceUnavailable("down".into());
            world.telemetry.callers = Reading::Unknown(down());
            world.telemetry.edges = Reading::Unknown(down());
        }
        world
    }

    fn plan(&self, world: &mut World) {
        let wishes = &self.wishes;
        let plan = &mut world.plan;
        plan.paused = wishes.paused;
        plan.action = if wishes.observe { Mission::Observe } else { Mission::Enforce };
        plan.existing = if wishes.adopt { Existing::Adopt } else { Existing::Refuse };
        let asked = |time: Option<i64>| time.map(|time| at(time).to_string());
        plan.asked.abort = asked(wishes.abort);
        plan.asked.retry = asked(wishes.retry);
        plan.asked.rollback = asked(wishes.rollback);
        plan.stages = stages(std::mem::take(&mut plan.stages), self.words(), wishes.asks);
        let shown = wishes.approved.filter(|one| !one.withdrawn);
        plan.approvals = shown.map(|one| approval(plan, one)).into_iter().collect();
    }
}

/// The shop's stages under these words.
fn stages(mut stages: Vec<Stage>, words: Words, asks: bool) -> Vec<Stage> {
    match words.layout {
        Layout::OneEach => {}
        Layout::Swapped => stages.reverse(),
        Layout::Merged => merge(&mut stages),
        Layout::Left => drop(stages.remove(0)),
    }
    for stage in &mut stages {
        stage.soak = length(words.soak);
        stage.bake = length(words.bake);
    }
    stages.last_mut().into_iter().for_each(|last| last.needs_approval = asks);
    stages
}

/// What a person approved, as it is stored: the stage's name, and the hash of the plan of then.
pub(crate) fn approval(plan: &Plan, approved: Approved) -> Approval {
    let stages = stages(shop().plan.stages, approved.words, true);
    let stage = stages[approved.stage].name.clone();
    Approval { stage, plan_hash: Plan { stages, ..plan.clone() }.hash() }
}

/// Both namespaces in one stage.
pub(crate) fn merge(stages: &mut Vec<Stage>) {
    stages.truncate(1);
    if let Some(stage) = stages.first_mut() {
        stage.targets = Targets::Named(SHOP.map(Namespace::from).into());
    }
}

fn stand(world: &mut World, name: &str, held: &Held) {
    world.set_policy(name, OUR_NAME, held.mode, held.ours.clone());
    if let Some(policy) = world.policy(&name.into())
        && held.theirs
        && held.ours.is_some()
    {
        let managers = vec!["kubectl".into(), FIELD_MANAGER.into()];
        let adopted = Policy { managers, ..policy.clone() };
        world.snapshot.policies = world.snapshot.policies.with(adopted);
    }
}

/// Half of what is asked of `name` is answered with 5xx in the current window; nothing was in the
/// one before, in which the switch may have fallen.
fn errors(world: &mut World, name: &str) {
    world.now -= 1;
    world.answers_of_5xx(name, 0.0);
    world.now += 1;
    world.answers_of_5xx(name, 50.0);
}

impl Trouble {
    pub(crate) const ALL: [Self; meshrollout_core::gate::Gate::ALL.len()] = [
        Self::PodWithoutSidecar,
        Self::Plaintext,
        Self::PodUnseen,
        Self::RuleTurnsTlsOff,
        Self::OlderPolicy,
        Self::CertificateEnds,
        Self::ControlPlaneDown,
        Self::WebhookServed,
        Self::NothingWouldShowHarm,
    ];

    fn happen(self, world: &mut World, name: &str) {
        let namespace = Namespace::from(name);
        let first = PodRef { namespace: namespace.clone(), name: format!("{name}-5d8f-00000") };
        let telemetry = &mut world.telemetry;
        match self {
            Self::PodWithoutSidecar => world.edit(name, |facts| {
                let pods = facts.workloads.values_mut().flat_map(|one| one.pods.iter_mut());
                pods.take(1).for_each(|pod| pod.proxy = Proxy::None);
            }),
            Self::Plaintext => {
                let known = telemetry.callers.known().cloned().unwrap_or_default();
                world.plaintext(Some(("legacy", "batch")), name);
                if let Reading::Known(callers) = &mut world.telemetry.callers {
                    callers.extend(known);
                }
            }
            Self::PodUnseen => {
                if let Reading::Known(presence) = &mut telemetry.presence {
                    presence.remove(&first);
                }
            }
            Self::RuleTurnsTlsOff => {
                world.rule("front", &format!("{name}.{name}.svc.cluster.local"), TlsMode::Disable);
            }
            // Of the same second as ours: the name decides.
            Self::OlderPolicy => world.set_policy(name, "a-first", Mode::Permissive, None),
            Self::CertificateEnds => {
                if let Reading::Known(all) = &mut telemetry.certificates
                    && let Some(certificate) = all.get_mut(&first)
                {
                    certificate.remaining = SignedDuration::from_mins(5);
                }
            }
            Self::ControlPlaneDown => {
                if let Reading::Known(plane) = &mut telemetry.control_plane {
                    plane.instances = 0;
                }
            }
            Self::WebhookServed => world.entrance(Caller::Admission, name),
            Self::NothingWouldShowHarm => {
                if let Reading::Known(refusals) = &mut telemetry.refusals {
                    refusals.retain(|pod, _| pod.namespace != namespace);
                }
                if let Reading::Known(edges) = &mut telemetry.edges {
                    edges.retain(|edge| edge.destination.as_ref() != Some(&namespace));
                }
            }
        }
    }
}

/// The bake of the plan for a namespace, now.
pub(crate) fn planned(state: &State, place: usize) -> Option<u8> {
    state.stage(place).map(|_| state.wishes.bake)
}
