use std::path::Path;

use serde_json::{Value, json};

use crate::pki::text;
use crate::process::Program;
use crate::tools::Tools;
use crate::{Doing, Error};

/// The label, and the taint, that say how a node runs its pods.
pub(crate) const RUNS_AS: &str = "e2e.meshrollout.dev/runs-as";
/// By kwok: nothing runs, and all looks as if it did.
const LIKENESSES: &str = "likenesses";
/// By [`crate::node::RealNode`].
pub(crate) const PROCESSES: &str = "processes";

const STAGES: &str = include_str!("stages.yaml");

pub(crate) fn kwok(
    tools: &Tools,
    folder: &Path,
    kubeconfig: &Path,
    port: u16,
) -> Result<Program, Error> {
    let stages = folder.join("stages.yaml");
    std::fs::write(&stages, STAGES).doing("writing kwok's stages")?;
    Ok(Program::new("kwok", tools.program("kwok"), folder).args([
        format!("--kubeconfig={}", text(kubeconfig)),
        format!("--config={}", text(&stages)),
        format!("--manage-nodes-with-label-selector={RUNS_AS}={LIKENESSES}"),
        "--node-ip=127.0.0.1".to_owned(),
        "--cidr=10.100.0.0/16".to_owned(),
        format!("--server-address=127.0.0.1:{port}"),
    ]))
}

pub(crate) fn nodes() -> Vec<Value> {
    ["node-a", "node-b"].into_iter().map(|name| node(name, LIKENESSES)).collect()
}

/// Room for any test; with a kubelet older than 1.33 istiod would inject no native sidecars.
pub(crate) fn node(name: &str, runs_as: &str) -> Value {
    let room = json!({"cpu": "1000", "memory": "4Ti", "pods": "20000"});
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, RUNS_AS: runs_as}},
        "status": {
            "allocatable": room,
            "capacity": room,
            "nodeInfo": {
                "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "kwok://0.8.0",
                "kernelVersion": "6.1", "kubeProxyVersion": "", "kubeletVersion": "v1.36.3",
                "machineID": "", "operatingSystem": "linux", "osImage": "", "systemUUID": "",
            },
        },
    })
}
