//! Prometheus' answers into the core's evidence.
//!
//! Here (reporter, `connection_security_policy`) becomes [`Observed`]; the raw label goes no
//! further, since alone it means nothing (`istio-semantics.md` E2).

use jiff::{SignedDuration, Timestamp};
use meshrollout_core::ident::{Namespace, PodRef, Port};
use meshrollout_core::reading::Cause;
use meshrollout_core::traffic::{
    Caller, Certificate, ControlPlane, Edge, Name, Observed, Presence, Timeline,
};
use std::collections::{BTreeMap, BTreeSet};

/// One series of an answer: an instant query has one point, a range query one per step.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its values, oldest first.
    pub points: Vec<(Timestamp, f64)>,
}

/// The labels by which a source names a pod.
#[derive(Clone, Copy, Debug)]
pub struct PodLabels<'a> {
    /// Of its namespace.
    pub namespace: &'a str,
    /// Of its name.
    pub pod: &'a str,
}

/// The label our queries add where one answer counts different things.
pub const COUNTED: &str = "counted";
/// Its value for requests.
pub const REQUESTS: &str = "requests";
/// Its value for opened connections.
pub const CONNECTIONS: &str = "connections";
/// Its values for bytes, by direction.
pub const BYTES: [&str; 2] = ["sent", "received"];

/// The label of the port that was called: of nobody's making but a Telemetry object's, under the
/// name that Istio's own documentation gives it.
pub const PORT: &str = "destination_port";

/// The label our query adds to tell the facts about the control plane apart.
pub const FACT: &str = "fact";

impl Row {
    fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// What a label says; a proxy that does not know says `unknown`, one that was told not to say
    /// leaves it out.
    fn known(&self, name: &str) -> Option<&str> {
        Some(self.label(name)).filter(|value| !["", "unknown"].contains(value))
    }

    fn value(&self) -> f64 {
        self.points.last().map_or(0.0, |(_, value)| *value)
    }

    fn pod(&self, labels: PodLabels<'_>) -> Option<PodRef> {
        let (namespace, name) = (self.label(labels.namespace), self.label(labels.pod));
        // A proxy that nobody can name is evidence about nobody.
        (!namespace.is_empty() && !name.is_empty())
            .then(|| PodRef { namespace: Namespace::from(namespace), name: name.to_owned() })
    }

    fn name(&self, side: &str) -> Option<Name> {
        Some(Name {
            namespace: Namespace::from(self.known(&format!("{side}_workload_namespace"))?),
            workload: self.known(&format!("{side}_workload"))?.to_owned(),
        })
    }

    /// Silence about the one called cannot be put aside: it may be anyone's evidence.
    fn destination(&self) -> Result<Name, Cause> {
        self.name("destination").ok_or_else(|| {
            Cause::Ambiguous(format!("a series does not name who was called: {:?}", self.labels))
        })
    }

    fn observed(&self) -> Observed {
        match (self.label("reporter"), self.label("connection_security_policy")) {
            ("destination" | "waypoint", "mutual_tls") => Observed::MutualTls,
            // ztunnel says `unknown` for plaintext that arrives at a pod, and never `none` (D3).
            ("destination" | "waypoint", "none" | "unknown") => Observed::Plaintext,
            _ => Observed::Undetermined,
        }
    }
}

/// Requests, connections and bytes of one thing. Bytes are told only where nothing else was
/// counted: they are how a connection opened before the look-back shows.
#[derive(Default)]
struct Tally {
    calls: f64,
    bytes: f64,
}

impl Tally {
    fn add(&mut self, row: &Row) {
        if BYTES.contains(&row.label(COUNTED)) {
            self.bytes += row.value();
        } else {
            self.calls += row.value();
        }
    }

    fn count(&self) -> f64 {
        if self.calls > 0.0 { self.calls } else { self.bytes }
    }
}

/// Who was not seen to speak mutual TLS, from rows of what such callers sent.
pub fn callers(rows: &[Row]) -> Result<Vec<Caller>, Cause> {
    let mut tallies: BTreeMap<_, Tally> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.observed() != Observed::MutualTls) {
        let service = row.known("destination_service").map(str::to_owned);
        let protocol = match row.known("request_protocol") {
            Some(protocol) => protocol,
            None if row.label(COUNTED) == REQUESTS => "http",
            None => "tcp",
        };
        let port = row.known(PORT).and_then(|port| port.parse().ok()).map(Port);
        let (source, observed) = (row.name("source"), row.observed());
        let key = (source, row.destination()?, service, port, observed, protocol.to_owned());
        tallies.entry(key).or_default().add(row);
    }
    Ok(tallies
        .into_iter()
        .map(|((source, destination, service, port, observed, protocol), tally)| Caller {
            source,
            destination,
            service,
            port,
            observed,
            protocol,
            count: tally.count(),
        })
        .filter(|caller| caller.count > 0.0)
        .collect())
}

/// What was seen over mutual TLS, by destination.
pub fn by_destination(rows: &[Row]) -> Result<BTreeMap<Name, f64>, Cause> {
    let mut tallies: BTreeMap<_, Tally> = BTreeMap::new();
    for row in rows {
        tallies.entry(row.destination()?).or_default().add(row);
    }
    Ok(tallies.into_iter().map(|(name, tally)| (name, tally.count())).collect())
}

/// Clusters other than the servers' own whose clients were seen, by the namespace that they called.
/// Who is in none is not counted.
pub fn clusters(rows: &[Row]) -> BTreeMap<Namespace, BTreeSet<String>> {
    let of = |row: &Row| {
        let (from, to) = (row.known("source_cluster")?, row.known("destination_cluster")?);
        (from != to).then(|| Some((row.name("destination")?.namespace, from.to_owned())))?
    };
    let mut clusters: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for (namespace, cluster) in rows.iter().filter_map(of) {
        clusters.entry(namespace).or_default().insert(cluster);
    }
    clusters
}

/// When each pod reported, from the number of its samples and the times of the first and last.
pub fn presence(
    labels: PodLabels<'_>,
    counts: &[Row],
    firsts: &[Row],
    lasts: &[Row],
) -> Result<BTreeMap<PodRef, Presence>, Cause> {
    let times = |rows: &[Row]| -> Result<BTreeMap<PodRef, Timestamp>, Cause> {
        rows.iter()
            .filter_map(|row| Some((row.pod(labels)?, row.value())))
            .map(|(pod, value)| Ok((pod, time(value)?)))
            .collect()
    };
    let (firsts, lasts) = (times(firsts)?, times(lasts)?);
    Ok(counts
        .iter()
        .filter_map(|row| {
            let pod = row.pod(labels)?;
            // A pod seen for less than a step of the subquery has no first: it covers nothing.
            let (first, last) = (*firsts.get(&pod)?, *lasts.get(&pod)?);
            let samples = row.value().max(0.0) as u64;
            Some((pod, Presence { first, last: last.max(first), samples, gap: None }))
        })
        .collect())
}

/// What is left of certificates, from the seconds left of each.
///
/// `lifetime` is what certificates are configured to live. The metric's own history cannot stand
/// in for it: of a pod whose renewal fails it holds only what is left, and a tenth of a lifetime
/// would look whole. One that has more left than it should live has been given a longer life.
pub fn certificates(
    labels: PodLabels<'_>,
    lifetime: SignedDuration,
    rows: &[Row],
) -> Result<BTreeMap<PodRef, Certificate>, Cause> {
    rows.iter()
        .filter_map(|row| Some((row.pod(labels)?, row.value())))
        .map(|(pod, value)| {
            let remaining = span(value)?;
            Ok((pod, Certificate { remaining, lifetime: lifetime.max(remaining) }))
        })
        .collect()
}

/// The control plane, from one row per fact. No instance that answers is zero, not unknown: the
/// question was answered.
pub fn control_plane(rows: &[Row]) -> Result<ControlPlane, Cause> {
    let fact = |name: &str| rows.iter().find(|row| row.label(FACT) == name).map(Row::value);
    Ok(ControlPlane {
        instances: fact("instances").unwrap_or(0.0) as u32,
        rejects: fact("rejects").unwrap_or(0.0),
        unsigned: fact("unsigned").unwrap_or(0.0),
        convergence: fact("convergence").map(span).transpose()?,
        root_remaining: fact("root").map(span).transpose()?,
    })
}

/// Refusals of each pod in `exporters`, in windows that end at `ends`. `rows` holds what is not
/// zero.
pub fn refusals(
    labels: PodLabels<'_>,
    ends: &[Timestamp],
    exporters: &[Row],
    rows: &[Row],
) -> Result<BTreeMap<PodRef, Timeline>, Cause> {
    let mut refusals: BTreeMap<_, _> = exporters
        .iter()
        .filter_map(|row| Some((row.pod(labels)?, Timeline::steady(ends.iter().copied(), 0.0))))
        .collect();
    for row in rows {
        if let Some(pod) = row.pod(labels) {
            refusals.insert(pod, timeline(ends, row)?);
        }
    }
    Ok(refusals)
}

/// Calls by edge, in windows that end at `ends`. The rows hold what is not zero.
pub fn edges(
    ends: &[Timestamp],
    requests: &[Row],
    failures: &[Row],
    errors: &[Row],
) -> Result<Vec<Edge>, Cause> {
    let mut edges = BTreeMap::new();
    add(&mut edges, ends, requests, |edge| &mut edge.requests)?;
    add(&mut edges, ends, failures, |edge| &mut edge.failures)?;
    add(&mut edges, ends, errors, |edge| &mut edge.errors)?;
    Ok(edges.into_values().collect())
}

fn add(
    edges: &mut BTreeMap<(Name, Option<Namespace>, String), Edge>,
    ends: &[Timestamp],
    rows: &[Row],
    part: fn(&mut Edge) -> &mut Timeline,
) -> Result<(), Cause> {
    let none = || Timeline::steady(ends.iter().copied(), 0.0);
    for row in rows {
        // A client's sidecar always knows itself; one that was told not to say is nobody's.
        let Some(source) = row.name("source") else { continue };
        let destination = row.known("destination_service_namespace").map(Namespace::from);
        let service = row.label("destination_service").to_owned();
        let key = (source.clone(), destination.clone(), service.clone());
        let edge = edges.entry(key).or_insert_with(|| Edge {
            source,
            destination,
            service,
            requests: none(),
            failures: none(),
            errors: none(),
        });
        let more = timeline(ends, row)?;
        // `unknown` and an absent label are one edge, in two rows.
        for (sum, (_, count)) in part(edge).0.iter_mut().zip(more.0) {
            sum.1 += count;
        }
    }
    Ok(())
}

/// Every window, those without a point as zero: the query leaves zeros out.
fn timeline(ends: &[Timestamp], row: &Row) -> Result<Timeline, Cause> {
    let mut points: BTreeMap<_, _> = row.points.iter().copied().collect();
    let windows = ends.iter().map(|end| (*end, points.remove(end).unwrap_or(0.0))).collect();
    match points.keys().next() {
        Some(time) => Err(Cause::Ambiguous(format!("a count for {time}, which was not asked for"))),
        None => Ok(Timeline(windows)),
    }
}

fn time(seconds: f64) -> Result<Timestamp, Cause> {
    span(seconds)
        .and_then(|since| Timestamp::UNIX_EPOCH.checked_add(since).map_err(|_| absurd(seconds)))
}

fn span(seconds: f64) -> Result<SignedDuration, Cause> {
    SignedDuration::try_from_secs_f64(seconds).map_err(|_| absurd(seconds))
}

fn absurd(seconds: f64) -> Cause {
    Cause::Ambiguous(format!("{seconds} seconds is no time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: PodLabels<'_> = PodLabels { namespace: "kubernetes_namespace", pod: "pod_name" };

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// A row of `label=value` pairs and one value.
    fn row(labels: &str, value: f64) -> Row {
        rows_of(labels, &[(0, value)])
    }

    fn rows_of(labels: &str, points: &[(i64, f64)]) -> Row {
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        };
        Row {
            labels: labels.split_whitespace().map(pair).collect(),
            points: points.iter().map(|(time, value)| (second(*time), *value)).collect(),
        }
    }

    fn name(namespace: &str, workload: &str) -> Name {
        Name { namespace: namespace.into(), workload: workload.into() }
    }

    fn pod(name: &str) -> PodRef {
        PodRef { namespace: "pay".into(), name: name.into() }
    }

    const TO: &str = "destination_workload_namespace=pay destination_workload=ledger";
    const FROM: &str = "source_workload_namespace=shop source_workload=web";

    #[test]
    fn a_port_is_known_where_the_series_says_it() {
        let port = |said: &str| {
            let labels = "reporter=destination connection_security_policy=none";
            let rows = [row(&format!("{labels} {FROM} {TO} counted=requests {said}"), 3.0)];
            callers(&rows).unwrap().pop().unwrap().port
        };
        assert_eq!(port("destination_port=8080"), Some(Port(8080)));
        for unsaid in ["destination_port=unknown", "destination_port=", "destination_port=http"] {
            assert_eq!(port(unsaid), None, "{unsaid}");
        }
        assert_eq!(port("other=8080"), None);
    }

    #[test]
    fn a_cluster_counts_where_it_is_not_the_servers_own() {
        let of = |clusters: &str| row(&format!("{TO} {FROM} {clusters}"), 1.0);
        let rows = [
            of("source_cluster=near destination_cluster=near"),
            of("source_cluster=far destination_cluster=near"),
            of("source_cluster=unknown destination_cluster=near"),
            of("destination_cluster=near"),
            of("source_cluster=other"),
        ];
        assert_eq!(clusters(&rows), [("pay".into(), ["far".to_owned()].into())].into());
    }

    #[test]
    fn a_label_means_something_only_with_its_reporter() {
        for (reporter, policy, observed) in [
            ("destination", "mutual_tls", Observed::MutualTls),
            ("waypoint", "mutual_tls", Observed::MutualTls),
            ("destination", "none", Observed::Plaintext),
            ("waypoint", "none", Observed::Plaintext),
            ("destination", "unknown", Observed::Plaintext),
            ("destination", "", Observed::Undetermined),
            ("destination", "new_in_a_later_version", Observed::Undetermined),
            ("source", "mutual_tls", Observed::Undetermined),
            ("source", "unknown", Observed::Undetermined),
            ("", "none", Observed::Undetermined),
        ] {
            let labels = format!("reporter={reporter} connection_security_policy={policy}");
            assert_eq!(row(&labels, 1.0).observed(), observed, "{labels}");
        }
    }

    #[test]
    fn a_caller_is_told_by_connections_before_bytes() {
        let tcp = format!(
            "{TO} reporter=destination connection_security_policy=none request_protocol=tcp"
        );
        let bytes = |from: &str| row(&format!("{tcp} {from} counted=sent"), 9000.0);
        let unknown = "source_workload_namespace=unknown source_workload=unknown";
        let rows = [
            bytes(unknown),
            row(&format!("{tcp} {unknown} counted=connections"), 3.0),
            bytes(FROM),
            row(&format!("{tcp} {FROM} counted=received"), 500.0),
        ];
        let counts: Vec<_> =
            callers(&rows).unwrap().into_iter().map(|it| (it.source, it.count)).collect();
        assert_eq!(counts, [(None, 3.0), (Some(name("shop", "web")), 9500.0)]);
    }

    #[test]
    fn a_series_about_nobody_is_not_put_aside() {
        let plain = "reporter=destination connection_security_policy=none counted=requests";
        assert!(matches!(callers(&[row(plain, 1.0)]), Err(Cause::Ambiguous(_))));
        assert!(matches!(by_destination(&[row(plain, 1.0)]), Err(Cause::Ambiguous(_))));
    }

    #[test]
    fn presence_is_by_the_labels_of_the_source() {
        let labels = "kubernetes_namespace=pay pod_name=a";
        let other = "namespace=pay pod=b";
        let rows = |value: f64| [row(labels, value), row(other, value)];
        let presence = presence(PODS, &rows(5.0), &rows(100.0), &rows(160.5)).unwrap();
        let last = Timestamp::from_millisecond(160_500).unwrap();
        let expected = Presence { first: second(100), last, samples: 5, gap: None };
        assert_eq!(presence, BTreeMap::from([(pod("a"), expected)]));
    }

    #[test]
    fn a_certificate_lives_as_configured_or_longer() {
        let hours = SignedDuration::from_hours;
        let left =
            |pod: &str, left: f64| row(&format!("kubernetes_namespace=pay pod_name={pod}"), left);
        let rows = [left("expired", -60.0), left("long", 30.0 * 3600.0)];
        let certificates = certificates(PODS, hours(24), &rows).unwrap();
        let of = |name: &str| certificates[&pod(name)];
        let expired = SignedDuration::from_secs(-60);
        assert_eq!(of("expired"), Certificate { remaining: expired, lifetime: hours(24) });
        assert_eq!(of("long"), Certificate { remaining: hours(30), lifetime: hours(30) });
    }

    #[test]
    fn a_control_plane_that_says_nothing_has_no_instance() {
        let nothing = ControlPlane {
            instances: 0,
            rejects: 0.0,
            unsigned: 0.0,
            convergence: None,
            root_remaining: None,
        };
        assert_eq!(control_plane(&[]), Ok(nothing));
        let rows =
            [row("fact=instances", 2.0), row("fact=unsigned", 3.0), row("fact=convergence", 0.5)];
        let plane = control_plane(&rows).unwrap();
        assert_eq!((plane.instances, plane.convergence.unwrap().as_millis()), (2, 500));
        assert_eq!((plane.rejects, plane.unsigned), (0.0, 3.0));
    }

    #[test]
    fn a_window_without_a_point_is_zero_for_those_who_report() {
        let ends = [second(30), second(60)];
        let labels = |pod: &str| format!("kubernetes_namespace=pay pod_name={pod}");
        let exporters = [row(&labels("quiet"), 1.0), row(&labels("busy"), 1.0)];
        let busy = [rows_of(&labels("busy"), &[(60, 4.0)])];
        let refusals = refusals(PODS, &ends, &exporters, &busy).unwrap();
        assert_eq!(refusals[&pod("quiet")], Timeline::steady(ends, 0.0));
        assert_eq!(refusals[&pod("busy")], Timeline(vec![(second(30), 0.0), (second(60), 4.0)]));
    }

    #[test]
    fn an_edge_without_a_namespace_is_kept() {
        let ends = [second(30), second(60)];
        let labels = format!("{FROM} destination_service=PassthroughCluster");
        let unknown = format!("{labels} destination_service_namespace=unknown");
        let requests = [rows_of(&labels, &[(30, 2.0)]), rows_of(&unknown, &[(30, 3.0)])];
        let failures = [rows_of(&unknown, &[(60, 1.0)])];
        let edges = edges(&ends, &requests, &failures, &[]).unwrap();
        let [edge] = &edges[..] else { panic!("{edges:#?}") };
        assert_eq!((&edge.destination, &edge.source), (&None, &name("shop", "web")));
        assert_eq!(edge.requests.0, [(second(30), 5.0), (second(60), 0.0)]);
        assert_eq!(edge.failures.0, [(second(30), 0.0), (second(60), 1.0)]);
    }

    #[test]
    fn a_count_for_another_time_contradicts_the_question() {
        let rows = [rows_of(FROM, &[(31, 1.0)])];
        assert!(matches!(edges(&[second(30)], &rows, &[], &[]), Err(Cause::Ambiguous(_))));
        let endless = [row("kubernetes_namespace=pay pod_name=a", 1e300)];
        let endless = certificates(PODS, SignedDuration::from_hours(1), &endless);
        assert!(matches!(endless, Err(Cause::Ambiguous(_))));
    }
}
