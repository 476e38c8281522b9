//! The table of specs, put to the real apiserver: every valid one is accepted, every invalid one is
//! refused and the refusal names its field.

use std::path::Path;

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

    // What `kubectl create --dry-run=server --validate=strict` sends, without the two hundred and
    // fifty starts of kubectl: unknown fields are refused by name.
    let client = cluster.client();
    let create = async |spec: &str| {
        let path = "/apis/meshrollout.dev/v1alpha1/meshrollouts?dryRun=All&fieldValidation=Strict";
        let request = http::Request::post(path).header("Content-Type", "application/yaml");
        let request = request.body(spec.as_bytes().to_vec()).expect("a request");
        client.request_text(request).await.map_err(|error| error.to_string())
    };
    for (file, valid, least) in [("valid.yaml", true, 50), ("invalid.yaml", false, 200)] {
        let path = root.join("tests/fixtures/specs").join(file);
        let text = std::fs::read_to_string(&path).expect("the table of specs");
        let specs: Vec<_> = text.split("\n---").filter(|spec| spec.contains("kind:")).collect();
        assert!(specs.len() >= least, "only {} specs in {file}", specs.len());
        for spec in &specs {
            let answer = create(spec).await;
            assert_eq!(answer.is_ok(), valid, "{spec}\n{answer:?}");
            let field = spec.lines().find_map(|line| line.trim().strip_prefix("# field: "));
            if let Err(error) = answer {
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
