//! Which questions a metrics source is asked, and asking them.
//!
//! The number of questions is constant: each is about the whole mesh, grouped by workload or pod,
//! never about one namespace. All are evaluated for one instant, so that the answers can be held
//! against each other. That instant is our own present: what a scrape still under way will bring
//! is at most a scrape late, which every tolerance allows for; and a question about the past would
//! see harm later.

pub(super) mod counted;
mod promql;

use super::clock::Clock;
use super::prometheus::{Answer, Error, Prometheus, Sample, Series};
use crate::translate::entrance::asked_at;
use crate::translate::evidence::{self, PodLabels, Row};
use jiff::{SignedDuration, Timestamp};
use meshrollout_core::ident::PodRef;
use meshrollout_core::reading::{Cause, Reading};
use meshrollout_core::traffic::Telemetry;
use promql::Promql;
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};
use std::time::Instant;
use tokio::sync::Semaphore;

/// How many queries one [`gather`] sends, whatever the number of namespaces and pods. One less to
/// a source without the agent's metrics.
pub const QUERIES: usize = 14;

/// Queries at one time: a metrics source has other users.
const AT_ONCE: usize = 4;

/// Whole windows before the switch, as a baseline; and the one into which the switch fell.
const BASELINE_WINDOWS: i64 = 6 + 1;

/// A range query has at most 11,000 points by Prometheus' own limit.
const MOST_WINDOWS: i64 = 10_000;

/// What is to be known.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// How far back plaintext counts.
    pub lookback: SignedDuration,
    /// The width of one window in which harm is counted.
    pub harm_window: SignedDuration,
    /// The earliest time at which a namespace now watched went STRICT.
    pub since: Option<Timestamp>,
}

/// What is known of the traffic where no metrics source is asked: nothing, and why.
pub fn not_asked(at: Timestamp) -> Telemetry {
    // What a source would be asked for. Nobody asks one, so nothing depends on them.
    let (lookback, scrape) = (SignedDuration::from_hours(24), SignedDuration::from_secs(15));
    Telemetry::unknown(at, lookback, scrape, &Cause::NotRead("a metrics source".into()))
}

/// Asks `source` everything. `now` is our clock at this moment.
///
/// Never fails: what is not known says why, and leaves the rest alone.
pub async fn gather(source: &Prometheus, question: &Question, now: Timestamp) -> Telemetry {
    let config = source.source();
    let labels = PodLabels { namespace: &config.namespace_label, pod: &config.pod_label };
    let at = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
    let promql = Promql { at, lookback: question.lookback, scrape: config.scrape_interval, labels };
    let width = question.harm_window.max(config.scrape_interval);
    let ends = window_ends(at, width, question.since);
    let ask = Asking::new(source, now);

    let certificates = async {
        if config.agent_metrics {
            return ask.instant(&promql.certificates(), at).await;
        }
        Err(Cause::NotRead(format!(
            "istio_agent_cert_expiry_seconds (the metrics source {} has agentMetrics: false)",
            config.name
        )))
    };
    let (first, last) = (ends.first().copied().unwrap_or(at), at);
    let windows = |query: String| {
        let ask = &ask;
        async move { ask.range(&query, first, last, width).await }
    };
    let instant = |query: String| {
        let ask = &ask;
        async move { ask.instant(&query, at).await }
    };
    let (
        control_plane,
        requests_in_plaintext,
        tcp_in_plaintext,
        mutual,
        open,
        counts,
        firsts,
        lasts,
        certificates,
        exporters,
        refusals,
        requests,
        failures,
        errors,
    ) = tokio::join!(
        instant(promql.control_plane()),
        instant(promql.requests_in_plaintext()),
        instant(promql.tcp_in_plaintext()),
        instant(promql.mutual()),
        instant(promql.open()),
        instant(promql.sample_counts()),
        instant(promql.first_samples()),
        instant(promql.last_samples()),
        certificates,
        instant(promql.refusal_counters()),
        windows(promql.refusals(width)),
        windows(promql.requests(width)),
        windows(promql.failures(width)),
        windows(promql.errors(width)),
    );

    let plaintext =
        requests_in_plaintext.and_then(|requests| Ok([requests, tcp_in_plaintext?].concat()));
    let telemetry = Answers {
        at,
        scrape_interval: config.scrape_interval,
        certificate_lifetime: config.workload_cert_lifetime,
        ends,
        skew: ask.skew(),
        plaintext,
        mutual,
        open,
        counts,
        firsts,
        lasts,
        gaps: BTreeMap::new(),
        certificates,
        control_plane,
        exporters,
        refusals,
        requests,
        failures,
        errors,
    }
    .telemetry(labels, question.lookback);
    Telemetry { asked_at: asked_at(config), ..telemetry }
}

/// What was answered to each question, all for one instant, whoever counted.
pub(super) struct Answers {
    pub(super) at: Timestamp,
    pub(super) scrape_interval: SignedDuration,
    pub(super) certificate_lifetime: SignedDuration,
    /// Of the windows in which harm is counted.
    pub(super) ends: Vec<Timestamp>,
    /// Whose clock gave the times, minus ours.
    pub(super) skew: Result<SignedDuration, Cause>,
    pub(super) plaintext: Result<Vec<Row>, Cause>,
    pub(super) mutual: Result<Vec<Row>, Cause>,
    pub(super) open: Result<Vec<Row>, Cause>,
    pub(super) counts: Result<Vec<Row>, Cause>,
    pub(super) firsts: Result<Vec<Row>, Cause>,
    pub(super) lasts: Result<Vec<Row>, Cause>,
    /// Times that are known to have been seen by nobody.
    pub(super) gaps: BTreeMap<PodRef, (Timestamp, Timestamp)>,
    pub(super) certificates: Result<Vec<Row>, Cause>,
    pub(super) control_plane: Result<Vec<Row>, Cause>,
    pub(super) exporters: Result<Vec<Row>, Cause>,
    pub(super) refusals: Result<Vec<Row>, Cause>,
    pub(super) requests: Result<Vec<Row>, Cause>,
    pub(super) failures: Result<Vec<Row>, Cause>,
    pub(super) errors: Result<Vec<Row>, Cause>,
}

impl Answers {
    pub(super) fn telemetry(self, labels: PodLabels<'_>, lookback: SignedDuration) -> Telemetry {
        let Self { firsts, lasts, ends, refusals, failures, errors, .. } = self;
        let presence = self.counts.and_then(|counts| {
            let mut presence = evidence::presence(labels, &counts, &firsts?, &lasts?)?;
            for (pod, known) in &mut presence {
                known.gap = self.gaps.get(pod).copied();
            }
            Ok(presence)
        });
        let lifetime = self.certificate_lifetime;
        let certificates =
            self.certificates.and_then(|rows| evidence::certificates(labels, lifetime, &rows));
        let refusals = self
            .exporters
            .and_then(|exporters| evidence::refusals(labels, &ends, &exporters, &refusals?));
        let edges = self
            .requests
            .and_then(|requests| evidence::edges(&ends, &requests, &failures?, &errors?));
        Telemetry {
            at: self.at,
            lookback,
            scrape_interval: self.scrape_interval,
            skew: reading(self.skew),
            callers: reading(self.plaintext.and_then(|rows| evidence::callers(&rows))),
            clusters: reading(self.mutual.as_deref().map(evidence::clusters).map_err(Cause::clone)),
            mutual: reading(self.mutual.and_then(|rows| evidence::by_destination(&rows))),
            open: reading(self.open.and_then(|rows| evidence::by_destination(&rows))),
            presence: reading(presence),
            certificates: reading(certificates),
            control_plane: reading(
                self.control_plane.and_then(|rows| evidence::control_plane(&rows)),
            ),
            refusals: reading(refusals),
            edges: reading(edges),
            // No metric tells; the control planes are asked by `observe::proxies`.
            listeners: Reading::Unknown(Cause::NotRead("the proxies' state".into())),
            asked_at: None,
        }
    }
}

/// Windows back from `at`, so that the newest holds the newest samples. The one into which `since`
/// fell ends after it; a whole baseline lies before.
pub(super) fn window_ends(
    at: Timestamp,
    width: SignedDuration,
    since: Option<Timestamp>,
) -> Vec<Timestamp> {
    let watched = since.map_or(0, |since| at.duration_since(since).as_millis().max(0));
    let windows = i64::try_from(watched.div_euclid(width.as_millis().max(1))).unwrap_or(i64::MAX);
    let windows = windows.saturating_add(BASELINE_WINDOWS).min(MOST_WINDOWS);
    (0..windows).rev().map(|back| at - width * i32::try_from(back).unwrap_or(0)).collect()
}

fn reading<T>(result: Result<T, Cause>) -> Reading<T> {
    match result {
        Ok(fact) => Reading::Known(fact),
        Err(cause) => Reading::Unknown(cause),
    }
}

/// One source being asked, a few questions at a time, with an eye on its clock.
struct Asking<'a> {
    source: &'a Prometheus,
    now: Timestamp,
    begun: Instant,
    places: Semaphore,
    clock: Mutex<Clock>,
    /// A question found no answer in time: the others would wait as long, one after the other,
    /// and with them a rollback that a person asks for.
    gave_up: OnceLock<Cause>,
}

impl<'a> Asking<'a> {
    fn new(source: &'a Prometheus, now: Timestamp) -> Self {
        let places = Semaphore::new(AT_ONCE);
        let (clock, gave_up) = (Mutex::default(), OnceLock::new());
        Self { source, now, begun: Instant::now(), places, clock, gave_up }
    }

    async fn instant(&self, query: &str, at: Timestamp) -> Result<Vec<Row>, Cause> {
        let points = |sample: Sample| vec![(sample.at, sample.value)];
        self.ask(self.source.instant(query, Some(at)), points).await
    }

    async fn range(
        &self,
        query: &str,
        start: Timestamp,
        end: Timestamp,
        step: SignedDuration,
    ) -> Result<Vec<Row>, Cause> {
        let points = |samples: Vec<Sample>| {
            samples.into_iter().map(|sample| (sample.at, sample.value)).collect()
        };
        self.ask(self.source.range(query, start, end, step), points).await
    }

    /// Nothing is sent before there is a place.
    async fn ask<T>(
        &self,
        question: impl Future<Output = Result<Answer<T>, Error>>,
        points: impl Fn(T) -> Vec<(Timestamp, f64)>,
    ) -> Result<Vec<Row>, Cause> {
        // Never closed, so there is always a place in the end.
        let _place = self.places.acquire().await;
        if let Some(cause) = self.gave_up.get() {
            return Err(cause.clone());
        }
        let sent = self.time();
        self.heard(sent, question.await, points)
    }

    fn heard<T>(
        &self,
        sent: Timestamp,
        answer: Result<Answer<T>, Error>,
        points: impl Fn(T) -> Vec<(Timestamp, f64)>,
    ) -> Result<Vec<Row>, Cause> {
        let received = self.time();
        // A panic elsewhere leaves a clock that has heard less, no wrong one.
        let mut clock = self.clock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match answer {
            Ok(answer) => {
                clock.hear(sent, received, answer.server_time);
                let row =
                    |series: Series<T>| Row { labels: series.labels, points: points(series.value) };
                Ok(answer.series.into_iter().map(row).collect())
            }
            Err(error) => {
                let cause = error.cause();
                if matches!(error, Error::TimedOut(_)) {
                    // Which of several it was makes no difference.
                    let _ = self.gave_up.set(cause.clone());
                }
                clock.hear_nothing(&cause);
                Err(cause)
            }
        }
    }

    fn skew(&self) -> Result<SignedDuration, Cause> {
        self.clock.lock().unwrap_or_else(std::sync::PoisonError::into_inner).skew()
    }

    /// Our clock, carried on from `now` without a leap.
    fn time(&self) -> Timestamp {
        self.now + self.begun.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: SignedDuration = SignedDuration::from_secs(30);

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn six_whole_windows_lie_before_the_switch() {
        for since in [0, 1, 29, 30, 31, 3599, 3600] {
            let ends = window_ends(second(10_000), WIDTH, Some(second(10_000 - since)));
            assert_eq!(ends.last(), Some(&second(10_000)), "the newest ends now");
            let before = ends.iter().filter(|end| **end <= second(10_000 - since)).count();
            assert!((6..=7).contains(&before), "{before} before {since} s ago");
        }
        assert_eq!(window_ends(second(10_000), WIDTH, None).len(), 7);
    }

    #[test]
    fn a_bake_of_any_length_stays_within_what_the_api_answers() {
        let ends = window_ends(second(1_000_000_000), WIDTH, Some(second(0)));
        assert_eq!(ends.len(), 10_000);
    }
}
