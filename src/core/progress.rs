//! What is remembered between visits, and nothing else. Losing it restarts a soak or a bake; it
//! can never pass a gate. What a rollback needs is not here but on the policy itself.

use crate::ident::{Namespace, Uid};
use crate::plan::{Asked, Timing};
use crate::terms::Terms;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Everything remembered.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Progress {
    /// The plan of the last visit.
    pub plan_hash: String,
    /// Per namespace.
    pub namespaces: BTreeMap<Namespace, Memory>,
    /// Stages that were finished once, by name: whoever joins one is proven alone.
    pub finished: BTreeSet<String>,
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

/// All gates have passed since, under the same terms.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Soak {
    /// First passing evaluation.
    pub since: Timestamp,
    /// Last passing evaluation.
    pub last: Timestamp,
    /// What was asked then; another soak begins when it changes.
    pub terms: Terms,
}

/// Watching a namespace after STRICT.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Bake {
    /// The switch it belongs to.
    pub strict_since: Timestamp,
    /// The first look at which every proxy had taken it. Without, it counts from when they must
    /// have.
    pub taken: Option<Timestamp>,
    /// Time watched with evidence.
    pub covered: SignedDuration,
    /// Last evaluation.
    pub last: Timestamp,
    /// The first of the evaluations in a row with soft signs of harm.
    pub suspected: Option<Timestamp>,
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

/// A request heard once: its value, and when we heard it, by our own clock, in whole seconds.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Heard {
    /// The annotation's value.
    pub value: String,
    /// When it was heard.
    pub at: Timestamp,
    /// The name of the stage in flight then.
    pub stage: Option<String>,
}

/// What is kept is kept to the second: the same instant must come back from every place.
pub fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
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

impl Bake {
    /// The first look at a switch.
    pub fn begun(strict_since: Timestamp, now: Timestamp) -> Self {
        Self {
            strict_since,
            taken: None,
            covered: SignedDuration::ZERO,
            last: now,
            suspected: None,
            complete: false,
        }
    }

    /// From when on it counts: the proxies have taken the switch, and what was connected before
    /// has gone.
    pub fn begins(&self, timing: &Timing) -> Timestamp {
        match self.taken {
            Some(taken) => taken + timing.drain,
            None => self.strict_since + timing.settles(),
        }
    }
}

/// By so much the clock of whoever asks may be ahead.
const FAST: SignedDuration = SignedDuration::from_hours(1);

impl Heard {
    /// The time a person gave to it, if it is one.
    pub fn asked_at(&self) -> Option<Timestamp> {
        self.value.parse().ok()
    }

    /// Until when a retry forgives: what happened before it was asked, and before it was heard. The
    /// clock of whoever asked may be behind ours by `skew`. `None` for one that says no time, or
    /// one yet to come: where status is lost it is heard once more, and would forgive what came
    /// after it.
    pub fn forgives_until(&self, skew: SignedDuration) -> Option<Timestamp> {
        let asked = self.asked_at()?;
        let is_past = asked.duration_since(self.at) <= FAST;
        is_past.then(|| self.at.min(asked.saturating_add(skew).unwrap_or(asked)))
    }
}

impl Requests {
    /// Hears each request once, by its value; from then on our own clock counts. Each gets a
    /// second of its own, in the order in which they were asked, and on a tie the stop comes last.
    pub fn hear(&mut self, asked: &Asked, stage: Option<&str>, now: Timestamp) {
        let is_new = |asked: &Option<String>, known: &Option<Heard>| {
            let value = asked.as_ref()?;
            let new = known.as_ref().is_none_or(|known| known.value != *value);
            new.then(|| value.clone())
        };
        let known = [&self.retry, &self.abort, &self.rollback];
        let last = known.into_iter().flatten().map(|heard| heard.at).max();
        let mut new: Vec<_> = [
            (is_new(&asked.retry, &self.retry), 0),
            (is_new(&asked.abort, &self.abort), 1),
            (is_new(&asked.rollback, &self.rollback), 2),
        ]
        .into_iter()
        .filter_map(|(value, kind)| Some((value?, kind)))
        .collect();
        new.sort_by_key(|(value, kind)| {
            let at = value.parse::<Timestamp>().ok();
            let at = match kind {
                // One that is no past time overrules no stop that is found with it.
                0 => at.filter(|at| at.duration_since(now) <= FAST).unwrap_or(Timestamp::MIN),
                _ => at.unwrap_or(now),
            };
            (at, *kind)
        });
        let second = SignedDuration::from_secs(1);
        // The next whole second: after everything that has happened until now.
        let mut at = Timestamp::from_second(now.as_second() + 1).unwrap_or(now);
        if let Some(last) = last {
            at = at.max(last + second);
        }
        for (value, kind) in new {
            let heard = Some(Heard { value, at, stage: stage.map(str::to_owned) });
            match kind {
                0 => self.retry = heard,
                1 => self.abort = heard,
                _ => self.rollback = heard,
            }
            at += second;
        }
    }

    /// Something is rolled back at `now`, and whoever asked for a retry that was not `known` before
    /// cannot have seen it: that retry forgives only what came before. Whatever it took back stays
    /// taken back.
    pub fn forgive_nothing_of(&mut self, now: Timestamp, known: &Self) {
        if self.retry != known.retry
            && let Some(retry) = &mut self.retry
        {
            let second = SignedDuration::from_secs(1);
            let at = whole_second(now) - second;
            let stops = [&mut self.abort, &mut self.rollback].into_iter().flatten();
            for stop in stops.filter(|stop| stop.at < retry.at) {
                stop.at = stop.at.min(at - second);
            }
            retry.at = at;
        }
    }

    /// A rollback of everything, until somebody says go on. A later abort takes nothing from it.
    pub fn rolls_everything_back(&self) -> bool {
        let retry = self.retry.as_ref().map(|retry| retry.at);
        self.rollback.as_ref().is_some_and(|asked| retry.is_none_or(|retry| retry <= asked.at))
    }

    /// When the latest of `requests` was heard, if it is newer than the last retry.
    pub fn standing(&self) -> Option<&Heard> {
        // An abort that was heard when no stage was in flight had nothing to stop.
        let abort = self.abort.as_ref().filter(|abort| abort.stage.is_some());
        let latest = abort.into_iter().chain(&self.rollback).max_by_key(|heard| heard.at)?;
        self.retry.as_ref().is_none_or(|retry| retry.at <= latest.at).then_some(latest)
    }
}
