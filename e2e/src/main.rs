//! Starts a control plane by hand.

use std::io::Write;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use meshrollout_e2e::{Cluster, DataPlane, Doing, Error, Options, Shop};

/// A real control plane for meshrollout, as processes on this machine.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Tell the story of PERMISSIVE and STRICT on one.
    Demo {
        /// Leave the control plane up afterwards, until Ctrl-C.
        #[arg(long, env = "KEEP", value_parser = clap::builder::FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
        keep: bool,
        /// Without real sidecars, as for a user who is not root.
        #[arg(long, env = "SCRIPTED", value_parser = clap::builder::FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
        scripted: bool,
    },
    /// Ask a server again and again: the client that runs in pods of the data plane.
    #[command(hide = true)]
    Load {
        /// As in http://server:8080/path.
        url: String,
        /// So many requests a second.
        #[arg(long, default_value_t = 10)]
        per_second: u32,
        /// So many requests, and an error unless each is answered 200; without it for ever.
        #[arg(long)]
        times: Option<u32>,
        /// The authority of the server's certificate, for https.
        #[arg(long)]
        trust: Option<PathBuf>,
    },
    /// Start one, say how to reach it, and stop it at Ctrl-C.
    Up {
        /// YAML files to apply, in this order.
        #[arg(short, long = "file")]
        files: Vec<PathBuf>,
        /// Set up the shop of the demo, with its everyday traffic, before those files.
        #[arg(long)]
        shop: bool,
        /// With a node that runs pods for real; needs root.
        #[arg(long)]
        data_plane: bool,
    },
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    match Arguments::parse().command {
        Command::Demo { keep, scripted } => meshrollout_e2e::demo(keep, scripted).await,
        Command::Load { url, per_second, times, trust } => {
            meshrollout_e2e::load(&url, per_second, times, trust.as_deref()).await
        }
        Command::Up { files, shop, data_plane } => up(&files, shop, data_plane).await,
    }
}

async fn up(files: &[PathBuf], shop: bool, data_plane: bool) -> Result<(), Error> {
    eprintln!("starting a control plane; the first time, its programs are built");
    let load = std::env::current_exe().doing("finding this program")?;
    let data_plane = data_plane.then(|| DataPlane::with_load(load));
    let cluster =
        Cluster::start(Options { data_plane, kinds: false, ..Options::default() }).await?;
    if shop {
        Shop::open(&cluster).await?;
    }
    for file in files {
        let yaml = std::fs::read_to_string(file).doing(format!("reading {}", file.display()))?;
        cluster.apply_yaml(&yaml).await?;
    }
    eprintln!(
        "ready after {:.1} s; logs are in {}",
        cluster.start_up().as_secs_f64(),
        cluster.folder().display()
    );
    // Written at once, and an error like any other: who reads it may stop after the first line.
    let how_to_reach = format!(
        "export KUBECONFIG={}\nexport PROMETHEUS={}\nexport METRICS_PROXY={}\nkubectl: {}\n",
        cluster.kubeconfig().display(),
        cluster.prometheus_url(),
        cluster.metrics_proxy().url(),
        cluster.program("kubectl").display(),
    );
    std::io::stdout().write_all(how_to_reach.as_bytes()).doing("printing")?;
    eprintln!("Ctrl-C stops it");
    tokio::signal::ctrl_c().await.doing("waiting for Ctrl-C")
}
