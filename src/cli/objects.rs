//! Where a command's objects come from: files, or the live cluster.

use super::cluster::{Cluster, Error};
use super::{exit, fail};
use crate::api::{MeshRollout, parse};
use crate::files::Input;
use crate::observe::objects::Objects;
use jiff::SignedDuration;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use meshrollout_core::waiver::Waivers;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The first lists of a large cluster take their time.
const FIRST_LISTS: Duration = Duration::from_secs(60);

/// What is looked at.
#[derive(clap::Args, Debug)]
pub(super) struct From {
    /// A file or folder of manifests, or of `kubectl get -o yaml|json` output; `-` is standard
    /// input. May be given more than once. Without one, the live cluster is looked at.
    #[arg(short = 'f', long = "filename", value_name = "PATH")]
    filename: Vec<PathBuf>,
    #[command(flatten)]
    cluster: Cluster,
}

impl From {
    /// The files, if any are named. What of them cannot be read is said on standard error.
    pub(super) fn files(&self) -> Option<Result<Input, ExitCode>> {
        if self.filename.is_empty() {
            return None;
        }
        let input = Input::read(&self.filename).map_err(|error| fail(exit::BAD_INPUT, &error));
        Some(input.inspect(|input| {
            for broken in &input.broken {
                eprintln!("warning: {broken}");
            }
        }))
    }

    /// What the authors of the live cluster's rollouts answer for. Without rights to read them, or
    /// without the kind, nobody does, and that is said.
    pub(super) async fn waivers(&self) -> Result<Waivers, ExitCode> {
        let unreachable = |error: Error| fail(exit::UNREACHABLE, &error);
        let client = self.cluster.client().await.map_err(unreachable)?;
        let mut waivers = Waivers::default();
        match Api::<MeshRollout>::all(client).list(&ListParams::default()).await {
            Ok(rollouts) => {
                for rollout in &rollouts.items {
                    match parse::waivers(&rollout.spec) {
                        Ok(of_one) => waivers.add(of_one),
                        Err(error) => {
                            eprintln!("warning: MeshRollout {}: {error}", rollout.name_any());
                        }
                    }
                }
            }
            // meshrollout need not be installed.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                eprintln!("warning: acknowledgements and exceptions cannot be read: {error}");
            }
        }
        Ok(waivers)
    }

    /// The live cluster's, once the first lists are here.
    pub(super) async fn live(&self, stale_watch: SignedDuration) -> Result<Objects, ExitCode> {
        let unreachable = |error: Error| fail(exit::UNREACHABLE, &error);
        let client = self.cluster.client().await.map_err(unreachable)?;
        let objects = Objects::watch(client, stale_watch);
        if let Err(missing) = objects.ready(FIRST_LISTS).await {
            for cause in &missing {
                eprintln!("error: {cause}");
            }
            return Err(ExitCode::from(exit::UNREACHABLE));
        }
        Ok(objects)
    }
}
