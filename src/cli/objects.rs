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
use std::str::FromStr;
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
    /// Istio's mesh configuration, as under the key `mesh` of the ConfigMap `istio`; takes the place
    /// of what the files hold.
    #[arg(long, value_name = "FILE", requires = "filename")]
    mesh_config: Option<PathBuf>,
    /// The domain of the cluster's Services; takes the place of the one that pods in the files were
    /// started with, and of cluster.local where none says any.
    #[arg(long, value_name = "DOMAIN", requires = "filename", value_parser = domain)]
    cluster_domain: Option<String>,
    /// Revisions that are served, and tags that stand for one, besides those that the files hold.
    #[arg(long, value_name = "TAG=REVISION", requires = "filename", value_delimiter = ',')]
    revision_tags: Vec<Served>,
    #[command(flatten)]
    cluster: Cluster,
}

/// A revision, or a tag that stands for one.
#[derive(Clone, Debug)]
struct Served {
    tag: String,
    revision: String,
}

impl FromStr for Served {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (tag, revision) = text.split_once('=').unwrap_or((text, text));
        match is_name(tag) && is_name(revision) {
            true => Ok(Self { tag: tag.to_owned(), revision: revision.to_owned() }),
            false => {
                Err("a tag and its revision look like stable=1-26-0, a revision like 1-26-0".into())
            }
        }
    }
}

fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !name.is_empty() && name.len() <= 63 && name.bytes().all(|byte| is_plain(byte) || byte == b'-')
}

fn domain(text: &str) -> Result<String, String> {
    match text.split('.').all(is_name) {
        true => Ok(text.to_owned()),
        false => Err("a domain looks like cluster.local".into()),
    }
}

impl From {
    /// The files, if any are named. What of them cannot be read is said on standard error.
    pub(super) fn files(&self) -> Option<Result<Input, ExitCode>> {
        if self.filename.is_empty() {
            return None;
        }
        let input = Input::read(&self.filename).and_then(|mut input| {
            for Served { tag, revision } in &self.revision_tags {
                input.serve(tag, revision);
            }
            if let Some(domain) = &self.cluster_domain {
                input.take_domain(domain);
            }
            if let Some(path) = &self.mesh_config {
                input.take_mesh_config(path)?;
            }
            Ok(input)
        });
        let input = input.map_err(|error| fail(exit::BAD_INPUT, &error));
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
