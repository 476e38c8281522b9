//! What the real istiod would send to proxies.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::tools::Tools;
use crate::{Cluster, Doing, Error};

impl Cluster {
    /// What istiod sends to each of these proxies, as `e2e/tools/xds` asks and tells it.
    pub async fn xds(&self, proxies: &Value) -> Result<Vec<Value>, Error> {
        let asking = "asking istiod as proxies do";
        let tools = Tools::tier("truth").await?;
        let mut process = tokio::process::Command::new(tools.program("xds"))
            .arg(format!("127.0.0.1:{}", self.istiod().xds_port()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .doing(asking)?;
        let mut input = process.stdin.take().ok_or_else(|| Error::new(asking))?;
        input.write_all(proxies.to_string().as_bytes()).await.doing(asking)?;
        drop(input);
        let output = process.wait_with_output().await.doing(asking)?;
        if !output.status.success() {
            return Err(Error::new(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).doing(asking)).collect()
    }
}
