use std::path::Path;

use serde_json::{Value, json};

use crate::pki::text;
use crate::process::Program;
use crate::tools::Tools;
use crate::{Doing, Error};

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
        "--manage-all-nodes=true".to_owned(),
        "--node-ip=127.0.0.1".to_owned(),
        "--cidr=10.100.0.0/16".to_owned(),
        format!("--server-address=127.0.0.1:{port}"),
    ]))
}

pub(crate) fn nodes() -> Vec<Value> {
    ["node-a", "node-b"].into_iter().map(node).collect()
}

/// Room for any test; with a kubelet older than 1.33 istiod would inject no native sidecars.
fn node(name: &str) -> Value {
    let room = json!({"cpu": "1000", "memory": "4Ti", "pods": "20000"});
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
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
