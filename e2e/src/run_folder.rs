use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Doing, Error};

/// Removes the folder when the pipe from us closes, unless it was told `keep` before.
///
/// Several tries: the programs of the cluster die at the same moment and may still be writing.
const JANITOR: &str = r#"read -r word; [ "$word" = keep ] && exit
for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$1" 2>/dev/null && exit; sleep 0.3; done"#;

/// The folder of one cluster: certificates, logs, data. Gone when we are, in whatever way.
pub(crate) struct RunFolder {
    path: PathBuf,
    janitor: Child,
    keep: bool,
}

impl RunFolder {
    pub(crate) fn create(keep: bool) -> Result<Self, Error> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("meshrollout-e2e-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        if path.exists() {
            std::fs::remove_dir_all(&path).doing("clearing an old run folder")?;
        }
        std::fs::DirBuilder::new().mode(0o700).create(&path).doing("making the run folder")?;
        let janitor = Command::new("sh")
            .args(["-c", JANITOR, "janitor"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .doing("starting the janitor")?;
        let mut folder = Self { path, janitor, keep };
        if keep {
            folder.keep();
        }
        Ok(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn keep(&mut self) {
        self.keep = true;
        if let Some(mut pipe) = self.janitor.stdin.take() {
            // A janitor that is gone removes nothing either.
            let _ = pipe.write_all(b"keep\n");
        }
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep();
        }
        if self.keep {
            eprintln!("logs and data are kept in {}", self.path.display());
        }
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
    }
}
