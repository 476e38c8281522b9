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
    /// Go STRICT. Spends the clearance.
    EnforceStrict(Clearance),
    /// Put back what stood immediately before STRICT.
    RollBack(RollBack),
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
            Self::EnforceStrict(_) => "enforce",
            Self::RollBack(_) => "rollback",
        }
    }

    /// Where it writes.
    pub fn namespace(&self) -> &Namespace {
        match self {
            Self::PinPermissive(pin) => &pin.namespace,
            Self::EnforceStrict(clearance) => clearance.namespace(),
            Self::RollBack(back) => &back.namespace,
        }
    }

    /// The object and version it must meet; `None` where nothing may stand.
    pub fn precondition(&self) -> Option<(&Uid, &str)> {
        match self {
            Self::PinPermissive(_) => None,
            Self::EnforceStrict(clearance) => Some(clearance.precondition()),
            Self::RollBack(back) => Some((&back.policy_uid, &back.resource_version)),
        }
    }

    /// What is noted on the policy by a write at `now`: all that a later rollback needs.
    pub fn notes(&self, now: Timestamp) -> Ours {
        match self {
            Self::PinPermissive(pin) => pin.ours.clone(),
            Self::EnforceStrict(clearance) => Ours {
                strict_since: Some(whole_second(now)),
                rolled_back: None,
                ..clearance.ours().clone()
            },
            Self::RollBack(back) => Ours {
                strict_since: None,
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

    /// The mode it writes.
    pub fn mode(&self) -> Mode {
        match self {
            Self::PinPermissive(_) => Mode::Permissive,
            Self::EnforceStrict(_) => Mode::Strict,
            Self::RollBack(back) => back.to,
        }
    }
}
