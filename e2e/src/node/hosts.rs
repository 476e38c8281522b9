use std::path::{Path, PathBuf};

use crate::replace::replace;
use crate::{Doing, Error};

/// The `/etc/hosts` of one pod, in a folder that its containers have mounted.
///
/// It changes while clients look names up, and is replaced as a whole: one that is written in place
/// is empty for a moment, and who looks then is told that a Service does not exist.
pub(super) struct Hosts {
    folder: PathBuf,
}

impl Hosts {
    pub(super) fn create(pod: &Path) -> Result<Self, Error> {
        let folder = pod.join("names");
        std::fs::create_dir_all(&folder).doing("making the folder of the pod's hosts")?;
        Ok(Self { folder })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn write(&self, text: &str) -> Result<(), Error> {
        replace(&self.folder.join("hosts"), text).doing("writing the pod's hosts")
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Hosts;
    use crate::run_folder::RunFolder;

    #[test]
    fn whoever_looks_while_names_change_finds_all_of_them() {
        let pod = RunFolder::create(false).unwrap();
        let hosts = Hosts::create(pod.path()).unwrap();
        let all = "10.0.0.1 echo.pay\n".repeat(500);
        hosts.write(&all).unwrap();
        let end = Instant::now() + Duration::from_millis(300);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while Instant::now() < end {
                    hosts.write(&all).unwrap();
                }
            });
            while Instant::now() < end {
                let seen = std::fs::read_to_string(hosts.folder().join("hosts")).unwrap();
                assert_eq!(seen.len(), all.len());
            }
        });
    }
}
