//! Manifests in, findings out. A new case is a folder with `input.yaml`; its `expected.txt` is
//! written by `SNAPSHOTS=overwrite cargo test --test fixtures` and reviewed like code.

use std::path::Path;
use std::process::Command;

#[test]
fn preflight_says_what_each_fixture_expects() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut cases = 0;
    for entry in std::fs::read_dir(&folder).expect("the fixtures are there") {
        let case = entry.expect("readable").path();
        if !case.join("input.yaml").exists() {
            continue;
        }
        cases += 1;
        let output = Command::new(env!("CARGO_BIN_EXE_meshrollout"))
            .args(["preflight", "-f", "input.yaml"])
            .current_dir(&case)
            .output()
            .expect("the program runs");
        let said = format!(
            "{}{}exit code {}\n",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            output.status.code().expect("an exit code")
        );
        snapbox::assert_data_eq!(said, snapbox::Data::read_from(&case.join("expected.txt"), None));
    }
    assert!(cases >= 4, "only {cases} fixtures were found");
}
