//! The table of specs, put to the real apiserver: every valid one is accepted, every invalid one is
//! refused and the refusal names its field.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use meshrollout_e2e::{Cluster, Options};

#[tokio::test(flavor = "multi_thread")]
async fn the_apiserver_refuses_every_bad_spec_by_its_field_and_accepts_every_good_one() {
    let cluster = Cluster::start(Options::default()).await.expect("a control plane");
    println!("control plane ready after {:.1} s", cluster.start_up().as_secs_f64());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for crd in ["meshreports.yaml", "meshrollouts.yaml"] {
        let yaml = std::fs::read_to_string(root.join("crds").join(crd)).expect("the CRD");
        cluster.apply_yaml(&yaml).await.expect("the apiserver takes the CRD");
    }
    let served = [
        "wait",
        "--for=condition=Established",
        "--timeout=30s",
        "crd/meshrollouts.meshrollout.dev",
    ];
    let output = cluster.kubectl(&served).await.expect("kubectl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    // As a person's `kubectl apply --dry-run=server` does; unknown fields are refused by name.
    let create = |spec: &str| {
        let mut child = Command::new(cluster.program("kubectl"))
            .env("KUBECONFIG", cluster.kubeconfig())
            .args(["create", "--dry-run=server", "--validate=strict", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        child.stdin.take().expect("piped").write_all(spec.as_bytes()).expect("kubectl reads");
        let output = child.wait_with_output().expect("kubectl ends");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (file, valid, least) in [("valid.yaml", true, 50), ("invalid.yaml", false, 200)] {
        let path = root.join("tests/fixtures/specs").join(file);
        let text = std::fs::read_to_string(&path).expect("the table of specs");
        let specs: Vec<_> = text.split("\n---").filter(|spec| spec.contains("kind:")).collect();
        assert!(specs.len() >= least, "only {} specs in {file}", specs.len());
        for spec in &specs {
            let (accepted, error) = create(spec);
            assert_eq!(accepted, valid, "{spec}\n{error}");
            let field = spec.lines().find_map(|line| line.trim().strip_prefix("# field: "));
            if !valid {
                let field = field.unwrap_or_else(|| panic!("no field is named for {spec}"));
                assert!(
                    error.contains(field.trim_matches('"')),
                    "{field} is not in: {error}\n{spec}"
                );
            }
        }
        println!("{} specs of {file} as expected", specs.len());
    }
}
