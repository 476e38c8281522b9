//! What holds of any input at all: files and answers that nobody wrote, and files of which there
//! are more.

#[path = "../fuzz/bodies.rs"]
#[expect(unreachable_pub, reason = "shared with the targets of cargo-fuzz")]
mod bodies;

use proptest::prelude::*;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// One text is read in less time than anybody waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is likely to be taken for something else.
const TOKENS: [&str; 36] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    ":",
    ",",
    "- ",
    "-",
    "? ",
    "| ",
    ">-\n",
    "#",
    "&a ",
    "*a ",
    "!!binary ",
    "<<: *a",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "\t",
    "\r\n",
    "\u{feff}",
    "\u{0}",
    "\u{2028}",
    "é",
    "{{ .x }}",
    "kind: List\n",
    "items:\n",
    "null",
    "~",
    "1e999",
    "-0x7fffffffffffffffffff",
    "2026-02-30T25:61:61Z",
    "NaN",
];

/// The texts of the fixtures, and each as one line of JSON.
fn seeds() -> Vec<String> {
    fn below(folder: &Path, texts: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(&path, texts);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                texts.push(std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut texts = vec![];
    below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"), &mut texts);
    texts.sort();
    assert!(texts.len() > 80, "only {} fixtures", texts.len());
    let json = |text: &String| -> Option<String> {
        let items: Vec<serde_json::Value> =
            text.split("\n---\n").map(serde_saphyr::from_str).collect::<Result<_, _>>().ok()?;
        Some(serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())
    };
    let more: Vec<_> = texts.iter().filter_map(json).collect();
    assert!(more.len() > 80, "only {} as JSON", more.len());
    texts.extend(more);
    texts
}

/// What somebody's hand, or half a write, makes of a text.
#[derive(Clone, Debug)]
enum Edit {
    Cut,
    Twice,
    Insert(&'static str),
    Replace(&'static str),
    End,
}

fn edits() -> impl Strategy<Value = Vec<(Edit, f64, usize)>> {
    let token = || proptest::sample::select(&TOKENS[..]);
    let edit = prop_oneof![
        Just(Edit::Cut),
        Just(Edit::Twice),
        token().prop_map(Edit::Insert),
        token().prop_map(Edit::Replace),
        Just(Edit::End),
    ];
    proptest::collection::vec((edit, 0.0..1.0, 1_usize..60), 1..6)
}

fn edited(text: &str, edits: &[(Edit, f64, usize)]) -> String {
    let mut text: Vec<char> = text.chars().collect();
    for (edit, place, length) in edits {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a place within"
        )]
        let from = (text.len() as f64 * place) as usize;
        let to = text.len().min(from + length);
        match edit {
            Edit::Cut => drop(text.drain(from..to)),
            Edit::Twice => {
                let again = text[from..to].to_vec();
                text.splice(to..to, again);
            }
            Edit::Insert(token) => drop(text.splice(from..from, token.chars())),
            Edit::Replace(token) => drop(text.splice(from..to, token.chars())),
            Edit::End => text.truncate(from),
        }
    }
    text.into_iter().collect()
}

fn in_time(what: &str, act: impl FnOnce()) {
    let begun = Instant::now();
    act();
    assert!(begun.elapsed() < PATIENCE, "{:?} for {what:?}", begun.elapsed());
}

#[test]
fn no_file_makes_it_panic_or_hang() {
    let seeds = seeds();
    proptest!(ProptestConfig::with_cases(2000), |(
        seed in proptest::sample::select(seeds),
        edits in edits(),
    )| {
        let text = edited(&seed, &edits);
        in_time(&text, || drop(bodies::files(&text)));
    });
}

/// Texts that are small and would become large, or deep.
#[test]
fn no_file_grows_beyond_itself() {
    let laughs = (1..12).fold("a0: &a0 [x, x]\n".to_owned(), |text, at| {
        let before = format!("*a{}", at - 1);
        text + &format!("a{at}: &a{at} [{}]\n", [&*before; 9].join(", "))
    });
    let head =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n";
    let deep = |open: &str, count: usize| open.repeat(count);
    for text in [
        laughs.clone(),
        format!(
            "{head}data:\n  mesh: |\n{}",
            laughs.lines().map(|line| format!("    {line}\n")).collect::<String>()
        ),
        format!("apiVersion: apps/v1\nkind: DeploymentList\nitems: {}", deep("[", 100_000)),
        deep("[", 100_000),
        deep("{\"a\":", 100_000),
        format!("{{\"kind\": \"List\", \"items\": {}", deep("[", 100_000)),
        format!(
            "{{\"kind\": \"List\", \"items\": [{}",
            deep("{\"kind\": \"List\", \"items\": [", 20_000)
        ),
        format!(
            "{{\"kind\": \"List\", \"items\": [{}{}]}}",
            deep("{\"kind\": \"List\", \"items\": [", 100),
            deep("]}", 100)
        ),
        format!(
            "{{\"kind\": \"List\", \"items\": [{}{}]}}",
            deep("{\"kind\": \"List\", \"items\": [", 100_000),
            deep("]}", 100_000)
        ),
        format!("{laughs}kind: List\napiVersion: v1\nitems: *a11\n"),
        format!("kind: Pod\napiVersion: v1\nspec: {}", deep("{a: ", 50_000)),
        format!(
            "kind: Pod\napiVersion: v1\nspec:\n{}",
            (0..3000).fold(String::new(), |text, at| text + &format!("{}a:\n", " ".repeat(at + 1)))
        ),
        deep("- ", 50_000),
        deep("---\n", 100_000),
    ] {
        let begin: String = text.chars().take(80).collect();
        in_time(&begin, || drop(bodies::files(&text)));
    }
}

/// The shapes of all answers, honest and not.
const ANSWERS: [&str; 6] = [
    r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"namespace":"a","pod":"b","reporter":"destination","connection_security_policy":"none","destination_workload":"c","destination_workload_namespace":"a","counted":"requests"},"value":[1790000000.123,"17"]},{"metric":{"fact":"instances"},"value":[1,"2"]}]}}"#,
    r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"source_workload":"w","source_workload_namespace":"n","destination_service":"s","destination_service_namespace":"n"},"values":[[10,"1"],[25,"2"]]}]}}"#,
    r#"{"status":"success","isPartial":false,"warnings":[],"infos":["i"],"data":{"resultType":"vector","result":[]}}"#,
    r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#,
    r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"histogram":[1,{"count":"1"}]}]}}"#,
    r#"{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}"#,
];

#[test]
fn no_answer_makes_it_panic_or_hang() {
    proptest!(ProptestConfig::with_cases(8000), |(
        seed in proptest::sample::select(&ANSWERS[..]),
        edits in edits(),
    )| {
        let text = edited(seed, &edits);
        in_time(&text, || bodies::answers(text.as_bytes()));
    });
    proptest!(ProptestConfig::with_cases(2000), |(text in proptest::collection::vec(any::<u8>(), 0..400))| {
        bodies::answers(&text);
    });
}

/// More objects may say more, and hide nothing. Those of another namespace that are for all of the
/// mesh are left out of it: policies of the root, injectors, classes, webhooks, the mesh's own
/// configuration, and what a rollout answers for.
#[test]
fn objects_of_another_namespace_hide_no_finding() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/findings");
    let text = |code: &str, which: &str| {
        std::fs::read_to_string(folder.join(code).join(which)).unwrap_or_default()
    };
    let codes: BTreeSet<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let is_local = |document: &&str| {
        let mesh_wide = [
            "Configuration",
            "APIService",
            "CustomResourceDefinition",
            "IngressClass",
            "MeshRollout",
        ];
        let kind =
            document.lines().find_map(|line| line.strip_prefix("kind: ")).unwrap_or_default();
        match kind {
            "Namespace" => document.contains("name: shop"),
            kind => {
                document.contains("namespace: shop")
                    && !mesh_wide.iter().any(|end| kind.ends_with(end))
            }
        }
    };
    let others: Vec<String> = codes
        .iter()
        .flat_map(|code| ["broken.yaml", "clean.yaml"].map(|which| text(code, which)))
        .map(|text| {
            let local: Vec<_> = text.split("\n---\n").filter(is_local).collect();
            local.join("\n---\n").replace("shop", "other")
        })
        .filter(|text| !text.is_empty())
        .collect();
    assert!(others.len() > 60, "only {} others", others.len());
    let said = |text: &str| -> BTreeSet<String> {
        let found = bodies::files(text).findings.into_iter();
        found
            .map(|(_, found)| format!("{} {} {}", found.code.id(), found.subject, found.message))
            .collect()
    };
    let each = |code: &String| {
        let alone = text(code, "broken.yaml");
        let before = said(&alone);
        assert!(!before.is_empty(), "{code}");
        for other in &others {
            let after = said(&format!("{alone}\n---\n{other}"));
            let hidden: Vec<_> = before.difference(&after).collect();
            assert!(hidden.is_empty(), "{code}: {hidden:#?} hidden by\n{other}");
        }
    };
    // Thousands of pairs: by as many threads as a small machine has.
    let codes: Vec<_> = codes.iter().collect();
    let (one, other) = codes.split_at(codes.len() / 2);
    std::thread::scope(|scope| {
        scope.spawn(|| one.iter().copied().for_each(each));
        other.iter().copied().for_each(each);
    });
    println!("{} pairs", codes.len() * others.len());
}
