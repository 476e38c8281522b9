//! The fence on the real apiserver: whose writes are accepted, and what becomes of that when the
//! MeshFence, the Lease or the admission policy itself is deleted.

use std::time::Duration;

use meshrollout_e2e::scenario::Injection;
use meshrollout_e2e::{Cluster, OPERATOR_USER, OperatorOptions, Options, Rollout, until};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

const LIMIT: Duration = Duration::from_secs(150);
const SYSTEM: &str = "meshrollout-system";

async fn cluster() -> &'static Cluster {
    static CLUSTERS: OnceCell<Cluster> = OnceCell::const_new();
    CLUSTERS
        .get_or_init(async || {
            let cluster = Cluster::start(Options::default()).await.unwrap();
            cluster.install().await.unwrap();
            cluster
        })
        .await
}

/// A policy write with this stamp, as the operator's account or as the administrator.
async fn write(
    cluster: &Cluster,
    user: Option<&str>,
    stamp: &[(&str, &str)],
) -> Result<(), String> {
    let notes: serde_json::Map<String, Value> = stamp
        .iter()
        .map(|(name, value)| (format!("meshrollout.dev/{name}"), json!(value)))
        .collect();
    let policy = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": "default", "namespace": "fenced", "annotations": notes},
        "spec": {"mtls": {"mode": "PERMISSIVE"}},
    });
    let file = cluster.folder().join("fenced.json");
    std::fs::write(&file, policy.to_string()).unwrap();
    let file = file.display().to_string();
    let mut args = vec!["apply", "--server-side", "--force-conflicts", "-f", &file];
    let kubeconfig = user.map(|user| cluster.kubeconfig_for(user, None).unwrap());
    let kubeconfig = kubeconfig.map(|path| path.display().to_string());
    args.extend(kubeconfig.iter().flat_map(|path| ["--kubeconfig", path]));
    cluster.kubectl_text(&args).await.map(drop)
}

async fn by_operator(cluster: &Cluster, holder: &str, epoch: &str) -> Result<(), String> {
    write(cluster, Some(OPERATOR_USER), &[("holder", holder), ("epoch", epoch)]).await
}

async fn reign(cluster: &Cluster, holder: &str, epoch: i64) {
    let fence = json!({
        "apiVersion": "meshrollout.dev/v1alpha1",
        "kind": "MeshFence",
        "metadata": {"name": "meshrollout", "namespace": SYSTEM},
        "spec": {"holder": holder, "epoch": epoch},
    });
    cluster.apply(&[fence]).await.unwrap();
    // The apiserver learns it by a watch of its own, like any other parameter.
    let leads = format!("{holder} leads, epoch {epoch}");
    until("the fence to name the new leader", LIMIT, async || {
        match by_operator(cluster, "nobody", "0").await {
            Err(why) if why.contains(&leads) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    by_operator(cluster, holder, &epoch.to_string()).await.unwrap();
}

#[tokio::test]
async fn only_the_leaders_writes_pass_and_a_policy_made_anew_still_bites() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let cluster = &cluster;
    cluster.install().await.unwrap();
    cluster.namespace("fenced", Injection::Absent, &[]).await.unwrap();

    // Nobody leads yet: the fence must not keep a person from any policy.
    write(cluster, None, &[]).await.unwrap();

    reign(cluster, "a", 1).await;
    for (holder, epoch) in [("b", "1"), ("a", "2"), ("a", "01"), ("", "")] {
        let refused = by_operator(cluster, holder, epoch).await.unwrap_err();
        assert!(refused.contains("a leads, epoch 1"), "{refused}");
        assert!(refused.contains("a replica that was deposed may not write"), "{refused}");
    }
    write(cluster, Some(OPERATOR_USER), &[]).await.unwrap_err();

    reign(cluster, "b", 2).await;
    by_operator(cluster, "a", "1").await.unwrap_err();

    // Deleted and made anew while nobody writes, and then the leader changes.
    delete_the_policy(cluster).await;
    reaches(cluster, "a").await;
    cluster.install().await.unwrap();
    until("the fence to bite again", LIMIT, async || match by_operator(cluster, "a", "1").await {
        Ok(()) => Err("the deposed leader's write was accepted".to_owned()),
        Err(_) => Ok(()),
    })
    .await
    .unwrap();
    reign(cluster, "c", 3).await;
    let refused = by_operator(cluster, "b", "2").await.unwrap_err();
    assert!(refused.contains("c leads, epoch 3"), "{refused}");

    // Other people's writes are not looked at, whatever is there or missing.
    write(cluster, None, &[]).await.unwrap();
    for missing in [["meshfence", "meshrollout"], ["crd", "meshfences.meshrollout.dev"]] {
        cluster.kubectl_text(&["delete", missing[0], missing[1], "-n", SYSTEM]).await.unwrap();
        until("the operator's account to be let through", LIMIT, async || {
            by_operator(cluster, "a", "1").await
        })
        .await
        .unwrap();
        write(cluster, None, &[]).await.unwrap();
    }
}

async fn delete_the_policy(cluster: &Cluster) {
    for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
        cluster.kubectl_text(&["delete", kind, "meshrollout-fence"]).await.unwrap();
    }
}

/// Waits until a write of `holder` is let through: the apiserver looks at its policies each second.
async fn reaches(cluster: &Cluster, holder: &str) {
    let let_through = async || by_operator(cluster, holder, "1").await;
    until("the fence to be gone", LIMIT, let_through).await.unwrap();
}

/// Whose reign stands, and its epoch.
pub(super) async fn fence(cluster: &Cluster) -> Option<(String, i64)> {
    let args = ["get", "meshfence", "meshrollout", "-n", SYSTEM, "-o", "json"];
    let fence: Value = serde_json::from_str(&cluster.kubectl_text(&args).await.ok()?).unwrap();
    let spec = &fence["spec"];
    Some((spec["holder"].as_str()?.to_owned(), spec["epoch"].as_i64()?))
}

/// The stamp on the policy of a namespace.
async fn stamp(cluster: &Cluster, namespace: &str) -> (String, i64) {
    let args = ["get", "peerauthentication", "default", "-n", namespace, "-o", "json"];
    let policy: Value = serde_json::from_str(&cluster.kubectl_text(&args).await.unwrap()).unwrap();
    let note = |name: &str| {
        let note = &policy["metadata"]["annotations"][format!("meshrollout.dev/{name}")];
        note.as_str().unwrap().to_owned()
    };
    (note("holder"), note("epoch").parse().unwrap())
}

#[tokio::test]
async fn an_epoch_never_falls_behind_what_was_written_before() {
    let cluster = cluster().await;
    cluster.front().await.unwrap();
    cluster.called(&["one", "two"]).await.unwrap();
    let stages: [(&str, &[&str]); 2] = [("first", &["one"]), ("second", &["two"])];

    // The admission policy is not there, or not known yet: no step forward is taken on trust.
    // It bites first: else a stamp that is let through says that the fence is not known yet, and it
    // could still bite when the operator tries it, for the second that its going takes.
    cluster.namespace("fenced", Injection::Absent, &[]).await.unwrap();
    reign(cluster, "somebody", 1).await;
    delete_the_policy(cluster).await;
    reaches(cluster, "nobody").await;
    cluster.delete("peerauthentication", "fenced", "default").await.unwrap();
    cluster.kubectl_text(&["delete", "meshfence", "meshrollout", "-n", SYSTEM]).await.unwrap();
    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    cluster.apply_rollout(&Rollout::enforce("reigns", &stages)).await.unwrap();
    let held = cluster.until_ready_is("reigns", "WriteRefused", LIMIT).await;
    let held = held.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    assert!(held.message.contains("fence between replicas is not in force"), "{held:?}");
    assert_eq!(cluster.policy_mode("one").await.unwrap(), None);
    cluster.install().await.unwrap();

    until("the first stage to be STRICT", LIMIT, async || {
        match cluster.policy_mode("one").await.unwrap().as_deref() {
            Some("STRICT") => Ok(()),
            other => Err(format!("{other:?}\n{}", operator.log())),
        }
    })
    .await
    .unwrap();
    let first = fence(cluster).await.unwrap();
    assert_eq!(stamp(cluster, "one").await, first);

    // The fence is deleted in mid-run: a new reign begins, and the rollout goes on.
    cluster.kubectl_text(&["delete", "meshfence", "meshrollout", "-n", SYSTEM]).await.unwrap();
    let ready = cluster.until_ready_is("reigns", "Enforced", LIMIT).await;
    ready.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    let second = fence(cluster).await.unwrap();
    // By one, or more where the answer to a new reign was lost.
    assert!(second.0 == first.0 && second.1 > first.1, "{first:?} {second:?}");
    assert_eq!(stamp(cluster, "two").await, second);
    operator.stop().await.unwrap();

    // Fence and Lease are deleted while no operator is up, as by a chart installed again.
    cluster.kubectl_text(&["delete", "meshfence", "meshrollout", "-n", SYSTEM]).await.unwrap();
    cluster.kubectl_text(&["delete", "lease", "meshrollout", "-n", SYSTEM]).await.unwrap();
    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    until("the next reign to begin", LIMIT, async || {
        fence(cluster).await.map(drop).ok_or_else(|| operator.log())
    })
    .await
    .unwrap();
    let asked = "meshrollout.dev/rollback=2026-01-01T00:00:00Z";
    cluster.kubectl_text(&["annotate", "meshrollout", "reigns", asked]).await.unwrap();
    let ready = cluster.until_ready_is("reigns", "Aborted", LIMIT).await;
    ready.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    let third = fence(cluster).await.unwrap();
    assert!(third.1 > second.1, "the policies remember the epoch: {second:?} {third:?}");
    for name in ["one", "two"] {
        assert_eq!(cluster.policy_mode(name).await.unwrap().as_deref(), Some("PERMISSIVE"));
        assert_eq!(stamp(cluster, name).await, third);
    }
    operator.stop().await.unwrap();
}
