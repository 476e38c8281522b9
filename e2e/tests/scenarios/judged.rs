//! Whether other tools read from a rollout what it says of itself: kstatus (kubectl, Helm, Flux), Argo CD's
//! health script and Flux's expressions of `charts/gitops`, put to every status of all scenarios.
//! None may say that it is done while Ready is not True for the generation that is asked for. (That
//! Ready is true is for the other scenarios to show.)
//!
//! AUDITS=FOLDER   the audit logs of all clusters, as `e2e/run` keeps them until its end

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use jiff::Timestamp;
use meshrollout_e2e::chart_tool;
use serde_json::{Value, json};

const GITOPS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/gitops");

/// What the tools say of each of these objects.
fn judged(objects: &[Value]) -> Vec<Value> {
    let mut judge = Command::new(chart_tool("judge").unwrap())
        .arg(GITOPS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = judge.stdin.take().unwrap();
    let lines: String = objects.iter().map(|object| format!("{object}\n")).collect();
    let writes = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = judge.wait_with_output().unwrap();
    writes.join().unwrap().unwrap();
    assert!(output.status.success());
    let all: Vec<Value> =
        output.stdout.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    assert_eq!(all.len(), objects.len());
    all
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let all = object["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter().find(|one| one["type"] == kind).unwrap_or(&Value::Null)
}

/// What is wrong with the tools' words about one object.
fn wrong(object: &Value, said: &Value) -> Option<String> {
    let (ready, stalled) = (condition(object, "Ready"), condition(object, "Stalled"));
    let of_now = object["status"]["observedGeneration"] == object["metadata"]["generation"];
    let waits = ["Paused", "AwaitingApproval"].map(Value::from).contains(&ready["reason"]);
    let blocked = condition(object, "GatesPassed")["status"] == "False";
    let expected = match () {
        () if !of_now => ["InProgress", "Progressing", "inProgress"],
        () if stalled["status"] == "True" => ["Failed", "Degraded", "failed"],
        () if ready["status"] == "True" => ["Current", "Healthy", "current"],
        () if waits => ["InProgress", "Suspended", "inProgress"],
        () if blocked => ["InProgress", "Degraded", "inProgress"],
        () => ["InProgress", "Progressing", "inProgress"],
    };
    // One that is on its way out is that to kstatus, whatever it says.
    let going = object["metadata"]["deletionTimestamp"].is_string();
    let expected = [if going { "Terminating" } else { expected[0] }, expected[1], expected[2]];
    let said = [&said["kstatus"], &said["argocd"], &said["flux"]];
    (said != expected.map(Value::from).each_ref()).then(|| format!("{said:?}, not {expected:?}"))
}

#[test]
fn a_rollout_that_nobody_has_looked_at_is_not_done_and_actions_ask_for_one_thing_each() {
    let crd: Value =
        serde_saphyr::from_str(include_str!("../../../crds/meshrollouts.yaml")).unwrap();
    // As the apiserver would fill it in.
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let untouched = &schema["properties"]["status"]["default"];
    let new = json!({"apiVersion": "meshrollout.dev/v1alpha1", "kind": "MeshRollout",
        "metadata": {"name": "new", "generation": 1}, "spec": {"stages": []}, "status": untouched});
    let said = &judged(std::slice::from_ref(&new))[0];
    assert_eq!(wrong(&new, said), None);
    assert_eq!(said["actions"]["pause"]["spec"]["paused"], true);
    assert_eq!(said["actions"]["resume"]["spec"]["paused"], false);
    assert_eq!(said["actions"]["discovery"]["resume"]["disabled"], true);
    for verb in ["retry", "abort", "rollback"] {
        let notes = &said["actions"][verb]["metadata"]["annotations"];
        assert_eq!(notes.as_object().unwrap().len(), 1, "{notes}");
        let asked = notes[format!("meshrollout.dev/{verb}")].as_str().unwrap();
        asked.parse::<Timestamp>().unwrap();
    }
}

#[test]
fn no_tool_says_done_while_it_is_not() {
    let Some(folder) = std::env::var_os("AUDITS") else {
        println!(
            "skipped: what tools say of all statuses; e2e/run asks when all scenarios have run"
        );
        return;
    };
    // Equal but for names and times is equal.
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    let mut seen = 0;
    for log in std::fs::read_dir(folder).unwrap() {
        let log = BufReader::new(std::fs::File::open(log.unwrap().path()).unwrap());
        let about = |line: &String| line.contains(r#""resource":"meshrollouts""#);
        for line in log.lines().map(Result::unwrap).filter(about) {
            let Ok(mut event) = serde_json::from_str::<Value>(&line) else { continue };
            let object = event["responseObject"].take();
            if object["kind"] != "MeshRollout" {
                continue;
            }
            seen += 1;
            let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
            let told = conditions
                .map(|one| format!("{}={} {};", one["type"], one["status"], one["reason"]));
            let of_now = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            all.entry(format!("{of_now} {}", told.collect::<String>())).or_insert(object);
        }
    }
    let objects: Vec<_> = all.into_values().collect();
    let said = judged(&objects);
    let mut tally: BTreeMap<String, usize> = BTreeMap::new();
    let mut all_wrong = vec![];
    for (object, said) in objects.iter().zip(&said) {
        let three = [&said["kstatus"], &said["argocd"], &said["flux"]];
        *tally.entry(three.map(|one| one.as_str().unwrap().to_owned()).join(" ")).or_default() += 1;
        all_wrong.extend(wrong(object, said).map(|why| format!("{why}: {}", object["status"])));
    }
    println!("{seen} statuses, {} that differ: {tally:?}", objects.len());
    assert!(all_wrong.is_empty(), "{}", all_wrong.join("\n"));
    assert!(tally.len() >= 5, "not every kind of end came up");
}
