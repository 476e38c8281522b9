//! Starts a control plane by hand.

use std::io::Write;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use meshrollout_e2e::{Cluster, Doing, Error, Options, Shop};

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
    },
    /// Start one, say how to reach it, and stop it at Ctrl-C.
    Up {
        /// YAML files to apply, in this order.
        #[arg(short, long = "file")]
        files: Vec<PathBuf>,
        /// Set up the shop of the demo, with its everyday traffic, before those files.
        #[arg(long)]
        shop: bool,
    },
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    match Arguments::parse().command {
        Command::Demo { keep } => meshrollout_e2e::demo(keep).await,
        Command::Up { files, shop } => up(&files, shop).await,
    }
}

async fn up(files: &[PathBuf], shop: bool) -> Result<(), Error> {
    eprintln!("starting a control plane; the first time, its programs are built");
    let cluster = Cluster::start(Options::default()).await?;
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
    println!("export KUBECONFIG={}", cluster.kubeconfig().display());
    println!("export PROMETHEUS={}", cluster.prometheus_url());
    println!("export METRICS_PROXY={}", cluster.metrics_proxy().url());
    println!("kubectl: {}", cluster.program("kubectl").display());
    std::io::stdout().flush().doing("printing")?;
    eprintln!("Ctrl-C stops it");
    tokio::signal::ctrl_c().await.doing("waiting for Ctrl-C")
}
