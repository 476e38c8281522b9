use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;

use crate::replace::replace;
use crate::{Doing, Error};

/// Where a sidecar's agent serves its own metrics and its proxy's.
pub(super) const AGENT_PORT: u16 = 15020;

/// The sidecars that Prometheus is to scrape, in a file that it watches.
#[derive(Clone)]
pub(crate) struct Targets {
    file: PathBuf,
    pods: Arc<Mutex<BTreeMap<(String, String), Ipv4Addr>>>,
}

impl Targets {
    pub(crate) fn create(folder: &Path) -> Result<Self, Error> {
        let targets = Self { file: folder.join("sidecars.json"), pods: Arc::default() };
        targets.write()?;
        Ok(targets)
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// A pod with a sidecar has begun; it is a target until what is returned here goes.
    pub(super) fn add(
        &self,
        namespace: String,
        pod: String,
        address: Ipv4Addr,
    ) -> Result<Target, Error> {
        let key = (namespace, pod);
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), address);
        let target = Target { key, targets: self.clone() };
        self.write()?;
        Ok(target)
    }

    fn write(&self) -> Result<(), Error> {
        // Held until it is written: of two writers the later has the whole list.
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let target = |((namespace, pod), address): (&(String, String), &Ipv4Addr)| {
            json!({"targets": [format!("{address}:{AGENT_PORT}")],
                "labels": {"namespace": namespace, "pod": pod}})
        };
        let list = json!(pods.iter().map(target).collect::<Vec<_>>()).to_string();
        replace(&self.file, &list).doing("writing what Prometheus is to scrape")
    }
}

pub(super) struct Target {
    key: (String, String),
    targets: Targets,
}

impl Drop for Target {
    fn drop(&mut self) {
        let mut pods = self.targets.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.remove(&self.key);
        drop(pods);
        // When the whole cluster goes, its folder may be gone first.
        let _ = self.targets.write();
    }
}
