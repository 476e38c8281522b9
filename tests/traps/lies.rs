//! Answers in the right shape that are no evidence for the switch.

use super::answers::{About, Change, now, results};
use serde_json::json;

/// In the right shape, and yet no evidence for the switch: what an answer says, or does not say.
pub(crate) fn lies() -> Vec<(&'static str, About, Change)> {
    use About::{
        Certificates, ControlPlane, Counts, Firsts, Lasts, Mutual, PlaintextRequests, PlaintextTcp,
        Refusals, Requests,
    };
    fn nothing() -> Change {
        results(|_, series| series.clear())
    }
    fn all(value: impl Fn() -> String + Send + Sync + 'static) -> Change {
        results(move |_, series| series.iter_mut().for_each(|one| one["value"][1] = json!(value())))
    }
    fn one(value: impl Fn() -> String + Send + Sync + 'static) -> Change {
        results(move |_, series| series[0]["value"][1] = json!(value()))
    }
    fn fewer() -> Change {
        results(|_, series| drop(series.remove(0)))
    }
    fn under(label: &'static str, other: &'static str) -> Change {
        results(move |_, series| {
            for one in series {
                let labels = one["metric"].as_object_mut().unwrap();
                let value = labels.remove(label).unwrap();
                labels.insert(other.into(), value);
            }
        })
    }
    /// Somebody called `catalog`.
    fn called(labels: &'static [(&'static str, &'static str)], count: &'static str) -> Change {
        results(move |asked, series| {
            let mut of = json!({"counted": "requests", "destination_workload": "catalog",
                "destination_workload_namespace": "catalog"});
            for (name, value) in labels {
                of[*name] = json!(value);
            }
            series.push(asked.series(of, count));
        })
    }
    const BY: &str = "reporter";
    const POLICY: &str = "connection_security_policy";
    let ago = |seconds: i64| move || (now() - seconds).to_string();
    let words = |words: &'static str| move || words.to_owned();
    vec![
        ("nobody reports", Counts, nothing()),
        ("nobody has begun", Firsts, nothing()),
        ("nobody has ended", Lasts, nothing()),
        ("one pod does not report", Counts, fewer()),
        ("one pod has not begun", Firsts, fewer()),
        ("one pod has not ended", Lasts, fewer()),
        ("pods report half of the time", Counts, all(words("120"))),
        ("one pod reported once", Counts, one(words("1"))),
        ("no pod reported once", Counts, all(words("0"))),
        ("a negative number of reports", Counts, all(words("-241"))),
        ("one pod reports since a minute", Firsts, one(ago(60))),
        ("all pods report since half the look-back", Firsts, all(ago(1800))),
        ("they begin in the future", Firsts, all(ago(-3600))),
        ("they began at no time", Firsts, all(words("1e300"))),
        ("one pod fell silent", Lasts, one(ago(600))),
        ("all fell silent", Lasts, all(ago(600))),
        ("pods are named otherwise", Counts, under("pod", "pod_name")),
        ("namespaces are named otherwise", Firsts, under("namespace", "kubernetes_namespace")),
        ("certificates of pods named otherwise", Certificates, under("pod", "pod_name")),
        ("plaintext", PlaintextRequests, called(&[(BY, "destination"), (POLICY, "none")], "1")),
        (
            "a little plaintext",
            PlaintextRequests,
            called(&[(BY, "destination"), (POLICY, "none")], "0.001"),
        ),
        (
            "plaintext of nobody known",
            PlaintextTcp,
            called(
                &[
                    (BY, "destination"),
                    (POLICY, "none"),
                    ("source_workload", "unknown"),
                    ("source_workload_namespace", "unknown"),
                ],
                "3",
            ),
        ),
        (
            "plaintext through a waypoint",
            PlaintextRequests,
            called(&[(BY, "waypoint"), (POLICY, "none")], "3"),
        ),
        (
            "what arrived as unknown",
            PlaintextTcp,
            called(&[(BY, "destination"), (POLICY, "unknown")], "3"),
        ),
        (
            "a policy that nobody knows",
            PlaintextRequests,
            called(&[(BY, "destination"), (POLICY, "quantum")], "3"),
        ),
        ("no policy at all", PlaintextRequests, called(&[(BY, "destination")], "3")),
        ("no reporter at all", PlaintextRequests, called(&[(POLICY, "none")], "3")),
        (
            "mutual TLS by the client's own words",
            PlaintextRequests,
            called(&[(BY, "source"), (POLICY, "mutual_tls")], "3"),
        ),
        (
            "plaintext to nobody known",
            PlaintextRequests,
            called(
                &[(BY, "destination"), (POLICY, "none"), ("destination_workload", "unknown")],
                "3",
            ),
        ),
        (
            "plaintext in bytes alone",
            PlaintextTcp,
            called(&[(BY, "destination"), (POLICY, "none"), ("counted", "received")], "64"),
        ),
        ("nobody called", Mutual, nothing()),
        (
            "somebody called somebody else",
            Mutual,
            results(|_, series| {
                series.iter_mut().for_each(|one| {
                    one["metric"]["destination_workload_namespace"] = json!("other");
                });
            }),
        ),
        ("nobody was called", Mutual, under("destination_workload", "workload")),
        ("no certificates", Certificates, nothing()),
        ("one pod without a certificate", Certificates, fewer()),
        ("one certificate at its end", Certificates, one(words("60"))),
        ("one certificate past its end", Certificates, one(words("-60"))),
        ("certificates for ever", Certificates, all(words("1e300"))),
        ("no control plane", ControlPlane, nothing()),
        ("a control plane of none", ControlPlane, one(words("0"))),
        ("a control plane of less than one", ControlPlane, one(words("-1"))),
        (
            "a root certificate at its end",
            ControlPlane,
            results(|_, series| series[3]["value"][1] = json!("60")),
        ),
        (
            "rejected configurations",
            ControlPlane,
            results(|_, series| series[1]["value"][1] = json!("5")),
        ),
        (
            "a refusal at a time that was not asked for",
            Refusals,
            results(|_, series| {
                let labels = json!({"namespace": "catalog", "pod": "catalog-5d8f-00000"});
                series.push(json!({"metric": labels, "values": [[now() - 7, "1"]]}));
            }),
        ),
        (
            "times out of their order",
            Requests,
            results(|_, series| {
                series[0]["values"].as_array_mut().unwrap().reverse();
            }),
        ),
        (
            "a time that comes twice",
            Requests,
            results(|_, series| {
                let values = series[0]["values"].as_array_mut().unwrap();
                values.push(values.last().unwrap().clone());
            }),
        ),
        (
            "times that were not asked for",
            Requests,
            results(|_, series| {
                let values = series[0]["values"].as_array_mut().unwrap();
                values
                    .iter_mut()
                    .for_each(|point| point[0] = json!(point[0].as_i64().unwrap() + 1));
            }),
        ),
        (
            "times beyond all calendars",
            Requests,
            results(|_, series| series[0]["values"][0][0] = json!(1e18)),
        ),
    ]
}
