//! What people run, in shape: each file says at its head what is to be found in it, written by hand
//! before it was run. More is a false alarm, less an outage.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/charts")
}

/// `CODE SUBJECT` of each finding, and `NAMESPACE VERDICT` of each namespace.
fn found(file: &Path) -> (BTreeSet<String>, BTreeSet<String>) {
    let output = Command::new(env!("CARGO_BIN_EXE_meshrollout"))
        .args(["preflight", "-o", "json", "-f"])
        .arg(file)
        .output()
        .expect("the program runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["summary"]["input"]["broken"], Value::Array(vec![]), "{file:?}");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let finding = |one: &Value| {
        let subject = &one["subject"];
        let namespace = subject["namespace"].as_str().map_or(String::new(), |it| format!("{it}/"));
        let port = subject["port"].as_u64().map_or(String::new(), |port| format!(":{port}"));
        let (code, kind, name) =
            (text(&one["code"]), text(&subject["kind"]), text(&subject["name"]));
        format!("{code} {kind} {namespace}{name}{port}")
    };
    let findings = report["findings"].as_array().unwrap().iter().map(finding).collect();
    let namespace = |one: &Value| format!("{} {}", text(&one["name"]), text(&one["verdict"]));
    let namespaces = report["namespaces"].as_array().unwrap().iter().map(namespace).collect();
    (findings, namespaces)
}

#[test]
fn what_people_run_has_what_is_said_of_it_and_nothing_else() {
    let entries = std::fs::read_dir(folder()).expect("the charts are there");
    let files: BTreeSet<_> = entries.map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 9, "only {files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let said = |mark: &str| -> BTreeSet<String> {
            text.lines().filter_map(|line| line.strip_prefix(mark)).map(str::to_owned).collect()
        };
        assert!(!said("# verdict ").is_empty(), "{file:?} says nothing");
        assert_eq!(found(&file), (said("# finds "), said("# verdict ")), "{file:?}");
    }
}
