//! What the scrapes of all proxies amount to.
//!
//! A counter runs from its process' own start. So a proxy that was up through the whole look-back
//! is evidence at its first scrape, and a scrape that is missed loses nothing as long as a later one
//! succeeds. What cannot be known is said: who died unseen leaves a gap.
//!
//! What an older process counted before our first scrape happened at some time of its life. Plaintext
//! counts as if it were of this moment, mutual TLS as of the process' start, harm not at all: each
//! the way that lets less pass, or undoes less, on a guess.

use super::exposition::samples;
use super::growth::{Growth, Key, Question as Asks, keys};
pub(super) use super::growth::{NAMESPACE, POD};
use super::told::{Unusable, Whose, check, expires_in, is_wanted, open, uptime};
use crate::observe::evidence::counted::{REFUSALS, REJECTS_WINDOW};
use crate::observe::objects::Target;
use jiff::{SignedDuration, Timestamp};
use meshrollout_core::ident::{PodRef, Uid};
use process::{Proxy, Scrape};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

mod answers;
mod process;

/// Points that are kept, together some hundred megabytes: a thousand edges that are watched for
/// two thirds of a day.
const MOST_POINTS: usize = 4_000_000;
/// Sets of labels that are kept, together some tens of megabytes.
const MOST_KEYS: usize = 200_000;
/// What matters for a whole look-back is kept this fine.
const POINTS_IN_A_LOOKBACK: i32 = 256;
/// How far back windows of harm are kept while nobody asks for more.
const WINDOWS_AT_REST: SignedDuration = SignedDuration::from_hours(1);
/// Whoever has not asked for so long does not need it.
const FORGOTTEN: SignedDuration = SignedDuration::from_hours(1);

pub(super) struct Memory {
    begun: Timestamp,
    scrape: SignedDuration,
    /// Each proxy has been tried once.
    whole_round: bool,
    /// Another pod of the same name is another process.
    proxies: BTreeMap<(PodRef, Uid), Proxy>,
    control_planes: BTreeMap<(PodRef, Uid), Proxy>,
    grown: BTreeMap<Key, Growth>,
    points: usize,
    most_points: usize,
    /// When growth last found no place.
    lost: Option<Timestamp>,
    /// What lies before is forgotten, whoever asks for it now.
    kept_since: Option<Timestamp>,
    asked: BTreeMap<String, Asked>,
}

/// How far back one asker looks.
struct Asked {
    at: Timestamp,
    lookback: SignedDuration,
    windows: Timestamp,
}

impl Memory {
    pub(super) fn new(begun: Timestamp, scrape: SignedDuration) -> Self {
        Self {
            begun,
            scrape,
            whole_round: false,
            proxies: BTreeMap::new(),
            control_planes: BTreeMap::new(),
            grown: BTreeMap::new(),
            points: 0,
            most_points: MOST_POINTS,
            lost: None,
            kept_since: None,
            asked: BTreeMap::new(),
        }
    }

    /// Who is there to be scraped now; all others are gone.
    pub(super) fn there_are(&mut self, targets: &[Target], now: Timestamp) {
        self.forget(now);
        let there: BTreeSet<_> = targets.iter().map(id).collect();
        for processes in [&mut self.proxies, &mut self.control_planes] {
            for (_, process) in processes.iter_mut().filter(|(id, _)| !there.contains(*id)) {
                process.gone.get_or_insert(now);
            }
        }
        for target in targets {
            let processes = match target.whose {
                Whose::Proxy => &mut self.proxies,
                Whose::ControlPlane => &mut self.control_planes,
            };
            let first_seen = || Proxy {
                since: target.process.since,
                gone: None,
                evicts: target.process.evicts,
                heard: vec![],
                last: None,
            };
            processes.entry(id(target)).or_insert_with(first_seen).gone = None;
        }
    }

    /// Nothing is known any more but who asks.
    pub(super) fn begin_anew(&mut self, now: Timestamp) {
        let asked = std::mem::take(&mut self.asked);
        *self = Self { asked, most_points: self.most_points, ..Self::new(now, self.scrape) };
    }

    pub(super) fn round_is_whole(&mut self) {
        self.whole_round = true;
    }

    /// What `target` exposed at `at`. All of it counts, or nothing.
    pub(super) fn heard(
        &mut self,
        target: &Target,
        at: Timestamp,
        text: &str,
    ) -> Result<(), Unusable> {
        let whose = target.whose;
        let samples =
            samples(text, |metric| is_wanted(metric, whose)).collect::<Result<Vec<_>, _>>()?;
        check(&samples)?;
        let uptime = uptime(&samples, whose, at)?;
        let (scrape, begun) = (self.scrape, self.begun);
        let known = match whose {
            Whose::Proxy => &mut self.proxies,
            Whose::ControlPlane => &mut self.control_planes,
        };
        // Gone while it was asked.
        let Some(process) = known.get_mut(&id(target)).filter(|process| process.gone.is_none())
        else {
            return Ok(());
        };
        // A clock that was set meanwhile makes no process older than its container.
        let start = (at - uptime).max(target.process.since).min(at);
        let before = process.hear(start, at, uptime, scrape);
        let mut found = vec![];
        let mut values = HashMap::with_capacity(samples.len());
        for sample in &samples {
            let keys = keys(sample, &target.pod);
            if keys.is_empty() {
                continue;
            }
            let mut hasher = DefaultHasher::new();
            sample.series.hash(&mut hasher);
            let series = hasher.finish();
            let then = before.as_ref().map(|before| before.get(&series).copied().unwrap_or(0.0));
            values.insert(series, sample.value);
            let grown = match then {
                // A value that fell was begun anew.
                Some(then) if sample.value >= then => sample.value - then,
                Some(_) | None => sample.value,
            };
            let guess = then.is_none() && start < begun;
            // A bucket into which nothing fell bounds the next.
            let counts = |key: &Key| grown > 0.0 || key.question == Asks::Convergence;
            for key in keys.into_iter().filter(counts) {
                let when = match key.question {
                    Asks::Mutual if then.is_none() => Some(start),
                    Asks::Plaintext | Asks::Mutual | Asks::Rejects => Some(at),
                    Asks::Requests
                    | Asks::Failures
                    | Asks::Errors
                    | Asks::Refusals
                    | Asks::Unsigned
                    | Asks::Convergence => (!guess).then_some(at),
                };
                found.extend(when.map(|when| (key, when, grown)));
            }
        }
        process.last = Some(Scrape {
            at,
            uptime,
            values,
            open: open(&samples),
            tells_refusals: samples.iter().any(|sample| sample.name == REFUSALS),
            expires_in: expires_in(&samples, at),
        });
        for (key, when, count) in found {
            self.add(key, when, count, at);
        }
        Ok(())
    }

    fn add(&mut self, key: Key, when: Timestamp, count: f64, now: Timestamp) {
        let width = match key.question {
            Asks::Plaintext | Asks::Mutual => {
                self.scrape.max(self.longest_lookback() / POINTS_IN_A_LOOKBACK)
            }
            Asks::Requests
            | Asks::Failures
            | Asks::Errors
            | Asks::Refusals
            | Asks::Rejects
            | Asks::Unsigned
            | Asks::Convergence => self.scrape,
        };
        if self.grown.len() >= MOST_KEYS && !self.grown.contains_key(&key) {
            self.lost = Some(now);
            return;
        }
        let has_place = self.points < self.most_points;
        let growth = self.grown.entry(key).or_default();
        let before = growth.len();
        if !growth.add(when, count, width, has_place) {
            self.lost = Some(now);
        }
        self.points += growth.len() - before;
    }

    fn longest_lookback(&self) -> SignedDuration {
        self.asked.values().map(|asked| asked.lookback).max().unwrap_or(FORGOTTEN)
    }

    fn forget(&mut self, now: Timestamp) {
        self.asked.retain(|_, asked| asked.at > now - FORGOTTEN);
        let lookback = now - self.longest_lookback();
        // All that was found by us is later than our beginning.
        if lookback > self.begun {
            self.kept_since = self.kept_since.max(Some(lookback));
        }
        let windows = self.asked.values().map(|asked| asked.windows).min().unwrap_or(now);
        let windows = windows.min(now - WINDOWS_AT_REST);
        self.grown.retain(|key, growth| {
            growth.forget(match key.question {
                Asks::Plaintext | Asks::Mutual => lookback,
                Asks::Requests | Asks::Failures | Asks::Errors | Asks::Refusals => windows,
                Asks::Rejects | Asks::Unsigned | Asks::Convergence => now - REJECTS_WINDOW,
            });
            growth.len() > 0
        });
        self.points = self.grown.values().map(Growth::len).sum();
        for processes in [&mut self.proxies, &mut self.control_planes] {
            processes.retain(|_, process| process.gone.is_none_or(|gone| gone > lookback));
            for process in processes.values_mut() {
                process.heard.retain(|(_, end)| *end > lookback);
            }
        }
    }
}

fn id(target: &Target) -> (PodRef, Uid) {
    (target.pod.clone(), target.process.uid.clone())
}

#[cfg(test)]
mod tests;
