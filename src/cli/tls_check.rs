//! `meshrollout tls-check`: who speaks what to whom, today and once STRICT is in force.

use super::cluster::Error;
use super::objects::From;
use super::{exit, fail, table};
use crate::config::Config;
use crate::observe::evidence::not_asked;
use jiff::Timestamp;
use meshrollout_core::ident::{Host, Namespace, Port, WorkloadRef};
use meshrollout_core::reading::Reading;
use meshrollout_core::snapshot::Snapshot;
use meshrollout_core::tls_check::{Row, TlsCheck};
use serde::{Serialize, Serializer};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

/// Say for each client, host and port what goes on the wire and who decided it, what the server
/// accepts and who decided that, how the call ends today, and how it ends under STRICT. Writes
/// nothing.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Only calls of this client.
    #[arg(long, value_name = "NAMESPACE[/WORKLOAD]")]
    client: Option<Client>,
    /// Only calls to this host; the short forms of its name do as well.
    #[arg(long, value_name = "HOST[:PORT]")]
    host: Option<Called>,
    /// STRICT in these namespaces; without one, in all but the root namespace.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Vec<String>,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    from: From,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Who calls, as asked for.
#[derive(Clone, Debug)]
struct Client {
    namespace: String,
    workload: Option<String>,
}

/// What is called, as asked for.
#[derive(Clone, Debug)]
struct Called {
    host: String,
    port: Option<Port>,
}

pub(super) async fn run(args: Args) -> ExitCode {
    let (snapshot, is_broken) = match args.from.files() {
        Some(Ok(input)) => (input.snapshot(Timestamp::now()), !input.broken.is_empty()),
        Some(Err(code)) => return code,
        None => match live(&args.from).await {
            Ok(snapshot) => (snapshot, false),
            Err(code) => return code,
        },
    };
    let strict = match strict(&args.namespace, &snapshot) {
        Ok(strict) => strict,
        Err(problem) => return refuse(problem),
    };
    let check = TlsCheck::new(&snapshot, &strict);
    let mut rows = check
        .rows(
            |client| args.client.as_ref().is_none_or(|asked| asked.is(client)),
            |host, port| args.host.as_ref().is_none_or(|asked| asked.is(host, port)),
        )
        .peekable();
    let is_empty = rows.peek().is_none();
    let mut out = BufWriter::new(io::stdout().lock());
    let written = match args.output {
        Output::Json => json(rows, &mut out),
        Output::Table => people(rows, &mut out),
    };
    match written.and_then(|()| out.flush()) {
        Ok(()) if is_empty && (args.client.is_some() || args.host.is_some()) => {
            refuse("no call matches --client and --host".into())
        }
        Ok(()) if is_broken => ExitCode::from(exit::BAD_INPUT),
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read has had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => refuse(format!("standard output cannot be written: {error}")),
    }
}

fn refuse(problem: String) -> ExitCode {
    fail(exit::BAD_INPUT, &Error::Nothing(problem))
}

async fn live(from: &From) -> Result<Snapshot, ExitCode> {
    let objects = from.live(Config::default().stale_watch).await?;
    let now = Timestamp::now();
    Ok(objects.snapshot(now, Arc::new(not_asked(now))))
}

/// The namespaces that would become STRICT.
fn strict(asked: &[String], snapshot: &Snapshot) -> Result<BTreeSet<Namespace>, String> {
    let asked: BTreeSet<_> = asked.iter().map(Namespace::new).collect();
    if let Some(none) = asked.iter().find(|name| !snapshot.namespaces.contains_key(*name)) {
        return Err(format!("there is no namespace {none}"));
    }
    if !asked.is_empty() {
        return Ok(asked);
    }
    let is_root = |name: &&Namespace| match &snapshot.mesh {
        Reading::Known(mesh) => mesh.roots.contains(name),
        Reading::Unknown(_) => snapshot.policies.root() == *name,
    };
    Ok(snapshot.namespaces.keys().filter(|name| !is_root(name)).cloned().collect())
}

impl Client {
    fn is(&self, workload: &WorkloadRef) -> bool {
        self.namespace == workload.namespace.as_str()
            && self.workload.as_ref().is_none_or(|name| *name == workload.name)
    }
}

impl FromStr for Client {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, workload) = match text.split_once('/') {
            Some((namespace, workload)) => (namespace, Some(workload)),
            None => (text, None),
        };
        if namespace.is_empty()
            || workload.is_some_and(|name| name.is_empty() || name.contains('/'))
        {
            return Err("it is NAMESPACE or NAMESPACE/WORKLOAD".into());
        }
        Ok(Self { namespace: namespace.into(), workload: workload.map(Into::into) })
    }
}

impl Called {
    /// The name or a short form of it: the first of its labels.
    fn is(&self, host: &Host, port: Port) -> bool {
        let rest = host.as_str().strip_prefix(&self.host);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            && self.port.is_none_or(|asked| asked == port)
    }
}

impl FromStr for Called {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => {
                let port = port.parse().map_err(|_| format!("{port:?} is no port"))?;
                (host, Some(Port(port)))
            }
            None => (text, None),
        };
        if host.is_empty() {
            return Err("it is HOST or HOST:PORT".into());
        }
        Ok(Self { host: host.into(), port })
    }
}

fn people<'a>(rows: impl Iterator<Item = Row<'a>>, out: &mut impl Write) -> io::Result<()> {
    let mut lines =
        table(&["CLIENT", "HOST", "SENDS", "SERVER", "PODS", "MODE", "TODAY", "STRICT", "WHY"]);
    for row in rows {
        lines.add_row([
            row.client.to_string(),
            format!("{}:{}", row.host, row.service_port),
            row.sent.bytes.name().to_owned(),
            row.server.to_string(),
            row.pods.to_string(),
            row.server_mode().to_owned(),
            row.today.name().to_owned(),
            row.after_strict.name().to_owned(),
            row.why(),
        ]);
    }
    writeln!(out, "{lines}")
}

/// One row after the other, never all of them: a mesh has its clients times its hosts.
fn json<'a>(rows: impl Iterator<Item = Row<'a>>, out: &mut impl Write) -> io::Result<()> {
    let rows = Each(Cell::new(Some(rows.map(Shown::from))));
    serde_json::to_writer(&mut *out, &All { rows }).map_err(io::Error::from)?;
    writeln!(out)
}

#[derive(Serialize)]
struct All<T> {
    rows: T,
}

/// What is left of an iterator, as a list.
struct Each<I>(Cell<Option<I>>);

impl<I: Iterator<Item: Serialize>> Serialize for Each<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.take().into_iter().flatten())
    }
}

/// A row as programs read it; the names are a contract.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    client: Workload<'a>,
    host: &'a str,
    service_port: Port,
    target_port: Option<Port>,
    wire: &'static str,
    client_decided_by: String,
    server: Server<'a>,
    server_mode: &'static str,
    server_decided_by: String,
    today: &'static str,
    after_strict: &'static str,
    why: String,
}

#[derive(Serialize)]
struct Workload<'a> {
    namespace: &'a str,
    workload: &'a str,
}

#[derive(Serialize)]
struct Server<'a> {
    #[serde(flatten)]
    workload: Workload<'a>,
    meshed: bool,
    pods: usize,
}

impl<'a> std::convert::From<Row<'a>> for Shown<'a> {
    fn from(row: Row<'a>) -> Self {
        let workload =
            |of: &'a WorkloadRef| Workload { namespace: of.namespace.as_str(), workload: &of.name };
        Self {
            client: workload(row.client),
            host: row.host.as_str(),
            service_port: row.service_port,
            target_port: row.target_port,
            wire: row.sent.bytes.name(),
            client_decided_by: row.sent.by.to_string(),
            server: Server { workload: workload(row.server), meshed: row.meshed, pods: row.pods },
            server_mode: row.server_mode(),
            server_decided_by: row.server_decided_by(),
            today: row.today.name(),
            after_strict: row.after_strict.name(),
            why: row.why(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_asked_for_is_read_and_what_is_no_name_is_refused() {
        let web = WorkloadRef::new("front", "Deployment", "web");
        let is = |text: &str| text.parse::<Client>().unwrap().is(&web);
        assert!(is("front") && is("front/web"));
        assert!(!is("front/we") && !is("fron"));
        for wrong in ["", "/web", "front/", "front/web/x"] {
            assert!(wrong.parse::<Client>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_host_is_asked_for_by_its_name_or_the_first_labels_of_it() {
        let host = Host::new("reviews.shop.svc.cluster.local");
        let is = |text: &str| text.parse::<Called>().unwrap().is(&host, Port(9080));
        for right in ["reviews", "reviews.shop", "reviews.shop:9080", host.as_str()] {
            assert!(is(right), "{right}");
        }
        for other in ["review", "shop", "reviews.shop:80", "reviews.sho"] {
            assert!(!is(other), "{other}");
        }
        for wrong in ["", ":80", "reviews:", "reviews:http"] {
            assert!(wrong.parse::<Called>().is_err(), "{wrong}");
        }
    }
}
