//! STRICT at once, by hand: what fails, for whom, and where it shows.

use std::path::Path;
use std::time::{Duration, Instant};

use meshrollout_e2e::scenario::Injection;
use meshrollout_e2e::{Cluster, RealWorkload, until};

use super::seven::Cause::{
    self, MixedHeadless, NoSidecar, OutsideTheMesh, OwnProbes, PodAddress, RuleDisable, TlsPort,
};
use super::seven::Mesh;
use super::{LIMIT, PORT, Traces, changed, client, enough, leftovers, nothing_left, options_alone};

/// What a client without a sidecar sees of a server that refuses it.
const RESET: &str = "Connection reset by peer (os error 104)";
/// What a sidecar that sends plaintext answers for it: response flag UC.
const TERMINATED: &str = "503 upstream connect error or disconnect/reset before headers. reset reason: connection termination";
/// What a client with TLS of its own sees: the proxy answers in place of the application.
const UNKNOWN_ISSUER: &str = "invalid peer certificate: UnknownIssuer";

#[tokio::test]
async fn strict_refuses_a_plaintext_client_and_no_meshed_one() {
    let Some((options, _alone)) = options_alone().await else { return };
    let before = Traces::of_machine();
    let cluster = Cluster::start(options).await.unwrap();
    println!("control plane and network ready after {:?}", cluster.start_up());
    let begin = Instant::now();
    cluster.namespace("server", Injection::Enabled, &[]).await.unwrap();
    cluster.namespace("meshed", Injection::Enabled, &[]).await.unwrap();
    cluster.namespace("plain", Injection::Absent, &[]).await.unwrap();
    cluster.run(&RealWorkload::echo("server", "echo", PORT)).await.unwrap();
    println!("server with its sidecar ready after {:?}", begin.elapsed());
    let meshed = client(&cluster, "meshed", "http://echo.server:8080/").await;
    let plain = client(&cluster, "plain", "http://echo.server:8080/").await;
    println!("both clients get 200 after {:?}", begin.elapsed());

    let (from_meshed, from_plain) = (meshed.mark().unwrap(), plain.mark().unwrap());
    let seen = [enough(&meshed, from_meshed).await, enough(&plain, from_plain).await];
    println!("PERMISSIVE: meshed {}; plaintext {}", seen[0], seen[1]);
    assert_eq!(seen.map(|tally| tally.failed()), [0, 0]);

    let begin = Instant::now();
    cluster.peer_authentication("server", "default", "STRICT").await.unwrap();
    changed(&plain, "plaintext to be refused", |tally| tally.failed() > 0).await;
    println!("STRICT refused the first plaintext request after {:?}", begin.elapsed());
    let (strict_meshed, strict_plain) = (meshed.mark().unwrap(), plain.mark().unwrap());
    let seen = [enough(&meshed, strict_meshed).await, enough(&plain, strict_plain).await];
    println!("STRICT: meshed {}; plaintext {}", seen[0], seen[1]);
    assert_eq!(seen[0].failed(), 0);
    assert_eq!(seen[1].failed(), seen[1].sent());
    assert_eq!(seen[1].words(), [RESET].into());

    let begin = Instant::now();
    cluster.peer_authentication("server", "default", "PERMISSIVE").await.unwrap();
    changed(&plain, "plaintext to be accepted", |tally| tally.failed() < tally.sent()).await;
    println!("PERMISSIVE was in force after {:?}", begin.elapsed());
    let again = plain.mark().unwrap();
    let seen = enough(&plain, again).await;
    println!("PERMISSIVE again: plaintext {seen}");
    assert_eq!(seen.failed(), 0);
    let all = meshed.since(from_meshed).unwrap();
    println!("the meshed client over all of it: {all}");
    assert_eq!(all.failed(), 0);

    // A pod that is deleted takes all of its own along, and no more.
    let with_client = Traces::of_machine();
    cluster.delete("deployment", "plain", "client").await.unwrap();
    until("the plaintext client's namespace to be gone", LIMIT, async || {
        let gone = with_client.without(&Traces::of_machine());
        match gone.networks.len() {
            1 => Ok(()),
            others => Err(format!("{others} network namespaces are gone")),
        }
    })
    .await
    .unwrap();

    let made = Traces::of_machine().without(&before);
    assert!(made.cables.len() == 1 && made.networks.len() >= 3, "{made:?}");
    let folder = cluster.folder().to_owned();
    drop(cluster);
    nothing_left(&made, &folder).await;
}

/// What STRICT does where nobody looked first: each of these must fail, or what follows with the
/// operator proves nothing.
pub(super) async fn strict_at_once_breaks(cluster: &Cluster, meshes: &[Mesh]) {
    let mut before = vec![];
    for mesh in meshes {
        for load in mesh.loads() {
            let permissive = enough(load, load.mark().unwrap()).await;
            println!("PERMISSIVE, {}: {permissive}", mesh.cause.what());
            assert_eq!(permissive.failed(), 0, "{}", mesh.cause.what());
        }
        before.push(Shown::of(cluster, mesh.cause).await);
    }

    let begin = Instant::now();
    for mesh in meshes {
        let namespace = mesh.cause.namespace();
        cluster.peer_authentication(namespace, "default", "STRICT").await.unwrap();
    }
    let mut wrong = vec![];
    for mesh in meshes {
        let Some(load) = &mesh.misled else { continue };
        let what = mesh.cause.what();
        changed(load, &format!("{what} to fail"), |tally| tally.failed() > 0).await;
        let strict = enough(load, load.mark().unwrap()).await;
        println!("STRICT, {what}: {strict}");
        let expected = Expected::of(mesh.cause);
        let known = strict
            .words()
            .iter()
            .all(|said| expected.words.iter().any(|words| said.contains(words)));
        // Of a headless Service one endpoint in two is outside the mesh, and goes on serving.
        let share = strict.failed() * expected.one_in;
        if !known || share.abs_diff(strict.sent()) > expected.one_in {
            wrong.push(format!("{what}: {strict}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    until("a pod to be unready whose probe is not rewritten", LIMIT, async || {
        let pods = cluster.pods("probed", "echo").await.map_err(|error| error.to_string())?;
        let conditions = pods.into_iter().filter_map(|pod| pod.status?.conditions).flatten();
        let ready = conditions.filter(|it| it.type_ == "Ready").map(|it| it.status);
        match ready.collect::<Vec<_>>() {
            ready if ready == ["False"] => Ok(()),
            ready => Err(format!("ready: {ready:?}")),
        }
    })
    .await
    .unwrap();
    println!("a probe that is not rewritten: unready {:?} after STRICT at most", begin.elapsed());

    // Twice the scrape interval, and a second for the page.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for (mesh, before) in meshes.iter().zip(before) {
        let now = Shown::of(cluster, mesh.cause).await;
        println!("{}: {}", mesh.cause.what(), now.since(&before));
        let by_client = matches!(mesh.cause, RuleDisable | MixedHeadless | PodAddress);
        assert_eq!(by_client, now.cut_off > before.cut_off, "{}", mesh.cause.what());
        // Each of them is refused by the server's proxy, which counts it when it is told to; but
        // one who speaks TLS meets a filter chain, and fails in its handshake.
        let speaks_tls = mesh.cause == TlsPort;
        assert_eq!(!speaks_tls, now.refused > before.refused, "{}", mesh.cause.what());
        assert_eq!(speaks_tls, now.handshakes > before.handshakes, "{}", mesh.cause.what());
        // What is refused is no request: the server's own metrics show nothing.
        assert_eq!(now.errors, before.errors, "{}", mesh.cause.what());
    }
}

/// Takes the policies away again, and waits until everybody is served as before.
pub(super) async fn taken_back_by_hand(cluster: &Cluster, meshes: &[Mesh]) {
    for mesh in meshes {
        cluster.delete("peerauthentication", mesh.cause.namespace(), "default").await.unwrap();
    }
    for load in meshes.iter().flat_map(Mesh::loads) {
        until("all to be served again", LIMIT, async || {
            let tally = enough(load, load.mark().unwrap()).await;
            if tally.failed() == 0 { Ok(()) } else { Err(tally.to_string()) }
        })
        .await
        .unwrap();
    }
}

/// How a client fails.
#[derive(Debug)]
struct Expected {
    /// Any of these.
    words: &'static [&'static str],
    one_in: usize,
}

impl Expected {
    fn of(cause: Cause) -> Self {
        let words: &[_] = match cause {
            RuleDisable | MixedHeadless => &[TERMINATED],
            // Its proxy has to guess the protocol; what it did not hear in time it passes on as
            // bytes, and the reset with them.
            PodAddress => &[TERMINATED, RESET],
            NoSidecar | OutsideTheMesh | OwnProbes => &[RESET],
            TlsPort => &[UNKNOWN_ISSUER],
        };
        Self { words, one_in: if cause == MixedHeadless { 2 } else { 1 } }
    }
}

/// What the metrics show of one mesh, counted from the beginning.
#[derive(Debug)]
struct Shown {
    /// Requests that the client's proxy says were cut.
    cut_off: f64,
    /// Connections that the server's proxy refused.
    refused: f64,
    /// Handshakes that failed there.
    handshakes: f64,
    /// Requests that the server's proxy answered with an error.
    errors: f64,
}

impl Shown {
    async fn of(cluster: &Cluster, cause: Cause) -> Self {
        let count = async |query: String| {
            let samples = cluster.prometheus().query(&query).await.unwrap();
            let value = samples.first().and_then(|it| it["value"][1].as_str());
            value.map_or(0.0, |value| value.parse().unwrap())
        };
        let (server, clients) = (cause.namespace(), cause.clients());
        Self {
            cut_off: count(format!(
                r#"sum(istio_requests_total{{reporter="source",source_workload_namespace="{clients}",response_flags="UC"}})"#
            ))
            .await,
            refused: count(format!(
                r#"sum(envoy_listener_no_filter_chain_match{{namespace="{server}"}})"#
            ))
            .await,
            handshakes: count(format!(
                r#"sum(envoy_listener_ssl_connection_error{{namespace="{server}"}})"#
            ))
            .await,
            errors: count(format!(
                r#"sum(istio_requests_total{{reporter="destination",destination_workload_namespace="{server}",response_code!="200"}})"#
            ))
            .await,
        }
    }

    fn since(&self, before: &Self) -> String {
        format!(
            "{} with flag UC at the client; {} no_filter_chain_match, {} ssl_connection_error and {} errors at the server",
            self.cut_off - before.cut_off,
            self.refused - before.refused,
            self.handshakes - before.handshakes,
            self.errors - before.errors
        )
    }
}

#[tokio::test]
async fn nothing_is_left_when_the_parent_dies() {
    let Some((_, _alone)) = options_alone().await else { return };
    let before = Traces::of_machine();
    let mut up = leftovers::Up::start(&["--data-plane"]);
    let made = Traces::of_machine().without(&before);
    assert!(made.cables.len() == 1 && made.networks.len() == 1, "{made:?}");

    up.parent.kill().unwrap();
    up.parent.wait().unwrap();
    nothing_left(&made, Path::new(&up.folder)).await;
}
