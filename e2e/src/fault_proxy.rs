//! Stands between the operator and the apiserver: fails as a schedule says, and stops the operator
//! at any of its writes.

mod class;
mod schedule;
mod stream;
mod wire;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Request};
use axum::http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::AbortHandle;

pub use self::class::Class;
use self::class::class;
use self::schedule::Fault;
pub(crate) use self::schedule::MetricsFault;
pub use self::schedule::{Draw, Schedule};
use self::wire::{Wire, Wires};
use crate::servers::Servers;
use crate::{Doing, Error};

/// Stands between one operator and the apiserver.
pub struct FaultProxy {
    shared: Arc<Shared>,
    port: u16,
    serving: AbortHandle,
}

/// A request that may change something, as it came to the proxy.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Its place among all that came, from 0.
    pub number: usize,
    /// What it is about.
    pub class: Class,
    /// `POST`, `PATCH` and so on.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// The mode that a policy was to have.
    pub mode: Option<String>,
    /// What the apiserver answered, if it was asked.
    pub status: Option<u16>,
}

/// Where in the course of a request the operator is stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Moment {
    /// The apiserver has not seen it, and does not.
    BeforeSending,
    /// It is on its way: the apiserver sees it when everything goes on.
    InFlight,
    /// It is on its way, and arrives when [`FaultProxy::arrive`] lets it; all else goes on
    /// meanwhile.
    Detained,
    /// The apiserver has answered, and the operator does not know.
    AfterCommit,
    /// The operator has the answer.
    AfterReply,
}

impl Moment {
    /// Those at which an operator may be ended.
    pub const ALL: [Self; 3] = [Self::BeforeSending, Self::AfterCommit, Self::AfterReply];
}

struct Shared {
    client: kube::Client,
    schedule: Schedule,
    /// Parts of paths whose faults another seed decides.
    apart: Vec<(String, Schedule)>,
    state: Mutex<State>,
    frozen: watch::Sender<bool>,
    silent: watch::Sender<bool>,
    knocked: Notify,
    arriving: Notify,
}

#[derive(Default)]
struct State {
    asked: BTreeMap<String, u32>,
    recorded: Vec<Recorded>,
    faulted: BTreeMap<&'static str, u32>,
    hold: Option<Hold>,
    unanswered: Option<Unanswered>,
}

/// Which requests get no answer, by what they are about and their path.
type Unanswered = Box<dyn FnMut(Class, &str) -> bool + Send>;

struct Hold {
    moment: Moment,
    at: Box<dyn FnMut(&Recorded) -> bool + Send>,
    reached: oneshot::Sender<Recorded>,
}

/// A request at which the operator is stopped.
struct Held {
    moment: Moment,
    reached: oneshot::Sender<Recorded>,
    recorded: Recorded,
}

impl Held {
    fn reached(self) {
        // A test that does not wait any more has failed already.
        let _ = self.reached.send(self.recorded);
    }
}

const LIMIT: usize = 64 << 20;
/// Whoever got an answer asks the next thing within this, or does not soon.
const NEXT_REQUEST: Duration = Duration::from_millis(700);

impl FaultProxy {
    pub(crate) async fn serve(
        servers: &Servers,
        kubeconfig: &Path,
        schedule: Schedule,
        apart: Vec<(String, Schedule)>,
    ) -> Result<Self, Error> {
        let serving = "serving the fault proxy";
        let kubeconfig = kubeconfig.to_owned();
        let started = async move {
            let mut config = crate::cluster::client_config(&kubeconfig).await?;
            // What is lost stays lost.
            config.default_retry = false;
            config.read_timeout = None;
            let client = kube::Client::try_from(config).doing(serving)?;
            let shared = Arc::new(Shared {
                client,
                schedule,
                apart,
                state: Mutex::default(),
                frozen: watch::Sender::new(false),
                silent: watch::Sender::new(false),
                knocked: Notify::new(),
                arriving: Notify::new(),
            });
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.doing(serving)?;
            let port = listener.local_addr().doing(serving)?.port();
            let own = Arc::clone(&shared);
            let routes = Router::new().fallback(
                move |ConnectInfo(wire): ConnectInfo<Wire>, request: Request| {
                    let shared = Arc::clone(&own);
                    async move { shared.answer(&wire, request).await }
                },
            );
            let task = tokio::spawn(async move {
                let service = routes.into_make_service_with_connect_info::<Wire>();
                // Ends with the runtime, or when the proxy goes.
                let _ = axum::serve(Wires(listener), service).await;
            });
            Ok::<_, Error>(Self { shared, port, serving: task.abort_handle() })
        };
        servers.run(started).await?
    }

    /// The address to give to the operator.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What may have changed something, in the order in which it came.
    pub fn recorded(&self) -> Vec<Recorded> {
        self.shared.state().recorded.clone()
    }

    /// How many requests met which fault.
    pub fn faulted(&self) -> BTreeMap<&'static str, u32> {
        self.shared.state().faulted.clone()
    }

    /// Holds the next write for which `at` holds, at this moment, and with it every other request.
    /// The answer comes when it is held. Whoever ends the operator then calls [`Self::go_on`].
    pub fn hold(
        &self,
        moment: Moment,
        at: impl FnMut(&Recorded) -> bool + Send + 'static,
    ) -> oneshot::Receiver<Recorded> {
        let (reached, answer) = oneshot::channel();
        self.shared.state().hold = Some(Hold { moment, at: Box::new(at), reached });
        answer
    }

    /// From now on the requests for which `which` holds are taken and never answered: whoever asks
    /// has to give up by himself.
    pub fn leave_unanswered(&self, which: impl FnMut(Class, &str) -> bool + Send + 'static) {
        self.shared.state().unanswered = Some(Box::new(which));
    }

    /// Lets what is detained arrive.
    pub fn arrive(&self) {
        self.shared.arriving.notify_one();
    }

    /// Holds back whatever watches tell, bookmarks too, or lets it through again, in order.
    pub fn silence_watches(&self, silent: bool) {
        self.shared.silent.send_replace(silent);
    }

    /// Lets everything through again; what is held and whose operator lives goes on too.
    pub fn go_on(&self) {
        self.shared.frozen.send_replace(false);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn thawed(&self) {
        let mut frozen = self.frozen.subscribe();
        if *frozen.borrow() {
            self.knocked.notify_waiters();
        }
        // The sender lives as long as we do.
        let _ = frozen.wait_for(|frozen| !frozen).await;
    }

    async fn answer(self: Arc<Self>, wire: &Wire, request: Request) -> Response<Body> {
        let (head, body) = request.into_parts();
        let Ok(body) = to_bytes(body, LIMIT).await else {
            return refusal(413, "RequestEntityTooLarge");
        };
        self.thawed().await;
        let target = head.uri.path_and_query().map_or("/", |it| it.as_str()).to_owned();
        let class = class(&head.method, head.uri.path(), head.uri.query().unwrap_or_default());
        if self.state().unanswered.as_mut().is_some_and(|which| which(class, head.uri.path())) {
            // Ends with the connection.
            return std::future::pending().await;
        }
        let recorded = self.record(class, &head.method, head.uri.path(), &body);
        let mut held = recorded.as_ref().and_then(|recorded| self.held_at(recorded));
        let fault = self.fault(class, &head.method, head.uri.path());

        let moment = held.as_ref().map(|held| held.moment);
        if let Some(held) = held.take_if(|held| held.moment == Moment::BeforeSending) {
            held.reached();
            return self.forever_or_thawed(wire).await;
        }
        match fault {
            Some(Fault::Delay(long)) => tokio::time::sleep(long).await,
            Some(Fault::Refuse(code)) => return refusal(code, reason(code)),
            Some(Fault::Gone) => return refusal(410, "Expired"),
            Some(Fault::Cut) => return cut(wire).await,
            _ => {}
        }
        let sent = {
            let (shared, number) = (Arc::clone(&self), recorded.as_ref().map(|it| it.number));
            async move { shared.send(&head.method, &target, &head.headers, body, number).await }
        };
        let answer = match held {
            None => match fault {
                Some(Fault::Late(long)) => {
                    let arrives = tokio::spawn(async move {
                        tokio::time::sleep(long).await;
                        sent.await
                    });
                    arrives.await.ok().flatten()
                }
                _ => sent.await,
            },
            Some(held) => {
                let shared = Arc::clone(&self);
                // It has left: it arrives although the operator may give it up meanwhile.
                let arrives = tokio::spawn(async move {
                    if [Moment::InFlight, Moment::Detained].contains(&held.moment) {
                        let detained = held.moment == Moment::Detained;
                        let arrives = shared.arriving.notified();
                        held.reached();
                        match detained {
                            true => arrives.await,
                            false => shared.thawed().await,
                        }
                        return sent.await;
                    }
                    let answer = sent.await?;
                    match held.moment {
                        Moment::AfterReply => shared.reached_after_reply(held),
                        _ => held.reached(),
                    }
                    Some(answer)
                });
                arrives.await.ok().flatten()
            }
        };
        let Some(answer) = answer else { return cut(wire).await };
        if moment == Some(Moment::AfterCommit) {
            return self.forever_or_thawed(wire).await;
        }
        match fault {
            Some(Fault::Timeout) => return refusal(504, "Timeout"),
            Some(Fault::ReplyLost) => return cut(wire).await,
            Some(Fault::ReplyLate(long)) => {
                tokio::time::sleep(long).await;
                return cut(wire).await;
            }
            _ => {}
        }
        let (head, body) = answer.into_parts();
        let mut response = Response::builder().status(head.status);
        if let Some(headers) = response.headers_mut() {
            *headers = without_hops(&head.headers);
        }
        let body = match (class, fault) {
            (Class::Watch, fault) if head.status.is_success() => {
                stream::watched(body, fault, self.silent.subscribe())
            }
            (_, fault) => match body.collect().await {
                Ok(whole) if fault == Some(Fault::Torn) => stream::torn(whole.to_bytes()),
                Ok(whole) => Body::from(whole.to_bytes()),
                Err(_) => return cut(wire).await,
            },
        };
        response.body(body).unwrap_or_else(|_| refusal(502, "BadGateway"))
    }

    fn record(&self, class: Class, method: &Method, path: &str, body: &Bytes) -> Option<Recorded> {
        if [Method::GET, Method::HEAD].contains(method) {
            return None;
        }
        let mode = serde_json::from_slice::<Value>(body).ok();
        let mode = mode.and_then(|it| it["spec"]["mtls"]["mode"].as_str().map(str::to_owned));
        let mut state = self.state();
        let recorded = Recorded {
            number: state.recorded.len(),
            class,
            method: method.to_string(),
            path: path.to_owned(),
            mode,
            status: None,
        };
        state.recorded.push(recorded.clone());
        Some(recorded)
    }

    fn held_at(&self, recorded: &Recorded) -> Option<Held> {
        let mut state = self.state();
        let hold = state.hold.as_mut()?;
        if !(hold.at)(recorded) {
            return None;
        }
        let Hold { moment, reached, .. } = state.hold.take()?;
        if moment != Moment::Detained {
            // From here on nothing else passes.
            self.frozen.send_replace(true);
        }
        Some(Held { moment, reached, recorded: recorded.clone() })
    }

    fn reached_after_reply(self: &Arc<Self>, held: Held) {
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            // Another request shows that the operator went on.
            let _ = tokio::time::timeout(NEXT_REQUEST, shared.knocked.notified()).await;
            held.reached();
        });
    }

    /// Until the operator is ended, which ends this; one that lives on meets a lost request.
    async fn forever_or_thawed(&self, wire: &Wire) -> Response<Body> {
        let mut frozen = self.frozen.subscribe();
        let _ = frozen.wait_for(|frozen| !frozen).await;
        cut(wire).await
    }

    fn fault(&self, class: Class, method: &Method, path: &str) -> Option<Fault> {
        let mut state = self.state();
        let key = format!("{class:?} {method} {path}");
        let count = state.asked.entry(key.clone()).or_default();
        let nth = *count;
        *count += 1;
        let apart = self.apart.iter().find(|(part, _)| path.contains(part.as_str()));
        let schedule = apart.map_or(&self.schedule, |(_, schedule)| schedule);
        let fault = schedule.fault(class, &key, nth)?;
        *state.faulted.entry(fault.name()).or_default() += 1;
        Some(fault)
    }

    /// Forwards a request and notes what was answered; `None` when nothing was.
    async fn send(
        &self,
        method: &Method,
        target: &str,
        headers: &HeaderMap,
        body: Bytes,
        number: Option<usize>,
    ) -> Option<Response<kube::client::Body>> {
        let answer = self.forward(method, target, headers, body).await.ok()?;
        if let Some(number) = number
            && let Some(kept) = self.state().recorded.get_mut(number)
        {
            kept.status = Some(answer.status().as_u16());
        }
        Some(answer)
    }

    async fn forward(
        &self,
        method: &Method,
        target: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<kube::client::Body>, kube::Error> {
        let request = http::Request::builder().method(method.clone()).uri(target);
        let mut request = request
            .body(kube::client::Body::from(body.to_vec()))
            .map_err(kube::Error::HttpError)?;
        *request.headers_mut() = without_hops(headers);
        self.client.send(request).await
    }
}

/// What belongs to one connection and not to the next.
fn without_hops(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for name in [HOST, CONNECTION, TRANSFER_ENCODING, CONTENT_LENGTH] {
        headers.remove(name);
    }
    headers
}

async fn cut(wire: &Wire) -> Response<Body> {
    wire.cut();
    std::future::pending().await
}

fn reason(code: u16) -> &'static str {
    match code {
        409 => "Conflict",
        429 => "TooManyRequests",
        500 => "InternalError",
        _ => "ServiceUnavailable",
    }
}

fn status(code: u16, reason: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("the fault proxy says {code}"), "reason": reason, "code": code,
    })
}

fn refusal(code: u16, reason: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(status(code, reason).to_string()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or_default();
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    if code == 429 {
        // A day: whoever heeds it is of no use to anybody.
        let day = HeaderValue::from_static("86400");
        response.headers_mut().insert("retry-after", day);
    }
    response
}

/// Since when the faults count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    pub(crate) schedule: Schedule,
    pub(crate) at: Option<Instant>,
}
