//! `meshrollout operator`: the controller itself.

use super::{exit, fail};
use crate::admin::{self, Readiness};
use crate::apply::{Leave, Writer};
use crate::config::Config;
use crate::controller::Operator;
use crate::fence::Fence;
use crate::lease::{Candidate, Leadership};
use crate::metrics::Metrics;
use crate::traces::{SPANS, Traces};
use jiff::Timestamp;
use kube::client::ClientBuilder;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Run the operator.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The configuration file; without one, the defaults.
    #[arg(long, value_name = "FILE", env = "MESHROLLOUT_CONFIG")]
    config: Option<PathBuf>,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    admin_address: SocketAddr,
    /// This replica's name in the Lease and in events.
    #[arg(long, value_name = "NAME", env = "POD_NAME", default_value = "meshrollout")]
    identity: String,
    /// Lift the minimum times of a rollout. For tests and demonstrations only.
    #[arg(long)]
    allow_short_times: bool,
    /// How log lines are written.
    #[arg(long, value_enum, default_value = "json")]
    log_format: LogFormat,
    /// Which log lines are written, as in `info,meshrollout=debug`.
    #[arg(long, value_name = "FILTER", env = "MESHROLLOUT_LOG", default_value = "info")]
    log: String,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Why the operator ended by itself.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the configuration is wrong")]
    Config(#[from] crate::config::ConfigError),
    #[error("--log is no filter")]
    Log(#[from] tracing_subscriber::filter::ParseError),
    #[error("no traces can be made")]
    Traces(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error("no cluster can be reached")]
    Cluster(#[from] kube::config::InferConfigError),
    #[error("no client can be made")]
    Client(#[from] kube::Error),
    #[error("failed to listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
    #[error("failed to wait for signals")]
    Signals(#[source] std::io::Error),
    #[error("another replica leads now; this one starts again")]
    Deposed,
}

pub(super) async fn run(args: Args) -> ExitCode {
    match operate(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ (Error::Config(_) | Error::Log(_))) => fail(exit::BAD_INPUT, &error),
        Err(error) => fail(exit::UNREACHABLE, &error),
    }
}

async fn operate(args: Args) -> Result<(), Error> {
    let mut config = match &args.config {
        Some(path) => Config::load(path)?,
        None => Config::default(),
    };
    config.allow_short_times |= args.allow_short_times;
    let collector = config.traces.as_ref();
    let traces = collector.map(|collector| Traces::to(collector, &args.identity)).transpose()?;
    log(&args, traces.as_ref())?;
    let ended = serve(&args, config).await;
    // However it ended, and last: the Lease is another's by now.
    if let Some(traces) = traces {
        traces.end().await;
    }
    ended
}

/// Leads, or stands by, until it is told to stop or another leads.
async fn serve(args: &Args, config: Config) -> Result<(), Error> {
    let stop = CancellationToken::new();
    on_signals(stop.clone()).map_err(Error::Signals)?;
    let listener = TcpListener::bind(args.admin_address)
        .await
        .map_err(|error| Error::Listen(args.admin_address, error))?;
    let (metrics, readiness) = (Metrics::new(), Readiness::default());
    let serving =
        tokio::spawn(admin::serve(listener, metrics.clone(), readiness.clone(), stop.clone()));

    let mut connection = kube::Config::infer().await?;
    // A held-up request is our own to repeat: kube's layer would hold a visit for minutes.
    connection.default_retry = false;
    connection.connect_timeout = Some(Duration::from_secs(10));
    connection.write_timeout = Some(Duration::from_secs(10));
    // kube waits for ever for an answer. A list or a watch that hangs is begun anew when a watch
    // would count as stale; whatever else hangs, much earlier.
    let mut listening = connection.clone();
    listening.read_timeout = Some(config.stale_watch.unsigned_abs());
    let listening = ClientBuilder::try_from(listening)?.build();
    connection.read_timeout = Some(Duration::from_secs(20));
    let client = ClientBuilder::try_from(connection.clone())?.build();
    let writer = Writer::new(&connection, config.write_deadline)?;
    let writer = if config.fence { writer } else { writer.without_fence() };

    // Two replicas of one name, or a container started again, must not take each other's Lease for
    // their own.
    let identity = format!(
        "{}_{:x}_{:x}",
        args.identity,
        std::process::id(),
        Timestamp::now().as_nanosecond()
    );
    let fence = Arc::new(Fence::new(client.clone(), &config.operator_namespace, identity.clone()));
    let leadership = if config.leader_elect {
        // Standing by is being ready.
        readiness.set(true);
        let candidate = Candidate::new(client.clone(), &config, identity, fence);
        tokio::select! {
            leadership = candidate.lead() => leadership,
            () = stop.cancelled() => return Ok(()),
        }
    } else {
        Leadership::alone(fence)
    };
    readiness.set(false);
    // A leader before us is kept out from now on, not only from our first write.
    if let Leave::Unsure(_, why) = leadership.confirm(config.write_deadline.unsigned_abs()).await {
        tracing::warn!(why, "the fence is not taken yet; it is tried again before each write");
    }
    let operator = Arc::new(Operator::new(
        config,
        client,
        listening,
        writer,
        leadership.clone(),
        metrics.clone(),
        &args.identity,
    ));
    let first_lists = {
        let (operator, stop) = (Arc::clone(&operator), stop.clone());
        async move {
            while let Err(missing) = operator.ready(Duration::from_secs(10)).await {
                for cause in missing {
                    tracing::warn!(%cause, "waiting");
                }
                if stop.is_cancelled() {
                    return;
                }
            }
        }
    };
    tokio::select! {
        // One that waits for its first lists acts no more than nobody does.
        () = first_lists => {
            readiness.set(true);
            metrics.leads(true);
        }
        () = leadership.lost() => return Err(Error::Deposed),
    }
    let running = operator.run(stop.clone());
    tokio::select! {
        () = running => {}
        // Nothing is finished in an orderly way: whoever leads now must not meet our writes.
        () = leadership.lost() => return Err(Error::Deposed),
    }
    leadership.release().await;
    stop.cancel();
    // The page is gone either way.
    let _ = serving.await;
    Ok(())
}

fn log(args: &Args, traces: Option<&Traces>) -> Result<(), Error> {
    let filter = EnvFilter::try_new(&args.log)?;
    // Whatever the filter says: it could name them.
    let filter = filter.and(filter_fn(|it| it.target() != SPANS));
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = match args.log_format {
        LogFormat::Json => log.json().flatten_event(true).with_filter(filter).boxed(),
        LogFormat::Text => {
            log.with_ansi(std::io::stderr().is_terminal()).with_filter(filter).boxed()
        }
    };
    tracing_subscriber::registry().with(log).with(traces.map(Traces::layer)).init();
    Ok(())
}

fn on_signals(stop: CancellationToken) -> std::io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tracing::info!("stopping: what is under way is finished");
        stop.cancel();
    });
    Ok(())
}
