//! The command line against a real cluster: what it says, and how it ends.

use std::process::Output;
use std::time::Duration;

use meshrollout_e2e::scenario::{Injection, Workload};
use meshrollout_e2e::{Client, Cluster, Edge, OperatorOptions, Options, Rollout, Server, until};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(150);

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

#[tokio::test]
async fn preflight_and_explain_tell_what_stands_in_the_way() {
    let cluster = Cluster::start(Options { kinds: false, ..Options::default() }).await.unwrap();
    cluster.namespace("front", Injection::Enabled, &[]).await.unwrap();
    cluster.namespace("good", Injection::Enabled, &[]).await.unwrap();
    cluster.namespace("bad", Injection::Enabled, &[]).await.unwrap();
    cluster.deploy(&Workload::new("front", "web")).await.unwrap();
    cluster.deploy(&Workload::new("good", "app")).await.unwrap();
    cluster.deploy(&Workload::new("bad", "app").without_sidecar()).await.unwrap();
    let edge = Edge::new(Client::workload("front", "web"), Server::workload("good", "app"));
    cluster.exporter().edge(edge.rps(40.0));

    // Before anything is installed: objects alone prove nothing, and nothing is written.
    let mark = cluster.audit_mark().unwrap();
    let objects = cluster.meshrollout(&["preflight", "-n", "good"]).await.unwrap();
    assert_eq!(objects.status.code(), Some(2), "{}", said(&objects));
    assert!(said(&objects).contains("Undecided"), "{}", said(&objects));
    let bad = cluster.meshrollout(&["preflight", "-n", "bad"]).await.unwrap();
    assert_eq!(bad.status.code(), Some(1), "{}", said(&bad));
    for word in ["Blocked", "MR0101", "bad/app", "do:"] {
        assert!(said(&bad).contains(word), "{word}: {}", said(&bad));
    }

    // What files say in the fixtures, on a live cluster.
    let speaks = ["tls-check", "--client", "front/web", "--host", "app", "-o", "json"];
    let speaks = cluster.meshrollout(&speaks).await.unwrap();
    assert_eq!(speaks.status.code(), Some(0), "{}", said(&speaks));
    let speaks: Value = serde_json::from_slice(&speaks.stdout).unwrap();
    let rows = speaks["rows"].as_array().unwrap().iter().map(|row| {
        ["serverMode", "wire", "today", "afterStrict"].map(|name| row[name].as_str().unwrap())
    });
    let bad = ["None", "Plaintext", "Plaintext", "Plaintext"];
    let good = ["PERMISSIVE", "ISTIO_MUTUAL", "mTLS", "mTLS"];
    assert_eq!(rows.collect::<Vec<_>>(), [bad, good], "{speaks:#}");

    // With a metrics source, and once the look-back is covered. A day is the default: too long.
    let config = cluster.folder().join("preflight.yaml");
    let text = format!(
        "metricsSources: [{{name: main, url: \"{}\", scrapeInterval: 1s}}]",
        cluster.prometheus_url()
    );
    std::fs::write(&config, text).unwrap();
    let config = config.display().to_string();
    let measured = ["preflight", "-n", "good", "--config", &config, "--metrics-source", "main"];
    let held = until("the source to be asked", LIMIT, async || {
        let output = cluster.meshrollout(&measured).await.map_err(|error| error.to_string())?;
        // Before the first scrape it says MR0306 too, for another reason.
        match said(&output).contains("does not reach back 24h yet") {
            true => Ok(output),
            false => Err(said(&output)),
        }
    });
    let held = held.await.unwrap();
    assert_eq!(held.status.code(), Some(1), "{}", said(&held));
    assert!(said(&held).contains("MR0306"), "{}", said(&held));
    let unknown = ["preflight", "--config", &config, "--metrics-source", "x"];
    let wrong = cluster.meshrollout(&unknown).await.unwrap();
    assert_eq!(wrong.status.code(), Some(65), "{}", said(&wrong));
    let writes = cluster.audit_since(mark).unwrap().writes().by_agent("meshrollout");
    assert_eq!(writes.count(), 0, "{}", writes.summary());

    cluster.install().await.unwrap();
    let none = cluster.meshrollout(&["explain", "shop"]).await.unwrap();
    assert_eq!(none.status.code(), Some(65), "{}", said(&none));
    assert!(said(&none).contains("no MeshRollout shop"), "{}", said(&none));
    let _operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    cluster.apply_rollout(&Rollout::enforce("shop", &[("only", &["bad"])])).await.unwrap();
    cluster.until_ready_is("shop", "PodWithoutProxy", LIMIT).await.unwrap();
    cluster.until_state_is("shop", "bad", "Blocked", LIMIT).await.unwrap();
    let explained = cluster.meshrollout(&["explain", "shop"]).await.unwrap();
    for word in ["Ready=False PodWithoutProxy", "Deployment bad/app", "kubectl rollout restart"] {
        assert!(said(&explained).contains(word), "{word}: {}", said(&explained));
    }
    let status = cluster.meshrollout(&["status"]).await.unwrap();
    for word in ["shop", "PodWithoutProxy", "strict 0/1", "Blocked"] {
        assert!(said(&status).contains(word), "{word}: {}", said(&status));
    }
}

/// The kinds that a dump must have for files to say what the cluster says.
const KINDS: &str = "namespaces,pods,deployments.apps,statefulsets.apps,daemonsets.apps,services,\
    configmaps,peerauthentications.security.istio.io,destinationrules.networking.istio.io,\
    workloadentries.networking.istio.io,sidecars.networking.istio.io,\
    envoyfilters.networking.istio.io,wasmplugins.extensions.istio.io,telemetries.telemetry.istio.io,\
    mutatingwebhookconfigurations,validatingwebhookconfigurations,apiservices,\
    customresourcedefinitions,cronjobs.batch,ingresses.networking.k8s.io,ingressclasses.networking.k8s.io";

#[tokio::test]
async fn a_dump_of_the_cluster_says_what_the_cluster_says() {
    let cluster = Cluster::start(Options { kinds: false, ..Options::default() }).await.unwrap();
    for namespace in ["front", "shop", "bare"] {
        cluster.namespace(namespace, Injection::Enabled, &[]).await.unwrap();
    }
    cluster.deploy(&Workload::new("front", "web")).await.unwrap();
    cluster.deploy(&Workload::new("shop", "orders").port("tcp-admin", 9443)).await.unwrap();
    cluster.deploy(&Workload::new("bare", "app").without_sidecar()).await.unwrap();
    cluster
        .destination_rule("front", "plain", "orders.shop.svc.cluster.local", "DISABLE")
        .await
        .unwrap();
    cluster.peer_authentication("front", "legacy", "PERMISSIVE").await.unwrap();
    let more = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: order-rules}
webhooks:
- name: orders.shop.example
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Ignore
  rules: [{apiGroups: [shop.example], apiVersions: [v1], operations: [CREATE], resources: [orders]}]
  clientConfig: {service: {namespace: shop, name: orders, port: 9443}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: orders, namespace: shop}
spec:
  ingressClassName: nginx
  defaultBackend: {service: {name: orders, port: {name: http}}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: narrow, namespace: front}
spec: {egress: [{hosts: [./*]}]}
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: plain-chains, namespace: shop}
spec:
  configPatches:
  - applyTo: NETWORK_FILTER
    match: {context: SIDECAR_INBOUND, listener: {filterChain: {transportProtocol: raw_buffer}}}
    patch: {operation: REMOVE}
---
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {name: fetched, namespace: front}
spec: {url: http://orders.shop:9443/filter.wasm}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: machine, namespace: shop}
spec: {address: 10.0.0.7, labels: {app: machine}}
";
    cluster.apply_yaml(more).await.unwrap();

    let live = cluster.meshrollout(&["preflight", "-o", "json"]).await.unwrap();
    assert_eq!(live.status.code(), Some(1), "{}", said(&live));
    let live = found(&live);
    let codes: Vec<_> = live.iter().map(|one| one["code"].as_str().unwrap()).collect();
    for code in [
        "MR0101", "MR0401", "MR0406", "MR0407", "MR0501", "MR0502", "MR0701", "MR0706", "MR0713",
        "MR0715",
    ] {
        assert!(codes.contains(&code), "{code} is not among {codes:?}");
    }
    // Whoever has the rights that are printed is told the same, and without them nobody anything.
    let rights = cluster.meshrollout(&["docs", "rights"]).await.unwrap();
    cluster.apply_yaml(&String::from_utf8(rights.stdout).unwrap()).await.unwrap();
    cluster
        .apply_yaml(
            "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: lookers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: meshrollout-preflight}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: looker}]
",
        )
        .await
        .unwrap();
    let looked = cluster.meshrollout_as("looker", &["preflight", "-o", "json"]).await.unwrap();
    assert_eq!(found(&looked), live);
    let refused = cluster.meshrollout_as("nobody", &["tls-check"]).await.unwrap();
    assert_eq!(refused.status.code(), Some(69), "{}", said(&refused));
    assert!(said(&refused).contains("forbidden"), "{}", said(&refused));

    for format in ["json", "yaml"] {
        let dump = cluster.folder().join(format!("dump.{format}"));
        // Who wrote a policy is told by its managed fields, which kubectl hides.
        let get = ["get", KINDS, "-A", "-o", format, "--show-managed-fields"];
        let text = cluster.kubectl_text(&get).await.unwrap();
        std::fs::write(&dump, text).unwrap();
        let dump = dump.display().to_string();
        let files = cluster.meshrollout(&["preflight", "-o", "json", "-f", &dump]).await.unwrap();
        assert_eq!(found(&files), live, "{format}");
    }

    // What is proposed is a rollout as it stands. The rule in front tells that it calls shop.
    cluster.install().await.unwrap();
    let plan = cluster.meshrollout(&["plan", "--name", "proposed"]).await.unwrap();
    assert_eq!(plan.status.code(), Some(0), "{}", said(&plan));
    cluster.apply_yaml(&String::from_utf8(plan.stdout).unwrap()).await.unwrap();
    let rollout = cluster.rollout("proposed").await.unwrap();
    assert_eq!(rollout["spec"]["action"], "Observe");
    let stages = rollout["spec"]["stages"].as_array().unwrap().iter();
    let stages: Vec<_> = stages.map(|stage| stage["namespaces"].to_string()).collect();
    assert_eq!(stages, ["[\"bare\",\"front\"]", "[\"shop\"]"]);
}

/// What was found, without the places, which a cluster does not have.
fn found(output: &Output) -> Vec<Value> {
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", said(output)));
    assert_eq!(report["summary"]["input"]["broken"], Value::Array(vec![]));
    let mut findings = report["findings"].as_array().unwrap().clone();
    for one in &mut findings {
        one.as_object_mut().unwrap().remove("source");
    }
    findings
}

/// The README's comparison.
#[tokio::test]
async fn strict_and_disable_together_are_an_outage_that_istioctl_does_not_name() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/strict-and-disable");
    let analyze = std::process::Command::new(Cluster::tool("istioctl").unwrap())
        .args(["analyze", "--use-kube=false", "-A", folder])
        .output()
        .unwrap();
    assert!(analyze.status.success(), "{}", said(&analyze));
    assert!(said(&analyze).contains("No validation issues found"), "{}", said(&analyze));
    let preflight = Cluster::meshrollout_on_files(&["preflight", "-f", folder]).await.unwrap();
    assert_eq!(preflight.status.code(), Some(1));
    for word in [
        "MR0401 ClientTlsDisabled [block] DestinationRule front/orders-plain:80",
        "503 after STRICT",
    ] {
        assert!(said(&preflight).contains(word), "{}", said(&preflight));
    }
}
