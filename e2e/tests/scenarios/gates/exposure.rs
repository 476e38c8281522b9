//! Callers from outside the mesh that can never speak its mutual TLS.

use meshrollout_core::finding::Code;
use meshrollout_e2e::scenario::Workload;

use super::mesh::{LIMIT, Mesh, mesh};

#[tokio::test]
async fn a_webhook_that_is_served_in_scope_holds_until_its_port_is_excepted() {
    let mesh = mesh().await;
    mesh.serve("admitting").await;
    // It is asked about nothing, and would let everything through.
    let webhook = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: order-rules}
webhooks:
- name: orders.shop.example
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Ignore
  rules: [{apiGroups: [shop.example], apiVersions: [v1], operations: [CREATE], resources: [orders]}]
  clientConfig: {service: {namespace: admitting, name: app, port: 8080}}
";
    mesh.apply_yaml(webhook).await.unwrap();
    mesh.roll_out("admitting").await;

    let held = mesh.held("admitting", "admitting", Code::WebhookBackend).await;
    assert_eq!(held.text("subject"), "Deployment admitting/app:8080");
    assert!(held.ready.message.contains("ValidatingWebhookConfiguration order-rules"), "{held:?}");

    // The remedy is an object to be applied as it stands.
    let remedy = held.text("remedy").to_owned();
    let object = remedy.strip_prefix("kubectl apply -f - <<'END'\n").unwrap();
    mesh.apply_yaml(object.strip_suffix("END").unwrap()).await.unwrap();
    mesh.until_strict("admitting", "admitting").await;

    // A port that stays PERMISSIVE keeps it from being complete, until somebody answers for it.
    mesh.until_state_is("admitting", "admitting", "Enforced", LIMIT).await.unwrap();
    let remains = mesh.until_found("admitting", "admitting", Code::LooserPolicyRemains).await.0;
    assert_eq!(remains["level"], "Warn", "{remains}");
    assert_eq!(mesh.condition("admitting", "Ready").await.unwrap().status, "False");
    let answered = serde_json::json!({"spec": {"exceptions": [{
        "namespace": "admitting", "workload": {"kind": "Deployment", "name": "app"},
        "ports": [8080], "reason": "called by kube-apiserver", "owner": "platform",
        "expires": "2999-01-01T00:00:00Z",
    }]}});
    let patch = ["patch", "meshrollout", "admitting", "--type=merge", "-p", &answered.to_string()];
    mesh.kubectl_text(&patch).await.unwrap();
    let ready = mesh.until_ready_is("admitting", "Enforced", LIMIT).await.unwrap();
    assert_eq!(ready.status, "True", "{ready:?}");
    mesh.delete("validatingwebhookconfiguration", "", "order-rules").await.unwrap();
    mesh.end("admitting").await;
}

#[tokio::test]
async fn an_ingress_holds_until_its_controller_is_in_the_mesh_and_calls_the_service() {
    let mesh = mesh().await;
    mesh.serve("routed").await;
    let ingress = "
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: front-door}
spec: {controller: k8s.io/ingress-nginx}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop, namespace: routed}
spec:
  ingressClassName: front-door
  defaultBackend: {service: {name: app, port: {number: 8080}}}
";
    mesh.apply_yaml(ingress).await.unwrap();
    mesh.roll_out("routed").await;

    let held = mesh.held("routed", "routed", Code::IngressWithoutProxy).await;
    assert_eq!(held.text("subject"), "Deployment routed/app:8080");
    assert!(held.ready.message.contains("class front-door, k8s.io/ingress-nginx"), "{held:?}");

    // With a sidecar alone it would dial the pods past it.
    let nginx = Workload::new("front", "doorman");
    let nginx = nginx.label("app.kubernetes.io/name", "ingress-nginx");
    mesh.deploy(&nginx).await.unwrap();
    mesh.wait("it to be said that the pods are dialled", async || {
        let (found, _) = mesh.until_found("routed", "routed", Code::IngressWithoutProxy).await;
        let said = found["message"].as_str().unwrap_or_default();
        if said.contains("its controller dials the pods") { Ok(()) } else { Err(said.to_owned()) }
    })
    .await;
    let through = [
        "annotate",
        "ingress",
        "shop",
        "-n=routed",
        "nginx.ingress.kubernetes.io/service-upstream=true",
        "nginx.ingress.kubernetes.io/upstream-vhost=app.routed.svc.cluster.local",
    ];
    mesh.kubectl_text(&through).await.unwrap();
    mesh.until_strict("routed", "routed").await;
    mesh.delete("ingressclass", "", "front-door").await.unwrap();
    mesh.end("routed").await;
}

#[tokio::test]
async fn a_rare_caller_that_names_a_server_holds_until_it_has_run() {
    let mesh = mesh().await;
    mesh.serve("fetched").await;
    let cron_job = "
apiVersion: v1
kind: Namespace
metadata: {name: office}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: figures, namespace: office}
spec:
  schedule: '0 6 * * 1'
  suspend: true
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers:
          - {name: figures, image: registry.example/figures, args: [--from, 'http://app.fetched:8080/']}
";
    mesh.apply_yaml(cron_job).await.unwrap();
    mesh.roll_out("fetched").await;

    let held = mesh.held("fetched", "fetched", Code::RareCaller).await;
    assert_eq!(held.text("subject"), "CronJob office/figures");
    assert!(held.ready.message.contains("has not ended well since"), "{held:?}");

    // As the controller writes it, which changes nothing of what the CronJob does.
    // It runs time and again: on a busy machine one run leaves the look-back before the soak is over.
    let ran = ["patch", "cronjob", "figures", "-n=office", "--subresource=status", "--type=merge"];
    mesh.wait("a caller that runs to hold nobody", async || {
        let now = jiff::Timestamp::now();
        let status = format!("{{\"status\": {{\"lastSuccessfulTime\": \"{now:.0}\"}}}}");
        mesh.kubectl_text(&[&ran[..], &["-p", &status]].concat()).await.unwrap();
        match mesh.policy_mode("fetched").await {
            Ok(Some(mode)) if mode == "STRICT" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    mesh.until_strict("fetched", "fetched").await;
    mesh.delete("cronjob", "office", "figures").await.unwrap();
    mesh.end("fetched").await;
}

/// Kinds whose definitions somebody installs while the operator runs, and takes away again.
#[tokio::test]
async fn a_route_holds_for_as_long_as_its_kind_is_served() {
    // Of its own: what is not read for a moment holds everybody.
    let mesh = Mesh::start().await;
    mesh.serve("gatewayed").await;
    let (routes, monitors) = ("gateway.networking.k8s.io", "monitoring.coreos.com");
    for (group, plural, kind, scope) in [
        (routes, "httproutes", "HTTPRoute", "Namespaced"),
        (routes, "grpcroutes", "GRPCRoute", "Namespaced"),
        (routes, "gateways", "Gateway", "Namespaced"),
        (routes, "gatewayclasses", "GatewayClass", "Cluster"),
        (monitors, "servicemonitors", "ServiceMonitor", "Namespaced"),
        (monitors, "podmonitors", "PodMonitor", "Namespaced"),
    ] {
        let definition = serde_json::json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {
                "name": format!("{plural}.{group}"),
                "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
            },
            "spec": {
                "group": group, "scope": scope,
                "names": {"plural": plural, "kind": kind},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {
                    "openAPIV3Schema": {"type": "object",
                        "x-kubernetes-preserve-unknown-fields": true}}}],
            },
        });
        mesh.apply(&[definition]).await.unwrap();
    }
    let route = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: gatewayed}
spec: {gatewayClassName: edge-of-somebody}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: gatewayed}
spec:
  parentRefs: [{name: edge}]
  rules: [{backendRefs: [{name: app, port: 8080}]}]
";
    mesh.wait("the kinds to be served", async || {
        mesh.apply_yaml(route).await.map_err(|error| error.to_string())
    })
    .await;
    mesh.roll_out("gatewayed").await;

    let held = mesh.held("gatewayed", "gatewayed", Code::IngressWithoutProxy).await;
    assert!(held.ready.message.contains("class edge-of-somebody"), "{held:?}");
    assert!(held.finding.to_string().contains("HTTPRoute gatewayed/shop"), "{held:?}");

    // With it go its objects.
    let definition = "httproutes.gateway.networking.k8s.io";
    mesh.delete("customresourcedefinition", "", definition).await.unwrap();
    mesh.until_strict("gatewayed", "gatewayed").await;
}
