//! Every format of `preflight` says the same, and every page that is made from the program is what
//! the program prints.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn meshrollout(arguments: &[&str], folder: &Path) -> (String, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_meshrollout"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the program runs");
    let said = String::from_utf8(output.stdout).expect("text");
    (said, output.status.code().expect("an exit code"))
}

/// All fixtures at once: every code, in many namespaces of the same name.
fn preflight(arguments: &[&str]) -> (String, i32) {
    let fixtures = root().join("tests/fixtures");
    meshrollout(
        &[
            &[
                "preflight",
                "-f",
                "half-of-the-mesh",
                "-f",
                "findings/MR0701/broken.yaml",
                "-f",
                "findings/MR0707/broken.yaml",
            ],
            arguments,
        ]
        .concat(),
        &fixtures,
    )
}

fn json() -> Value {
    serde_json::from_str(&preflight(&["-o", "json"]).0).expect("JSON")
}

fn field<'a>(found: &'a Value, name: &str) -> &'a str {
    found[name].as_str().unwrap_or_else(|| panic!("{name} in {found:#}"))
}

#[test]
fn all_formats_say_the_same() {
    let report = json();
    let findings = report["findings"].as_array().expect("findings");
    let namespaces = report["namespaces"].as_array().expect("namespaces");
    assert!(findings.len() > 3 && namespaces.len() > 1, "{report:#}");
    let levels: std::collections::BTreeSet<_> =
        findings.iter().map(|one| field(one, "level")).collect();
    assert!(levels.len() > 1, "of one weight alone: {levels:?}");

    let yaml = preflight(&["-o", "yaml"]).0;
    assert_eq!(serde_saphyr::from_str::<Value>(&yaml).expect("YAML"), report);

    let table = preflight(&[]).0;
    for found in findings {
        let heading = format!(
            "{} {} [{}]",
            field(found, "code"),
            field(found, "name"),
            field(found, "level")
        );
        assert!(table.contains(&heading), "{heading} is not in\n{table}");
        assert!(table.contains(field(found, "message")), "{table}");
        let first = field(found, "remedy").lines().next().unwrap_or_default();
        assert!(table.contains(first), "{table}");
    }
    for namespace in namespaces {
        let row = table
            .lines()
            .find(|line| line.trim_start().starts_with(field(namespace, "name")))
            .expect("a row");
        assert!(
            row.contains(field(namespace, "verdict")) && row.contains(field(namespace, "why")),
            "{row}"
        );
    }

    let sarif: Value = serde_json::from_str(&preflight(&["-o", "sarif"]).0).expect("SARIF");
    let run = &sarif["runs"][0];
    let results = run["results"].as_array().expect("results");
    assert_eq!(results.len(), findings.len());
    for (result, found) in results.iter().zip(findings) {
        assert_eq!(result["ruleId"], found["code"]);
        let rule = &run["tool"]["driver"]["rules"][result["ruleIndex"].as_u64().unwrap() as usize];
        assert_eq!((&rule["id"], &rule["helpUri"]), (&found["code"], &found["docs"]));
        let level = match field(found, "level") {
            "block" | "hold" => "error",
            "warn" => "warning",
            _ => "note",
        };
        assert_eq!(result["level"], level);
        assert!(result["message"]["text"].as_str().unwrap().starts_with(field(found, "message")));
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], found["source"]["file"]);
        assert_eq!(place["region"]["startLine"], found["source"]["line"]);
    }

    let html = preflight(&["-o", "html"]).0;
    let junit = preflight(&["-o", "junit"]).0;
    for found in findings {
        let code = format!("{} {}", field(found, "code"), field(found, "name"));
        for (format, page) in [("html", &html), ("junit", &junit)] {
            assert!(page.contains(&code), "{code} is not in the {format}");
            assert!(page.contains(&escaped(field(found, "message"))), "{code} in the {format}");
        }
    }
    for namespace in namespaces {
        assert!(html.contains(&format!("<td>{}</td>", field(namespace, "name"))));
        assert!(junit.contains(&format!("name=\"{}\"", field(namespace, "name"))));
    }
    assert!(
        !html.contains("<script") && !html.contains("src=") && !html.contains("@import"),
        "the page needs nothing but itself"
    );
}

/// What text becomes within XML and HTML; quotes are told differently, and messages here have some.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[test]
fn junit_counts_what_fails_as_fail_on_says() {
    let report = json();
    let count = |levels: &[&str]| {
        let findings = report["findings"].as_array().unwrap();
        findings.iter().filter(|found| levels.contains(&field(found, "level"))).count()
    };
    for (fail_on, levels) in [
        ("block", &["block"][..]),
        ("hold", &["block", "hold"]),
        ("warn", &["block", "hold", "warn"]),
    ] {
        let junit = preflight(&["-o", "junit", "--fail-on", fail_on]).0;
        let suite = junit.split("<testsuite name=\"findings\"").nth(1).expect("the findings");
        let failures = format!("failures=\"{}\"", count(levels));
        assert!(suite.lines().next().unwrap().contains(&failures), "{fail_on}: {suite}");
    }
}

#[test]
fn the_exit_code_is_what_fail_on_and_the_input_make_of_it() {
    let findings = root().join("tests/fixtures/findings");
    let code = |arguments: &[&str]| meshrollout(&[&["preflight"], arguments].concat(), &findings).1;
    assert_eq!(code(&["-f", "MR0401/broken.yaml"]), 1);
    assert_eq!(
        code(&["-f", "MR0401/clean.yaml"]),
        2,
        "files never prove that nothing sends plaintext"
    );
    assert_eq!(code(&["-f", "MR0707/broken.yaml"]), 2, "a warning holds nothing");
    assert_eq!(code(&["-f", "MR0707/broken.yaml", "--fail-on", "warn"]), 1);
    assert_eq!(code(&["-f", "MR0401/broken.yaml", "--fail-on", "block"]), 1);
    assert_eq!(code(&["-f", "nowhere.yaml"]), 65);
    assert_eq!(code(&["-f", "MR0401/clean.yaml", "-n", "nowhere"]), 65);
    assert_eq!(code(&["-f", "MR0401/clean.yaml", "-o", "pdf"]), 64);
}

#[test]
fn the_printed_pages_are_the_ones_in_the_manual() {
    for (page, file) in
        [("findings", "findings.md"), ("commands", "commands.md"), ("rights", "rights.yaml")]
    {
        let (said, code) = meshrollout(&["docs", page], &root());
        assert_eq!(code, 0);
        let file = root().join("src/manual").join(file);
        snapbox::assert_data_eq!(said, snapbox::Data::read_from(&file, None).raw());
    }
    let (man, _) = meshrollout(&["docs", "man"], &root());
    assert!(man.contains(".SH NAME") && man.contains("preflight"), "{man}");
    for shell in ["bash", "zsh", "fish"] {
        let (script, code) = meshrollout(&["docs", "completions", shell], &root());
        assert!(code == 0 && script.contains("tls-check"), "{shell}");
    }
}
