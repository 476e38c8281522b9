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
    let kubectl = |args: &[&str], input: &str| {
        let mut child = Command::new(cluster.program("kubectl"))
            .arg("--kubeconfig")
            .arg(cluster.kubeconfig())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("kubectl reads");
        let output = child.wait_with_output().expect("kubectl ends");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };

    let crds = root.join("crds");
    let (applied, error) = kubectl(&["apply", "--server-side", "-f", &crds.to_string_lossy()], "");
    assert!(applied, "{error}");
    let established = ["wait", "--for=condition=Established", "--timeout=30s"];
    let (served, error) =
        kubectl(&[&established[..], &["crd/meshrollouts.meshrollout.dev"]].concat(), "");
    assert!(served, "{error}");

    let create = ["create", "--dry-run=server", "--validate=strict", "-f", "-"];
    for (file, valid, least) in [("valid.yaml", true, 50), ("invalid.yaml", false, 200)] {
        let path = root.join("tests/fixtures/specs").join(file);
        let text = std::fs::read_to_string(&path).expect("the table of specs");
        let specs: Vec<_> = text.split("\n---").filter(|spec| spec.contains("kind:")).collect();
        assert!(specs.len() >= least, "only {} specs in {file}", specs.len());
        for spec in &specs {
            let (accepted, error) = kubectl(&create, spec);
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
