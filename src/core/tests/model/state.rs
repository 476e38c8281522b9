//! What there is: a cluster of two namespaces, the people's wishes, what the operator remembers,
//! and the model's own truth, which asks neither the gates nor the operator.

use crate::statement::Broken;
use meshrollout_core::ident::Uid;
use meshrollout_core::mode::Mode;
use meshrollout_core::policy::Ours;
use meshrollout_core::progress::Progress;
use meshrollout_core::testing::SHOP;

/// Seconds between two visits.
pub(crate) const INTERVAL: i64 = 30;
/// The soak and the bake that a plan begins with, in intervals.
pub(crate) const SOAK: u8 = 1;
pub(crate) const BAKE: u8 = 1;
/// A gap of more intervals than this breaks a soak, and a bake stands still in it.
pub(crate) const GAP: u8 = 3;

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct State {
    /// What a leader finds in the stored status.
    pub(crate) progress: Progress,
    pub(crate) places: [Place; 2],
    pub(crate) wishes: Wishes,
    pub(crate) source_up: bool,
    /// Somebody made the whole mesh STRICT.
    pub(crate) mesh_strict: bool,
    /// The first namespace has become a root of the mesh.
    pub(crate) rooted: bool,
    /// Nobody has visited for longer than a soak may pause.
    pub(crate) away: bool,
    /// The soak that the last visit was asked for: what was proven under other words is not proven.
    pub(crate) soaked: u8,
    /// The epoch of the leader.
    pub(crate) reign: u8,
    /// A write of a deposed leader that is still on its way.
    pub(crate) late: Option<Late>,
    /// Visits made: the clock.
    pub(crate) visits: u8,
    pub(crate) fuel: u8,
    /// All faults have stopped.
    pub(crate) mended: bool,
    /// The last visit found everything at rest, and nothing has happened since.
    pub(crate) resting: bool,
    /// What the last step brought about, for the properties that say "sometimes".
    pub(crate) happened: Happened,
    pub(crate) broken: Broken,
}

/// A namespace.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Place {
    /// How often it was made again.
    pub(crate) age: u8,
    /// The policy named `default` in it.
    pub(crate) policy: Option<Held>,
    /// What would make STRICT an outage.
    pub(crate) trouble: Option<Trouble>,
    /// What a client suffers since the switch.
    pub(crate) harm: Option<Harm>,
    /// The first of an unbroken row of visits that could see that nothing is in the way.
    pub(crate) calm: Option<u8>,
    pub(crate) watched: Watched,
    /// The bake of the plan when it was switched.
    pub(crate) noted: u8,
    /// The last look at it saw soft harm.
    pub(crate) suspected: bool,
    /// A visit that is remembered has seen it STRICT, or taken back.
    pub(crate) seen: bool,
    /// Its STRICT was taken back, and nobody has asked for a retry since.
    pub(crate) taken_back: bool,
    /// Another hand deleted our STRICT, or its mark, and nobody has asked for a retry since.
    pub(crate) deleted: bool,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Held {
    pub(crate) mode: Mode,
    pub(crate) ours: Option<Ours>,
    /// Somebody else made it.
    pub(crate) theirs: bool,
    /// Another hand has changed it since we wrote.
    pub(crate) edited: bool,
    /// The mode in force before we came.
    pub(crate) before: Mode,
}

/// How long a switch has been watched, in intervals with evidence.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Watched {
    NotYet,
    For(u8),
    Enough,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Wishes {
    pub(crate) layout: Layout,
    pub(crate) soak: u8,
    pub(crate) bake: u8,
    pub(crate) observe: bool,
    pub(crate) paused: bool,
    pub(crate) adopt: bool,
    /// When it was asked, in seconds of the model's clock.
    pub(crate) abort: Option<i64>,
    pub(crate) retry: Option<i64>,
    pub(crate) rollback: Option<i64>,
    /// The last stage waits for a person who approves.
    pub(crate) asks: bool,
    pub(crate) approved: Option<Approved>,
    /// The abort was heard when nothing was left to do.
    pub(crate) abort_is_void: bool,
    pub(crate) gone: Gone,
}

/// An approval: of a stage, under the words that the plan had then.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Approved {
    pub(crate) stage: usize,
    pub(crate) words: Words,
    /// It was taken back.
    pub(crate) withdrawn: bool,
}

/// What an approval is bound to: the stages, their soak and their bake.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Words {
    pub(crate) layout: Layout,
    pub(crate) soak: u8,
    pub(crate) bake: u8,
}

/// Which stage covers which namespace.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Layout {
    OneEach,
    Swapped,
    Merged,
    /// The first namespace has left the plan.
    Left,
}

impl Layout {
    /// The index of the last stage.
    pub(crate) fn last(self) -> usize {
        match self {
            Self::OneEach | Self::Swapped => 1,
            Self::Merged | Self::Left => 0,
        }
    }
}

/// Whether the rollout was deleted.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Gone {
    No,
    Kept,
    Restore,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Harm {
    Hard,
    Soft,
}

/// One for each gate: only that gate can see it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Trouble {
    PodWithoutSidecar,
    Plaintext,
    PodUnseen,
    RuleTurnsTlsOff,
    OlderPolicy,
    CertificateEnds,
    ControlPlaneDown,
    WebhookServed,
    NothingWouldShowHarm,
}

/// One write, as it travels to the apiserver.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Write {
    pub(crate) place: usize,
    pub(crate) kind: Kind,
    pub(crate) mode: Mode,
    pub(crate) ours: Ours,
    pub(crate) evidence: String,
    pub(crate) asked_for: bool,
    /// The epoch of whoever sent it.
    pub(crate) stamp: u8,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Kind {
    Pin,
    Adopt,
    Strict,
    Back,
    /// Ours is deleted.
    Delete,
    /// What was adopted is given back.
    GiveBack,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Late {
    pub(crate) write: Write,
    /// The policy it was decided on is not what stands there any more.
    pub(crate) outdated: bool,
}

/// What a step brought about.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Happened(pub(crate) u32);

impl Happened {
    pub(crate) const HARM_UNDONE: u32 = 1;
    pub(crate) const ASKED_BACK: u32 = 1 << 1;
    pub(crate) const RETRIED: u32 = 1 << 2;
    pub(crate) const ADOPTED: u32 = 1 << 3;
    pub(crate) const ADOPTED_STRICT: u32 = 1 << 4;
    pub(crate) const DELETED: u32 = 1 << 5;
    pub(crate) const GIVEN_BACK: u32 = 1 << 6;
    pub(crate) const FENCED: u32 = 1 << 7;
    pub(crate) const CONFLICT: u32 = 1 << 8;
    pub(crate) const SOAKS_ANEW: u32 = 1 << 9;
    pub(crate) const FOUND_STRICT: u32 = 1 << 10;
    pub(crate) const LEFT_WATCHED: u32 = 1 << 11;
    pub(crate) const BLIND_WATCH: u32 = 1 << 12;
    pub(crate) const LEFT_STANDING: u32 = 1 << 13;
    pub(crate) const BACK_UNAIDED: u32 = 1 << 14;
    pub(crate) const ROOT_SPARED: u32 = 1 << 15;
    pub(crate) const AWAITS: u32 = 1 << 16;
    pub(crate) const APPROVED_STRICT: u32 = 1 << 17;
    pub(crate) const APPROVAL_VOID: u32 = 1 << 18;

    pub(crate) fn has(self, what: u32) -> bool {
        self.0 & what != 0
    }
}

impl Default for Place {
    fn default() -> Self {
        Self {
            age: 0,
            policy: None,
            trouble: None,
            harm: None,
            calm: None,
            watched: Watched::NotYet,
            noted: 0,
            suspected: false,
            seen: false,
            taken_back: false,
            deleted: false,
        }
    }
}

impl Place {
    /// STRICT by our own hand, and by nobody else's since.
    pub(crate) fn is_strict(&self) -> bool {
        let strict = |held: &Held| held.mode == Mode::Strict && held.ours.is_some() && !held.edited;
        self.policy.as_ref().is_some_and(strict)
    }

    /// PERMISSIVE by our own hand, and by nobody else's since.
    pub(crate) fn is_pinned(&self) -> bool {
        let pinned =
            |held: &Held| held.mode == Mode::Permissive && held.ours.is_some() && !held.edited;
        self.policy.as_ref().is_some_and(pinned)
    }

    /// STRICT, and not watched for long enough.
    pub(crate) fn is_watched(&self) -> bool {
        self.is_strict() && self.watched != Watched::Enough
    }

    /// The harm that a look would see. STRICT may have cut the eyes themselves.
    pub(crate) fn shows(&self) -> Option<Harm> {
        match (self.harm, self.trouble) {
            (_, Some(Trouble::NothingWouldShowHarm)) => None,
            (None, Some(Trouble::PodUnseen)) => Some(Harm::Soft),
            (harm, _) => harm,
        }
    }
}

impl State {
    /// Seconds on the clock at the next visit.
    pub(crate) fn now(&self) -> i64 {
        i64::from(self.visits) * INTERVAL
    }

    /// The uid of a namespace.
    pub(crate) fn uid(&self, place: usize) -> Uid {
        match self.places[place].age {
            0 => Uid::new(SHOP[place]),
            age => Uid::new(format!("{}-{age}", SHOP[place])),
        }
    }

    /// The index of the stage that covers a namespace.
    pub(crate) fn stage(&self, place: usize) -> Option<usize> {
        match self.wishes.layout {
            Layout::OneEach => Some(place),
            Layout::Swapped => Some(1 - place),
            Layout::Merged => Some(0),
            Layout::Left => place.checked_sub(1),
        }
    }

    /// The words of the plan as it stands.
    pub(crate) fn words(&self) -> Words {
        let Wishes { layout, soak, bake, .. } = self.wishes;
        Words { layout, soak, bake }
    }

    /// A person is asked before STRICT there.
    pub(crate) fn asks(&self, place: usize) -> bool {
        self.wishes.asks && self.stage(place) == Some(self.wishes.layout.last())
    }

    /// Nobody need be asked there, or a person has approved this very plan.
    pub(crate) fn is_approved(&self, place: usize) -> bool {
        let last = self.wishes.layout.last();
        let holds =
            |one: Approved| one.stage == last && one.words == self.words() && !one.withdrawn;
        !self.asks(place) || self.wishes.approved.is_some_and(holds)
    }

    /// Nothing is left to do there.
    pub(crate) fn is_done(&self, place: usize) -> bool {
        let here = &self.places[place];
        let without_us = here.policy.is_none() && !here.deleted;
        (without_us && self.inherited(place) == Mode::Strict)
            || (here.is_strict() && here.watched == Watched::Enough)
    }

    /// The mode in force in a namespace.
    pub(crate) fn mode(&self, place: usize) -> Mode {
        let held = self.places[place].policy.as_ref();
        held.map_or_else(|| self.inherited(place), |held| held.mode)
    }

    /// The mode that would be in force there without the policy named `default`.
    pub(crate) fn inherited(&self, place: usize) -> Mode {
        match self.places[place].trouble {
            Some(Trouble::OlderPolicy) => Mode::Permissive,
            _ if self.mesh_strict => Mode::Strict,
            _ => Mode::Permissive,
        }
    }

    /// A rollback of everything that nobody has taken back.
    pub(crate) fn all_must_go_back(&self) -> bool {
        let Wishes { rollback, retry, .. } = self.wishes;
        rollback.is_some() && rollback > retry
    }

    /// A stop that nobody has taken back.
    pub(crate) fn is_stopped(&self) -> bool {
        let Wishes { abort, retry, abort_is_void, .. } = self.wishes;
        self.all_must_go_back() || (abort.is_some() && abort > retry && !abort_is_void)
    }

    /// Every namespace of the plan is STRICT and was watched; of a rollout that gives back, nothing
    /// of ours makes anything STRICT.
    pub(crate) fn is_at_its_goal(&self) -> bool {
        match self.wishes.gone {
            Gone::No => {
                (0..SHOP.len()).all(|place| self.stage(place).is_none() || self.is_done(place))
            }
            Gone::Kept => true,
            Gone::Restore => !self.places.iter().any(Place::is_strict),
        }
    }
}
