//! What is given besides files: the mesh configuration, and which revisions are served.

use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const SHOP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/rev: stable}}
---
apiVersion: v1
kind: Pod
metadata:
  name: web-0
  namespace: shop
  labels: {app: web, istio.io/rev: stable, security.istio.io/tlsMode: istio}
  annotations: {sidecar.istio.io/status: "{}", istio.io/rev: 1-26-0}
  ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: web, uid: "1", controller: true}]
spec:
  serviceAccountName: web
  containers: [{name: web, image: registry.example/web}]
  initContainers: [{name: istio-proxy, image: registry.example/proxyv2, restartPolicy: Always}]
status: {phase: Running}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {serviceAccountName: web, containers: [{name: web, image: registry.example/web}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
"#;

/// A file of its own, gone with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("meshrollout-{}-{name}", std::process::id()));
        std::fs::write(&path, text).expect("a file can be written");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("text")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The codes that are found, or what is said instead, and the exit code.
fn preflight(arguments: &[&str], input: &str) -> (Result<BTreeSet<String>, String>, i32) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_meshrollout"))
        .args(["preflight", "-o", "json"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    // Whoever refuses its arguments does not read.
    let _ = program.stdin.take().unwrap().write_all(input.as_bytes());
    let output = program.wait_with_output().expect("it ends");
    let code = output.status.code().expect("an exit code");
    let Ok(report) = serde_json::from_slice::<Value>(&output.stdout) else {
        return (Err(String::from_utf8(output.stderr).expect("text")), code);
    };
    let findings = report["findings"].as_array().expect("findings").iter();
    (Ok(findings.map(|one| one["code"].as_str().unwrap().to_owned()).collect()), code)
}

fn codes(arguments: &[&str], input: &str) -> BTreeSet<String> {
    preflight(&[&["-f", "-"], arguments].concat(), input).0.unwrap()
}

fn set<const N: usize>(codes: [&str; N]) -> BTreeSet<String> {
    codes.map(str::to_owned).into()
}

const STABLE: &str = "--revision-tags=stable=1-26-0";

#[test]
fn a_tag_that_is_served_is_no_finding_and_says_which_revision_new_pods_would_have() {
    assert_eq!(codes(&[], SHOP), set(["MR0106"]));
    assert_eq!(codes(&[STABLE], SHOP), set([]));
    assert_eq!(codes(&["--revision-tags=stable=1-27-0"], SHOP), set(["MR0107"]));
    assert_eq!(codes(&["--revision-tags=canary=1-27-0,stable=1-26-0"], SHOP), set([]));
    assert_eq!(codes(&["--revision-tags=1-26-0"], SHOP), set(["MR0106"]));
    let own = SHOP.replace("istio.io/rev: stable", "istio.io/rev: 1-26-0");
    assert_eq!(codes(&["--revision-tags=1-26-0"], &own), set([]));
}

#[test]
fn the_default_tag_takes_the_place_of_the_default_revision() {
    let own = SHOP.replace("istio.io/rev: stable}", "istio-injection: enabled}");
    assert_eq!(codes(&[], &own), set(["MR0107"]));
    assert_eq!(codes(&["--revision-tags=default=1-26-0"], &own), set([]));
}

#[test]
fn a_mesh_configuration_that_is_given_counts_whatever_the_files_hold() {
    let off = Scratch::new("off.yaml", "enableAutoMtls: false\n");
    assert_eq!(codes(&[STABLE, "--mesh-config", off.path()], SHOP), set(["MR0410"]));
    let both = format!(
        "{SHOP}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    enableAutoMtls: true\n  meshNetworks: |\n    networks: {{far: {{}}}}\n"
    );
    assert_eq!(codes(&[STABLE], &both), set(["MR0208"]));
    // The networks are said beside it.
    let found = codes(&[STABLE, "--mesh-config", off.path()], &both);
    assert_eq!(found, set(["MR0208", "MR0410"]));
}

/// A rule by a full name is for a Service of that name alone, and that ends with the domain.
#[test]
fn the_domain_is_as_the_proxies_say_or_as_it_is_given() {
    let off = |domain: &str| {
        format!(
            "{SHOP}---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: off, namespace: shop}}\nspec:\n  host: web.shop.svc.{domain}\n  trafficPolicy: {{tls: {{mode: DISABLE}}}}\n"
        )
    };
    let given = [STABLE, "--cluster-domain=corp.example"];
    let (by_default, elsewhere) = (off("cluster.local"), off("corp.example"));
    assert_eq!(codes(&[STABLE], &by_default), set(["MR0401"]));
    assert_eq!(codes(&[STABLE], &elsewhere), set([]));
    assert_eq!(codes(&given, &elsewhere), set(["MR0401"]));
    assert_eq!(codes(&given, &by_default), set([]));
    let told = |domain: &str, manifests: &str| {
        let args =
            format!("restartPolicy: Always, args: [--domain, $(POD_NAMESPACE).svc.{domain}]");
        manifests.replace("restartPolicy: Always", &args)
    };
    assert_eq!(codes(&[STABLE], &told("corp.example", &elsewhere)), set(["MR0401"]));
    assert_eq!(codes(&[STABLE], &told("corp.example", &by_default)), set([]));
    // A short name is in any.
    let short = by_default.replace("host: web.shop.svc.cluster.local", "host: web");
    assert_eq!(codes(&[STABLE], &told("corp.example", &short)), set(["MR0401"]));
}

/// Anybody may write a ConfigMap called so into a namespace of his own.
#[test]
fn a_config_map_where_no_injector_leads_says_nothing() {
    let webhooks = "---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: istio-sidecar-injector, labels: {istio.io/rev: 1-26-0}}
webhooks:
- name: rev.namespace.sidecar-injector.istio.io
  clientConfig: {service: {name: istiod, namespace: istio-system}}
  namespaceSelector: {matchExpressions: [{key: istio.io/rev, operator: In, values: [stable]}]}
";
    let tenants = |namespace: &str| {
        format!(
            "{SHOP}{webhooks}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio-x, namespace: {namespace}}}\ndata:\n  mesh: |\n    defaultConfig: {{zipkinAddress: \"web.shop:80\"}}\n  meshNetworks: |\n    networks: {{far: {{}}}}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: \"\"}}\n"
        )
    };
    let plain = Scratch::new("plain.yaml", "trustDomain: cluster.local\n");
    let given = ["--mesh-config", plain.path()];
    assert_eq!(codes(&[], &tenants("istio-system")), set(["MR0208", "MR0713"]));
    assert_eq!(codes(&given, &tenants("istio-system")), set(["MR0208"]));
    assert_eq!(codes(&[], &tenants("tenant")), set([]));
    assert_eq!(codes(&given, &tenants("tenant")), set([]));
}

#[test]
fn what_is_no_mesh_configuration_is_refused_by_its_file() {
    let object = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio}\n";
    for (text, why) in [
        (object, "it is an object of Kubernetes, which belongs among the files"),
        ("enableAutoMtls: maybe\n", "invalid"),
        ("trustDomain: [", "is no mesh configuration"),
    ] {
        let file = Scratch::new("none.yaml", text);
        let (said, code) = preflight(&["-f", "-", "--mesh-config", file.path()], SHOP);
        let said = said.unwrap_err();
        assert!(said.contains(file.path()) && said.contains(why), "{said}");
        assert_eq!(code, 65, "{said}");
    }
    let (said, code) = preflight(&["-f", "-", "--mesh-config", "/nowhere/mesh.yaml"], SHOP);
    assert!(said.unwrap_err().contains("failed to read /nowhere/mesh.yaml"));
    assert_eq!(code, 65);
}

#[test]
fn without_files_and_without_sense_it_is_a_wrong_command_line() {
    for arguments in [
        &["--revision-tags=stable=1-26-0"][..],
        &["--mesh-config=mesh.yaml"],
        &["--cluster-domain=corp.example"],
        &["-f", "-", "--cluster-domain=.corp.example"],
        &["-f", "-", "--revision-tags=Stable"],
        &["-f", "-", "--revision-tags=stable="],
        &["-f", "-", "--revision-tags=a=b=c"],
    ] {
        let (said, code) = preflight(arguments, SHOP);
        assert_eq!(code, 64, "{arguments:?}: {said:?}");
    }
}
