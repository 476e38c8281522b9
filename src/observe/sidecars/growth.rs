//! How much a counter grew, and when: what is left of many scrapes of many proxies.

use crate::observe::evidence::counted::{
    ARRIVED, CALLER, CLIENT_SIDE, CLOSED_TOTAL, CONVERGENCE, EDGE, FAILED, HANDSHAKES, MUTUAL_TLS,
    OPENED_TOTAL, RECEIVED_TOTAL, REFUSALS, REJECTS, REQUESTS_TOTAL, SENT_TOTAL, SERVER_SIDE,
    UNSIGNED,
};
use crate::observe::sidecars::exposition::Sample;
use crate::translate::evidence::{BYTES, CONNECTIONS, COUNTED, REQUESTS, Row};
use jiff::{SignedDuration, Timestamp};
use meshrollout_core::ident::PodRef;
use std::collections::VecDeque;

/// By these labels the rows name a pod.
pub(super) const NAMESPACE: &str = "namespace";
pub(super) const POD: &str = "pod";

/// Which question growth answers.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Question {
    Plaintext,
    Mutual,
    Requests,
    Failures,
    Errors,
    Refusals,
    Rejects,
    Unsigned,
    Convergence,
}

/// All that grows under the same labels is one sum, whichever pods it comes from.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Key {
    pub(super) question: Question,
    labels: Vec<(&'static str, Box<str>)>,
}

/// What a sample of `pod` counts for.
pub(super) fn keys(sample: &Sample<'_>, pod: &PodRef) -> Vec<Key> {
    let key = |question, names: &[&'static str], counted: Option<&str>| {
        let labels = names.iter().map(|name| (*name, sample.label(name).into()));
        let counted = counted.map(|what| (COUNTED, what.into()));
        // A label that is absent and one that is empty are the same.
        let labels = labels.chain(counted).filter(|(_, value): &(_, Box<str>)| !value.is_empty());
        Key { question, labels: labels.collect() }
    };
    let server_side = SERVER_SIDE.contains(&sample.label("reporter"));
    let client_side = sample.label("reporter") == CLIENT_SIDE;
    let arrived = |what| match sample.label("connection_security_policy") {
        MUTUAL_TLS => vec![key(Question::Mutual, &ARRIVED, Some(what))],
        _ => vec![key(Question::Plaintext, &CALLER, Some(what))],
    };
    let failed = || sample.label("response_flags").split(',').any(|flag| FAILED.contains(&flag));
    let edge = |question| key(question, &EDGE, None);
    match sample.name {
        REQUESTS_TOTAL if server_side => arrived(REQUESTS),
        OPENED_TOTAL if server_side => arrived(CONNECTIONS),
        SENT_TOTAL if server_side => arrived(BYTES[0]),
        RECEIVED_TOTAL if server_side => arrived(BYTES[1]),
        REQUESTS_TOTAL if client_side => {
            let code = sample.label("response_code");
            let error = code.len() == 3 && code.starts_with('5');
            [(true, Question::Requests), (failed(), Question::Failures), (error, Question::Errors)]
                .into_iter()
                .filter(|(counts, _)| *counts)
                .map(|(_, question)| edge(question))
                .collect()
        }
        OPENED_TOTAL if client_side => vec![edge(Question::Requests)],
        CLOSED_TOTAL if client_side && failed() => vec![edge(Question::Failures)],
        name if name == REFUSALS || HANDSHAKES.contains(&name) => {
            let labels =
                vec![(NAMESPACE, pod.namespace.as_str().into()), (POD, pod.name.as_str().into())];
            vec![Key { question: Question::Refusals, labels }]
        }
        REJECTS => vec![key(Question::Rejects, &[], None)],
        name if UNSIGNED.contains(&name) => vec![key(Question::Unsigned, &[], None)],
        CONVERGENCE => vec![key(Question::Convergence, &["le"], None)],
        _ => vec![],
    }
}

impl Key {
    pub(super) fn row(&self, points: Vec<(Timestamp, f64)>) -> Row {
        let labels = self.labels.iter().map(|(name, value)| ((*name).to_owned(), (**value).into()));
        Row { labels: labels.collect(), points }
    }

    pub(super) fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| *label == name).map_or("", |(_, value)| value)
    }
}

/// What one key grew by, oldest first. What grew within a scrape's time is one point: memory is
/// bounded by time, not by the number of pods.
#[derive(Debug, Default)]
pub(super) struct Growth(VecDeque<Point>);

#[derive(Clone, Copy, Debug)]
struct Point {
    first: Timestamp,
    last: Timestamp,
    count: f64,
}

impl Growth {
    /// Adds what was found to have grown at `at`: to a point that began less than `width` before,
    /// or where there `is_place` as a new one. False where it found none.
    pub(super) fn add(
        &mut self,
        at: Timestamp,
        count: f64,
        width: SignedDuration,
        is_place: bool,
    ) -> bool {
        let place = self.0.partition_point(|point| point.first <= at);
        if let Some(before) = place.checked_sub(1).and_then(|place| self.0.get_mut(place))
            && at.duration_since(before.first) < width
        {
            before.last = before.last.max(at);
            before.count += count;
            return true;
        }
        if is_place {
            self.0.insert(place, Point { first: at, last: at, count });
        }
        is_place
    }

    /// Forgets what grew up to `time`.
    pub(super) fn forget(&mut self, time: Timestamp) {
        while self.0.front().is_some_and(|point| point.last <= time) {
            self.0.pop_front();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What may have grown after `time`.
    pub(super) fn since(&self, time: Timestamp) -> f64 {
        self.sum(|point| point.last > time)
    }

    /// What surely grew after `time`.
    pub(super) fn wholly_since(&self, time: Timestamp) -> f64 {
        self.sum(|point| point.first > time)
    }

    fn sum(&self, is_in: impl Fn(&Point) -> bool) -> f64 {
        self.0.iter().filter(|point| is_in(point)).fold(0.0, |sum, point| sum + point.count)
    }

    /// What grew in each window of `width` that ends at one of `ends`, oldest first, where that is
    /// anything.
    pub(super) fn in_windows(
        &self,
        ends: &[Timestamp],
        width: SignedDuration,
    ) -> Vec<(Timestamp, f64)> {
        let mut windows: Vec<(Timestamp, f64)> = vec![];
        let first = ends.first().map(|end| *end - width);
        for point in self.0.iter().filter(|point| first.is_some_and(|first| point.last > first)) {
            let place = ends.partition_point(|end| *end < point.last);
            let Some(end) = ends.get(place) else { break };
            match windows.last_mut() {
                Some((last, count)) if last == end => *count += point.count,
                _ => windows.push((*end, point.count)),
            }
        }
        windows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::sidecars::exposition::samples;

    const SCRAPE: SignedDuration = SignedDuration::from_secs(10);

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn counts_for(line: &str) -> Vec<String> {
        let pod = PodRef { namespace: "pay".into(), name: "a".into() };
        let sample = samples(line, |_| true).next().unwrap().unwrap();
        let text = |key: Key| {
            let labels = key.labels.iter().map(|(name, value)| format!(" {name}={value}"));
            format!("{:?}{}", key.question, labels.collect::<String>())
        };
        keys(&sample, &pod).into_iter().map(text).collect()
    }

    #[test]
    fn a_sample_counts_for_what_its_reporter_can_know() {
        let to = r#"destination_workload_namespace="pay",destination_workload="ledger""#;
        let line = |name: &str, labels: &str| counts_for(&format!("{name}{{{labels},{to}}} 1"));
        let named = "destination_workload_namespace=pay destination_workload=ledger";
        let arrived = r#"reporter="destination",connection_security_policy="#;
        assert_eq!(
            line("istio_requests_total", &format!(r#"{arrived}"mutual_tls""#)),
            [format!("Mutual {named} counted=requests")]
        );
        assert_eq!(
            line("istio_tcp_sent_bytes_total", &format!(r#"{arrived}"none""#)),
            [format!(
                "Plaintext reporter=destination connection_security_policy=none {named} counted=sent"
            )]
        );
        // The label alone says nothing: a client's sidecar does not know.
        let client = r#"reporter="source",connection_security_policy="mutual_tls""#;
        assert_eq!(line("istio_requests_total", client), ["Requests"]);
        assert_eq!(
            line("istio_requests_total", r#"reporter="x",connection_security_policy="none""#),
            [""; 0]
        );
    }

    #[test]
    fn a_failure_is_told_by_its_flags_alone_or_in_a_list() {
        let client = |labels: &str| {
            counts_for(&format!(r#"istio_requests_total{{reporter="source",{labels}}} 1"#))
        };
        let failed = ["Requests", "Failures"];
        assert_eq!(client(r#"response_flags="UC",response_code="200""#), failed);
        assert_eq!(client(r#"response_flags="UF,URX",response_code="0""#), failed);
        assert_eq!(client(r#"response_flags="NR,UCX",response_code="50""#), ["Requests"]);
        assert_eq!(client(r#"response_flags="-",response_code="503""#), ["Requests", "Errors"]);
        let closed = |flags: &str| {
            let line = r#"istio_tcp_connections_closed_total{reporter="source",response_flags="#;
            counts_for(&format!("{line}\"{flags}\"}} 1"))
        };
        assert_eq!((closed("UC"), closed("-")), (vec!["Failures".to_owned()], vec![]));
    }

    #[test]
    fn a_refusal_is_the_pods_own() {
        for name in [REFUSALS, HANDSHAKES[0], HANDSHAKES[1]] {
            let of = counts_for(&format!(r#"{name}{{listener_address="0.0.0.0_15006"}} 2"#));
            assert_eq!(of, ["Refusals namespace=pay pod=a"], "{name}");
        }
    }

    #[test]
    fn growth_is_told_by_when_it_was_seen() {
        let mut growth = Growth::default();
        for (at, count) in [(100, 1.0), (109, 2.0), (110, 4.0), (50, 8.0), (131, 16.0)] {
            assert!(growth.add(second(at), count, SCRAPE, true));
        }
        assert!(growth.add(second(119), 0.0, SCRAPE, false), "there is a point that it falls into");
        assert!(!growth.add(second(200), 1.0, SCRAPE, false));
        assert_eq!(growth.len(), 4, "what lies within a scrape is one point");
        assert_eq!([growth.since(second(49)), growth.since(second(109))], [31.0, 20.0]);
        assert_eq!([growth.since(second(105)), growth.wholly_since(second(105))], [23.0, 20.0]);
        let ends = [second(100), second(130), second(160)];
        let width = SignedDuration::from_secs(30);
        assert_eq!(growth.in_windows(&ends[1..], width), [(ends[1], 7.0), (ends[2], 16.0)]);
        assert_eq!(growth.in_windows(&ends[..2], width), [(ends[1], 7.0)], "50 lies before");
        growth.forget(second(109));
        assert_eq!(growth.since(second(0)), 20.0);
    }
}
