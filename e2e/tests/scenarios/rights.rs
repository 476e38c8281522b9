//! Whether the chart gives the operator exactly the rights that it uses: over the audit logs of all
//! scenarios no request of its was denied, and no right it has was of no use. A right that is used
//! is one that something here would miss.
//!
//! AUDITS=FOLDER   the audit logs of all clusters, as `e2e/run` keeps them until its end

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};

use meshrollout_e2e::OPERATOR_USER;
use serde::Deserialize;
use serde_json::Value;

/// Verb, group, resource with its subresource.
type Right = (String, String, String);

/// Asked for within another request, so that no log names them: to apply what is not there yet, and
/// to name an owner that then has to wait. No policy could be pinned, and no report made, without.
const WITHIN: [(&str, &str, &str); 2] = [
    ("create", "security.istio.io", "peerauthentications"),
    ("update", "meshrollout.dev", "meshrollouts/finalizers"),
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    verb: String,
    user: User,
    #[serde(default)]
    user_agent: String,
    object_ref: Option<Object>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(rename = "requestURI")]
    uri: String,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Object {
    resource: String,
    api_group: String,
    subresource: String,
}

impl Object {
    fn right(self, verb: String) -> Right {
        let resource = match self.subresource.as_str() {
            "" => self.resource,
            subresource => format!("{}/{subresource}", self.resource),
        };
        (verb, self.api_group, resource)
    }
}

/// What the chart's roles for the operator give.
fn given() -> BTreeSet<Right> {
    let install = include_str!("../../../charts/install.yaml");
    let objects: Vec<Value> = serde_saphyr::from_multiple(install).unwrap();
    let ours = ["meshrollout", "meshrollout-lease"];
    let roles = objects.iter().filter(|object| {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        matches!(object["kind"].as_str(), Some("Role" | "ClusterRole")) && ours.contains(&name)
    });
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect()
    };
    let mut all = BTreeSet::new();
    for rule in roles.flat_map(|role| role["rules"].as_array().unwrap()) {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                let verbs = texts(&rule["verbs"]).into_iter();
                all.extend(verbs.map(|verb| (verb, group.clone(), resource.clone())));
            }
        }
    }
    all
}

#[test]
fn the_operator_uses_every_right_it_has_and_misses_none() {
    let Some(folder) = std::env::var_os("AUDITS") else {
        println!("skipped: rights used and missed; e2e/run asks when all scenarios have run");
        return;
    };
    let (mut used, mut denied) = (BTreeSet::new(), BTreeSet::new());
    let (mut clusters, mut requests) = (0, 0);
    for log in std::fs::read_dir(folder).unwrap() {
        clusters += 1;
        let log = BufReader::new(std::fs::File::open(log.unwrap().path()).unwrap());
        for line in log.lines().map(Result::unwrap).filter(|line| line.contains(OPERATOR_USER)) {
            // The last line of a log may be cut: its apiserver was killed.
            let Ok(request) = serde_json::from_str::<Request>(&line) else { continue };
            // A test may borrow the operator's account.
            if request.user.username != OPERATOR_USER || request.user_agent.contains("kubectl") {
                continue;
            }
            let decision = request.annotations.get("authorization.k8s.io/decision");
            let allowed = decision.is_none_or(|decision| decision == "allow");
            requests += 1;
            let Some(object) = request.object_ref else { continue };
            if object.resource.is_empty() {
                continue;
            }
            let right = object.right(request.verb);
            match allowed {
                true => used.insert(right),
                false => denied.insert((right, request.uri)),
            };
        }
    }
    let given = given();
    println!(
        "{requests} requests of the operator to {clusters} clusters: {} of {} rights used, {} denied",
        used.intersection(&given).count(),
        given.len(),
        denied.len()
    );
    assert!(denied.is_empty(), "denied: {denied:#?}");
    let within = |(verb, group, resource): &Right| WITHIN.contains(&(verb, group, resource));
    let idle: Vec<_> = given.difference(&used).filter(|right| !within(right)).collect();
    assert!(idle.is_empty(), "given and never used: {idle:#?}");
}
