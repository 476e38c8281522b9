//! The Prometheus client on the wire: each odd answer is its own error, and none is an answer.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, Uri};
use jiff::{SignedDuration, Timestamp};
use meshrollout::config::{Config, MetricsSource};
use meshrollout::observe::evidence::{QUERIES, Question, gather};
use meshrollout::observe::prometheus::{Error, Prometheus};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;

const EMPTY: &str = r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#;

/// What the server saw of one request.
#[derive(Clone, Debug)]
struct Seen {
    uri: Uri,
    headers: HeaderMap,
    form: Vec<(String, String)>,
}

/// A server on the loopback that always answers the same.
struct Server {
    address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

type Reply = Arc<dyn Fn() -> Response<Body> + Send + Sync>;

impl Server {
    async fn answering(reply: impl Fn() -> Response<Body> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let state: (Reply, _) = (Arc::new(reply), Arc::clone(&seen));
        let router = Router::new().fallback(
            |State((reply, seen)): State<(Reply, Arc<Mutex<Vec<Seen>>>)>,
             uri: Uri,
             headers: HeaderMap,
             body: Bytes| async move {
                let form = form_urlencoded::parse(&body).into_owned().collect();
                seen.lock().unwrap().push(Seen { uri, headers, form });
                reply()
            },
        );
        tokio::spawn(async move { axum::serve(listener, router.with_state(state)).await });
        Self { address, seen }
    }

    async fn saying(status: u16, body: &'static str) -> Self {
        Self::answering(move || response(status, body)).await
    }

    fn client(&self) -> Prometheus {
        Prometheus::new(self.source(""))
    }

    /// A source at this server; `more` are further fields.
    fn source(&self, more: &str) -> MetricsSource {
        source(&self.address, more)
    }

    fn last(&self) -> Seen {
        self.seen.lock().unwrap().last().unwrap().clone()
    }

    fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

fn source(address: &str, more: &str) -> MetricsSource {
    let yaml = format!("metricsSources: [{{name: main, url: '{address}', timeout: 2s, {more}}}]");
    Config::parse(&yaml).unwrap().metrics_sources.remove(0)
}

fn response(status: u16, body: impl Into<Body>) -> Response<Body> {
    Response::builder().status(status).body(body.into()).unwrap()
}

async fn refusal(client: &Prometheus) -> Error {
    client.instant("up", None).await.unwrap_err()
}

/// A file of its own for one test.
fn file(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn an_instant_query_is_a_form_at_the_given_time() {
    let server = Server::saying(200, EMPTY).await;
    let at = Timestamp::from_millisecond(1_700_000_000_500).unwrap();
    let client = Prometheus::new(source(&format!("{}/tenant/", server.address), ""));
    let answer = client.instant("sum(up) > 1", Some(at)).await.unwrap();
    assert_eq!(answer.series, []);
    let seen = server.last();
    assert_eq!(seen.uri.path(), "/tenant/api/v1/query");
    assert_eq!(seen.headers["content-type"], "application/x-www-form-urlencoded");
    for (key, value) in [
        ("query", "sum(up) > 1"),
        ("time", "1700000000.500"),
        ("timeout", "2000ms"),
        ("partial_response", "false"),
        ("deny_partial_response", "1"),
    ] {
        assert!(seen.form.contains(&(key.into(), value.into())), "{key}: {:?}", seen.form);
    }
}

#[tokio::test]
async fn a_range_query_names_its_bounds_and_step() {
    let server = Server::saying(
        200,
        r#"{"status":"success","data":{"resultType":"matrix","result":[
            {"metric":{"pod":"a"},"values":[[10,"1"],[25,"2"]]}]}}"#,
    )
    .await;
    let (start, end) = (Timestamp::from_second(10).unwrap(), Timestamp::from_second(40).unwrap());
    let step = SignedDuration::from_secs(15);
    let answer = server.client().range("up", start, end, step).await.unwrap();
    assert_eq!(answer.series[0].value.len(), 2);
    let seen = server.last();
    assert_eq!(seen.uri.path(), "/api/v1/query_range");
    for (key, value) in [("start", "10.000"), ("end", "40.000"), ("step", "15.000")] {
        assert!(seen.form.contains(&(key.into(), value.into())), "{key}: {:?}", seen.form);
    }
}

#[tokio::test]
async fn the_servers_clock_comes_with_the_answer() {
    let server = Server::answering(|| {
        let mut response = response(200, EMPTY);
        let date = "Tue, 24 Nov 2026 08:21:09 GMT".parse().unwrap();
        response.headers_mut().insert("date", date);
        response
    })
    .await;
    let answer = server.client().instant("up", None).await.unwrap();
    assert_eq!(answer.server_time, Some("2026-11-24T08:21:09Z".parse().unwrap()));
}

#[tokio::test]
async fn warnings_make_an_answer_partial() {
    let server = Server::saying(
        200,
        r#"{"status":"success","warnings":["no store matched"],
            "data":{"resultType":"vector","result":[]}}"#,
    )
    .await;
    assert_eq!(refusal(&server.client()).await, Error::Partial(vec!["no store matched".into()]));
}

#[tokio::test]
async fn the_mark_of_a_partial_answer_counts_as_a_warning() {
    let server = Server::saying(
        200,
        r#"{"status":"success","isPartial":true,"data":{"resultType":"vector","result":[]}}"#,
    )
    .await;
    assert!(matches!(refusal(&server.client()).await, Error::Partial(_)));
}

#[tokio::test]
async fn the_apis_own_words_are_kept_whatever_the_status() {
    let body = r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
    for status in [200, 400, 422, 503] {
        let server = Server::saying(status, body).await;
        let expected = Error::ApiError { kind: "bad_data".into(), message: "parse error".into() };
        assert_eq!(refusal(&server.client()).await, expected, "{status}");
    }
}

#[tokio::test]
async fn a_status_without_the_apis_words_is_a_status() {
    for status in [204, 206, 401, 403, 404, 429, 500, 502, 503] {
        let server = Server::saying(status, "<html>go away</html>").await;
        assert_eq!(refusal(&server.client()).await, Error::Status(status));
        assert_eq!(server.requests(), 1, "{status} was tried again");
    }
}

#[tokio::test]
async fn what_is_not_json_is_not_an_answer() {
    for body in ["<html>please log in</html>", "", r#"{"status":"success","data":{"#] {
        let server = Server::saying(200, body).await;
        assert!(matches!(refusal(&server.client()).await, Error::NotJson(_)), "{body}");
    }
}

#[tokio::test]
async fn another_servers_json_is_the_wrong_shape() {
    let server = Server::saying(200, r#"{"kind":"Status","code":200}"#).await;
    assert!(matches!(refusal(&server.client()).await, Error::WrongShape(_)));
}

#[tokio::test]
async fn numbers_that_are_none_and_series_that_come_twice_are_ambiguous() {
    let nan = Server::saying(
        200,
        r#"{"status":"success","data":{"resultType":"vector","result":[
            {"metric":{},"value":[1,"NaN"]}]}}"#,
    )
    .await;
    assert!(matches!(refusal(&nan.client()).await, Error::NotANumber { .. }));
    let twice = Server::saying(
        200,
        r#"{"status":"success","data":{"resultType":"vector","result":[
            {"metric":{},"value":[1,"1"]},{"metric":{},"value":[1,"2"]}]}}"#,
    )
    .await;
    assert!(matches!(refusal(&twice.client()).await, Error::Duplicate(_)));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::saying(200, EMPTY).await;
    for status in [301, 302, 303, 307, 308] {
        let to = elsewhere.address.clone();
        let server = Server::answering(move || {
            let mut response = response(status, "");
            response.headers_mut().insert("location", to.parse().unwrap());
            response
        })
        .await;
        let token = file(&format!("redirect-{status}"), "secret");
        let more = format!("bearerTokenFile: '{}'", token.display());
        let client = Prometheus::new(server.source(&more));
        assert_eq!(refusal(&client).await, Error::Redirected(elsewhere.address.clone()));
    }
    assert_eq!(elsewhere.requests(), 0);
}

#[tokio::test]
async fn a_large_answer_is_cut_off() {
    let server = Server::answering(|| response(200, "x".repeat(4096))).await;
    let client = server.client().with_size_limit(1024);
    assert_eq!(refusal(&client).await, Error::TooLarge(1024));
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let server = Server::answering(|| {
        let chunks = futures::stream::repeat_with(|| Ok::<_, std::io::Error>("x".repeat(512)));
        response(200, Body::from_stream(chunks))
    })
    .await;
    let client = server.client().with_size_limit(1024);
    assert_eq!(refusal(&client).await, Error::TooLarge(1024));
}

#[tokio::test]
async fn an_answer_that_stops_in_the_middle_is_late() {
    let server = Server::answering(|| response(200, Body::from_stream(stuck()))).await;
    let client = Prometheus::new(MetricsSource {
        timeout: SignedDuration::from_millis(200),
        ..server.source("")
    });
    assert_eq!(refusal(&client).await, Error::TimedOut(Duration::from_millis(200)));
}

#[tokio::test]
async fn a_source_that_hangs_is_waited_for_once_and_not_for_every_question() {
    let server = Server::answering(|| response(200, Body::from_stream(stuck()))).await;
    let client = Prometheus::new(MetricsSource {
        timeout: SignedDuration::from_millis(200),
        ..server.source("")
    });
    let (lookback, harm_window) = (SignedDuration::from_mins(1), SignedDuration::from_mins(1));
    let question = Question { lookback, harm_window, since: None };
    let telemetry = gather(&client, &question, Timestamp::now()).await;
    assert_eq!(telemetry.unknown_parts().len(), 9);
    let asked = server.seen.lock().unwrap().len();
    assert!(asked < QUERIES / 2, "{asked} questions were sent");
}

fn stuck() -> impl futures::Stream<Item = Result<&'static str, std::io::Error>> + Send {
    let begun = futures::stream::once(async { Ok("{\"status\":") });
    futures::StreamExt::chain(begun, futures::stream::pending())
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_late() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let client = Prometheus::new(MetricsSource {
        timeout: SignedDuration::from_millis(200),
        ..source(&address, "")
    });
    assert_eq!(refusal(&client).await, Error::TimedOut(Duration::from_millis(200)));
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = refusal(&Prometheus::new(source(&address, ""))).await;
    assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            drop(connection);
        }
    });
    let error = refusal(&Prometheus::new(source(&address, ""))).await;
    assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
}

#[tokio::test]
async fn a_rotated_token_is_used_for_the_next_request() {
    let server = Server::saying(200, EMPTY).await;
    let token = file("rotated-token", "first\n");
    let client = Prometheus::new(server.source(&format!("bearerTokenFile: '{}'", token.display())));
    client.instant("up", None).await.unwrap();
    assert_eq!(server.last().headers["authorization"], "Bearer first");
    std::fs::write(&token, "second").unwrap();
    client.instant("up", None).await.unwrap();
    assert_eq!(server.last().headers["authorization"], "Bearer second");
}

#[tokio::test]
async fn a_user_and_a_password_are_sent_as_basic() {
    let server = Server::saying(200, EMPTY).await;
    let password = file("password", "pä:ss\n");
    let more = format!("basicAuth: {{username: ops, passwordFile: '{}'}}", password.display());
    Prometheus::new(server.source(&more)).instant("up", None).await.unwrap();
    assert_eq!(server.last().headers["authorization"], "Basic b3BzOnDDpDpzcw==");
}

#[tokio::test]
async fn further_headers_come_from_their_files() {
    let server = Server::saying(200, EMPTY).await;
    let tenant = file("tenant", "team-a");
    let more = format!("headers: [{{name: X-Scope-OrgID, valueFile: '{}'}}]", tenant.display());
    Prometheus::new(server.source(&more)).instant("up", None).await.unwrap();
    assert_eq!(server.last().headers["x-scope-orgid"], "team-a");
}

#[tokio::test]
async fn without_its_credential_nothing_is_sent() {
    let server = Server::saying(200, EMPTY).await;
    let (empty, broken) = (file("empty", "\n"), file("broken", "two\nlines"));
    for path in [PathBuf::from("no/such/file"), empty, broken] {
        let more = format!("bearerTokenFile: '{}'", path.display());
        let error = refusal(&Prometheus::new(server.source(&more))).await;
        assert!(matches!(error, Error::Credentials(_)), "{error:?}");
    }
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn a_ca_file_that_is_missing_is_said() {
    let ca = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("late-ca");
    let _ = std::fs::remove_file(&ca);
    let client =
        Prometheus::new(source("https://127.0.0.1:1", &format!("caFile: '{}'", ca.display())));
    let error = refusal(&client).await;
    assert!(matches!(error, Error::Credentials(_)), "{error:?}");
}

#[tokio::test]
async fn a_plain_server_behind_an_https_address_is_unreachable() {
    let server = Server::saying(200, EMPTY).await;
    let address = server.address.replace("http:", "https:");
    let error = refusal(&Prometheus::new(source(&address, ""))).await;
    assert!(matches!(error, Error::Unreachable(_) | Error::Credentials(_)), "{error:?}");
    assert_eq!(server.requests(), 0);
}
