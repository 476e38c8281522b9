use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE};
use axum::http::{HeaderValue, Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::fault_proxy::{Begun, MetricsFault, Schedule};
use crate::servers::Servers;
use crate::{Error, http_probe};

/// Stands between the operator and Prometheus, and fails as it is told.
#[derive(Clone)]
pub struct MetricsProxy {
    port: u16,
    state: Arc<Mutex<State>>,
}

/// How the metrics source fails.
#[derive(Clone, Debug, Default)]
pub enum Fault {
    /// It does not: every answer is Prometheus' own.
    #[default]
    Pass,
    /// 503 to everything.
    Refuse,
    /// No answer at all.
    Hang,
    /// Every answer carries this warning, as partial data does.
    Warnings(String),
    /// Every answer is a success without a sample.
    Empty,
    /// A page of a login proxy, with status 200.
    Html,
    /// Its clock is this many seconds ahead (or behind): the `Date` header and the values of
    /// `time()` and `timestamp()`. The samples' times stay: they are those that were asked for.
    ClockSkew(i64),
    /// Samples about a namespace, or about one pod in it, are missing.
    Missing {
        /// In any label that names a namespace.
        namespace: String,
        /// In the label `pod`.
        pod: Option<String>,
    },
}

/// One request that came to the proxy.
#[derive(Clone, Debug)]
pub struct Query {
    /// When it came.
    pub at: Instant,
    /// Such as `/api/v1/query`.
    pub path: String,
    /// The query string, or the form in the body.
    pub parameters: String,
}

#[derive(Default)]
struct State {
    fault: Fault,
    queries: Vec<Query>,
    schedule: Option<Begun>,
    faulted: BTreeMap<&'static str, u32>,
}

const LIMIT: usize = 64 << 20;

impl MetricsProxy {
    pub(crate) async fn serve(
        servers: &Servers,
        port: u16,
        prometheus_port: u16,
    ) -> Result<Self, Error> {
        let proxy = Self { port, state: Arc::default() };
        let own = proxy.clone();
        let routes = Router::new().fallback(move |request: Request| {
            let proxy = own.clone();
            async move { proxy.answer(request, prometheus_port).await }
        });
        servers.serve(port, routes).await?;
        Ok(proxy)
    }

    /// The address to give to the operator.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Fails so from now on.
    pub fn set(&self, fault: Fault) {
        self.state().fault = fault;
    }

    /// Fails as the schedule says, from the next question on for as long as it says.
    pub fn follow(&self, schedule: Schedule) {
        self.state().schedule = Some(Begun { schedule, at: None });
    }

    /// How many requests met which fault of a schedule.
    pub fn faulted(&self) -> BTreeMap<&'static str, u32> {
        self.state().faulted.clone()
    }

    /// All requests so far.
    pub fn queries(&self) -> Vec<Query> {
        self.state().queries.clone()
    }

    /// Forgets the requests so far.
    pub fn clear_queries(&self) {
        self.state().queries.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request, prometheus: u16) -> Response<Body> {
        let (head, body) = request.into_parts();
        let Ok(body) = to_bytes(body, LIMIT).await else {
            return plain(StatusCode::BAD_REQUEST, "the body is too large");
        };
        let form = String::from_utf8_lossy(&body).into_owned();
        let parameters = head.uri.query().map_or(form, str::to_owned);
        let path = head.uri.path().to_owned();
        let query = Query { at: Instant::now(), path, parameters: parameters.clone() };
        let (fault, scheduled) = {
            let mut state = self.state();
            state.queries.push(query);
            (state.fault.clone(), state.scheduled())
        };
        match scheduled {
            Some(MetricsFault::Delay(long)) => tokio::time::sleep(long).await,
            Some(MetricsFault::Refuse) => {
                return plain(StatusCode::SERVICE_UNAVAILABLE, "no upstream");
            }
            Some(MetricsFault::Hang) => return std::future::pending().await,
            Some(MetricsFault::Cut) => return cut(),
            None => {}
        }
        match fault {
            Fault::Refuse => plain(StatusCode::SERVICE_UNAVAILABLE, "no upstream"),
            Fault::Hang => std::future::pending().await,
            Fault::Html => html(),
            Fault::Pass
            | Fault::Warnings(_)
            | Fault::Empty
            | Fault::ClockSkew(_)
            | Fault::Missing { .. } => {
                let target = head.uri.path_and_query().map_or("/", |it| it.as_str());
                let form = (head.method == Method::POST).then_some(&*body);
                match http_probe::send(prometheus, target, form).await {
                    Ok((status, answer)) => distorted(status, answer, &fault, &parameters),
                    Err(error) => plain(StatusCode::BAD_GATEWAY, &error.to_string()),
                }
            }
        }
    }
}

impl State {
    fn scheduled(&mut self) -> Option<MetricsFault> {
        let begun = self.schedule.as_mut()?;
        let elapsed = begun.at.get_or_insert_with(Instant::now).elapsed();
        let fault = begun.schedule.metrics_fault(elapsed)?;
        let name = match fault {
            MetricsFault::Delay(_) => "metrics delayed",
            MetricsFault::Refuse => "metrics 503",
            MetricsFault::Hang => "metrics hung",
            MetricsFault::Cut => "metrics cut",
        };
        *self.faulted.entry(name).or_default() += 1;
        Some(fault)
    }
}

/// The connection ends in the middle of the answer.
fn cut() -> Response<Body> {
    let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    let parts = [Ok(Bytes::from_static(b"{\"status\":\"succ")), Err(broken)];
    Response::new(Body::from_stream(futures::stream::iter(parts)))
}

fn distorted(status: u16, answer: String, fault: &Fault, parameters: &str) -> Response<Body> {
    let mut response = Response::builder().status(status).header(CONTENT_TYPE, "application/json");
    if matches!(fault, Fault::Pass) {
        return finished(response, Bytes::from(answer));
    }
    let Ok(mut json) = serde_json::from_str::<Value>(&answer) else {
        return finished(response, Bytes::from(answer));
    };
    match fault {
        Fault::Warnings(warning) => json["warnings"] = json!([warning]),
        Fault::Empty => empty(&mut json),
        Fault::ClockSkew(seconds) => {
            let shift = Duration::from_secs(seconds.unsigned_abs());
            let now = SystemTime::now();
            let date = if *seconds < 0 { now - shift } else { now + shift };
            if let Some(date) = http_date(date) {
                response = response.header(DATE, date);
            }
            let values_too = parameters.contains("time") && parameters.contains("%28")
                || parameters.contains("time(")
                || parameters.contains("timestamp(");
            if values_too {
                skew(&mut json["data"], *seconds);
            }
        }
        Fault::Missing { namespace, pod } => {
            if let Some(samples) = json["data"]["result"].as_array_mut() {
                samples.retain(|sample| !is_about(&sample["metric"], namespace, pod.as_deref()));
            }
        }
        Fault::Pass | Fault::Refuse | Fault::Hang | Fault::Html => {}
    }
    finished(response, Bytes::from(json.to_string()))
}

fn empty(answer: &mut Value) {
    // A scalar has two elements always; only vectors and matrices can be empty.
    let samples = answer["data"]["result"].as_array_mut();
    if let Some(samples) = samples.filter(|samples| samples.iter().all(Value::is_object)) {
        samples.clear();
    }
}

fn is_about(metric: &Value, namespace: &str, pod: Option<&str>) -> bool {
    let Some(labels) = metric.as_object() else { return false };
    let of_namespace = labels
        .iter()
        .any(|(name, value)| name.ends_with("namespace") && value.as_str() == Some(namespace));
    of_namespace && pod.is_none_or(|pod| metric["pod"].as_str() == Some(pod))
}

fn skew(data: &mut Value, seconds: i64) {
    let shift = |point: &mut Value| {
        let value = point[1].as_str().and_then(|value| value.parse::<f64>().ok());
        if let Some(value) = value {
            point[1] = json!((value + as_f64(seconds)).to_string());
        }
    };
    let Some(result) = data.get_mut("result") else { return };
    if result[0].is_number() {
        return shift(result);
    }
    for sample in result.as_array_mut().into_iter().flatten() {
        if let Some(point) = sample.get_mut("value") {
            shift(point);
        }
        for point in sample.get_mut("values").and_then(Value::as_array_mut).into_iter().flatten() {
            shift(point);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds of a skewed clock are few")]
fn as_f64(seconds: i64) -> f64 {
    seconds as f64
}

fn http_date(time: SystemTime) -> Option<HeaderValue> {
    let time = jiff::Timestamp::try_from(time).ok()?;
    HeaderValue::from_str(&time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()).ok()
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    finished(Response::builder().status(status), Bytes::from(text.to_owned()))
}

fn html() -> Response<Body> {
    let page = Bytes::from_static(b"<!doctype html><title>Sign in</title>");
    finished(Response::builder().header(CONTENT_TYPE, "text/html"), page)
}

fn finished(response: http::response::Builder, body: Bytes) -> Response<Body> {
    let response = response.header(CONTENT_LENGTH, body.len()).body(Body::from(body));
    // Every header above is a constant or was parsed.
    response.expect("the parts of the answer are valid")
}
