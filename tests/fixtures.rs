//! Manifests in, findings out. A new case is a folder with `input.yaml`; what each command says of
//! it is written by `SNAPSHOTS=overwrite cargo test --test fixtures` and reviewed like code.

use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn preflight_says_what_each_fixture_expects() {
    for case in cases() {
        let said = said(&case, &["preflight"]);
        snapbox::assert_data_eq!(said, snapbox::Data::read_from(&case.join("expected.txt"), None));
    }
}

#[test]
fn tls_check_says_what_each_fixture_expects() {
    for case in cases() {
        let said = said(&case, &["tls-check"]);
        snapbox::assert_data_eq!(said, snapbox::Data::read_from(&case.join("tls-check.txt"), None));
    }
}

/// The names in it are a contract with programs.
#[test]
fn tls_check_says_the_same_to_programs() {
    let case = fixtures().join("half-of-the-mesh");
    let said = said(&case, &["tls-check", "-o", "json", "--client", "web", "--host", "orders"]);
    let (json, end) = said.split_once('\n').expect("one line");
    assert_eq!(end, "exit code 0\n");
    let value: serde_json::Value = serde_json::from_str(json).expect("JSON");
    let pretty = serde_json::to_string_pretty(&value).expect("JSON");
    let expected = snapbox::Data::read_from(&case.join("tls-check.json"), None);
    snapbox::assert_data_eq!(pretty, expected.raw());
}

#[test]
fn tls_check_says_what_is_wrong_with_what_was_asked() {
    let case = fixtures().join("half-of-the-mesh");
    for (asked, code, words) in [
        (["--client", "web/"], 64, "it is NAMESPACE or NAMESPACE/WORKLOAD"),
        (["--host", "orders:http"], 64, "\"http\" is no port"),
        (["--client", "web/nobody"], 65, "no call matches"),
        (["-n", "nowhere"], 65, "there is no namespace nowhere"),
    ] {
        let said = said(&case, &[&["tls-check"], &asked[..]].concat());
        assert!(said.contains(words) && said.ends_with(&format!("exit code {code}\n")), "{said}");
    }
}

#[test]
fn plan_proposes_what_the_fixture_expects() {
    let case = fixtures().join("strict-and-disable");
    let said = said(&case, &["plan", "--last", "front"]);
    snapbox::assert_data_eq!(said, snapbox::Data::read_from(&case.join("plan.txt"), None).raw());
    // With nothing left there is nothing wrong.
    let done = self::said(&case, &["plan", "-n", "shop"]);
    let expected =
        "# Nothing is left to be made STRICT.\n# shop: STRICT already, left out\nexit code 0\n";
    assert_eq!(done, expected);
    let nowhere = self::said(&case, &["plan", "-n", "nowhere"]);
    assert_eq!(nowhere, "error: there is no namespace nowhere\nexit code 65\n");
    let case = fixtures().join("half-of-the-mesh");
    let said = self::said(&case, &["plan"]);
    snapbox::assert_data_eq!(said, snapbox::Data::read_from(&case.join("plan.txt"), None).raw());
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn cases() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixtures()).expect("the fixtures are there");
    let folders = entries.map(|entry| entry.expect("readable").path());
    let cases: Vec<_> = folders.filter(|case| case.join("input.yaml").exists()).collect();
    assert!(cases.len() >= 5, "only {cases:?} were found");
    cases
}

/// Both outputs and the exit code of a command on the fixture's input.
fn said(case: &Path, command: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_meshrollout"))
        .args(command)
        .args(["-f", "input.yaml"])
        .current_dir(case)
        .output()
        .expect("the program runs");
    format!(
        "{}{}exit code {}\n",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        output.status.code().expect("an exit code")
    )
}
