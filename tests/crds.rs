//! The files in `crds/`, and the chart's, are those this binary prints. After a change of the types:
//! `SNAPSHOTS=overwrite cargo test --test crds`, and read the difference like an API change.

use meshrollout::api;
use snapbox::{Data, assert_data_eq};
use std::path::Path;

const FOLDERS: [&str; 2] = ["crds", "charts/meshrollout/files/crds"];

#[test]
fn the_files_are_what_the_types_say() {
    for (crd, folder) in api::crds().into_iter().flat_map(|crd| FOLDERS.map(|it| (crd.clone(), it)))
    {
        let file = format!("{folder}/{}.yaml", crd.spec.names.plural);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let expected = Data::read_from(&path, None);
        assert_data_eq!(serde_saphyr::to_string(&crd).unwrap(), expected.raw());
    }
}

#[test]
fn there_is_no_file_without_a_kind() {
    for folder in FOLDERS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(
            files,
            ["meshapprovals.yaml", "meshfences.yaml", "meshreports.yaml", "meshrollouts.yaml"]
        );
    }
}

#[test]
fn what_is_written_reads_back_the_same() {
    for crd in api::crds() {
        let text = serde_saphyr::to_string(&crd).unwrap();
        let read: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(read, serde_json::to_value(&crd).unwrap());
    }
}
