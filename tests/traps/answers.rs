//! What is asked, what a shop that would go through answers, and how an answer is changed.

use axum::body::Body;
use axum::http::Response;
use meshrollout::observe::evidence::QUERIES;
use meshrollout_core::testing::{SHOP, at};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// The questions, by a word that stands in no other.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum About {
    ControlPlane,
    PlaintextRequests,
    PlaintextTcp,
    Mutual,
    Open,
    Counts,
    Firsts,
    Lasts,
    Certificates,
    Exporters,
    Refusals,
    Requests,
    Failures,
    Errors,
}

pub(crate) const ALL: [About; QUERIES] = [
    About::ControlPlane,
    About::PlaintextRequests,
    About::PlaintextTcp,
    About::Mutual,
    About::Open,
    About::Counts,
    About::Firsts,
    About::Lasts,
    About::Certificates,
    About::Exporters,
    About::Refusals,
    About::Requests,
    About::Failures,
    About::Errors,
];

impl About {
    pub(crate) fn of(query: &str, is_range: bool) -> Self {
        let has = |word: &str| query.contains(word);
        match is_range {
            true if has("response_flags") => Self::Failures,
            true if has("response_code") => Self::Errors,
            true if has("no_filter_chain_match") => Self::Refusals,
            true => Self::Requests,
            false if has("component=\"pilot\"") => Self::ControlPlane,
            false if has("count_over_time") => Self::Counts,
            false if has("min_over_time") => Self::Firsts,
            false if has("max_over_time") => Self::Lasts,
            false if has("cert_expiry") => Self::Certificates,
            false if has("no_filter_chain_match") => Self::Exporters,
            false if has("connection_security_policy=\"") => Self::Mutual,
            false if has("closed_total") => Self::Open,
            false if has("istio_tcp_") => Self::PlaintextTcp,
            false => Self::PlaintextRequests,
        }
    }

    pub(crate) fn is_range(self) -> bool {
        matches!(self, Self::Refusals | Self::Requests | Self::Failures | Self::Errors)
    }
}

/// What is answered to one question.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) about: About,
    /// Of a range.
    pub(crate) ends: Vec<i64>,
}

impl Asked {
    /// A series in the shape of this answer, with a point for each time.
    pub(crate) fn shaped(&self, labels: Value, point: impl Fn(i64) -> Value) -> Value {
        match self.about.is_range() {
            true => {
                let values: Vec<_> = self.ends.iter().map(|end| point(*end)).collect();
                json!({"metric": labels, "values": values})
            }
            false => json!({"metric": labels, "value": point(now())}),
        }
    }

    /// A series with this value at each time.
    pub(crate) fn series(&self, labels: Value, value: &str) -> Value {
        self.shaped(labels, |at| json!([at, value]))
    }

    /// A series about somebody, with a value as it stands in JSON.
    pub(crate) fn somebody(&self, value: &Value) -> Value {
        self.shaped(somebodys(), |at| json!([at, value]))
    }

    /// A shop that would go through.
    pub(crate) fn honest(&self) -> Value {
        let mut series = vec![];
        let pods = || {
            let names = ["catalog", "front", "orders"];
            names.into_iter().flat_map(|name| (0..2).map(move |index| (name, index)))
        };
        let mut of_each_pod = |value: String| {
            series.extend(pods().map(|(name, index)| {
                let labels = json!({"namespace": name, "pod": format!("{name}-5d8f-0000{index}")});
                self.series(labels, &value)
            }));
        };
        match self.about {
            About::Counts => of_each_pod("241".into()),
            About::Firsts => of_each_pod((now() - 3600).to_string()),
            About::Lasts => of_each_pod(now().to_string()),
            About::Certificates => of_each_pod("72000".into()),
            About::Exporters => of_each_pod("1".into()),
            About::ControlPlane => {
                for (fact, value) in
                    [("instances", "2"), ("rejects", "0"), ("convergence", "0.4"), ("root", "3e8")]
                {
                    series.push(self.series(json!({"fact": fact}), value));
                }
            }
            About::Mutual => {
                for name in SHOP {
                    let labels = json!({"counted": "requests", "destination_workload": name,
                        "destination_workload_namespace": name});
                    series.push(self.series(labels, "900"));
                }
            }
            About::Open => {
                let labels = json!({"counted": "connections", "destination_workload": "catalog",
                    "destination_workload_namespace": "catalog"});
                series.push(self.series(labels, "3"));
            }
            About::Requests => {
                for name in SHOP {
                    series.push(self.series(edge(name), "50"));
                }
            }
            // Nobody did.
            About::PlaintextRequests
            | About::PlaintextTcp
            | About::Refusals
            | About::Failures
            | About::Errors => {}
        }
        let kind = if self.about.is_range() { "matrix" } else { "vector" };
        json!({"status": "success", "data": {"resultType": kind, "result": series}})
    }
}

pub(crate) fn edge(to: &str) -> Value {
    json!({"source_workload_namespace": "front", "source_workload": "front",
        "destination_service": format!("{to}.{to}.svc.cluster.local"),
        "destination_service_namespace": to})
}

/// Labels that name somebody whatever is asked: of a namespace that is in no plan.
pub(crate) fn somebodys() -> Value {
    json!({"namespace": "other", "pod": "other-1", "fact": "of no meaning", "counted": "requests",
        "reporter": "destination", "connection_security_policy": "none",
        "source_workload_namespace": "other", "source_workload": "other",
        "destination_workload_namespace": "other", "destination_workload": "other",
        "destination_service": "other.other.svc.cluster.local",
        "destination_service_namespace": "other"})
}

pub(crate) fn now() -> i64 {
    at(0).as_second()
}

/// What becomes of the honest answer to a question.
pub(crate) type Change = Arc<dyn Fn(&Asked, Value) -> Response<Body> + Send + Sync>;

pub(crate) fn say(text: impl Into<Body>) -> Response<Body> {
    Response::builder().header("content-type", "application/json").body(text.into()).unwrap()
}

/// The result is another one.
pub(crate) fn results(change: impl Fn(&Asked, &mut Vec<Value>) + Send + Sync + 'static) -> Change {
    Arc::new(move |asked, mut honest| {
        change(asked, honest["data"]["result"].as_array_mut().unwrap());
        say(honest.to_string())
    })
}

/// One more series, which says this of somebody.
pub(crate) fn value(value: Value) -> Change {
    results(move |asked, series| series.push(asked.somebody(&value)))
}

/// What stands around the result is another.
pub(crate) fn around(change: impl Fn(&mut Value) + Send + Sync + 'static) -> Change {
    Arc::new(move |_, mut honest| {
        change(&mut honest);
        say(honest.to_string())
    })
}

/// The text is another one.
pub(crate) fn text(change: impl Fn(String) -> Body + Send + Sync + 'static) -> Change {
    Arc::new(move |_, honest| say(change(honest.to_string())))
}

pub(crate) fn status(code: u16, body: &'static str) -> Change {
    Arc::new(move |_, _| Response::builder().status(code).body(body.into()).unwrap())
}

/// The honest text, under another head.
pub(crate) fn head(
    name: &'static str,
    value: impl Fn() -> String + Send + Sync + 'static,
) -> Change {
    Arc::new(move |_, honest| {
        let mut response = say(honest.to_string());
        response.headers_mut().insert(name, value().parse().unwrap());
        response
    })
}

pub(crate) fn date(skew: i64) -> String {
    at(skew).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// The text in so many pieces, with a pause before each.
pub(crate) fn pieces(text: &str, count: usize, pause: Duration) -> Body {
    let size = text.len().div_ceil(count).max(1);
    let pieces: Vec<_> = text.as_bytes().chunks(size).map(<[u8]>::to_vec).collect();
    Body::from_stream(futures::StreamExt::then(
        futures::stream::iter(pieces),
        move |piece| async move {
            tokio::time::sleep(pause).await;
            Ok::<_, std::io::Error>(piece)
        },
    ))
}
