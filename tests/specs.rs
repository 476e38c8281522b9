//! The tables of good and bad specs. The end-to-end tests apply them to a real apiserver; here
//! only what needs none: that they are large enough, parse, and say what they expect.

use meshrollout::api::MeshRollout;
use serde_json::Value;
use std::collections::BTreeSet;

const INVALID: &str = include_str!("fixtures/specs/invalid.yaml");
const VALID: &str = include_str!("fixtures/specs/valid.yaml");

/// The documents of a table, each with the comments above it.
fn documents(table: &str) -> Vec<&str> {
    table.split("---\n").skip(1).collect()
}

fn parse(document: &str) -> Value {
    serde_saphyr::from_str(document).unwrap_or_else(|error| panic!("{error}\n{document}"))
}

#[test]
fn the_invalid_table_is_large_and_every_document_says_what_it_expects() {
    let documents = documents(INVALID);
    assert!(documents.len() >= 200, "{}", documents.len());
    for document in documents {
        assert_eq!(parse(document)["kind"], "MeshRollout", "{document}");
        let fields = document.lines().filter(|line| line.starts_with("# field: ")).count();
        assert_eq!(fields, 1, "{document}");
    }
}

#[test]
fn every_valid_document_is_one_this_binary_reads() {
    let documents = documents(VALID);
    assert!(documents.len() >= 50, "{}", documents.len());
    for document in documents {
        let mut value = parse(document);
        // As the apiserver does before anything reads the object: null where there is a default.
        if let Some(spec) = value["spec"].as_object_mut() {
            spec.retain(|_, value| !value.is_null());
        }
        serde_json::from_value::<MeshRollout>(value)
            .unwrap_or_else(|error| panic!("{error}\n{document}"));
    }
}

#[test]
fn no_name_is_used_twice() {
    let names: Vec<String> = documents(INVALID)
        .into_iter()
        .chain(documents(VALID))
        .map(|document| parse(document)["metadata"]["name"].to_string())
        .collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
}
