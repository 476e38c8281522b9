//! What the metrics source said, already translated: no raw label travels further than this.

use crate::exposure::Entrance;
use crate::ident::{Namespace, PodRef, Port, WorkloadRef};
use crate::proxies::Listeners;
use crate::reading::{Cause, Reading};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One evaluation's answers of one metrics source, all for the same instant.
#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    /// The instant the queries were evaluated for.
    pub at: Timestamp,
    /// The look-back they cover.
    pub lookback: SignedDuration,
    /// How often the source scrapes.
    pub scrape_interval: SignedDuration,
    /// The source's clock minus ours.
    pub skew: Reading<SignedDuration>,
    /// Every caller that was not seen to speak mutual TLS, over the look-back.
    pub callers: Reading<Vec<Caller>>,
    /// Requests and connections seen over mutual TLS, by destination workload, over the look-back.
    pub mutual: Reading<BTreeMap<Name, f64>>,
    /// Other clusters whose clients called into a namespace over mutual TLS, over the look-back.
    pub clusters: Reading<BTreeMap<Namespace, BTreeSet<String>>>,
    /// When each pod's proxy reported, over the look-back. Dead pods included.
    pub presence: Reading<BTreeMap<PodRef, Presence>>,
    /// What is left of each pod's workload certificate.
    pub certificates: Reading<BTreeMap<PodRef, Certificate>>,
    /// The control plane, by its own metrics.
    pub control_plane: Reading<ControlPlane>,
    /// Refused connections per pod, for pods that export the counter.
    pub refusals: Reading<BTreeMap<PodRef, Timeline>>,
    /// TCP connections that are open now, by destination workload.
    pub open: Reading<BTreeMap<Name, f64>>,
    /// Client-side requests by edge.
    pub edges: Reading<Vec<Edge>>,
    /// The last sending of each sidecar's listeners, by the control planes themselves.
    pub listeners: Reading<BTreeMap<PodRef, Listeners>>,
    /// Where the source is asked, if that is at a Service by its name.
    pub asked_at: Option<Entrance>,
}

/// A workload as metrics name it: namespace and name, without kind.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Name {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub workload: String,
}

impl From<&WorkloadRef> for Name {
    fn from(workload: &WorkloadRef) -> Self {
        Self { namespace: workload.namespace.clone(), workload: workload.name.clone() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.workload)
    }
}

/// What a series says about how a call travelled. Made from (reporter, data plane, label) at once
/// in translation: the label alone means nothing (`istio-semantics.md` E2).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Observed {
    /// Mutual TLS of the mesh.
    MutualTls,
    /// Not mutual TLS: STRICT would refuse it.
    Plaintext,
    /// The series does not say: its label was removed, or its reporter never computes it.
    Undetermined,
}

/// A caller that was not seen to speak mutual TLS.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    /// Who called; `None` when the proxy could not tell (`istio-semantics.md` E3).
    pub source: Option<Name>,
    /// Who was called.
    pub destination: Name,
    /// The service name it used, if known.
    pub service: Option<String>,
    /// The container port it came to, where a Telemetry object has the series say so.
    pub port: Option<Port>,
    /// Plaintext, or undetermined; mutual TLS never comes here.
    pub observed: Observed,
    /// `http`, `grpc`, `tcp`.
    pub protocol: String,
    /// Requests, connections or bytes over the look-back.
    pub count: f64,
}

/// When a pod's proxy reported, within the look-back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Presence {
    /// First sample.
    pub first: Timestamp,
    /// Last sample.
    pub last: Timestamp,
    /// Number of samples.
    pub samples: u64,
    /// A time within it that is known to have been seen by nobody, however short.
    pub gap: Option<(Timestamp, Timestamp)>,
}

/// What is left of a workload certificate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Certificate {
    /// Time to its end; negative when it has ended.
    pub remaining: SignedDuration,
    /// Its whole lifetime.
    pub lifetime: SignedDuration,
}

/// The control plane by its own metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlPlane {
    /// Instances that answered the last scrape.
    pub instances: u32,
    /// Rejected configurations in the last ten minutes.
    pub rejects: f64,
    /// Certificates that were asked for and not given in the last ten minutes.
    pub unsigned: f64,
    /// Time until a change has reached the proxies, 99th percentile; `None` when nothing changed.
    pub convergence: Option<SignedDuration>,
    /// What is left of the root certificate; `None` when it is not exported.
    pub root_remaining: Option<SignedDuration>,
}

/// Counts per window, oldest first. A window ends at its time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline(pub Vec<(Timestamp, f64)>);

/// Client-side requests of one client to one service.
#[derive(Clone, Debug, PartialEq)]
pub struct Edge {
    /// The client workload, as its own sidecar names itself.
    pub source: Name,
    /// Namespace of the service called; `None` when the client could not tell.
    pub destination: Option<Namespace>,
    /// The service called.
    pub service: String,
    /// All requests.
    pub requests: Timeline,
    /// Those whose connection was cut, refused or failed (UC, UF, URX).
    pub failures: Timeline,
    /// Those answered with 5xx.
    pub errors: Timeline,
}

impl Telemetry {
    /// Nothing is known, and all for this cause: no source was asked, or it did not answer.
    pub fn unknown(
        at: Timestamp,
        lookback: SignedDuration,
        scrape_interval: SignedDuration,
        cause: &Cause,
    ) -> Self {
        fn unknown<T>(cause: &Cause) -> Reading<T> {
            Reading::Unknown(cause.clone())
        }
        Self {
            at,
            lookback,
            scrape_interval,
            skew: unknown(cause),
            callers: unknown(cause),
            mutual: unknown(cause),
            clusters: unknown(cause),
            presence: unknown(cause),
            certificates: unknown(cause),
            control_plane: unknown(cause),
            refusals: unknown(cause),
            open: unknown(cause),
            edges: unknown(cause),
            listeners: unknown(cause),
            asked_at: None,
        }
    }
}

impl Telemetry {
    /// Somebody listened: who called, and whose proxies said so, is known. Whether they said so over
    /// the whole look-back is asked by the gate `telemetry`.
    pub fn was_heard(&self) -> bool {
        self.callers.known().is_some() && self.presence.known().is_some()
    }

    /// The kinds of evidence that are not known, one word each.
    pub fn unknown_parts(&self) -> Vec<&'static str> {
        let unknown = [
            ("skew", self.skew.known().is_none()),
            ("callers", self.callers.known().is_none()),
            ("mutual", self.mutual.known().is_none()),
            ("open", self.open.known().is_none()),
            ("presence", self.presence.known().is_none()),
            ("certificates", self.certificates.known().is_none()),
            ("control_plane", self.control_plane.known().is_none()),
            ("refusals", self.refusals.known().is_none()),
            ("edges", self.edges.known().is_none()),
        ];
        unknown.into_iter().filter(|(_, unknown)| *unknown).map(|(name, _)| name).collect()
    }
}

impl Timeline {
    /// Windows of `count` each that end at `ends`.
    pub fn steady(ends: impl IntoIterator<Item = Timestamp>, count: f64) -> Self {
        Self(ends.into_iter().map(|end| (end, count)).collect())
    }

    /// The counts of windows that ended at or before `time`.
    pub fn until(&self, time: Timestamp) -> impl DoubleEndedIterator<Item = f64> {
        self.0.iter().filter(move |(end, _)| *end <= time).map(|(_, count)| *count)
    }

    /// The counts of windows that ended after `time`; the first may have begun before it.
    pub fn after(&self, time: Timestamp) -> impl DoubleEndedIterator<Item = f64> {
        self.0.iter().filter(move |(end, _)| *end > time).map(|(_, count)| *count)
    }
}

/// `count` to the two digits that matter: a number that only slides along with its window is not
/// news.
pub fn rounded(count: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "saturates, which is what is wanted")]
    let count = count.ceil() as i64;
    let mut unit = 1;
    while count / unit >= 100 {
        unit *= 10;
    }
    count / unit * unit
}

/// How far the evidence about one workload reaches.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Coverage {
    /// The whole look-back.
    Whole,
    /// Not yet; it will be at this time if nothing is missing until then.
    Until(Timestamp),
    /// Nobody reported between these times.
    Gap {
        /// The last report before the gap.
        from: Timestamp,
        /// The first report after it.
        to: Timestamp,
    },
    /// Nobody reported at all.
    Nothing,
}

/// Do these reports, of all pods of one workload, living and dead, cover `[at - lookback, at]`?
///
/// Every pod must have reported through its own span (`samples` against its length), and the spans
/// together must leave no hole. Three scrapes are the tolerance everywhere: fewer cannot be told
/// from jitter.
pub fn coverage(
    reports: &[Presence],
    at: Timestamp,
    lookback: SignedDuration,
    scrape: SignedDuration,
) -> Coverage {
    let tolerance = scrape * 3;
    let begin = at - lookback;
    let mut reports = reports.to_vec();
    reports.sort_by_key(|presence| (presence.first, presence.last));
    let Some(first) = reports.first() else { return Coverage::Nothing };
    if first.first > begin + tolerance {
        return Coverage::Until(first.first + lookback);
    }
    for presence in &reports {
        if let Some((from, to)) = presence.gap {
            return Coverage::Gap { from, to };
        }
        let span = presence.last.duration_since(presence.first);
        let expected = span.as_secs_f64() / scrape.as_secs_f64().max(0.001);
        // A tenth, or three scrapes on a short span, may be lost to jitter and restarts.
        let missing = expected - presence.samples as f64;
        if missing > 3.0_f64.max(expected * 0.1) {
            return Coverage::Gap { from: presence.first, to: presence.last };
        }
    }
    let mut reached = begin + tolerance;
    for presence in &reports {
        if presence.first > reached + tolerance {
            return Coverage::Gap { from: reached, to: presence.first };
        }
        reached = reached.max(presence.last);
    }
    if at > reached + tolerance {
        return Coverage::Gap { from: reached, to: at };
    }
    Coverage::Whole
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAPE: SignedDuration = SignedDuration::from_secs(15);
    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    /// Reports from `first` to `last`, none missing.
    fn reports(first: i64, last: i64) -> Presence {
        let samples = ((last - first) / 15 + 1) as u64;
        Presence { first: second(first), last: second(last), samples, gap: None }
    }

    fn covered(reports: &[Presence]) -> Coverage {
        coverage(reports, second(3600), HOUR, SCRAPE)
    }

    #[test]
    fn one_pod_through_the_whole_window_covers_it() {
        assert_eq!(covered(&[reports(0, 3600)]), Coverage::Whole);
    }

    #[test]
    fn a_workload_injected_minutes_ago_says_when_it_will_be_covered() {
        assert_eq!(covered(&[reports(3000, 3600)]), Coverage::Until(second(6600)));
    }

    #[test]
    fn churn_covers_as_long_as_somebody_always_reports() {
        let churn = [reports(0, 1200), reports(1190, 2400), reports(2380, 3600)];
        assert_eq!(covered(&churn), Coverage::Whole);
    }

    #[test]
    fn a_hole_between_two_generations_of_pods_is_a_gap() {
        let gap = Coverage::Gap { from: second(1200), to: second(2400) };
        assert_eq!(covered(&[reports(0, 1200), reports(2400, 3600)]), gap);
    }

    #[test]
    fn silence_inside_one_pods_life_is_a_gap() {
        let silent = Presence { samples: 100, ..reports(0, 3600) };
        assert!(matches!(covered(&[silent]), Coverage::Gap { .. }));
    }

    #[test]
    fn a_gap_that_is_known_counts_although_others_report() {
        let gap = Some((second(1800), second(1830)));
        let unseen = Presence { gap, ..reports(0, 3600) };
        let found = Coverage::Gap { from: second(1800), to: second(1830) };
        assert_eq!(covered(&[reports(0, 3600), unseen]), found);
    }

    #[test]
    fn silence_up_to_now_is_a_gap() {
        assert!(matches!(covered(&[reports(0, 3000)]), Coverage::Gap { .. }));
        assert_eq!(covered(&[]), Coverage::Nothing);
    }
}
