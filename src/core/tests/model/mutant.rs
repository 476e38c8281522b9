//! Mistakes of the shell or of a gate, planted to see that the properties bite.

use crate::event::How;
use crate::state::{Kind, State, Trouble, Write};
use crate::theme::Theme;
use crate::world::{ROOT, approval, length, merge, shop};
use jiff::Timestamp;
use meshrollout_core::ident::Uid;
use meshrollout_core::mode::{Declared, Mode};
use meshrollout_core::plan::{Existing, Mission, Trigger};
use meshrollout_core::policy::{OUR_NAME, Policy};
use meshrollout_core::progress::{Progress, Requests, Soak};
use meshrollout_core::reading::Reading;
use meshrollout_core::snapshot::Source;
use meshrollout_core::terms::Terms;
use meshrollout_core::testing::{SHOP, World, at, seconds};

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub(crate) enum Mutant {
            /// No mistake.
            None,
            /// The gate that sees it is off, or is shown another world.
            Blind(Trouble),
            $($(#[$doc])* $name,)+
        }

        impl Mutant {
            pub(crate) fn all() -> impl Iterator<Item = Self> {
                Trouble::ALL.into_iter().map(Self::Blind).chain([$(Self::$name),+])
            }
        }
    };
}

mutants! {
    /// What the source does not say is read as nothing.
    UnknownReadAsNone,
    PauseIgnored,
    ObserverWrites,
    EverythingIsQuorum,
    HarmIgnored,
    SoftHarmIgnored,
    RetriesUnasked,
    /// Whatever is rolled back before the visit after it, and whenever it was asked.
    RetryForgivesItsOwnVisit,
    AbortForgotten,
    AbortTakesAll,
    RollbackForgotten,
    RequestsForgotten,
    OneBigStage,
    PlanOfTheFirstDay,
    SoakForged,
    SoakAcrossEdits,
    SoakAcrossGaps,
    BakeForged,
    BakeOfThePlanAlone,
    BakeOfTheNoteAlone,
    BakeAcrossGaps,
    BlindBakeCounts,
    SuspicionsForgotten,
    NothingRemembered,
    LeaversUnwatched,
    ReachedIsWeakened,
    DriftUnseen,
    DeletionFought,
    AdoptsUnasked,
    AdoptionForgotten,
    PreviousForgotten,
    BackupTrusted,
    FenceOff,
    EpochNotRaised,
    PreconditionDropped,
    MarkLost,
    EvidenceLost,
    ReasonLost,
    NotSigned,
    RollbackNeedsMetrics,
    RollbackNeedsGates,
    RollbackNeedsMemory,
    RollbackNeedsTheMesh,
    RollbackWaitsWhilePaused,
    RollbackDisables,
    RootUnknown,
    MeshUnreadIgnored,
    MeshStrictUnseen,
    RestoresUnasked,
    RestoreMakesStrict,
    RollsBackAgain,
    NothingWritten,
    ApprovalUnasked,
    ApprovalOfAnotherPlan,
    ApprovalOfAnotherStage,
    WithdrawalUnheard,
    ApprovalUnheard,
}

impl Mutant {
    /// Where it shows.
    pub(crate) fn theme(self) -> Theme {
        match self {
            Self::ApprovalUnasked
            | Self::ApprovalOfAnotherPlan
            | Self::ApprovalOfAnotherStage
            | Self::WithdrawalUnheard
            | Self::ApprovalUnheard => Theme::Approvals,
            Self::BakeAcrossGaps
            | Self::BakeOfTheNoteAlone
            | Self::BakeOfThePlanAlone
            | Self::LeaversUnwatched
            | Self::RollbackNeedsTheMesh
            | Self::RollbackWaitsWhilePaused => Theme::Harm,
            Self::BlindBakeCounts
            | Self::RequestsForgotten
            | Self::RetryForgivesItsOwnVisit
            | Self::RollbackNeedsMetrics => Theme::Words,
            _ => Theme::All,
        }
    }

    /// The trouble that no gate sees.
    pub(crate) fn hidden(self) -> Option<Trouble> {
        match self {
            Self::Blind(trouble) => Some(trouble),
            _ => None,
        }
    }

    /// Mistakes in what the core is shown.
    pub(crate) fn shows(self, state: &State, how: How, world: &mut World) {
        let now = at(world.now);
        let plan = &mut world.plan;
        match self {
            Self::UnknownReadAsNone if !state.source_up => world.telemetry = shop().telemetry,
            Self::PauseIgnored => plan.paused = false,
            Self::ObserverWrites => plan.action = Mission::Enforce,
            Self::EverythingIsQuorum => world.snapshot.source = Source::Quorum,
            Self::HarmIgnored => plan.rollback = Trigger::Manual,
            Self::SoftHarmIgnored => {
                if let Reading::Known(edges) = &mut world.telemetry.edges {
                    edges.iter_mut().for_each(|edge| edge.errors.0.clear());
                }
            }
            Self::RetriesUnasked => plan.asked.retry = Some(now.to_string()),
            Self::RetryForgivesItsOwnVisit => {
                // By a clock that is so far ahead that the hearing counts.
                if let Some(asked) = &mut plan.asked.retry {
                    let time: Timestamp = asked.parse().unwrap();
                    *asked = (time + seconds(1800)).to_string();
                }
            }
            Self::AbortForgotten => plan.asked.abort = None,
            Self::AbortTakesAll => plan.asked.rollback = plan.asked.abort.clone(),
            Self::RollbackForgotten => plan.asked.rollback = None,
            Self::OneBigStage => merge(&mut plan.stages),
            Self::PlanOfTheFirstDay => {
                plan.stages = shop().plan.stages;
                for stage in &mut plan.stages {
                    stage.soak = length(crate::state::SOAK);
                    stage.bake = length(crate::state::BAKE);
                }
            }
            Self::BakeOfTheNoteAlone => {
                for place in (0..SHOP.len()).filter(|place| state.places[*place].is_strict()) {
                    let stage = state.stage(place).and_then(|stage| plan.stages.get_mut(stage));
                    stage.into_iter().for_each(|stage| stage.bake = seconds(0));
                }
            }
            Self::ApprovalUnasked => {
                plan.stages.iter_mut().for_each(|stage| stage.needs_approval = false);
            }
            Self::ApprovalUnheard => plan.approvals.clear(),
            Self::ApprovalOfAnotherPlan => {
                let hash = plan.hash();
                plan.approvals.iter_mut().for_each(|one| one.plan_hash.clone_from(&hash));
            }
            Self::ApprovalOfAnotherStage => {
                let last = plan.stages.last().map(|stage| stage.name.clone()).unwrap_or_default();
                plan.approvals.iter_mut().for_each(|one| one.stage.clone_from(&last));
            }
            Self::WithdrawalUnheard => {
                plan.approvals =
                    state.wishes.approved.map(|one| approval(plan, one)).into_iter().collect();
            }
            Self::AdoptsUnasked => plan.existing = Existing::Adopt,
            Self::RootUnknown => {
                if let Reading::Known(mesh) = &mut world.snapshot.mesh {
                    mesh.roots.truncate(1);
                }
            }
            Self::MeshUnreadIgnored if how == How::WithoutMesh => {
                world.snapshot.mesh = shop().snapshot.mesh;
            }
            Self::MeshStrictUnseen => {
                world.snapshot.policies = world.snapshot.policies.without(&ROOT.into(), OUR_NAME);
            }
            Self::BakeOfThePlanAlone => policies(world, |policy| {
                policy.ours.iter_mut().for_each(|ours| ours.bake = None);
            }),
            Self::BackupTrusted => policies(world, |policy| {
                let place = SHOP.iter().position(|name| *name == policy.namespace.as_str());
                let ours = policy.ours.iter_mut().zip(place);
                ours.for_each(|(ours, place)| ours.namespace_uid = state.uid(place));
            }),
            Self::DriftUnseen => policies(world, |policy| {
                let wrote = policy.mode_we_wrote();
                wrote.into_iter().for_each(|mode| policy.mode = Declared::Mode(mode));
            }),
            _ => self.recalls(state, world),
        }
    }

    /// Mistakes in what the core is told that it remembers.
    fn recalls(self, state: &State, world: &mut World) {
        let now = at(world.now);
        let terms = world.plan.stages.first().map(|stage| Terms::of(&world.plan, stage));
        match self {
            Self::RequestsForgotten => world.progress.requests = Requests::default(),
            Self::NothingRemembered => world.progress = Progress::default(),
            Self::LeaversUnwatched => world.progress.namespaces.retain(|name, _| {
                let place = SHOP.iter().position(|one| *one == name.as_str());
                place.is_some_and(|place| state.stage(place).is_some())
            }),
            _ => {}
        }
        for (name, memory) in &mut world.progress.namespaces {
            let Some(place) = SHOP.iter().position(|one| *one == name.as_str()) else { continue };
            let place = &state.places[place];
            match (self, &mut memory.soak, &mut memory.bake, terms) {
                (Self::SoakForged, soak, _, Some(terms)) => {
                    *soak = Some(Soak { since: at(-100), last: now, terms });
                }
                (Self::SoakAcrossEdits, Some(soak), _, Some(terms)) => soak.terms = terms,
                (Self::SoakAcrossGaps, Some(soak), _, _) => soak.last = now,
                (Self::BakeForged, _, Some(bake), _) => bake.complete = true,
                (Self::BakeAcrossGaps, _, Some(bake), _) if state.away => {
                    bake.last = bake.last.max(now - world.plan.timing.max_gap());
                }
                (Self::BlindBakeCounts, _, Some(bake), _) if !state.source_up => {
                    bake.covered += length(1);
                }
                (Self::SuspicionsForgotten, _, Some(bake), _) => bake.suspected = None,
                (Self::ReachedIsWeakened, _, Some(bake), _) if place.harm.is_some() => {
                    bake.complete = false;
                }
                (Self::DeletionFought, _, bake, _) if place.policy.is_none() => *bake = None,
                _ => {}
            }
        }
    }

    /// Mistakes in what is sent.
    pub(crate) fn sends(self, state: &State, how: How, writes: &mut Vec<Write>) {
        let remembers = |place: usize| {
            let memory = state.progress.namespaces.get(&SHOP[place].into());
            memory.is_some_and(|memory| memory.bake.is_some())
        };
        writes.retain(|write| {
            let here = &state.places[write.place];
            let lost = match self {
                Self::RollbackNeedsMetrics => !state.source_up,
                Self::RollbackNeedsGates => here.trouble.is_some(),
                Self::RollbackNeedsMemory => !remembers(write.place),
                Self::RollbackNeedsTheMesh => how == How::WithoutMesh,
                Self::RollbackWaitsWhilePaused => state.wishes.paused,
                _ => false,
            };
            self != Self::NothingWritten && !(lost && write.kind == Kind::Back)
        });
        for write in writes.iter_mut() {
            match (self, write.kind) {
                (Self::AdoptionForgotten, Kind::Adopt) => write.ours.adopted = None,
                (Self::PreviousForgotten, _) => write.ours.previous = Mode::Strict,
                (Self::MarkLost, Kind::Back) => write.ours.rolled_back = None,
                (Self::EvidenceLost, _) => write.evidence.clear(),
                (Self::ReasonLost, Kind::Back) => {
                    write.ours.rolled_back.iter_mut().for_each(|back| back.because.clear());
                }
                (Self::NotSigned, _) => write.ours.rollout_uid = Uid::new(""),
                (Self::RollbackDisables, Kind::Back) => write.mode = Mode::Disable,
                (Self::RestoreMakesStrict, Kind::GiveBack) => write.mode = Mode::Strict,
                _ => {}
            }
        }
        if self == Self::RollsBackAgain && writes.is_empty() {
            writes.extend((0..SHOP.len()).filter_map(|place| again(state, place)));
        }
    }

    /// Mistakes in what is stored.
    pub(crate) fn keeps(self, state: &State, mut progress: Progress) -> Progress {
        if self == Self::RetryForgivesItsOwnVisit
            && progress.requests.retry != state.progress.requests.retry
        {
            progress.requests.retry.iter_mut().for_each(|retry| retry.at = at(state.now() + 1));
        }
        progress
    }
}

/// The rollback that was made already.
fn again(state: &State, place: usize) -> Option<Write> {
    let held = state.places[place].policy.as_ref()?;
    Some(Write {
        place,
        kind: Kind::Back,
        mode: held.mode,
        ours: held.ours.clone().filter(|ours| ours.rolled_back.is_some())?,
        evidence: String::new(),
        asked_for: false,
        stamp: state.reign,
    })
}

fn policies(world: &mut World, edit: impl Fn(&mut Policy)) {
    for name in SHOP {
        if let Some(mut policy) = world.policy(&name.into()).cloned() {
            edit(&mut policy);
            world.snapshot.policies = world.snapshot.policies.with(policy);
        }
    }
}
