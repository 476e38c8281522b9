//! Who may do what, asked of the real apiserver: the chart's roles for people, its guard of
//! policies and its guard of authors.

use std::time::Duration;

use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch,
    PatchParams, PostParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use meshrollout_e2e::scenario::{Injection, Workload};
use meshrollout_e2e::{Client, Cluster, Edge, OperatorOptions, Options, Rollout, Server, until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(150);

/// Each with what the chart's manual would have them bound to.
const PEOPLE: [&str; 9] =
    ["admin", "viewer", "author", "patcher", "enrolled", "editor", "paged", "stranger", "approver"];

/// What somebody tries, and who is answered how: `+` may, `-` has no right to, `g` is refused by
/// the guard of policies, `a` by the guard of authors.
const FACTS: [(&str, Deed, &str); 31] = [
    ("read rollouts", Deed::List("MeshRollout", ""), "+++++-+-+"),
    ("read reports", Deed::List("MeshReport", "enforced"), "+++++++-+"),
    ("make the rollout they are enrolled for", Deed::Rollout("theirs"), "+-a++----"),
    ("make another rollout", Deed::Rollout("another"), "+-a+a----"),
    (
        "change a plan",
        Deed::Merge("MeshRollout", "", "shop", r#"{"spec":{"paused":true}}"#),
        "+-a+a-a--",
    ),
    ("ask for a retry", Deed::Merge("MeshRollout", "", "shop", RETRY), "+-+++-+--"),
    ("delete a rollout", Deed::Delete("MeshRollout", "", "shop"), "+-+++----"),
    (
        "forge a report",
        Deed::Status("MeshReport", "enforced", "shop", r#"{"status":{"guarded":false}}"#),
        "+--------",
    ),
    ("delete a report", Deed::Delete("MeshReport", "enforced", "shop"), "+--------"),
    (
        "depose the leader",
        Deed::Merge("MeshFence", "meshrollout-system", "meshrollout", r#"{"spec":{"epoch":999}}"#),
        "+--------",
    ),
    // What the rollout keeps.
    ("loosen what is STRICT", Deed::Merge(POLICY, "enforced", "default", PERMISSIVE), "+--g-g+--"),
    (
        "turn TLS off",
        Deed::Merge(POLICY, "enforced", "default", r#"{"spec":{"mtls":{"mode":"DISABLE"}}}"#),
        "g--g-gg--",
    ),
    ("delete what is kept", Deed::Delete(POLICY, "enforced", "default"), "g----g---"),
    (
        "take our label off",
        Deed::Merge(
            POLICY,
            "enforced",
            "default",
            r#"{"metadata":{"labels":{"meshrollout.dev/rollout":null}}}"#,
        ),
        "g--g-gg--",
    ),
    (
        "take our notes off",
        Deed::Merge(
            POLICY,
            "enforced",
            "default",
            r#"{"metadata":{"annotations":{"meshrollout.dev/previous":null}}}"#,
        ),
        "g--g-gg--",
    ),
    (
        "put a label of their own on",
        Deed::Merge(POLICY, "enforced", "default", r#"{"metadata":{"labels":{"team":"a"}}}"#),
        "+--+-++--",
    ),
    (
        "make STRICT by hand what is being proven",
        Deed::Merge(POLICY, "proving", "default", r#"{"spec":{"mtls":{"mode":"STRICT"}}}"#),
        "g--g-gg--",
    ),
    ("let go what is PERMISSIVE", Deed::Delete(POLICY, "proving", "default"), "+----g---"),
    (
        "give it to another revision",
        Deed::Merge(
            POLICY,
            "enforced",
            "default",
            r#"{"metadata":{"labels":{"istio.io/rev":"nowhere"}}}"#,
        ),
        "g--g-gg--",
    ),
    (
        "say that it was rolled back",
        Deed::Merge(
            POLICY,
            "proving",
            "default",
            r#"{"metadata":{"annotations":{"meshrollout.dev/rolled-back-at":"2199-01-01T00:00:00Z"}}}"#,
        ),
        "+--g-g+--",
    ),
    (
        "loosen and take our notes off",
        Deed::Merge(
            POLICY,
            "enforced",
            "default",
            r#"{"metadata":{"annotations":{"meshrollout.dev/rollout-uid":null}},"spec":{"mtls":{"mode":"PERMISSIVE"}}}"#,
        ),
        "g--g-gg--",
    ),
    (
        "a workload's STRICT where all is STRICT",
        Deed::Policy(
            "enforced",
            r#"{"selector":{"matchLabels":{"app":"app"}},"mtls":{"mode":"STRICT"}}"#,
        ),
        "+--+-+---",
    ),
    (
        "ask nobody any more",
        Deed::Merge(
            "MeshRollout",
            "",
            "shop",
            r#"{"spec":{"stages":[{"name":"third","namespaces":["later"]}]}}"#,
        ),
        "+-aaa-a--",
    ),
    // What stands beside it.
    (
        "a second STRICT for the namespace",
        Deed::Policy("enforced", r#"{"mtls":{"mode":"STRICT"}}"#),
        "g--g-g---",
    ),
    (
        "a second PERMISSIVE for the namespace",
        Deed::Policy("enforced", r#"{"mtls":{"mode":"PERMISSIVE"}}"#),
        "+--g-g---",
    ),
    (
        "a workload's exception",
        Deed::Policy(
            "enforced",
            r#"{"selector":{"matchLabels":{"app":"app"}},"mtls":{"mode":"PERMISSIVE"}}"#,
        ),
        "+--+-+---",
    ),
    (
        "a workload's STRICT before it is proven",
        Deed::Policy(
            "proving",
            r#"{"selector":{"matchLabels":{"app":"app"}},"mtls":{"mode":"STRICT"}}"#,
        ),
        "g--g-g---",
    ),
    (
        "a port's STRICT before it is proven",
        Deed::Policy(
            "proving",
            r#"{"selector":{"matchLabels":{"app":"app"}},"portLevelMtls":{"8080":{"mode":"STRICT"}}}"#,
        ),
        "g--g-g---",
    ),
    // Where no rollout has begun.
    (
        "STRICT in a later stage",
        Deed::Policy("later", r#"{"mtls":{"mode":"STRICT"}}"#),
        "+--+-+---",
    ),
    (
        "STRICT where a rollout only looks",
        Deed::Policy("observed", r#"{"mtls":{"mode":"STRICT"}}"#),
        "+--+-+---",
    ),
    // What waits for a person.
    ("approve a stage", Deed::Approve("shop"), "+-------+"),
];
/// Whoever may not delete what is kept, the guard is known to.
const DELETE: usize = 12;
const POLICY: &str = "PeerAuthentication";
const PERMISSIVE: &str = r#"{"spec":{"mtls":{"mode":"PERMISSIVE"}}}"#;
const RETRY: &str =
    r#"{"metadata":{"annotations":{"meshrollout.dev/retry":"2026-01-01T00:00:00Z"}}}"#;

/// A request; those that would write are tried only.
#[derive(Clone, Copy)]
enum Deed {
    List(&'static str, &'static str),
    Merge(&'static str, &'static str, &'static str, &'static str),
    Status(&'static str, &'static str, &'static str, &'static str),
    Delete(&'static str, &'static str, &'static str),
    /// Creates a policy of this spec.
    Policy(&'static str, &'static str),
    /// Creates a rollout of this name.
    Rollout(&'static str),
    /// Approves the third stage of this rollout.
    Approve(&'static str),
}

fn api(client: &kube::Client, kind: &str, namespace: &str) -> Api<DynamicObject> {
    let (group, version) = match kind {
        POLICY => ("security.istio.io", "v1"),
        _ => ("meshrollout.dev", "v1alpha1"),
    };
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    match namespace {
        "" => Api::all_with(client.clone(), &resource),
        namespace => Api::namespaced_with(client.clone(), namespace, &resource),
    }
}

impl Deed {
    async fn tried(self, client: &kube::Client) -> Result<(), kube::Error> {
        let try_only = PatchParams { dry_run: true, ..Default::default() };
        let post = PostParams { dry_run: true, ..Default::default() };
        let merge = |text: &str| Patch::Merge(serde_json::from_str::<Value>(text).unwrap());
        match self {
            Self::List(kind, namespace) => {
                api(client, kind, namespace).list(&ListParams::default()).await.map(drop)
            }
            Self::Merge(kind, namespace, name, text) => {
                api(client, kind, namespace).patch(name, &try_only, &merge(text)).await.map(drop)
            }
            Self::Status(kind, namespace, name, text) => {
                let api = api(client, kind, namespace);
                api.patch_status(name, &try_only, &merge(text)).await.map(drop)
            }
            Self::Delete(kind, namespace, name) => {
                let params = DeleteParams::default().dry_run();
                api(client, kind, namespace).delete(name, &params).await.map(drop)
            }
            Self::Policy(namespace, spec) => {
                let spec: Value = serde_json::from_str(spec).unwrap();
                let object = json!({"apiVersion": "security.istio.io/v1", "kind": POLICY,
                    "metadata": {"name": "by-hand", "namespace": namespace}, "spec": spec});
                let object = serde_json::from_value(object).unwrap();
                api(client, POLICY, namespace).create(&post, &object).await.map(drop)
            }
            Self::Approve(rollout) => {
                let object = json!({"apiVersion": "meshrollout.dev/v1alpha1", "kind": "MeshApproval",
                    "metadata": {"name": "by-hand"}, "spec":
                    {"rollout": rollout, "rolloutUid": "0", "stage": "third",
                    "planHash": "0123456789abcdef0123456789abcdef01234567"}});
                let object = serde_json::from_value(object).unwrap();
                api(client, "MeshApproval", "").create(&post, &object).await.map(drop)
            }
            Self::Rollout(name) => {
                let object = json!({"apiVersion": "meshrollout.dev/v1alpha1", "kind": "MeshRollout",
                    "metadata": {"name": name},
                    "spec": {"stages": [{"name": "only", "namespaces": ["free"]}]}});
                let object = serde_json::from_value(object).unwrap();
                api(client, "MeshRollout", "").create(&post, &object).await.map(drop)
            }
        }
    }
}

/// `+`, `-`, `g` or `a`, and what was said.
fn answer(outcome: &Result<(), kube::Error>) -> (char, String) {
    let Err(error) = outcome else { return ('+', String::new()) };
    let said = match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    };
    let by = match &said {
        said if said.contains("'meshrollout-guard'") => 'g',
        said if said.contains("'meshrollout-authors'") => 'a',
        said if said.contains(" cannot ") => '-',
        _ => '?',
    };
    (by, said)
}

/// Roles as an administrator would bind them. `patcher` is an author who may create
/// and patch PeerAuthentications everywhere, `enrolled` one who may make one rollout, `editor` a team's own
/// administrator, and so whoever has taken the team's credentials.
fn bindings() -> Vec<Value> {
    let user = |name: &str| json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}]);
    let bound = |name: &str, role: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": format!("{name}-{role}")}, "subjects": user(name),
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}})
    };
    let role = |name: &str, rule: Value| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": name}, "rules": [rule]})
    };
    let policies = |verbs: Value| json!({"apiGroups": ["security.istio.io"], "resources": ["peerauthentications"], "verbs": verbs});
    let enroll = json!({"apiGroups": ["meshrollout.dev"], "resources": ["meshrollouts"],
        "resourceNames": ["theirs"], "verbs": ["enroll"]});
    let mut all = vec![
        role("policies-write", policies(json!(["get", "list", "create", "patch"]))),
        role("policies-all", policies(json!(["*"]))),
        role("enroll-theirs", enroll),
        bound("viewer", "meshrollout-viewer"),
        bound("author", "meshrollout-author"),
        bound("patcher", "meshrollout-author"),
        bound("patcher", "policies-write"),
        bound("enrolled", "meshrollout-author"),
        bound("enrolled", "enroll-theirs"),
        bound("paged", "meshrollout-break-glass"),
        bound("approver", "meshrollout-approver"),
    ];
    for namespace in ["enforced", "proving", "later", "observed"] {
        for role in ["admin", "policies-all"] {
            let mut own = bound("editor", role);
            own["kind"] = json!("RoleBinding");
            own["metadata"]["namespace"] = json!(namespace);
            all.push(own);
        }
    }
    all
}

async fn client_of(cluster: &Cluster, person: &str) -> kube::Client {
    if person == "admin" {
        return cluster.client();
    }
    let file = cluster.kubeconfig_for(person, None).unwrap();
    let file = Kubeconfig::read_from(file).unwrap();
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    kube::Client::try_from(config.unwrap()).unwrap()
}

#[tokio::test]
async fn everybody_may_do_what_they_are_there_for_and_nothing_else() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.install().await.unwrap();
    cluster.front().await.unwrap();
    cluster.namespace("legacy", Injection::Absent, &[]).await.unwrap();
    cluster.deploy(&Workload::new("legacy", "batch")).await.unwrap();
    cluster.called(&["enforced", "proving", "later", "observed"]).await.unwrap();
    cluster.apply(&bindings()).await.unwrap();
    let batch = Edge::new(Client::workload("legacy", "batch"), Server::workload("proving", "app"));
    cluster.exporter().edge(batch.plaintext().rps(5.0));
    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    let stages: [(&str, &[&str]); 3] =
        [("first", &["enforced"]), ("second", &["proving"]), ("third", &["later"])];
    let shop = Rollout::enforce("shop", &stages).with("/stages/2/approval", json!("Required"));
    cluster.apply_rollout(&shop).await.unwrap();
    let looks = Rollout::enforce("looks", &[("only", &["observed"])]);
    cluster.apply_rollout(&looks.with("/action", json!("Observe"))).await.unwrap();
    let stands = [("enforced", "Enforced"), ("proving", "Blocked"), ("later", "Pending")];
    for (namespace, state) in stands {
        let stands = cluster.until_state_is("shop", namespace, state, LIMIT).await;
        stands.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    }
    until("the one that only looks to have a report", LIMIT, async || {
        cluster.report("observed", "looks").await.map(drop).map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    // A right is known to the apiserver a moment after it is given, and so is a guarded report.
    let (editor, viewer) =
        (client_of(&cluster, "editor").await, client_of(&cluster, "viewer").await);
    until("the roles and the guard to be known", LIMIT, async || {
        let refused = FACTS[DELETE].1.tried(&editor).await;
        let read = (FACTS[0].1.tried(&viewer).await, FACTS[1].1.tried(&editor).await);
        match (answer(&refused).0, answer(&read.0).0, answer(&read.1).0) {
            ('g', '+', '+') => Ok(()),
            other => Err(format!("{other:?}: {refused:?}")),
        }
    })
    .await
    .unwrap();

    let (mut wrong, mut count) = (vec![], 0);
    for (index, person) in PEOPLE.into_iter().enumerate() {
        let client = client_of(&cluster, person).await;
        for (what, deed, answers) in FACTS {
            let (is, said) = answer(&deed.tried(&client).await);
            count += 1;
            if Some(is) != answers.chars().nth(index) {
                wrong.push(format!("{person}, to {what}: {is}, not {answers} ({said})"));
            }
            if matches!(is, 'a' | 'g') && !said.contains("kubectl ") {
                wrong.push(format!("{person}, to {what}: does not say what to do: {said}"));
            }
        }
    }
    println!("{count} facts of who may do what");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // The glass is broken while no operator runs; the one that comes back says who it was.
    operator.stop().await.unwrap();
    let paged = client_of(&cluster, "paged").await;
    let loosened: Value = serde_json::from_str(PERMISSIVE).unwrap();
    let policies = api(&paged, POLICY, "enforced");
    let by = PatchParams { field_manager: Some("paged".into()), ..Default::default() };
    policies.patch("default", &by, &Patch::Merge(loosened)).await.unwrap();
    let operator = cluster.operator(&OperatorOptions::default()).await.unwrap();
    until("the drift to be told", LIMIT, async || {
        let args = ["get", "events", "-A", "-o", "jsonpath={.items[*].message}"];
        let told = cluster.kubectl_text(&args).await?;
        match told.contains("paged") {
            true => Ok(()),
            false => Err(format!("{told}\n{}", operator.log())),
        }
    })
    .await
    .unwrap();
    assert_eq!(cluster.policy_mode("enforced").await.unwrap().as_deref(), Some("PERMISSIVE"));

    // And then it is proven again, by the words of the finding.
    cluster.delete("peerauthentication", "enforced", "default").await.unwrap();
    operator.evaluated("shop", 2, LIMIT).await.unwrap();
    let retried = cluster.meshrollout(&["retry", "shop"]).await.unwrap();
    assert!(retried.status.success(), "{}", String::from_utf8_lossy(&retried.stderr));
    let again = cluster.until_state_is("shop", "enforced", "Enforced", LIMIT).await;
    again.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    assert_eq!(cluster.policy_mode("enforced").await.unwrap().as_deref(), Some("STRICT"));

    // A namespace still ends with its policy in it, and a kept policy is whoever's once the rollout
    // is gone.
    cluster.kubectl_text(&["delete", "namespace", "proving", "--timeout=100s"]).await.unwrap();
    cluster.kubectl_text(&["delete", "meshrollout", "shop"]).await.unwrap();
    until("the policy to be its team's own", LIMIT, async || {
        let outcome = FACTS[DELETE].1.tried(&editor).await;
        match answer(&outcome) {
            ('+', _) => Ok(()),
            (_, said) => Err(said),
        }
    })
    .await
    .unwrap();
}
