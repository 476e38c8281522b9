//! A cluster that another process holds, and what is left of one.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// `meshrollout-e2e up`. Killed when dropped, so that a test that fails leaves no cluster either.
pub(crate) struct Up {
    pub(crate) parent: Child,
    /// Its cluster's folder.
    pub(crate) folder: String,
}

impl Up {
    /// With these arguments, once its cluster is ready.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let parent = Command::new(env!("CARGO_BIN_EXE_meshrollout-e2e"))
            .arg("up")
            .args(arguments)
            .env_remove("KEEP")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut up = Self { parent, folder: String::new() };
        let lines = BufReader::new(up.parent.stdout.take().unwrap()).lines();
        let kubeconfig = lines
            .map_while(Result::ok)
            .find_map(|line| Some(line.strip_prefix("export KUBECONFIG=")?.to_owned()));
        let kubeconfig = kubeconfig.expect("the cluster did not start");
        kubeconfig.split("/pki/").next().unwrap().clone_into(&mut up.folder);
        up
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Errors mean that it is gone, as the test wanted it.
        let _ = self.parent.kill();
        let _ = self.parent.wait();
    }
}

/// How many live processes name the folder on their command line, as all of a cluster's do.
pub(crate) fn processes_of(folder: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let command_lines = processes.filter_map(|it| std::fs::read(it.path().join("cmdline")).ok());
    command_lines.filter(|line| String::from_utf8_lossy(line).contains(folder)).count()
}
