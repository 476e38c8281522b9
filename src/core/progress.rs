//! What is remembered between visits, and nothing else. Losing it restarts a soak or a bake; it
//! can never pass a gate. What a rollback needs is not here but on the policy itself.

use crate::ident::{Namespace, Uid};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// Everything remembered.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Progress {
    /// The plan that the clocks below ran under; another plan restarts the soaks.
    pub plan_hash: String,
    /// Per namespace.
    pub namespaces: BTreeMap<Namespace, Memory>,
    /// Requests already heard.
    pub requests: Requests,
}

/// What is remembered of one namespace.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Memory {
    /// A recreated namespace starts again.
    pub uid: Uid,
    /// The soak that is running.
    pub soak: Option<Soak>,
    /// The bake that is running or over.
    pub bake: Option<Bake>,
}

/// All gates have passed since.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Soak {
    /// First passing evaluation.
    pub since: Timestamp,
    /// Last passing evaluation.
    pub last: Timestamp,
}

/// Watching a namespace after STRICT.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Bake {
    /// The switch it belongs to.
    pub strict_since: Timestamp,
    /// Time watched with evidence.
    pub covered: SignedDuration,
    /// Last evaluation.
    pub last: Timestamp,
    /// Evaluations in a row with soft signs of harm.
    pub suspicions: u8,
    /// Watched long enough.
    pub complete: bool,
}

/// Requests by a person, as annotations carry them.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Requests {
    /// Stop; roll the stage in flight back.
    pub abort: Option<Heard>,
    /// Try again what was rolled back or aborted.
    pub retry: Option<Heard>,
    /// Roll everything back.
    pub rollback: Option<Heard>,
}

/// A request heard once: its value, and when we heard it, by our own clock.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Heard {
    /// The annotation's value.
    pub value: String,
    /// When it was heard.
    pub at: Timestamp,
    /// The stage in flight then.
    pub stage: Option<usize>,
}

impl Progress {
    /// The memory of `namespace`, if it is still the same namespace.
    pub fn of(&self, namespace: &Namespace, uid: &Uid) -> Memory {
        self.namespaces
            .get(namespace)
            .filter(|memory| memory.uid == *uid)
            .cloned()
            .unwrap_or_else(|| Memory { uid: uid.clone(), soak: None, bake: None })
    }
}

impl Requests {
    /// When the latest of `requests` was heard, if it is newer than the last retry.
    pub fn standing(&self) -> Option<&Heard> {
        // An abort that was heard when no stage was in flight had nothing to stop.
        let abort = self.abort.as_ref().filter(|abort| abort.stage.is_some());
        let latest = abort.into_iter().chain(&self.rollback).max_by_key(|heard| heard.at)?;
        self.retry.as_ref().is_none_or(|retry| retry.at < latest.at).then_some(latest)
    }
}
