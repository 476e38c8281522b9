//! `meshrollout status`: where rollouts and their namespaces stand.

use super::cluster::{Cluster, Error, reports, rollout, rollouts};
use super::table;
use crate::api::{MeshReport, MeshRollout, StoredRollout};
use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

/// Where rollouts and their namespaces stand.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The MeshRollout; without one, all of them.
    #[arg(value_name = "ROLLOUT")]
    name: Option<String>,
    /// Go on and print each change, until Ctrl-C.
    #[arg(short, long)]
    watch: bool,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// The status of each, as stored.
    Json,
}

pub(super) async fn run(args: Args) -> Result<(), Error> {
    let client = args.cluster.client().await?;
    print(&client, &args).await?;
    if !args.watch {
        return Ok(());
    }
    let config = watcher::Config::default();
    let rollouts =
        watcher(Api::<StoredRollout>::all(client.clone()), config.clone()).default_backoff();
    let reports = watcher(Api::<MeshReport>::all(client.clone()), config).default_backoff();
    let changes = futures::stream::select(
        rollouts.touched_objects().map(|object| object.map(drop)),
        reports.touched_objects().map(|object| object.map(drop)),
    )
    .ready_chunks(1000);
    let mut changes = std::pin::pin!(changes);
    // The first lists say what was printed already.
    let mut first = true;
    while let Some(chunk) = changes.next().await {
        for error in chunk.into_iter().filter_map(Result::err) {
            eprintln!("warning: {error}");
        }
        if !std::mem::take(&mut first) {
            println!();
            print(&client, &args).await?;
        }
    }
    Ok(())
}

async fn print(client: &Client, args: &Args) -> Result<(), Error> {
    let found = match &args.name {
        Some(name) => vec![rollout(client, name).await?],
        None => rollouts(client).await?,
    };
    if found.is_empty() {
        eprintln!("no MeshRollout in this cluster");
        return Ok(());
    }
    for one in found {
        let reports = reports(client, &one.name_any()).await?;
        match args.output {
            Output::Table => print_table(&one, &reports),
            Output::Json => {
                let namespaces: Vec<_> = reports
                    .iter()
                    .map(|it| json!({"namespace": it.namespace(), "status": it.status}))
                    .collect();
                println!(
                    "{}",
                    json!({"rollout": one.name_any(), "status": one.status, "namespaces": namespaces})
                );
            }
        }
    }
    Ok(())
}

fn print_table(rollout: &MeshRollout, reports: &[MeshReport]) {
    let status = rollout.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().find(|one| one.type_ == "Ready");
    let (is_ready, reason, message) = ready
        .map_or(("Unknown", "NotSeen", "no operator has looked at it yet"), |one| {
            (one.status.as_str(), one.reason.as_str(), one.message.as_str())
        });
    let strict = status.summary.as_ref().map_or("-", |summary| summary.progress.as_str());
    println!(
        "{}  ready {is_ready} ({reason})  stage {}  strict {strict}",
        rollout.name_any(),
        status.current_stage.as_deref().unwrap_or("-")
    );
    println!("  {message}");
    let mut namespaces = table(&["  NAMESPACE", "STAGE", "STATE", "STRICT", "FINDINGS", "MESSAGE"]);
    for report in reports {
        let namespace = format!("  {}", report.namespace().unwrap_or_default());
        let status = report.status.clone().unwrap_or_default();
        let message = status.conditions.first().map_or("", |one| one.message.as_str());
        namespaces.add_row([
            namespace.as_str(),
            status.stage.as_deref().unwrap_or("-"),
            &status.state.map_or("-".to_owned(), |state| format!("{state:?}")),
            &status.strict,
            &status.findings_total.to_string(),
            message,
        ]);
    }
    println!("{namespaces}");
}
