//! The cluster that a command talks to, as kubectl would choose it.

use crate::api::{MeshReport, MeshRollout, StoredRollout};
use kube::api::ListParams;
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use std::time::Duration;

/// Which cluster.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Cluster {
    /// The context of the kubeconfig; without one, the current.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("no cluster is configured")]
    Infer(#[from] kube::config::InferConfigError),
    #[error("the kubeconfig cannot be used")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    #[error("no client can be made")]
    Client(#[source] kube::Error),
    #[error("no MeshRollout {0}: kubectl get meshrollouts lists them")]
    NoRollout(String),
    #[error("{0}")]
    Nothing(String),
    #[error("{doing} failed")]
    Api {
        doing: String,
        #[source]
        source: kube::Error,
    },
}

impl Cluster {
    /// How it is reached. One try for each request: a person waits.
    pub(super) async fn config(&self) -> Result<Config, Error> {
        let mut config = match &self.context {
            None => Config::infer().await?,
            Some(context) => {
                let options = KubeConfigOptions {
                    context: Some(context.clone()),
                    ..KubeConfigOptions::default()
                };
                Config::from_custom_kubeconfig(Kubeconfig::read()?, &options).await?
            }
        };
        config.default_retry = false;
        config.connect_timeout = Some(Duration::from_secs(10));
        // By itself kube waits for an answer without end.
        config.read_timeout = Some(Duration::from_secs(60));
        Ok(config)
    }

    /// A client for it.
    pub(super) async fn client(&self) -> Result<Client, Error> {
        let builder = ClientBuilder::try_from(self.config().await?).map_err(Error::Client)?;
        Ok(builder.build())
    }
}

/// The rollout of this name; what of it cannot be read is said.
pub(super) async fn rollout(client: &Client, name: &str) -> Result<MeshRollout, Error> {
    let found = Api::<StoredRollout>::all(client.clone()).get_opt(name).await;
    let found = found.map_err(doing(format!("reading MeshRollout {name}")))?;
    found.map(whole).ok_or_else(|| Error::NoRollout(name.to_owned()))
}

/// The same of all.
pub(super) async fn rollouts(client: &Client) -> Result<Vec<MeshRollout>, Error> {
    let all = Api::<StoredRollout>::all(client.clone()).list(&ListParams::default()).await;
    let all = all.map_err(doing("listing MeshRollouts"))?.items;
    Ok(all.into_iter().map(whole).collect())
}

fn whole(stored: StoredRollout) -> MeshRollout {
    let StoredRollout { rollout, unreadable } = stored;
    if let Some(what) = unreadable {
        eprintln!("warning: MeshRollout {}: {}", rollout.name_any(), what.refusal);
    }
    rollout
}

/// The reports of this rollout, by namespace.
pub(super) async fn reports(client: &Client, rollout: &str) -> Result<Vec<MeshReport>, Error> {
    let of_it =
        ListParams::default().labels(&format!("{}={rollout}", crate::api::names::ROLLOUT_LABEL));
    let found = Api::<MeshReport>::all(client.clone()).list(&of_it).await;
    let mut found = found.map_err(doing("listing MeshReports"))?.items;
    found.sort_by_key(ResourceExt::namespace);
    Ok(found)
}

/// Says what was being done when a request failed.
pub(super) fn doing(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
    move |source| Error::Api { doing: doing.into(), source }
}
