//! A registered metrics source.

use super::{ConfigError, is_dns_label, length, refuse};
use crate::api::Duration;
use http::{HeaderName, Uri};
use jiff::SignedDuration;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Where metrics are asked for, and how they are labelled there. Credentials are files, read again
/// for each request, so that a rotated one is used at once.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsSource {
    /// What a rollout calls it.
    pub name: String,
    /// The address of the HTTP API, without `/api/v1`.
    pub url: Uri,
    /// The label that holds a pod's name. Default `pod`.
    pub pod_label: String,
    /// The label that holds a pod's namespace. Default `namespace`.
    pub namespace_label: String,
    /// How often sidecars are scraped. Default 15s.
    pub scrape_interval: SignedDuration,
    /// Whether the agent's metrics (port 15020) are scraped; without them the certificate gate has
    /// no evidence. Default true, since Istio merges them by default.
    pub agent_metrics: bool,
    /// How long a workload certificate lives. Default 24h, as in Istio.
    pub workload_cert_lifetime: SignedDuration,
    /// The file of a bearer token.
    pub bearer_token_file: Option<PathBuf>,
    /// A user and the file of a password.
    pub basic_auth: Option<BasicAuth>,
    /// The file of the certificates that are trusted. Default: the system's.
    pub ca_file: Option<PathBuf>,
    /// More headers, each from a file; tenants, for example.
    pub headers: Vec<Header>,
    /// How long an answer may take, body included. Default 10s.
    pub timeout: SignedDuration,
}

/// A user and the file of a password.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BasicAuth {
    /// The user's name.
    pub username: String,
    /// The file that holds the password.
    pub password_file: PathBuf,
}

/// A header whose value stands in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// The header's name.
    pub name: HeaderName,
    /// The file that holds the value.
    pub value_file: PathBuf,
}

/// How the operator scrapes the sidecars and the control plane by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Sidecars {
    /// Where a sidecar's agent serves its own metrics and its proxy's. Default 15020.
    pub port: u16,
    /// Where a control plane serves its metrics. Default 15014.
    pub control_plane_port: u16,
    /// How often each is scraped. Default 15s.
    pub scrape_interval: SignedDuration,
    /// How long a workload certificate lives. Default 24h, as in Istio.
    pub workload_cert_lifetime: SignedDuration,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct SidecarsFile {
    port: Option<u16>,
    control_plane_port: Option<u16>,
    scrape_interval: Option<Duration>,
    workload_cert_lifetime: Option<Duration>,
}

impl SidecarsFile {
    pub(super) fn parse(self) -> Result<Sidecars, ConfigError> {
        let at = |field: &str| format!("sidecars.{field}");
        let port = |field: &str, given: Option<u16>, default| match given.unwrap_or(default) {
            0 => Err(refuse(at(field), "must be 1 to 65535")),
            port => Ok(port),
        };
        Ok(Sidecars {
            port: port("port", self.port, 15020)?,
            control_plane_port: port("controlPlanePort", self.control_plane_port, 15014)?,
            scrape_interval: length(&at("scrapeInterval"), self.scrape_interval, 15)?,
            workload_cert_lifetime: length(
                &at("workloadCertLifetime"),
                self.workload_cert_lifetime,
                24 * 3600,
            )?,
        })
    }
}

/// Who collects the operator's traces.
#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    /// The base address that takes OTLP over HTTP; `/v1/traces` is added.
    pub url: Uri,
    /// The file of the certificates that are trusted. Default: the system's.
    pub ca_file: Option<PathBuf>,
    /// More headers, each from a file; a token, for example.
    pub headers: Vec<Header>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TracesFile {
    url: String,
    ca_file: Option<PathBuf>,
    #[serde(default)]
    headers: Vec<HeaderFile>,
}

impl TracesFile {
    pub(super) fn parse(self) -> Result<Traces, ConfigError> {
        let url = address("traces.url", &self.url)?;
        if url.path().trim_end_matches('/').ends_with("/v1/traces") {
            return Err(refuse("traces.url", "leave out /v1/traces: it is added"));
        }
        let headers = headers("traces", self.headers, false)?;
        Ok(Traces { url, ca_file: self.ca_file, headers })
    }
}

/// A source as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    name: String,
    url: String,
    pod_label: Option<String>,
    namespace_label: Option<String>,
    scrape_interval: Option<Duration>,
    agent_metrics: Option<bool>,
    workload_cert_lifetime: Option<Duration>,
    bearer_token_file: Option<PathBuf>,
    basic_auth: Option<BasicAuth>,
    ca_file: Option<PathBuf>,
    #[serde(default)]
    headers: Vec<HeaderFile>,
    timeout: Option<Duration>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HeaderFile {
    name: String,
    value_file: PathBuf,
}

pub(super) fn parse(files: Vec<File>) -> Result<Vec<MetricsSource>, ConfigError> {
    let mut names = BTreeSet::new();
    let mut sources = Vec::new();
    for (index, file) in files.into_iter().enumerate() {
        let path = format!("metricsSources[{index}]");
        if !names.insert(file.name.clone()) {
            return Err(refuse(format!("{path}.name"), format!("\"{}\" is taken", file.name)));
        }
        sources.push(file.parse(&path)?);
    }
    Ok(sources)
}

impl File {
    fn parse(self, path: &str) -> Result<MetricsSource, ConfigError> {
        let at = |field: &str| format!("{path}.{field}");
        if !is_dns_label(&self.name) {
            let problem = "must be lower-case letters, digits and dashes, at most 63";
            return Err(refuse(at("name"), problem));
        }
        if self.bearer_token_file.is_some() && self.basic_auth.is_some() {
            let problem =
                "a request has one way to prove who sends it: remove bearerTokenFile or this";
            return Err(refuse(at("basicAuth"), problem));
        }
        if self.basic_auth.as_ref().is_some_and(|auth| auth.username.contains(':')) {
            return Err(refuse(at("basicAuth.username"), "a user's name cannot contain a colon"));
        }
        let proves = self.bearer_token_file.is_some() || self.basic_auth.is_some();
        let headers = headers(path, self.headers, proves)?;
        let url = address(&at("url"), &self.url)?;
        if url.path().trim_end_matches('/').ends_with("/api/v1") {
            return Err(refuse(at("url"), "leave out /api/v1: it is added"));
        }
        Ok(MetricsSource {
            url,
            pod_label: label(&at("podLabel"), self.pod_label, "pod")?,
            namespace_label: label(&at("namespaceLabel"), self.namespace_label, "namespace")?,
            scrape_interval: length(&at("scrapeInterval"), self.scrape_interval, 15)?,
            agent_metrics: self.agent_metrics.unwrap_or(true),
            workload_cert_lifetime: length(
                &at("workloadCertLifetime"),
                self.workload_cert_lifetime,
                24 * 3600,
            )?,
            bearer_token_file: self.bearer_token_file,
            basic_auth: self.basic_auth,
            ca_file: self.ca_file,
            headers,
            timeout: length(&at("timeout"), self.timeout, 10)?,
            name: self.name,
        })
    }
}

fn address(field: &str, text: &str) -> Result<Uri, ConfigError> {
    let problem = "must be an address such as http://name.namespace:9090";
    let url: Uri = text.parse().map_err(|_| refuse(field, problem))?;
    let Some(authority) = url.authority() else { return Err(refuse(field, problem)) };
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err(refuse(field, problem));
    }
    if authority.as_str().contains('@') {
        return Err(refuse(field, "credentials go into files"));
    }
    let host = url.host().unwrap_or_default();
    if host.is_empty() || (authority.port_u16().is_none() && authority.as_str() != host) {
        return Err(refuse(field, problem));
    }
    if url.query().is_some() || text.contains('#') {
        return Err(refuse(field, "must have neither a query nor a fragment"));
    }
    Ok(url)
}

/// The headers as they are written in `path`; `proves` where one of them says already who asks.
fn headers(path: &str, files: Vec<HeaderFile>, proves: bool) -> Result<Vec<Header>, ConfigError> {
    let mut headers = Vec::new();
    for (index, header) in files.into_iter().enumerate() {
        let field = format!("{path}.headers[{index}].name");
        let Ok(name) = header.name.parse::<HeaderName>() else {
            return Err(refuse(field, format!("\"{}\" is no header", header.name)));
        };
        let ours = [http::header::HOST, http::header::CONTENT_TYPE, http::header::CONTENT_LENGTH];
        if ours.contains(&name) || (proves && name == http::header::AUTHORIZATION) {
            return Err(refuse(field, format!("{name} is set already")));
        }
        if headers.iter().any(|one: &Header| one.name == name) {
            return Err(refuse(field, format!("{name} is there twice")));
        }
        headers.push(Header { name, value_file: header.value_file });
    }
    Ok(headers)
}

fn label(field: &str, given: Option<String>, default: &str) -> Result<String, ConfigError> {
    let label = given.unwrap_or_else(|| default.into());
    let valid = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !label.is_empty()
        && !label.starts_with(|c: char| c.is_ascii_digit());
    if valid { Ok(label) } else { Err(refuse(field, format!("\"{label}\" is no label's name"))) }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    fn error(source: &str) -> String {
        let yaml = format!("metricsSources: [{{name: main, {source}}}]");
        Config::parse(&yaml).unwrap_err().to_string()
    }

    #[test]
    fn a_source_has_the_defaults_of_a_plain_prometheus() {
        let config =
            Config::parse("metricsSources: [{name: main, url: 'http://prometheus:9090'}]").unwrap();
        let source = config.metrics_source("main").unwrap();
        assert_eq!(
            (&*source.pod_label, &*source.namespace_label, source.agent_metrics),
            ("pod", "namespace", true)
        );
        assert_eq!(source.scrape_interval.as_secs(), 15);
        assert_eq!(source.workload_cert_lifetime.as_hours(), 24);
        assert_eq!(source.timeout.as_secs(), 10);
    }

    #[test]
    fn an_error_names_its_field() {
        for (source, field) in [
            ("url: ''", "metricsSources[0].url: "),
            ("url: 'prometheus:9090'", "metricsSources[0].url: "),
            ("url: 'file:///etc/passwd'", "metricsSources[0].url: "),
            ("url: 'http://user:secret@prometheus'", "metricsSources[0].url: credentials"),
            ("url: 'http://prometheus/?tenant=1'", "metricsSources[0].url: must have neither"),
            ("url: 'http://prometheus/api/v1/'", "metricsSources[0].url: leave out"),
            ("url: 'http://p', podLabel: kubernetes-pod", "metricsSources[0].podLabel: "),
            ("url: 'http://p', namespaceLabel: ''", "metricsSources[0].namespaceLabel: "),
            ("url: 'http://p', scrapeInterval: 15", "metricsSources[0].scrapeInterval: "),
            ("url: 'http://p', timeout: 0s", "metricsSources[0].timeout: "),
            (
                "url: 'http://p', bearerTokenFile: t, basicAuth: {username: u, passwordFile: p}",
                "metricsSources[0].basicAuth: ",
            ),
            (
                "url: 'http://p', basicAuth: {username: 'a:b', passwordFile: p}",
                "metricsSources[0].basicAuth.username: ",
            ),
            (
                "url: 'http://p', headers: [{name: 'not one', valueFile: f}]",
                "metricsSources[0].headers[0].name: ",
            ),
            (
                "url: 'http://p', bearerTokenFile: t, headers: [{name: Authorization, valueFile: f}]",
                "metricsSources[0].headers[0].name: authorization is set already",
            ),
        ] {
            assert!(error(source).starts_with(field), "{source}: {}", error(source));
        }
    }

    #[test]
    fn the_sidecars_are_scraped_as_told() {
        let error = |yaml: &str| Config::parse(yaml).unwrap_err().to_string();
        let sidecars = Config::parse("sidecars: {port: 15090}").unwrap().sidecars;
        assert_eq!((sidecars.port, sidecars.control_plane_port), (15090, 15014));
        for (fields, field) in [
            ("port: 0", "sidecars.port: must be"),
            ("controlPlanePort: 0", "sidecars.controlPlanePort: must be"),
            ("scrapeInterval: 0s", "sidecars.scrapeInterval: must be"),
        ] {
            let error = error(&format!("sidecars: {{{fields}}}"));
            assert!(error.starts_with(field), "{error}");
        }
        assert!(error("sidecars: {interval: 15s}").contains("interval"));
    }

    #[test]
    fn traces_go_where_they_are_told_to() {
        assert_eq!(Config::default().traces, None);
        let config = Config::parse("traces: {url: 'http://collector.tracing:4318'}").unwrap();
        assert_eq!(config.traces.unwrap().url, "http://collector.tracing:4318/");
        for (fields, field) in [
            ("url: 'collector:4317'", "traces.url: must be an address"),
            ("url: 'http://c:4318/v1/traces'", "traces.url: leave out /v1/traces"),
            ("url: 'http://user:secret@c:4318'", "traces.url: credentials go into files"),
            ("url: 'http://c:99999'", "traces.url: must be an address"),
            ("url: 'http://:4318'", "traces.url: must be an address"),
            (
                "url: 'http://c', headers: [{name: a, valueFile: f}, {name: A, valueFile: g}]",
                "traces.headers[1].name: a is there twice",
            ),
            (
                "url: 'http://c', headers: [{name: Content-Type, valueFile: f}]",
                "traces.headers[0].name: content-type is set already",
            ),
        ] {
            let error = Config::parse(&format!("traces: {{{fields}}}")).unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }

    #[test]
    fn a_name_is_registered_once() {
        let yaml = "metricsSources: [{name: a, url: 'http://p'}, {name: a, url: 'http://q'}]";
        let error = Config::parse(yaml).unwrap_err().to_string();
        assert_eq!(error, "metricsSources[1].name: \"a\" is taken");
    }

    #[test]
    fn a_key_nobody_knows_is_refused() {
        assert!(error("url: 'http://p', bearerToken: secret").contains("bearerToken"));
    }
}
