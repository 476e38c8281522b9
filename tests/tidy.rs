//! Rules of this repository that no compiler knows.

use meshrollout::observe::objects::looked_at;
use meshrollout_core::finding::Code;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below a folder, with their text; tests within a file are left out.
fn sources(folder: &str) -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = vec![];
    walk(&root().join(folder), &mut found);
    found.sort();
    assert!(!found.is_empty(), "nothing in {folder}");
    found
        .iter()
        .map(|path| {
            let text = std::fs::read_to_string(path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            (name, code.to_owned())
        })
        .collect()
}

fn is_test(file: &str) -> bool {
    file.contains("/tests/") || file.ends_with("/tests.rs") || file.ends_with("testing.rs")
}

#[test]
fn one_file_writes_policies() {
    let writers: Vec<_> = sources("src")
        .into_iter()
        .filter(|(file, text)| !is_test(file) && text.contains("manifest::policy("))
        .map(|(file, _)| file)
        .collect();
    assert_eq!(writers, ["src/apply.rs"]);
    // Whoever else writes to the cluster writes something of our own, and is known here.
    let calls =
        [".patch(", ".patch_status(", ".create(", ".replace(", ".delete(", ".patch_metadata("];
    let writers: Vec<_> = sources("src")
        .into_iter()
        .filter(|(file, text)| !is_test(file) && calls.iter().any(|call| text.contains(call)))
        .map(|(file, _)| file)
        .collect();
    assert_eq!(
        writers,
        [
            "src/apply.rs",
            "src/cli/approve.rs",
            "src/cli/request.rs",
            "src/fence.rs",
            "src/lease.rs",
            "src/report.rs"
        ],
        "policies; a person's approvals and requests; the MeshFence; the Lease; status and reports"
    );
}

#[test]
fn nothing_is_forced_but_what_is_ours_alone() {
    for (file, text) in sources("src") {
        let forces = text.matches(".force()").count();
        assert_eq!(forces, usize::from(file == "src/report.rs"), "{file}");
    }
}

#[test]
fn the_rings_are_kept() {
    let client_free = ["src/api", "src/istio", "src/translate", "src/status", "src/preflight"];
    let files = [
        "src/api.rs",
        "src/istio.rs",
        "src/translate.rs",
        "src/status.rs",
        "src/manifest.rs",
        "src/manual.rs",
        "src/preflight.rs",
        "src/kubernetes.rs",
    ];
    let of_ring_1 = |file: &str| {
        client_free.iter().any(|folder| file.starts_with(&format!("{folder}/")))
            || files.contains(&file)
    };
    for (file, text) in sources("src") {
        if !of_ring_1(&file) {
            continue;
        }
        for outside in [
            "kube::Client",
            "kube::Api",
            "async fn",
            "tokio::",
            "Timestamp::now",
            "std::env",
            "std::fs",
        ] {
            assert!(!text.contains(outside), "{file} is in ring 1 and uses {outside}");
        }
    }
    let core = std::fs::read_to_string(root().join("src/core/Cargo.toml")).unwrap();
    let needs =
        core.split("[dependencies]").nth(1).unwrap().split("[dev-dependencies]").next().unwrap();
    let needs: Vec<_> =
        needs.lines().filter_map(|line| line.split([' ', '.', '=']).next()).collect();
    let needs: Vec<_> =
        needs.into_iter().filter(|name| !name.is_empty() && !name.starts_with('#')).collect();
    assert_eq!(needs, ["jiff", "serde", "sha2", "thiserror"]);
}

#[test]
fn no_unwrap_without_a_reason() {
    for (file, text) in sources("src") {
        if is_test(&file) {
            continue;
        }
        assert!(!text.contains(".unwrap()"), "{file} unwraps");
        let lines: Vec<_> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let reasoned = lines[index.saturating_sub(3)..=index]
                .iter()
                .any(|line| line.trim_start().starts_with("//"));
            assert!(
                !line.contains(".expect(\"") || reasoned,
                "{file}:{}: say why it cannot fail",
                index + 1
            );
        }
    }
}

#[test]
fn no_file_outgrows_its_question() {
    for folder in ["src", "e2e/src", "e2e/tests", "tests"] {
        for (file, text) in sources(folder) {
            let lines = text.lines().count();
            assert!(lines <= 600, "{file} has {lines} lines: split it by the question it answers");
        }
    }
}

#[test]
fn every_finding_code_is_used_and_named_once() {
    let all: String = sources("src/core").into_iter().map(|(_, text)| text).collect();
    for code in Code::ALL {
        let uses = all.matches(&format!("Code::{}", code.name())).count();
        let elsewhere =
            sources("src").iter().any(|(_, text)| text.contains(&format!("Code::{}", code.name())));
        assert!(uses > 0 || elsewhere, "{code} {} is never found", code.name());
    }
}

#[test]
fn the_crds_and_the_rights_speak_of_the_same_kinds() {
    let rights = std::fs::read_to_string(root().join("charts/install.yaml")).unwrap();
    let wide: Vec<_> = rights
        .lines()
        .filter(|line| {
            line.contains("'*'")
                || line.contains("\"*\"")
                || line.contains("secrets") && !line.starts_with('#')
        })
        .collect();
    assert!(wide.is_empty(), "no wildcards, no secrets: {wide:?}");
    for kind in
        ["meshapprovals", "meshfences", "meshrollouts", "meshreports", "peerauthentications"]
    {
        assert!(rights.contains(kind), "{kind}");
    }
}

/// What is watched is what may be read, and nothing besides: a right too few keeps everything from
/// going STRICT, one too many is somebody's to abuse.
#[test]
fn the_operator_may_read_what_it_watches_and_nothing_else() {
    #[derive(Default, serde::Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Object {
        kind: String,
        metadata: Metadata,
        rules: Vec<Rule>,
    }
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Metadata {
        name: String,
    }
    #[derive(Default, serde::Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Rule {
        api_groups: Vec<String>,
        resources: Vec<String>,
        verbs: Vec<String>,
    }
    let install = std::fs::read_to_string(root().join("charts/install.yaml")).unwrap();
    let objects: Vec<Object> = serde_saphyr::from_multiple(&install).expect("objects");
    // The others of the chart are for people.
    let ours =
        |object: &&Object| object.kind == "ClusterRole" && object.metadata.name == "meshrollout";
    let roles = objects.iter().filter(ours);
    let mut read: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for rule in roles.flat_map(|role| &role.rules) {
        if rule.verbs.iter().any(|verb| verb == "watch") {
            assert!(rule.verbs.iter().any(|verb| verb == "list"), "{:?}", rule.resources);
            for group in &rule.api_groups {
                read.entry(group.clone()).or_default().extend(rule.resources.iter().cloned());
            }
        }
    }
    let mut watched = looked_at();
    let own = ["meshrollouts", "meshreports", "meshapprovals"].map(str::to_owned);
    watched.entry("meshrollout.dev".to_owned()).or_default().extend(own);
    assert_eq!(read, watched);
}
