use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::{Doing, Error};

/// The folder with the programs of a control plane.
#[derive(Clone)]
pub(crate) struct Tools(PathBuf);

impl Tools {
    /// From `MESHROLLOUT_TOOLS`, or from the builder, which builds what is missing.
    pub(crate) fn find() -> Result<Self, Error> {
        if let Some(folder) = std::env::var_os("MESHROLLOUT_TOOLS") {
            return Ok(Self(folder.into()));
        }
        Self::of("control-plane")
    }

    /// The programs of one tier of the builder, which is asked once.
    pub(crate) fn of(tier: &'static str) -> Result<Self, Error> {
        static FOUND: Mutex<BTreeMap<&str, Tools>> = Mutex::new(BTreeMap::new());
        // Held while it builds: another thread that wants the same waits for it. A panic leaves what
        // was found before.
        let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = found.get(tier) {
            return Ok(known.clone());
        }
        let tools = Self::built(tier)?;
        found.insert(tier, tools.clone());
        Ok(tools)
    }

    fn built(tier: &str) -> Result<Self, Error> {
        let builder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/build");
        let output = Command::new(&builder)
            .arg(tier)
            .stderr(Stdio::inherit())
            .output()
            .doing("running e2e/tools/build")?;
        let text = String::from_utf8_lossy(&output.stdout);
        match text.lines().last() {
            Some(folder) if output.status.success() => Ok(Self(folder.into())),
            _ => Err(Error::new("e2e/tools/build failed; what it said stands above")),
        }
    }

    /// The same, on a thread that a build may hold up.
    pub(crate) async fn tier(tier: &'static str) -> Result<Self, Error> {
        let finding = format!("finding the tools of {tier}");
        tokio::task::spawn_blocking(move || Self::of(tier)).await.doing(finding)?
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// Where what was made once is kept for later runs; the same folder as the builder's.
pub(crate) fn cache_folder() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("MESHROLLOUT_CACHE").unwrap_or_else(|| {
        let cache = set("XDG_CACHE_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".cache")))
            .unwrap_or_else(std::env::temp_dir);
        cache.join("meshrollout")
    })
}
