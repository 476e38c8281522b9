//! The chart: what helm makes of it, whether a real apiserver takes that, and what becomes of
//! policies when it is installed, upgraded and uninstalled.

use std::time::{Duration, Instant};

use kube::api::ListParams;
use meshrollout_e2e::scenario::Injection;
use meshrollout_e2e::{Cluster, Options, Rollout, Shop, rendered_install, until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(150);
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/meshrollout");
const CRDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds");
/// The chart as it was at a27767e: `git archive`, `helm package`. None has been released yet.
const PREVIOUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/chart-a27767e.tgz");
const SYSTEM: &str = "meshrollout-system";

#[test]
fn the_plain_install_is_the_chart_rendered() {
    let rendered = rendered_install().unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/install.yaml");
    let written = std::fs::read_to_string(file).unwrap();
    let differ = rendered.lines().zip(written.lines()).find(|(new, old)| new != old);
    assert_eq!(differ, None, "`make bless` writes it anew");
    assert_eq!(rendered.lines().count(), written.lines().count(), "`make bless` writes it anew");
}

#[test]
fn the_charts_readme_is_made_of_its_values() {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts");
    let made = std::process::Command::new(format!("{chart}/readme")).output().unwrap();
    let written = std::fs::read_to_string(format!("{chart}/meshrollout/README.md")).unwrap();
    assert_eq!(String::from_utf8_lossy(&made.stdout), written, "`make bless` writes it anew");
    assert!(!written.contains("|  |"), "each value says what it is for");
}

/// Helm brings the kinds.
fn bare() -> Options {
    Options { kinds: false, ..Options::default() }
}

/// What a typing error in the values is answered with.
#[tokio::test]
async fn the_schema_refuses_what_the_chart_does_not_know() {
    let cluster = Cluster::start(bare()).await.unwrap();
    let refused = [
        ("replica=3", "additional properties 'replica' not allowed"),
        ("replicas=-1", "/replicas"),
        ("replicas=two", "/replicas"),
        ("image.digest=latest", "/image/digest"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("crds.enable=true", "'enable' not allowed"),
        ("config.evaluationIntervall=1s", "'evaluationIntervall' not allowed"),
        ("config.evaluationInterval=1", "/config/evaluationInterval"),
        ("config.evaluationInterval=soon", "/config/evaluationInterval"),
        ("config.operatorNamespace=here", "'operatorNamespace' not allowed"),
        ("config.sidecars.port=0", "/config/sidecars/port"),
        ("config.metricsSources[0].name=main", "missing property 'url'"),
        ("config.metricsSources[0].url=file:///etc/passwd", "/config/metricsSources/0"),
        ("config.traces.endpoint=http://collector:4318", "'endpoint' not allowed"),
        ("config.traces.url=collector:4317", "/config/traces/url"),
        ("credentials[0].name=main", "missing property 'secretName'"),
        ("credentials[0].name=../etc", "/credentials/0"),
        ("proxyState.namespaces=", "/proxyState/namespaces"),
        ("log.format=xml", "/log/format"),
        ("guard.policy=false", "'policy' not allowed"),
        ("networkPolicy.apiserverPorts[0]=70000", "/networkPolicy/apiserverPorts/0"),
    ];
    for (value, words) in refused {
        let said = cluster.helm(&["template", "meshrollout", CHART, "--set", value]).await;
        let said = said.expect_err(value);
        assert!(said.contains(words), "{value}: {said}");
    }

    // What it renders, a real apiserver takes, and reads the fields strictly.
    cluster.namespace(SYSTEM, Injection::Absent, &[]).await.unwrap();
    let install = cluster.helm(&["install", "meshrollout", CHART, "-n", SYSTEM]).await.unwrap();
    let first = install.lines().skip_while(|line| *line != "NOTES:").nth(1).unwrap_or_default();
    assert!(first.ends_with("kubectl meshrollout preflight"), "{install}");
    for kind in ["ServiceMonitor", "PrometheusRule"] {
        let plural = format!("{}s", kind.to_lowercase());
        let definition = json!({"apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.monitoring.coreos.com")},
            "spec": {"group": "monitoring.coreos.com", "scope": "Namespaced",
                "names": {"plural": plural, "kind": kind},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {
                    "openAPIV3Schema": {"type": "object",
                        "x-kubernetes-preserve-unknown-fields": true}}}]}});
        cluster.apply(&[definition]).await.unwrap();
    }
    let monitoring = "monitoring.serviceMonitor.enabled=true,monitoring.prometheusRule.enabled=true,monitoring.dashboard.enabled=true";
    let source =
        "config.metricsSources[0].name=main,config.metricsSources[0].url=https://thanos:10901";
    let traces = "config.traces.url=http://collector.tracing:4318";
    let matrix: [&[&str]; 10] = [
        &[monitoring, "enabled=true"],
        &[],
        &[traces],
        &["replicas=1"],
        &[
            "replicas=3,image.digest=sha256:0000000000000000000000000000000000000000000000000000000000000000",
        ],
        &["fence.enabled=false,guard.policies=false,guard.authors=false"],
        &["rbac.roles=false,rbac.aggregateReports=false,networkPolicy.enabled=false"],
        &["proxyState.enabled=true,proxyState.namespaces[0]=istio-canary", "allowShortTimes=true"],
        &[
            source,
            "credentials[0].name=main,credentials[0].secretName=thanos,imagePullSecrets[0]=pull",
        ],
        &[
            "crds.enabled=false,podDisruptionBudget.enabled=false,priorityClassName=system-cluster-critical",
            "nodeSelector.kubernetes\\.io/os=linux,tolerations[0].operator=Exists",
        ],
    ];
    for (index, values) in matrix.iter().enumerate() {
        let mut args = vec!["template", "meshrollout", CHART, "-n", SYSTEM];
        args.extend(values.iter().flat_map(|value| ["--set", value]));
        let rendered = cluster.helm(&args).await.unwrap_or_else(|why| panic!("{values:?}: {why}"));
        assert_eq!(rendered.contains("- port: 4318\n"), values.contains(&traces), "{rendered}");
        let file = cluster.folder().join(format!("rendered-{index}.yaml"));
        std::fs::write(&file, rendered).unwrap();
        let file = file.display().to_string();
        let taken = ["apply", "--dry-run=server", "--validate=strict", "-f", &file];
        cluster.kubectl_text(&taken).await.unwrap_or_else(|why| panic!("{values:?}: {why}"));
    }
    let linted = cluster.helm(&["lint", "--strict", CHART]).await.unwrap();
    assert!(linted.contains("0 chart(s) failed"), "{linted}");
}

/// What a newcomer copies out of the README, on the cluster of the demo.
#[tokio::test]
async fn the_readme_works_as_written() {
    let readme = include_str!("../../../README.md");
    let line = readme.lines().map(str::trim).find(|line| line.starts_with("helm install "));
    let words = line.unwrap().split(' ').skip(1);
    let words: Vec<_> =
        words.map(|word| if word == "charts/meshrollout" { CHART } else { word }).collect();
    let blocks = readme.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let blocks: Vec<_> = blocks.collect();
    let rollout = blocks.iter().find(|block| block.contains("kind: MeshRollout")).unwrap();
    let values = blocks.iter().find(|block| block.contains("metricsSources:")).unwrap();

    let cluster = Cluster::start(bare()).await.unwrap();
    let _shop = Shop::open(&cluster).await.unwrap();
    let file = |name: &str, text: &str| {
        let path = cluster.folder().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    // Only where Prometheus is, is another matter here.
    let values = values.replace("http://prometheus.monitoring:9090", &cluster.prometheus_url());
    let (values, rollout) = (file("values.yaml", &values), file("rollout.yaml", rollout));
    cluster.helm(&[&words[..], &["-f", &values]].concat()).await.unwrap();
    cluster.kubectl_text(&["apply", "-f", &rollout]).await.unwrap();
    let operator = cluster.installed_operator().await.unwrap();

    let pinned = until("catalog to be pinned", LIMIT, async || {
        match cluster.policy_mode("catalog").await.unwrap().as_deref() {
            Some("PERMISSIVE") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    pinned.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    // Held back with a name: the one client that has no sidecar.
    let held = until("the plaintext to be named", LIMIT, async || {
        let said = cluster.meshrollout(&["explain", "shop"]).await.unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        if said.contains("legacy/batch") { Ok(()) } else { Err(said) }
    })
    .await;
    held.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    let shown = cluster.kubectl_text(&["get", "meshrollouts"]).await.unwrap();
    let columns: Vec<_> = shown.lines().next().unwrap().split_whitespace().skip(1).collect();
    assert!(readme.contains(&format!("# {}", columns.join(" "))), "{shown}");

    // Another replica stands by. One is killed, with the chart's own times; the next hands over.
    let next = cluster.installed_operator().await.unwrap();
    let begin = Instant::now();
    drop(operator);
    next.evaluated("shop", 1, LIMIT).await.unwrap();
    let killed = begin.elapsed();
    let last = cluster.installed_operator().await.unwrap();
    let begin = Instant::now();
    next.stop().await.unwrap();
    last.evaluated("shop", 1, LIMIT).await.unwrap();
    let handed_over = begin.elapsed();
    println!("take-over: {killed:.1?} after a kill, {handed_over:.1?} after a hand-over");
    assert!(handed_over < killed, "handed over in {handed_over:?}, taken over in {killed:?}");
}

/// Every policy, as it stands.
async fn policies(cluster: &Cluster) -> Vec<String> {
    let all = cluster.kubectl_text(&["get", "peerauthentications", "-A", "-o", "json"]).await;
    let all: Value = serde_json::from_str(&all.unwrap()).unwrap();
    all["items"].as_array().unwrap().iter().map(Value::to_string).collect()
}

#[tokio::test]
async fn an_upgrade_in_mid_stage_goes_on_and_an_uninstall_changes_no_policy() {
    let cluster = Cluster::start(Options { owners_are_asked: true, ..bare() }).await.unwrap();
    // As strict as namespaces get.
    let system = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM,
        "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    cluster.apply(&[system]).await.unwrap();
    let values = cluster.chart_values().unwrap().display().to_string();
    let chart = |path| ["meshrollout", path, "-n", SYSTEM, "-f", &values];
    cluster.helm(&[&["install"], &chart(PREVIOUS)[..], &["--wait"]].concat()).await.unwrap();
    // Definitions come first, as the manual says: under the old ones our operator would go nowhere.
    let ours = ["apply", "--server-side", "--force-conflicts", "-f", CRDS];
    cluster.kubectl_text(&ours).await.unwrap();
    let admitted =
        kube::Api::<k8s_openapi::api::core::v1::Pod>::namespaced(cluster.client(), SYSTEM);
    let admitted = admitted.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(admitted.len(), 2, "the rendered pods are admitted where `restricted` is enforced");

    cluster.front().await.unwrap();
    cluster.called(&["one", "two", "three"]).await.unwrap();
    let operator = cluster.installed_operator().await.unwrap();
    let stages: [(&str, &[&str]); 3] =
        [("first", &["one"]), ("second", &["two"]), ("third", &["three"])];
    let rollout = Rollout::enforce("shop", &stages).with("/stages/1/bake", json!("40s"));
    cluster.apply_rollout(&rollout).await.unwrap();
    let watched = cluster.until_state_is("shop", "two", "Watching", LIMIT).await;
    watched.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));

    let before = policies(&cluster).await;
    let upgrade = [&["upgrade"], &chart(CHART)[..], &["--set", "log.filter=debug", "--wait"]];
    let upgrade = upgrade.concat();
    cluster.helm(&upgrade).await.unwrap();
    operator.stop().await.unwrap();
    let operator = cluster.installed_operator().await.unwrap();
    assert!(operator.log().contains("DEBUG"), "it runs as it was upgraded to:\n{}", operator.log());
    assert_eq!(cluster.report("two", "shop").await.unwrap()["status"]["state"], "Watching");

    // The CRDs have stayed behind: what is watched is watched to its end, and no step follows.
    let reports = "meshreports.meshrollout.dev";
    let ours = cluster.mark_definition(reports, "0123456789abcdef").await.unwrap();
    let held = cluster.until_ready_is("shop", "DefinitionsDiffer", LIMIT).await.unwrap();
    assert!(held.message.contains(reports) && held.status == "False", "{held:?}");
    cluster.until_state_is("shop", "two", "Enforced", LIMIT).await.unwrap();
    assert_eq!(policies(&cluster).await, before, "neither the upgrade nor the rest wrote any");
    cluster.mark_definition(reports, &ours).await.unwrap();

    let ready = cluster.until_ready_is("shop", "Enforced", LIMIT).await;
    let ready = ready.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    assert_eq!(ready.status, "True", "{ready:?}");
    let before = policies(&cluster).await;
    assert_eq!(before.len(), 3);

    // Its pods go before its rights do.
    operator.stop().await.unwrap();
    cluster.helm(&["uninstall", "meshrollout", "-n", SYSTEM, "--wait"]).await.unwrap();
    assert_eq!(policies(&cluster).await, before);
    // What a rollback needs to know outlives the chart.
    let kept = cluster.kubectl_text(&["get", "meshrollouts,meshreports", "-A", "-o", "name"]).await;
    assert_eq!(kept.unwrap().lines().count(), 4);
    let left =
        "clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding";
    let left = cluster.kubectl_text(&["get", left, "-o", "name"]).await.unwrap();
    let left: Vec<_> = left.lines().filter(|name| name.contains("meshrollout")).collect();
    assert!(left.is_empty(), "{left:?}");
}
