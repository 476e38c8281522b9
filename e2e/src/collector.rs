//! OpenTelemetry's collector, which writes down the spans that it is sent.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::process::{Process, Program};
use crate::tools::Tools;
use crate::{Cluster, Doing, Error, until};

/// The running collector; it goes when this value goes.
pub struct Collector {
    process: Option<Process>,
    program: Program,
    port: u16,
    log: PathBuf,
}

/// A span, as the collector tells it.
#[derive(Clone, Debug, Default)]
pub struct Span {
    /// What it is part of.
    pub trace: String,
    /// Its own.
    pub id: String,
    /// The span around it; empty for the first of a trace.
    pub parent: String,
    /// What was done.
    pub name: String,
    /// `Unset`, `Ok` or `Error`.
    pub status: String,
    /// What is said of it.
    pub attributes: BTreeMap<String, String>,
    /// What is said of whoever sent it.
    pub resource: BTreeMap<String, String>,
    /// The names of what happened in it.
    pub events: Vec<String>,
}

impl Cluster {
    /// Starts a collector that takes OTLP over HTTP.
    pub async fn collector(&self) -> Result<Collector, Error> {
        let tools = Tools::tier("traces").await?;
        let folder = self.folder().join("collector");
        std::fs::create_dir_all(&folder).doing("making the collector's folder")?;
        let (config, port) = (folder.join("config.json"), self.free_port()?);
        let text = serde_json::json!({
            "receivers": {"otlp": {"protocols": {"http": {"endpoint": format!("127.0.0.1:{port}")}}}},
            "exporters": {"debug": {"verbosity": "detailed", "use_internal_logger": false}},
            "service": {
                "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "warn"}},
                "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["debug"]}},
            },
        });
        std::fs::write(&config, text.to_string()).doing("writing the collector's configuration")?;
        let program = Program::new("collector", tools.program("otelcol"), &folder)
            .args(["--config".to_owned(), config.display().to_string()]);
        let log = folder.join("collector.log");
        let mut collector = Collector { process: None, program, port, log };
        collector.start().await?;
        Ok(collector)
    }
}

impl Collector {
    /// Its base address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Kills it; what it has written stays.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts it, on its port as before.
    pub async fn start(&mut self) -> Result<(), Error> {
        let process = self.process.insert(self.program.start()?);
        let ready = until("the collector to listen", Duration::from_secs(30), async || {
            let connection = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await;
            connection.map(drop).map_err(|error| error.to_string())
        });
        ready.await.map_err(|error| process.blame(&error.to_string()))
    }

    /// Every span that it was sent so far.
    pub fn spans(&self) -> Result<Vec<Span>, Error> {
        let text = std::fs::read_to_string(&self.log).doing("reading what the collector wrote")?;
        Ok(spans(&text))
    }
}

/// The spans in the debug exporter's text: a heading for each part, and what is said below it.
fn spans(text: &str) -> Vec<Span> {
    let (mut all, mut resource) = (Vec::<Span>::new(), BTreeMap::new());
    let mut part = "";
    for line in text.lines().map(str::trim) {
        if line.starts_with("ResourceSpans #") {
            (resource, part) = (BTreeMap::new(), "resource");
        } else if line.starts_with("Span #") {
            all.push(Span { resource: resource.clone(), ..Span::default() });
            part = "span";
        } else if line == "Attributes:" {
            part = "attributes";
        } else if line.starts_with("SpanEvent #") {
            part = "event";
        }
        let said = line.strip_prefix("-> ").unwrap_or(line).split_once(':');
        let Some((name, value)) = said.map(|(name, value)| (name.trim(), value.trim())) else {
            continue;
        };
        let value = value.split_once('(').map_or(value, |(_, inner)| inner.trim_end_matches(')'));
        if part == "resource" {
            resource.insert(name.to_owned(), value.to_owned());
            continue;
        }
        let Some(span) = all.last_mut() else { continue };
        match (part, name) {
            ("span", "Trace ID") => value.clone_into(&mut span.trace),
            ("span", "Parent ID") => value.clone_into(&mut span.parent),
            ("span", "ID") => value.clone_into(&mut span.id),
            ("span", "Name") => value.clone_into(&mut span.name),
            ("span", "Status code") => value.clone_into(&mut span.status),
            ("attributes", _) => {
                span.attributes.insert(name.to_owned(), value.to_owned());
            }
            ("event", "Name") => span.events.push(value.to_owned()),
            _ => {}
        }
    }
    all
}
