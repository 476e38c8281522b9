//! What the scrapes of all proxies amount to.
//!
//! A counter runs from its process' own start. So a proxy that was up through the whole look-back
//! is evidence at its first scrape, and a scrape that is missed loses nothing as long as a later one
//! succeeds. What cannot be known is said: who died unseen leaves a gap.
//!
//! What an older process counted before our first scrape happened at some time of its life. Plaintext
//! counts as if it were of this moment, mutual TLS as of the process' start, harm not at all: each
//! the way that lets less pass, or undoes less, on a guess.

use super::exposition::{Malformed, Sample, samples};
use super::growth::{Growth, Key, Question as Asks, keys};
pub(super) use super::growth::{NAMESPACE, POD};
use crate::observe::evidence::counted::{
    BUILD, CERTIFICATE, CLOSED_TOTAL, CONVERGENCE, HANDSHAKES, OPENED_TOTAL, RECEIVED_TOTAL,
    REFUSALS, REJECTS, REJECTS_WINDOW, REQUESTS_TOTAL, ROOT_EXPIRES_AT, ROOT_EXPIRES_IN,
    SENT_TOTAL,
};
use crate::observe::evidence::{self, Answers, Question};
use crate::observe::objects::Target;
use crate::translate::evidence::{FACT, Row};
use jiff::{SignedDuration, Timestamp};
use meshrollout_core::ident::{PodRef, Uid};
use meshrollout_core::reading::Cause;
use meshrollout_core::traffic::Presence;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Seconds since a proxy's process began, rounded down.
const UPTIME: &str = "envoy_server_uptime";
/// When a control plane's process began.
const BEGUN_AT: &str = "process_start_time_seconds";
/// By so much a start may seem to move: uptime is told in whole seconds and renewed every five.
const ROUNDING: SignedDuration = SignedDuration::from_secs(6);
/// Points that are kept, together some hundred megabytes: a thousand edges that are watched for
/// two thirds of a day.
const MOST_POINTS: usize = 4_000_000;
/// Sets of labels that are kept, together some tens of megabytes.
const MOST_KEYS: usize = 200_000;
/// A value longer than this is not Istio's. The agent exposes the application's metrics, too.
const LONGEST_VALUE: usize = 1024;
/// What matters for a whole look-back is kept this fine.
const POINTS_IN_A_LOOKBACK: i32 = 256;
/// How far back windows of harm are kept while nobody asks for more.
const WINDOWS_AT_REST: SignedDuration = SignedDuration::from_hours(1);
/// Whoever has not asked for so long does not need it.
const FORGOTTEN: SignedDuration = SignedDuration::from_hours(1);

/// A scrape that counts for nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Unusable {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("{0} is missing: since when it counts is not known")]
    NoStart(&'static str),
    #[error("{0} is no count")]
    NoCount(String),
    #[error("a label of {0} is longer than {LONGEST_VALUE} bytes")]
    TooLong(String),
}

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

/// What is known of one process.
struct Proxy {
    /// Since when it may have counted something.
    since: Timestamp,
    gone: Option<Timestamp>,
    evicts: Option<SignedDuration>,
    /// Times of which all that it counted is known, oldest first.
    heard: Vec<(Timestamp, Timestamp)>,
    last: Option<Scrape>,
}

/// What it said last.
struct Scrape {
    at: Timestamp,
    uptime: SignedDuration,
    /// The counters' values, by name and labels.
    values: HashMap<u64, f64>,
    tells_refusals: bool,
    /// In seconds from then, of the certificate or of the root.
    expires_in: Option<f64>,
}

/// Whose text it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Whose {
    Proxy,
    ControlPlane,
}

/// The metrics that are looked at.
pub(super) fn is_wanted(metric: &str, whose: Whose) -> bool {
    match whose {
        Whose::Proxy => {
            [
                UPTIME,
                REQUESTS_TOTAL,
                OPENED_TOTAL,
                CLOSED_TOTAL,
                SENT_TOTAL,
                RECEIVED_TOTAL,
                REFUSALS,
                CERTIFICATE,
            ]
            .contains(&metric)
                || HANDSHAKES.contains(&metric)
        }
        Whose::ControlPlane => {
            [BEGUN_AT, BUILD, REJECTS, CONVERGENCE, ROOT_EXPIRES_AT, ROOT_EXPIRES_IN]
                .contains(&metric)
        }
    }
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
                    | Asks::Convergence => (!guess).then_some(at),
                };
                found.extend(when.map(|when| (key, when, grown)));
            }
        }
        process.last = Some(Scrape {
            at,
            uptime,
            values,
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
                Asks::Rejects | Asks::Convergence => now - REJECTS_WINDOW,
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

    /// The same answers as a Prometheus would give that had scraped as often.
    pub(super) fn answers(
        &mut self,
        asker: &str,
        question: &Question,
        now: Timestamp,
        certificate_lifetime: SignedDuration,
    ) -> Answers {
        let width = question.harm_window.max(self.scrape);
        let ends = evidence::window_ends(now, width, question.since);
        let windows = ends.first().map_or(now, |end| *end - width);
        let asked = Asked { at: now, lookback: question.lookback, windows };
        self.asked.insert(asker.to_owned(), asked);
        let begin = now - question.lookback;

        let since = |asks| {
            self.complete_since(begin)?;
            Ok(self.rows(asks, |key, growth| {
                let count = match asks {
                    Asks::Mutual => growth.wholly_since(begin),
                    _ => growth.since(begin),
                };
                (count > 0.0).then(|| key.row(vec![(now, count)]))
            }))
        };
        let in_windows = |asks| {
            self.complete_since(windows)?;
            Ok(self.rows(asks, |key, growth| {
                let points = growth.in_windows(&ends, width);
                (!points.is_empty()).then(|| key.row(points))
            }))
        };
        let present = self.presence(begin, now);
        let row = |value: fn(&Presence) -> f64| {
            let rows = present.iter().map(|(pod, known)| pod_row(pod, now, value(known)));
            self.complete(rows.collect())
        };
        Answers {
            plaintext: since(Asks::Plaintext),
            mutual: since(Asks::Mutual),
            counts: row(|known| known.samples as f64),
            firsts: row(|known| seconds(known.first)),
            lasts: row(|known| seconds(known.last)),
            gaps: present
                .iter()
                .filter_map(|(pod, known)| Some((pod.clone(), known.gap?)))
                .collect(),
            certificates: self.complete(self.certificates(now)),
            control_plane: self.complete(self.control_plane(now)),
            exporters: self.complete(self.exporters(now)),
            refusals: in_windows(Asks::Refusals),
            requests: in_windows(Asks::Requests),
            failures: in_windows(Asks::Failures),
            errors: in_windows(Asks::Errors),
            // The times are our own.
            skew: Ok(SignedDuration::ZERO),
            at: now,
            scrape_interval: self.scrape,
            certificate_lifetime,
            ends,
        }
    }

    fn complete<T>(&self, answer: T) -> Result<T, Cause> {
        match self.whole_round {
            true => Ok(answer),
            false => Err(Cause::NotRead(
                "the sidecars' metrics: the first round of scrapes is under way".into(),
            )),
        }
    }

    fn complete_since(&self, time: Timestamp) -> Result<(), Cause> {
        match self.lost {
            Some(lost) if lost > time => Err(Cause::SourceUnavailable(format!(
                "the memory for the sidecars' counters is full ({} points): name a metrics source",
                self.most_points
            ))),
            Some(_) | None => self.complete(()),
        }
    }

    fn rows(&self, asks: Asks, row: impl Fn(&Key, &Growth) -> Option<Row>) -> Vec<Row> {
        let of_question = self.grown.iter().filter(|(key, _)| key.question == asks);
        of_question.filter_map(|(key, growth)| row(key, growth)).collect()
    }

    /// When each pod was heard; pods of one name, one after the other, as one.
    fn presence(&self, begin: Timestamp, now: Timestamp) -> BTreeMap<PodRef, Presence> {
        let mut present: BTreeMap<PodRef, Presence> = BTreeMap::new();
        for ((pod, _), process) in &self.proxies {
            let Some(mut known) = process.presence(begin, now, self.scrape) else { continue };
            // What is forgotten is not known any more.
            if let Some(kept) = self.kept_since.filter(|kept| *kept > known.first) {
                known.gap = known.gap.max(Some((known.first, kept)));
            }
            let both = |other: &mut Presence| {
                other.first = other.first.min(known.first);
                other.last = other.last.max(known.last);
                other.samples += known.samples;
                other.gap = other.gap.max(known.gap);
            };
            present.entry(pod.clone()).and_modify(both).or_insert(known);
        }
        present
    }

    /// Processes that were heard a moment ago.
    fn fresh<'a>(
        &self,
        processes: &'a BTreeMap<(PodRef, Uid), Proxy>,
        now: Timestamp,
    ) -> impl Iterator<Item = (&'a PodRef, &'a Scrape)> {
        let since = now - self.scrape * 3;
        processes.iter().filter_map(move |((pod, _), process)| {
            let last = process.last.as_ref().filter(|_| process.gone.is_none())?;
            (last.at >= since).then_some((pod, last))
        })
    }

    fn certificates(&self, now: Timestamp) -> Vec<Row> {
        let left = self.fresh(&self.proxies, now).filter_map(|(pod, last)| {
            Some(pod_row(pod, now, last.expires_in? - seconds(now) + seconds(last.at)))
        });
        left.collect()
    }

    fn exporters(&self, now: Timestamp) -> Vec<Row> {
        let telling = self.fresh(&self.proxies, now).filter(|(_, last)| last.tells_refusals);
        telling.map(|(pod, _)| pod_row(pod, now, 1.0)).collect()
    }

    fn control_plane(&self, now: Timestamp) -> Vec<Row> {
        let fact = |name: &str, value: f64| Row {
            labels: BTreeMap::from([(FACT.to_owned(), name.to_owned())]),
            points: vec![(now, value)],
        };
        let fresh: Vec<_> = self.fresh(&self.control_planes, now).map(|(_, last)| last).collect();
        let root = fresh
            .iter()
            .filter_map(|last| Some(last.expires_in? - seconds(now) + seconds(last.at)))
            .reduce(f64::min);
        let begin = now - REJECTS_WINDOW;
        let grown = |asks| self.grown.iter().filter(move |(key, _)| key.question == asks);
        let rejects =
            grown(Asks::Rejects).map(|(_, growth)| growth.since(begin)).fold(0.0, |a, b| a + b);
        let buckets = grown(Asks::Convergence)
            .filter_map(|(key, growth)| Some((key.label("le").parse().ok()?, growth.since(begin))));
        [
            Some(("instances", fresh.len() as f64)),
            Some(("rejects", rejects)),
            quantile(0.99, buckets.collect()).map(|quantile| ("convergence", quantile)),
            root.map(|root| ("root", root)),
        ]
        .into_iter()
        .flatten()
        .map(|(name, value)| fact(name, value))
        .collect()
    }
}

impl Proxy {
    /// It is heard: what it had counted when it was last heard, or nothing where all that it has
    /// counted is new to us.
    fn hear(
        &mut self,
        start: Timestamp,
        at: Timestamp,
        uptime: SignedDuration,
        scrape: SignedDuration,
    ) -> Option<HashMap<u64, f64>> {
        let before = self.last.take();
        let before = before.filter(|last| uptime >= last.uptime && start <= last.at + ROUNDING);
        let in_time = before.as_ref().is_some_and(|last| at <= last.at + scrape * 3);
        match (self.evicts, self.heard.last_mut(), &before) {
            // It forgets what no two scrapes have seen.
            (Some(soon), _, _) if soon < scrape * 2 => {}
            // Of one that forgets later, what was heard in time is known.
            (Some(_), Some((_, end)), Some(_)) if in_time => *end = at,
            (Some(_), _, _) => self.heard.push((at, at)),
            (None, Some((_, end)), Some(_)) => *end = at,
            (None, _, _) => self.heard.push((start, at)),
        }
        before.map(|last| last.values)
    }

    /// Between `begin` and now: the first and the last time of which something is known, how many
    /// samples scrapes would have had, and the latest time in between that nobody heard.
    fn presence(
        &self,
        begin: Timestamp,
        now: Timestamp,
        scrape: SignedDuration,
    ) -> Option<Presence> {
        let end = self.gone.unwrap_or(now);
        if end <= begin {
            return None;
        }
        let tolerance = scrape * 3;
        let first = self.heard.first().map_or(self.since, |(start, _)| self.since.min(*start));
        let first = first.max(begin);
        let (mut reached, mut known, mut gap) = (first, SignedDuration::ZERO, None);
        for (from, to) in self.heard.iter().filter(|(_, to)| *to > begin) {
            if *from > reached + tolerance {
                gap = Some((reached, *from));
            }
            known += to.duration_since((*from).max(begin));
            reached = reached.max(*to);
        }
        if end > reached + tolerance {
            gap = Some((reached, end));
        }
        // Not heard yet, and not for long; it is missed when it is ready.
        if known.is_zero() && gap.is_none() {
            return None;
        }
        let samples = (known.as_secs_f64() / scrape.as_secs_f64()).floor() as u64 + 1;
        Some(Presence { first, last: reached, samples, gap })
    }
}

fn id(target: &Target) -> (PodRef, Uid) {
    (target.pod.clone(), target.process.uid.clone())
}

fn check(samples: &[Sample<'_>]) -> Result<(), Unusable> {
    for sample in samples {
        let of = || sample.series.chars().take(200).collect::<String>();
        if sample.labels.iter().any(|(_, value)| value.len() > LONGEST_VALUE) {
            return Err(Unusable::TooLong(of()));
        }
        let is_left = [CERTIFICATE, ROOT_EXPIRES_IN].contains(&sample.name);
        if !sample.value.is_finite() || (sample.value < 0.0 && !is_left) {
            return Err(Unusable::NoCount(format!("{} {}", of(), sample.value)));
        }
    }
    Ok(())
}

fn uptime(samples: &[Sample<'_>], whose: Whose, at: Timestamp) -> Result<SignedDuration, Unusable> {
    let name = match whose {
        Whose::Proxy => UPTIME,
        Whose::ControlPlane => BEGUN_AT,
    };
    let told = samples.iter().find(|sample| sample.name == name).map(|sample| sample.value);
    let told = told.map(|told| match whose {
        Whose::Proxy => told,
        Whose::ControlPlane => (seconds(at) - told).max(0.0),
    });
    let span = told.and_then(|told| SignedDuration::try_from_secs_f64(told).ok());
    span.filter(|span| at.checked_sub(*span).is_ok()).ok_or(Unusable::NoStart(name))
}

/// The earliest end of what must not end: the workload's own certificate, or the root.
fn expires_in(samples: &[Sample<'_>], at: Timestamp) -> Option<f64> {
    let left = samples.iter().filter_map(|sample| match sample.name {
        CERTIFICATE if sample.label("resource_name") == "default" => Some(sample.value),
        ROOT_EXPIRES_AT => Some(sample.value - seconds(at)),
        _ => None,
    });
    let in_seconds = || {
        let told = samples.iter().filter(|sample| sample.name == ROOT_EXPIRES_IN);
        told.map(|sample| sample.value).reduce(f64::min)
    };
    left.reduce(f64::min).or_else(in_seconds)
}

/// As Prometheus' `histogram_quantile` has it, of buckets that count up to their bound.
fn quantile(quantile: f64, mut buckets: Vec<(f64, f64)>) -> Option<f64> {
    buckets.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let all = buckets.last().filter(|(bound, count)| bound.is_infinite() && *count > 0.0)?.1;
    let rank = quantile * all;
    let place = buckets.iter().position(|(_, count)| *count >= rank)?;
    let (low, below) =
        place.checked_sub(1).map_or((0.0, 0.0), |before| (buckets[before].0, buckets[before].1));
    let (high, up_to) = buckets[place];
    if high.is_infinite() {
        return Some(low);
    }
    Some(low + (high - low) * (rank - below) / (up_to - below))
}

fn pod_row(pod: &PodRef, at: Timestamp, value: f64) -> Row {
    let labels = [(NAMESPACE, pod.namespace.as_str()), (POD, pod.name.as_str())];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Row { labels: BTreeMap::from(labels), points: vec![(at, value)] }
}

fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

#[cfg(test)]
mod tests;
