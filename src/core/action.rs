//! The closed list of everything this operator may ever do to a policy.

use crate::clearance::Clearance;
use crate::finding::{Finding, Level};
use crate::ident::{Namespace, Uid};
use crate::mode::Mode;
use crate::policy::{Ours, RolledBack};
use crate::progress::whole_second;
use jiff::{SignedDuration, Timestamp};

/// One write of one policy. There is no way to say "STRICT" without a [`Clearance`].
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Say PERMISSIVE where nothing says anything: changes no effective mode, and gives a later
    /// rollback something to return to.
    PinPermissive(Pin),
    /// Note on somebody else's PERMISSIVE that we may go on from it. Changes no mode, and forces
    /// nothing.
    Adopt(Adopt),
    /// Go STRICT. Spends the clearance.
    EnforceStrict(Clearance),
    /// Put back what stood immediately before STRICT.
    RollBack(RollBack),
    /// The rollout goes, and asked for what stood there before it.
    Restore(Restore),
}

/// A policy to take over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Adopt {
    /// Where.
    pub namespace: Namespace,
    /// The policy it was decided for.
    pub policy_uid: Uid,
    /// The version it was decided on.
    pub resource_version: String,
    /// What is noted on it, with its managers of now.
    pub ours: Ours,
}

/// A policy to give back or to delete.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Restore {
    /// Where.
    pub namespace: Namespace,
    /// The policy it was decided for.
    pub policy_uid: Uid,
    /// The version it was decided on.
    pub resource_version: String,
    /// What is noted on it.
    pub ours: Ours,
}

impl Restore {
    /// Nothing stood there before: it is deleted. Otherwise it says PERMISSIVE again, and nothing
    /// on it is ours any more.
    pub fn deletes(&self) -> bool {
        self.ours.adopted.is_none()
    }
}

/// A policy to create.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pin {
    /// Where.
    pub namespace: Namespace,
    /// What is noted on it.
    pub ours: Ours,
}

/// A policy to put back. Needs neither metrics nor gates nor status (S4): all of it is on the
/// policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RollBack {
    /// Where.
    pub namespace: Namespace,
    /// The policy it was decided for.
    pub policy_uid: Uid,
    /// The version it was decided on.
    pub resource_version: String,
    /// What is noted on it so far.
    pub ours: Ours,
    /// The mode that stood before STRICT. Never DISABLE, never STRICT.
    pub to: Mode,
    /// Why, for the mark on the policy.
    pub because: Finding,
}

impl Action {
    /// One word for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PinPermissive(_) => "pin",
            Self::Adopt(_) => "adopt",
            Self::EnforceStrict(_) => "enforce",
            Self::RollBack(_) => "rollback",
            Self::Restore(_) => "restore",
        }
    }

    /// Where it writes.
    pub fn namespace(&self) -> &Namespace {
        match self {
            Self::PinPermissive(pin) => &pin.namespace,
            Self::Adopt(adopt) => &adopt.namespace,
            Self::EnforceStrict(clearance) => clearance.namespace(),
            Self::RollBack(back) => &back.namespace,
            Self::Restore(restore) => &restore.namespace,
        }
    }

    /// The object and version it must meet; `None` where nothing may stand.
    pub fn precondition(&self) -> Option<(&Uid, &str)> {
        match self {
            Self::PinPermissive(_) => None,
            Self::Adopt(adopt) => Some((&adopt.policy_uid, &adopt.resource_version)),
            Self::EnforceStrict(clearance) => Some(clearance.precondition()),
            Self::RollBack(back) => Some((&back.policy_uid, &back.resource_version)),
            Self::Restore(restore) => Some((&restore.policy_uid, &restore.resource_version)),
        }
    }

    /// What is noted on the policy by a write at `now`: all that a later rollback needs.
    pub fn notes(&self, now: Timestamp) -> Ours {
        match self {
            Self::PinPermissive(pin) => pin.ours.clone(),
            Self::Adopt(adopt) => adopt.ours.clone(),
            Self::Restore(restore) => restore.ours.clone(),
            Self::EnforceStrict(clearance) => Ours {
                strict_since: Some(whole_second(now)),
                bake: Some(clearance.bake()),
                rolled_back: None,
                ..clearance.ours().clone()
            },
            Self::RollBack(back) => Ours {
                strict_since: None,
                bake: None,
                rolled_back: Some(RolledBack {
                    // After the switch it undoes, whatever this machine's clock says.
                    at: back
                        .ours
                        .strict_since
                        .map_or(now, |since| now.max(since + SignedDuration::from_secs(1))),
                    because: match back.because.level {
                        // Asked for by a person: nothing was found.
                        Level::Inform => back.because.message.clone(),
                        Level::Warn | Level::Hold | Level::Block => {
                            format!("{}: {}", back.because.code, back.because.message)
                        }
                    },
                }),
                ..back.ours.clone()
            },
        }
    }

    /// It begins something or makes something stricter; the others lead back.
    pub fn goes_forward(&self) -> bool {
        match self {
            Self::PinPermissive(_) | Self::Adopt(_) | Self::EnforceStrict(_) => true,
            Self::RollBack(_) | Self::Restore(_) => false,
        }
    }

    /// It may take `spec.mtls` from the managers it was adopted from; the one write of all that
    /// may (only adopted policies, only while those managers and no others hold it).
    pub fn takes_over(&self) -> bool {
        matches!(self, Self::EnforceStrict(clearance) if clearance.takes_over())
    }

    /// The mode it writes.
    pub fn mode(&self) -> Mode {
        match self {
            Self::PinPermissive(_) | Self::Adopt(_) | Self::Restore(_) => Mode::Permissive,
            Self::EnforceStrict(_) => Mode::Strict,
            Self::RollBack(back) => back.to,
        }
    }
}
