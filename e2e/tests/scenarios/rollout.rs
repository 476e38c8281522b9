//! The main job on a real control plane: from PERMISSIVE to STRICT, stage by stage.

use std::time::Duration;

use meshrollout_e2e::scenario::{Injection, Workload};
use meshrollout_e2e::{
    Client, Cluster, Edge, OPERATOR_USER, OperatorOptions, Options, Rollout, Server,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(150);

/// Meshed namespaces of one workload each, called over mutual TLS by `front/web`.
async fn shop(cluster: &Cluster, namespaces: &[&str]) {
    cluster.namespace("front", Injection::Enabled, &[]).await.unwrap();
    cluster.deploy(&Workload::new("front", "web")).await.unwrap();
    for name in namespaces {
        cluster.namespace(name, Injection::Enabled, &[]).await.unwrap();
        cluster.deploy(&Workload::new(name, "app").replicas(2)).await.unwrap();
        let edge = Edge::new(Client::workload("front", "web"), Server::workload(name, "app"));
        cluster.exporter().edge(edge.rps(40.0));
    }
}

#[tokio::test]
async fn three_stages_become_strict_one_after_the_other() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.install().await.unwrap();
    shop(&cluster, &["one", "two", "three"]).await;
    let mark = cluster.audit_mark().unwrap();
    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    let stages: [(&str, &[&str]); 3] =
        [("first", &["one"]), ("second", &["two"]), ("third", &["three"])];
    cluster.apply_rollout(&Rollout::enforce("shop", &stages)).await.unwrap();
    let ready = cluster.until_ready_is("shop", "Enforced", LIMIT).await;
    let ready = ready.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    assert_eq!(ready.status, "True", "{ready:?}");
    for name in ["one", "two", "three"] {
        assert_eq!(cluster.policy_mode(name).await.unwrap().as_deref(), Some("STRICT"));
    }

    // Whoever waits for a condition finds the reports saying the same: they are written first.
    let told = cluster.audit_since(mark).unwrap().writes().by(OPERATOR_USER).accepted();
    let first = |resource: &str, namespace: &str, says: &dyn Fn(&Value) -> bool| {
        told.events().position(|event| {
            let of = event.object_ref.as_ref();
            of.is_some_and(|of| (&*of.resource, &*of.namespace) == (resource, namespace))
                && event.request_object.as_ref().is_some_and(|object| says(&object["status"]))
        })
    };
    let reported = first("meshreports", "three", &|status| status["state"] == "Enforced");
    let summed_up = first("meshrollouts", "", &|status| {
        let mut conditions = status["conditions"].as_array().into_iter().flatten();
        conditions.any(|it| it["type"] == "Ready" && it["reason"] == "Enforced")
    });
    assert!(reported.is_some() && reported < summed_up, "{reported:?} {summed_up:?}");

    // Exactly the planned writes: one PERMISSIVE and one STRICT for each, in the plan's order.
    let policies = cluster.audit_since(mark).unwrap().of("peerauthentications").not_by_system();
    let (writes, tried) = (policies.clone().writes(), policies.dry_runs());
    let ours = writes.clone().by(OPERATOR_USER).accepted();
    let told: Vec<String> = ours
        .events()
        .map(|event| {
            let mode = &event.request_object.as_ref().unwrap()["spec"]["mtls"]["mode"];
            format!("{} {}", event.object(), mode.as_str().unwrap())
        })
        .collect();
    let expected: Vec<String> = ["one", "two", "three"]
        .iter()
        .flat_map(|name| [format!("{name}/default PERMISSIVE"), format!("{name}/default STRICT")])
        .collect();
    assert_eq!(told, expected, "{}", writes.summary());
    assert_eq!(writes.count(), ours.count(), "nothing was refused: {}", writes.summary());
    for name in ["one", "two", "three"] {
        let back = tried.clone().within(name).events().all(|event| {
            event.request_object.as_ref().unwrap()["spec"]["mtls"]["mode"] == "PERMISSIVE"
        });
        let count = tried.clone().within(name).count();
        assert!(back && count > 0, "the way back is tried before STRICT: {}", tried.summary());
    }
}
