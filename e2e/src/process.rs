use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::{Doing, Error};

/// Runs the program under a watchdog that holds the reading end of a pipe from us.
///
/// When the pipe closes, and it does so however we end, the watchdog kills the whole process
/// group. The program itself takes the shell's place, so its exit status is the child's.
const WATCHED: &str =
    r#"exec 3<&0; (read -r _ <&3; kill -KILL 0) >/dev/null 2>&1 & exec "$@" 3<&- </dev/null"#;

/// How to run one program of the cluster.
#[derive(Clone)]
pub(crate) struct Program {
    name: String,
    path: PathBuf,
    folder: PathBuf,
    args: Vec<String>,
    env: BTreeMap<String, String>,
}

impl Program {
    /// Its log is `NAME.log` in `folder`, which is also where it runs.
    pub(crate) fn new(name: &str, path: PathBuf, folder: &Path) -> Self {
        // Memory is plenty and processors are few: collected at four times the live heap, and no
        // thread looks for work that the others of a dozen clusters have. On several kwok ends itself
        // now and then: its stages are compiled side by side and write one map (easycel 0.6).
        let env = [("GOGC", "400"), ("GOMAXPROCS", "1")];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Self { name: name.to_owned(), path, folder: folder.to_owned(), args: vec![], env }
    }

    pub(crate) fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn start(&self) -> Result<Process, Error> {
        let log = self.folder.join(format!("{}.log", self.name));
        let starting = || format!("starting {}", self.name);
        let output = File::options().create(true).append(true).open(&log).doing(starting())?;
        let child = Command::new("sh")
            .args(["-c", WATCHED, &self.name])
            .arg(&self.path)
            .args(&self.args)
            .envs(&self.env)
            .current_dir(&self.folder)
            .stdin(Stdio::piped())
            .stdout(output.try_clone().doing(starting())?)
            .stderr(output)
            // Its own group: Ctrl-C in a terminal reaches us alone, and the watchdog's kill
            // reaches nobody else.
            .process_group(0)
            .spawn()
            .doing(starting())?;
        Ok(Process { name: self.name.clone(), child, log })
    }
}

/// A running program; dropping it kills it.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails with the end of the log when the program is gone.
    pub(crate) fn check(&mut self) -> Result<(), Error> {
        match self.ended()? {
            Some(status) => Err(self.blame(&ended(status))),
            None => Ok(()),
        }
    }

    /// How it ended, once it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.child.try_wait().doing(format!("asking after {}", self.name))
    }

    /// SIGTERM; whether it heeds it shows in [`Process::ended`].
    pub(crate) fn ask_to_end(&self) {
        // An error means that it has ended.
        let _ = Command::new("kill").args(["-TERM", &self.id().to_string()]).status();
    }

    /// An error about this program, with the last lines that it logged.
    pub(crate) fn blame(&self, what: &str) -> Error {
        Error::new(format!("{} {what}; the end of its log:\n{}", self.name, tail(&self.log)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // The watchdog is at work now. Should a program have got rid of it, this is the second
        // pair of hands; an error means that it is gone already.
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

fn ended(status: ExitStatus) -> String {
    format!("ended by itself ({status})")
}

fn tail(log: &Path) -> String {
    const BYTES: u64 = 4096;
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut bytes = vec![];
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("(no log: {error})"))
}
