//! A folder for each finding that objects can show: `broken.yaml` has it, its twin `clean.yaml` has
//! nothing at all. What is said of the broken one is `broken.txt`, written by
//! `SNAPSHOTS=overwrite cargo test --test findings` and reviewed like code.

use meshrollout_core::finding::Code;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What objects do not show: measured, or seen in the apiserver alone. `src/core/tests` has a story
/// for each of them.
const NOT_IN_FILES: [Code; 32] = [
    Code::InjectionUnknown,
    Code::PlaintextSeen,
    Code::PlaintextSourceUnknown,
    Code::PodIpTraffic,
    Code::SeriesMissing,
    Code::SecurityLabelRemoved,
    Code::SourceUnavailable,
    Code::PartialAnswer,
    Code::AmbiguousSeries,
    Code::WindowNotCovered,
    Code::NothingSeen,
    Code::NoRefusalSignal,
    Code::ScrapeBreaksUnderStrict,
    Code::PortUnknown,
    Code::ClockSkew,
    Code::StaleWatch,
    Code::StrictWithoutProof,
    Code::PolicyDrifted,
    Code::RootNamespaceInScope,
    Code::CertificateExpiring,
    Code::RootExpiring,
    Code::SigningErrors,
    Code::CertificateUnknown,
    Code::LongLivedConnections,
    Code::ProxyNotSynced,
    Code::ControlPlaneUnhealthy,
    Code::ConfigRejected,
    Code::RollbackWouldBeRefused,
    Code::HarmAfterStrict,
    Code::MetricsLostAfterStrict,
    Code::AnotherRolloutOwns,
    Code::NamespaceMissing,
];

/// Of a rollout that writes.
const OF_A_WRITE: [Code; 2] = [Code::WriteRefused, Code::RollbackNotEffective];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/findings")
}

/// The codes that have a folder.
fn cases() -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder()).expect("the fixtures are there");
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn meshrollout(arguments: &[&str], input: &str) -> (String, i32) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_meshrollout"))
        .args(arguments)
        .current_dir(folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program runs");
    program.stdin.take().unwrap().write_all(input.as_bytes()).expect("it reads");
    let output = program.wait_with_output().expect("it ends");
    (String::from_utf8(output.stdout).expect("text"), output.status.code().expect("an exit code"))
}

fn report(arguments: &[&str], input: &str) -> Value {
    let (said, _) = meshrollout(&[&["preflight", "-o", "json"], arguments].concat(), input);
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn codes(report: &Value) -> BTreeSet<&str> {
    let findings = report["findings"].as_array().expect("findings");
    findings.iter().map(|found| found["code"].as_str().expect("a code")).collect()
}

#[test]
fn every_code_that_objects_can_show_has_a_folder_and_no_other_has_one() {
    let others: BTreeSet<_> = NOT_IN_FILES.iter().chain(&OF_A_WRITE).collect();
    let expected: BTreeSet<_> = Code::ALL
        .iter()
        .filter(|code| !others.contains(code))
        .map(|code| code.id().to_owned())
        .collect();
    assert_eq!(cases(), expected);
}

#[test]
fn the_broken_one_has_the_finding_and_its_clean_twin_has_nothing() {
    for code in cases() {
        let (broken, clean) = (format!("{code}/broken.yaml"), format!("{code}/clean.yaml"));
        let found = report(&["-f", &broken], "");
        assert!(codes(&found).contains(code.as_str()), "{code} is not among {found:#}");
        let found = report(&["-f", &clean], "");
        assert_eq!(found["findings"], Value::Array(vec![]), "{code}: a false alarm");
        assert_eq!(found["summary"]["input"]["broken"], Value::Array(vec![]), "{code}");
        // Nothing found is not yet ready: traffic cannot be seen in files.
        assert_eq!(found["summary"]["verdict"], "Undecided", "{code}");
    }
}

#[test]
fn what_is_said_of_each_is_what_stands_beside_it() {
    for code in cases() {
        let (said, exit) = meshrollout(&["preflight", "-f", &format!("{code}/broken.yaml")], "");
        let said = format!("{said}exit code {exit}\n");
        let expected = folder().join(&code).join("broken.txt");
        snapbox::assert_data_eq!(said, snapbox::Data::read_from(&expected, None).raw());
    }
}

/// An object that is printed as a remedy is one: applied as it stands, it takes the finding away.
#[test]
fn an_exception_that_is_printed_takes_its_finding_away() {
    let mut tried = 0;
    for code in cases() {
        let broken = format!("{code}/broken.yaml");
        let found = report(&["-f", &broken], "");
        for finding in found["findings"].as_array().unwrap() {
            let remedy = finding["remedy"].as_str().unwrap();
            let Some((_, object)) = remedy.split_once("kubectl apply -f - <<'END'\n") else {
                continue;
            };
            let object = object.strip_suffix("END").expect("it ends");
            let mended = report(&["-f", &broken, "-f", "-"], object);
            let still = mended["findings"].as_array().unwrap();
            let same = |one: &&Value| {
                (&one["code"], &one["subject"]) == (&finding["code"], &finding["subject"])
            };
            assert_eq!(still.iter().find(same), None, "{code}: {object}");
            tried += 1;
        }
    }
    assert!(tried >= 6, "only {tried} remedies were objects");
}

/// Every document in a file of its own, and all of them backwards.
#[test]
fn neither_order_nor_files_change_what_is_found() {
    let scratch = std::env::temp_dir().join(format!("meshrollout-split-{}", std::process::id()));
    for code in cases() {
        let text = std::fs::read_to_string(folder().join(&code).join("broken.yaml")).unwrap();
        let whole = report(&["-f", &format!("{code}/broken.yaml")], "");
        let documents: Vec<_> = text.split("\n---\n").collect();
        std::fs::create_dir_all(&scratch).unwrap();
        for (index, document) in documents.iter().rev().enumerate() {
            std::fs::write(scratch.join(format!("{index:03}.yaml")), document).unwrap();
        }
        let split = report(&["-f", scratch.to_str().unwrap()], "");
        std::fs::remove_dir_all(&scratch).unwrap();
        let without_place = |report: &Value| {
            let mut findings = report["findings"].clone();
            for found in findings.as_array_mut().unwrap() {
                found.as_object_mut().unwrap().remove("source");
            }
            (findings, report["namespaces"].clone())
        };
        assert_eq!(without_place(&whole), without_place(&split), "{code}");
    }
}

#[test]
fn a_finding_says_in_which_line_of_which_file_its_subject_begins() {
    for code in cases() {
        let path = format!("{code}/broken.yaml");
        let text = std::fs::read_to_string(folder().join(&path)).unwrap();
        let lines: Vec<_> = text.lines().collect();
        for found in report(&["-f", &path], "")["findings"].as_array().unwrap() {
            let source = &found["source"];
            assert_eq!(source["file"], path.as_str(), "{found:#}");
            let line = source["line"].as_u64().unwrap() as usize;
            let document =
                lines[line - 1..].split(|line| *line == "---").next().unwrap().join("\n");
            let name = found["subject"]["name"].as_str().unwrap();
            assert!(document.contains(name), "{found:#}\n{document}");
            assert!(line == 1 || lines[line - 2] == "---", "{found:#}");
        }
    }
}

/// With the port excepted a webhook breaks nothing, as long as somebody answers for the port.
#[test]
fn what_somebody_answers_for_is_lowered_until_it_ends_and_nothing_else() {
    let broken = "MR0701/broken.yaml";
    let policy = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: admission-9443, namespace: shop}
spec:
  selector: {matchLabels: {app: admission}}
  portLevelMtls: {\"9443\": {mode: PERMISSIVE}}
";
    let rollout = |what: &str| {
        format!(
            "
---
apiVersion: meshrollout.dev/v1alpha1
kind: MeshRollout
metadata: {{name: shop}}
spec:
  stages: [{{name: all, namespaces: [shop]}}]
  {what}
"
        )
    };
    let excepted = |port: u16, until: &str| {
        rollout(&format!(
            "exceptions: [{{namespace: shop, workload: {{kind: Deployment, name: admission}}, ports: [{port}], reason: called by kube-apiserver, owner: platform, expires: \"{until}\"}}]"
        ))
    };
    let acknowledged = |port: u16, until: &str| {
        rollout(&format!(
            "acknowledgements: [{{code: MR0701, subject: {{kind: Deployment, namespace: shop, name: admission, port: {port}}}, reason: nobody writes orders, owner: platform, expires: \"{until}\"}}]"
        ))
    };
    let (later, once) = ("2999-01-01T00:00:00Z", "2020-01-01T00:00:00Z");
    for (added, expected) in [
        (policy.to_owned(), "MR0503 warn"),
        (policy.to_owned() + &excepted(9443, later), "MR0503 inform"),
        (policy.to_owned() + &excepted(9443, once), "MR0510 block"),
        (policy.to_owned() + &excepted(443, later), "MR0503 warn"),
        (acknowledged(9443, later), "MR0701 warn"),
        (acknowledged(9443, once), "MR0701 block"),
        (acknowledged(443, later), "MR0701 block"),
    ] {
        let found = report(&["-f", broken, "-f", "-"], &added);
        let [only] = found["findings"].as_array().unwrap().as_slice() else { panic!("{found:#}") };
        let (code, level) = (only["code"].as_str().unwrap(), only["level"].as_str().unwrap());
        assert_eq!(format!("{code} {level}"), expected, "{added}");
        let is_lowered = expected.ends_with("inform") || expected == "MR0701 warn";
        assert_eq!(only["evidence"].to_string().contains("platform until 2999"), is_lowered);
    }
}

/// What has no folder is told by a story of the core, or by a scenario on a real control plane.
#[test]
fn what_objects_do_not_show_is_asserted_somewhere() {
    fn texts(folder: &Path, found: &mut String) {
        for entry in std::fs::read_dir(folder).expect("the tests are there") {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => texts(&path, found),
                false => found.push_str(&std::fs::read_to_string(&path).unwrap_or_default()),
            }
        }
    }
    let mut all = String::new();
    for tests in ["src/core/tests", "e2e/tests"] {
        texts(&Path::new(env!("CARGO_MANIFEST_DIR")).join(tests), &mut all);
    }
    let is_told = |code: &Code| {
        let names = [format!("Code::{}", code.name()), format!("\"{}\"", code.name())];
        names.iter().any(|name| all.contains(name)) || all.contains(&format!("\"{}\"", code.id()))
    };
    let untold: Vec<_> =
        NOT_IN_FILES.iter().chain(&OF_A_WRITE).filter(|code| !is_told(code)).collect();
    assert!(untold.is_empty(), "{untold:?}");
}
