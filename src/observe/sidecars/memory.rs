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
use crate::translate::evidence::{FACT, Row};
use jiff::{SignedDuration, Timestamp};
use meshrollout_core::ident::PodRef;
use meshrollout_core::reading::Cause;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Seconds since a proxy's process began, rounded down.
const UPTIME: &str = "envoy_server_uptime";
/// When a control plane's process began.
const BEGUN_AT: &str = "process_start_time_seconds";
/// By so much a start that is told in whole seconds may seem to move.
const ROUNDING: SignedDuration = SignedDuration::from_secs(1);
/// Points that are kept, together some hundred megabytes: a thousand edges that are watched for
/// two thirds of a day.
const MOST_POINTS: usize = 4_000_000;
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
}

pub(super) struct Memory {
    begun: Timestamp,
    scrape: SignedDuration,
    /// Each proxy has been tried once.
    whole_round: bool,
    proxies: BTreeMap<PodRef, Process>,
    control_planes: BTreeMap<PodRef, Process>,
    grown: BTreeMap<Key, Growth>,
    points: usize,
    most_points: usize,
    /// When growth last found no place.
    lost: Option<Timestamp>,
    asked: BTreeMap<String, Asked>,
}

/// How far back one asker looks.
struct Asked {
    at: Timestamp,
    lookback: SignedDuration,
    windows: Timestamp,
}

/// A pod's proxy, or a control plane's pod.
struct Process {
    seen: Timestamp,
    gone: Option<Timestamp>,
    /// Lives that have ended, when the process began and when it was last heard.
    past: Vec<(Timestamp, Timestamp)>,
    life: Option<Life>,
}

struct Life {
    start: Timestamp,
    last: Timestamp,
    /// The counters' values then, by name and labels.
    heard: HashMap<u64, f64>,
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
            asked: BTreeMap::new(),
        }
    }

    /// Who is there to be scraped now; all others are gone.
    pub(super) fn there_are(
        &mut self,
        proxies: &BTreeSet<PodRef>,
        control_planes: &BTreeSet<PodRef>,
        now: Timestamp,
    ) {
        let longest = self.asked.values().map(|asked| asked.lookback).max().unwrap_or_default();
        for (known, there) in
            [(&mut self.proxies, proxies), (&mut self.control_planes, control_planes)]
        {
            for pod in there {
                known.entry(pod.clone()).or_insert_with(|| Process::seen(now)).gone = None;
            }
            known.retain(|pod, process| {
                if !there.contains(pod) {
                    process.gone.get_or_insert(now);
                }
                process.gone.is_none_or(|gone| gone > now - longest.max(FORGOTTEN))
            });
        }
        self.forget(now);
    }

    pub(super) fn round_is_whole(&mut self) {
        self.whole_round = true;
    }

    /// What `pod` exposed at `at`. All of it counts, or nothing.
    pub(super) fn heard(
        &mut self,
        pod: &PodRef,
        whose: Whose,
        at: Timestamp,
        text: &str,
    ) -> Result<(), Unusable> {
        let samples =
            samples(text, |metric| is_wanted(metric, whose)).collect::<Result<Vec<_>, _>>()?;
        let no_count = |sample: &&Sample<'_>| !(sample.value.is_finite() && sample.value >= 0.0);
        let is_count = |sample: &&Sample<'_>| !keys(sample, pod).is_empty();
        if let Some(sample) = samples.iter().filter(is_count).find(no_count) {
            return Err(Unusable::NoCount(format!("{} {}", sample.series, sample.value)));
        }
        let known = match whose {
            Whose::Proxy => &mut self.proxies,
            Whose::ControlPlane => &mut self.control_planes,
        };
        // Gone while it was asked.
        let Some(process) = known.get_mut(pod).filter(|process| process.gone.is_none()) else {
            return Ok(());
        };
        let start = start(&samples, whose, at)?;
        let before = process.begin(start);
        let mut found = vec![];
        let mut heard = HashMap::with_capacity(samples.len());
        for sample in &samples {
            let keys = keys(sample, pod);
            if keys.is_empty() {
                continue;
            }
            let mut hasher = DefaultHasher::new();
            sample.series.hash(&mut hasher);
            let series = hasher.finish();
            let then = before.as_ref().map(|before| before.get(&series).copied().unwrap_or(0.0));
            heard.insert(series, sample.value);
            let grown = match then {
                // A value that fell was begun anew.
                Some(then) if sample.value >= then => sample.value - then,
                Some(_) | None => sample.value,
            };
            let guess = then.is_none() && start < self.begun;
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
        process.life = Some(Life {
            start,
            last: at,
            heard,
            tells_refusals: samples.iter().any(|sample| sample.name == REFUSALS),
            expires_in: expires_in(&samples, at),
        });
        for (key, when, count) in found {
            self.add(key, when, count, at);
        }
        Ok(())
    }

    fn add(&mut self, key: Key, when: Timestamp, count: f64, now: Timestamp) {
        if self.points >= self.most_points {
            self.lost = Some(now);
            return;
        }
        let growth = self.grown.entry(key).or_default();
        let before = growth.len();
        growth.add(when, count, self.scrape);
        self.points += growth.len() - before;
    }

    fn forget(&mut self, now: Timestamp) {
        self.asked.retain(|_, asked| asked.at > now - FORGOTTEN);
        let asked = || self.asked.values();
        let lookback = asked().map(|asked| asked.lookback).max().unwrap_or(FORGOTTEN);
        let windows = asked().map(|asked| asked.windows).min().unwrap_or(now);
        let windows = windows.min(now - WINDOWS_AT_REST);
        self.grown.retain(|key, growth| {
            growth.forget(match key.question {
                Asks::Plaintext | Asks::Mutual => now - lookback,
                Asks::Requests | Asks::Failures | Asks::Errors | Asks::Refusals => windows,
                Asks::Rejects | Asks::Convergence => now - REJECTS_WINDOW,
            });
            growth.len() > 0
        });
        self.points = self.grown.values().map(Growth::len).sum();
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
                let count = growth.since(begin);
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
        let (counts, (firsts, lasts)) = self.presence(begin);
        Answers {
            plaintext: since(Asks::Plaintext),
            mutual: since(Asks::Mutual),
            counts: self.complete(counts),
            firsts: self.complete(firsts),
            lasts: self.complete(lasts),
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

    /// For each pod how many samples, and when the first and the last of them.
    fn presence(&self, begin: Timestamp) -> (Vec<Row>, (Vec<Row>, Vec<Row>)) {
        let present = self.proxies.iter().filter_map(|(pod, process)| {
            let (first, last, samples) = process.presence(begin, self.scrape)?;
            let row = |value: f64| pod_row(pod, last, value);
            Some((row(samples), (row(seconds(first)), row(seconds(last)))))
        });
        present.unzip()
    }

    /// Processes that were heard a moment ago.
    fn fresh<'a>(
        &self,
        processes: &'a BTreeMap<PodRef, Process>,
        now: Timestamp,
    ) -> impl Iterator<Item = (&'a PodRef, &'a Life)> {
        let since = now - self.scrape * 3;
        processes.iter().filter_map(move |(pod, process)| {
            let life = process.life.as_ref().filter(|_| process.gone.is_none())?;
            (life.last >= since).then_some((pod, life))
        })
    }

    fn certificates(&self, now: Timestamp) -> Vec<Row> {
        let left = self.fresh(&self.proxies, now).filter_map(|(pod, life)| {
            Some(pod_row(pod, now, life.expires_in? - seconds(now) + seconds(life.last)))
        });
        left.collect()
    }

    fn exporters(&self, now: Timestamp) -> Vec<Row> {
        let telling = self.fresh(&self.proxies, now).filter(|(_, life)| life.tells_refusals);
        telling.map(|(pod, _)| pod_row(pod, now, 1.0)).collect()
    }

    fn control_plane(&self, now: Timestamp) -> Vec<Row> {
        let fact = |name: &str, value: f64| Row {
            labels: BTreeMap::from([(FACT.to_owned(), name.to_owned())]),
            points: vec![(now, value)],
        };
        let fresh: Vec<_> = self.fresh(&self.control_planes, now).map(|(_, life)| life).collect();
        let root = fresh
            .iter()
            .filter_map(|life| Some(life.expires_in? - seconds(now) + seconds(life.last)))
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

impl Process {
    fn seen(now: Timestamp) -> Self {
        Self { seen: now, gone: None, past: vec![], life: None }
    }

    /// A life that began at `start` is heard: what it had counted when it was last heard, or
    /// nothing if it is new.
    fn begin(&mut self, start: Timestamp) -> Option<HashMap<u64, f64>> {
        let life = self.life.take()?;
        if start <= life.last + ROUNDING {
            return Some(life.heard);
        }
        self.past.push((life.start, life.last));
        None
    }

    /// Between `begin` and now: the first and the last time of which something is known, and as
    /// many samples as scrapes would have had; none when there is a hole in it that nobody heard.
    fn presence(
        &self,
        begin: Timestamp,
        scrape: SignedDuration,
    ) -> Option<(Timestamp, Timestamp, f64)> {
        let life = self.life.as_ref().map(|life| (life.start, life.last));
        let lives = self.past.iter().copied().chain(life).filter(|(_, last)| *last > begin);
        let gone = self.gone.filter(|gone| *gone > begin);
        let mut known: Option<(Timestamp, Timestamp)> = None;
        let mut hole = false;
        for (start, end) in lives {
            hole |= known.is_some_and(|(_, last)| start > last + scrape * 3);
            known = Some((known.map_or(start.max(begin), |(first, _)| first), end));
        }
        match (known, gone) {
            // What it did between its last scrape and its end nobody knows.
            (Some((first, last)), Some(gone)) if gone > last + scrape * 3 => {
                Some((first, gone, 0.0))
            }
            (Some((first, last)), _) if hole => Some((first, last, 0.0)),
            (Some((first, last)), _) => {
                let scrapes = last.duration_since(first).as_secs_f64() / scrape.as_secs_f64();
                Some((first, last, scrapes.floor() + 1.0))
            }
            // It lived and died unseen.
            (None, Some(gone)) => Some((self.seen.max(begin), gone, 0.0)),
            // Not heard yet; it is missed when it is ready.
            (None, None) => None,
        }
    }
}

fn start(samples: &[Sample<'_>], whose: Whose, at: Timestamp) -> Result<Timestamp, Unusable> {
    let name = match whose {
        Whose::Proxy => UPTIME,
        Whose::ControlPlane => BEGUN_AT,
    };
    let told = samples.iter().find(|sample| sample.name == name).map(|sample| sample.value);
    let span = told.and_then(|told| SignedDuration::try_from_secs_f64(told).ok());
    let start = span.and_then(|span| match whose {
        Whose::Proxy => at.checked_sub(span).ok(),
        Whose::ControlPlane => Timestamp::UNIX_EPOCH.checked_add(span).ok(),
    });
    start.filter(|start| *start <= at + ROUNDING).ok_or(Unusable::NoStart(name))
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
