//! `pause`, `resume`, `abort`, `retry`: what a person asks of a rollout.

use super::cluster::{Cluster, Error, doing, rollout};
use crate::api::StoredRollout;
use crate::api::names::request;
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// The field manager of what a person changes by this command line.
pub(super) const CLI_MANAGER: &str = "meshrollout-cli";

/// One rollout.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The MeshRollout.
    #[arg(value_name = "ROLLOUT")]
    name: String,
    #[command(flatten)]
    cluster: Cluster,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verb {
    Pause,
    Resume,
    Abort,
    Retry,
}

pub(super) async fn run(verb: Verb, args: Args) -> Result<(), Error> {
    let client = args.cluster.client().await?;
    let name = &args.name;
    // A name that does not exist gets its own sentence.
    rollout(&client, name).await?;
    match verb {
        Verb::Pause => paused(&client, name, true).await?,
        Verb::Resume => paused(&client, name, false).await?,
        Verb::Abort => ask(&client, name, request::ABORT).await?,
        Verb::Retry => ask(&client, name, request::RETRY).await?,
    }
    println!(
        "{}",
        match verb {
            Verb::Pause => format!(
                "{name} is paused: no new step; it is still watched, and still rolled back on harm"
            ),
            Verb::Resume => format!("{name} goes on"),
            Verb::Abort =>
                format!("{name} stops; the stage in flight is rolled back, earlier ones stay"),
            Verb::Retry => format!("{name} proves again what was rolled back or aborted"),
        }
    );
    Ok(())
}

async fn paused(client: &Client, name: &str, paused: bool) -> Result<(), Error> {
    patch(client, name, &json!({"spec": {"paused": paused}})).await
}

/// Asks for something once: the operator hears each value a single time.
pub(super) async fn ask(client: &Client, name: &str, annotation: &str) -> Result<(), Error> {
    let now = Timestamp::now().to_string();
    patch(client, name, &json!({"metadata": {"annotations": {annotation: now}}})).await
}

async fn patch(client: &Client, name: &str, patch: &Value) -> Result<(), Error> {
    let params = PatchParams { field_manager: Some(CLI_MANAGER.into()), ..PatchParams::default() };
    let rollouts = Api::<StoredRollout>::all(client.clone());
    let patched = rollouts.patch(name, &params, &Patch::Merge(patch)).await;
    patched.map(drop).map_err(doing(format!("changing MeshRollout {name}")))
}
