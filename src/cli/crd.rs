//! `meshrollout crd`: the CustomResourceDefinitions of this very binary.

use super::{exit, fail};
use crate::api;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Print the CustomResourceDefinitions, or write them as files.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Write one file per kind into this folder instead of printing.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("failed to write {0} as YAML")]
    Yaml(String, #[source] serde_saphyr::ser::Error),
    #[error("failed to write {0}")]
    Write(PathBuf, #[source] std::io::Error),
}

pub(super) fn run(args: &Args) -> ExitCode {
    match write(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(exit::BAD_INPUT, &error),
    }
}

fn write(args: &Args) -> Result<(), Error> {
    for crd in api::crds() {
        let name = format!("{}.yaml", crd.spec.names.plural);
        let text = serde_saphyr::to_string(&crd).map_err(|e| Error::Yaml(name.clone(), e))?;
        match &args.out {
            Some(folder) => {
                let path = folder.join(&name);
                std::fs::create_dir_all(folder)
                    .and_then(|()| std::fs::write(&path, text))
                    .map_err(|e| Error::Write(path, e))?;
            }
            // A closed pipe (`| head`) is not an error worth telling.
            None => drop(writeln!(std::io::stdout(), "---\n{}", text.trim_end())),
        }
    }
    Ok(())
}
