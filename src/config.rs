//! The operator's configuration file, parsed once.
//!
//! The administrator writes it; a rollout can only name a source that stands here, so nobody who
//! may write a rollout can make the operator call an address of their choosing.

mod source;

pub use source::{BasicAuth, Header, MetricsSource, Sidecars, Traces};

use crate::api::Duration;
use jiff::SignedDuration;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The operator's configuration. Every time has a default and is longer than nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where the operator runs; nothing is ever written to policies there.
    pub operator_namespace: String,
    /// Several replicas, one of which acts. Default true.
    pub leader_elect: bool,
    /// The admission policy `meshrollout-fence` is installed: no step forward unless the apiserver
    /// was just seen to refuse the stamp of another reign. Default true.
    pub fence: bool,
    /// Lifts the minimum times of a rollout: for tests and the demo. Default false.
    pub allow_short_times: bool,
    /// Between evaluations. Default 30s, at least 1s.
    pub evaluation_interval: SignedDuration,
    /// A policy write is accepted within this time or not at all. Default 4s.
    pub write_deadline: SignedDuration,
    /// A watch silent for longer is stale. Default 90s.
    pub stale_watch: SignedDuration,
    /// How long old connections live on after a listener change. Default 45s, as in Istio.
    pub drain: SignedDuration,
    /// How long the control plane gets to bring a change to the proxies. Default 60s.
    pub proxy_acknowledgement: SignedDuration,
    /// The width of one window in which harm is counted. Default 60s; at least three scrapes make
    /// it mean something.
    pub harm_window: SignedDuration,
    /// The furthest our clock and a metrics source's may differ. Default 5s.
    pub max_clock_skew: SignedDuration,
    /// A Lease not renewed for this long is free. Default 15s.
    pub lease_duration: SignedDuration,
    /// A leader that could not renew for this long stops acting. Default 10s.
    pub renew_deadline: SignedDuration,
    /// Between attempts to get or renew the Lease. Default 2s.
    pub retry_period: SignedDuration,
    /// The metrics sources a rollout may name.
    pub metrics_sources: Vec<MetricsSource>,
    /// The source of a rollout that names none: the sidecars themselves.
    pub sidecars: Sidecars,
    /// How the control planes are asked whether the proxies have taken a write.
    pub proxy_state: ProxyState,
    /// Who is told, as OpenTelemetry's traces, what each evaluation did. Default nobody.
    pub traces: Option<Traces>,
}

/// How the control planes are asked whether the proxies have taken a write, on the port of their
/// metrics.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProxyState {
    /// The file of a token of audience `istio-ca`, as a projected volume has it. Without, they are
    /// not asked: namespaces go one at a time, and each bake begins `proxyAcknowledgement` later.
    pub token_file: Option<PathBuf>,
    /// Where the control planes run: the token is shown to pods of istiod there and to nobody else.
    /// Default `istio-system`.
    pub namespaces: Vec<String>,
}

impl Default for ProxyState {
    fn default() -> Self {
        Self { token_file: None, namespaces: vec!["istio-system".into()] }
    }
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read the configuration {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// It is not YAML, or has a field of the wrong type or one that does not exist.
    #[error("the configuration does not parse: {0}")]
    Syntax(String),
    /// A field has a value that cannot be used.
    #[error("{field}: {problem}")]
    Field {
        /// The field's path.
        field: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    operator_namespace: Option<String>,
    leader_elect: Option<bool>,
    fence: Option<bool>,
    allow_short_times: Option<bool>,
    evaluation_interval: Option<Duration>,
    write_deadline: Option<Duration>,
    stale_watch: Option<Duration>,
    drain: Option<Duration>,
    proxy_acknowledgement: Option<Duration>,
    harm_window: Option<Duration>,
    max_clock_skew: Option<Duration>,
    lease_duration: Option<Duration>,
    renew_deadline: Option<Duration>,
    retry_period: Option<Duration>,
    #[serde(default)]
    metrics_sources: Vec<source::File>,
    #[serde(default)]
    sidecars: source::SidecarsFile,
    #[serde(default)]
    proxy_state: ProxyState,
    traces: Option<source::TracesFile>,
}

impl Config {
    /// The configuration in the file at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Read(path.to_owned(), error))?;
        Self::parse(&text)
    }

    /// The configuration in `yaml`.
    pub fn parse(yaml: &str) -> Result<Self, ConfigError> {
        // Nothing but comments is an empty configuration, not a null.
        let yaml = if blank(yaml) { "{}" } else { yaml };
        let file: File =
            serde_saphyr::from_str(yaml).map_err(|e| ConfigError::Syntax(e.to_string()))?;
        let config = Self {
            operator_namespace: file
                .operator_namespace
                .unwrap_or_else(|| "meshrollout-system".into()),
            leader_elect: file.leader_elect.unwrap_or(true),
            fence: file.fence.unwrap_or(true),
            allow_short_times: file.allow_short_times.unwrap_or(false),
            evaluation_interval: length("evaluationInterval", file.evaluation_interval, 30)?,
            write_deadline: length("writeDeadline", file.write_deadline, 4)?,
            stale_watch: length("staleWatch", file.stale_watch, 90)?,
            drain: length("drain", file.drain, 45)?,
            proxy_acknowledgement: length("proxyAcknowledgement", file.proxy_acknowledgement, 60)?,
            harm_window: length("harmWindow", file.harm_window, 60)?,
            max_clock_skew: length("maxClockSkew", file.max_clock_skew, 5)?,
            lease_duration: length("leaseDuration", file.lease_duration, 15)?,
            renew_deadline: length("renewDeadline", file.renew_deadline, 10)?,
            retry_period: length("retryPeriod", file.retry_period, 2)?,
            metrics_sources: source::parse(file.metrics_sources)?,
            sidecars: file.sidecars.parse()?,
            proxy_state: file.proxy_state,
            traces: file.traces.map(source::TracesFile::parse).transpose()?,
        };
        config.check()?;
        Ok(config)
    }

    /// The registered source of this name.
    pub fn metrics_source(&self, name: &str) -> Option<&MetricsSource> {
        self.metrics_sources.iter().find(|source| source.name == name)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if !is_dns_label(&self.operator_namespace) {
            return Err(refuse("operatorNamespace", "must be the name of a namespace"));
        }
        for (index, namespace) in self.proxy_state.namespaces.iter().enumerate() {
            if !is_dns_label(namespace) {
                let field = format!("proxyState.namespaces[{index}]");
                return Err(refuse(field, "must be the name of a namespace"));
            }
        }
        if self.retry_period >= self.renew_deadline {
            return Err(refuse("retryPeriod", "must be shorter than renewDeadline"));
        }
        if self.renew_deadline >= self.lease_duration {
            return Err(refuse("renewDeadline", "must be shorter than leaseDuration"));
        }
        // A leader that stops acting at the renew deadline may have a write under way: it must have
        // ended before another can lead.
        if self.write_deadline >= self.lease_duration - self.renew_deadline {
            let problem = "must be shorter than leaseDuration minus renewDeadline";
            return Err(refuse("writeDeadline", problem));
        }
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        // The defaults satisfy their own rules: `the_defaults_are_documented` holds them to it.
        Self::parse("{}").expect("the empty configuration is valid")
    }
}

fn blank(yaml: &str) -> bool {
    yaml.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#'))
}

fn length(
    field: &str,
    given: Option<Duration>,
    default_seconds: i64,
) -> Result<SignedDuration, ConfigError> {
    let Some(given) = given else { return Ok(SignedDuration::from_secs(default_seconds)) };
    let length = given.parse().map_err(|error| refuse(field, error.to_string()))?;
    if length.is_zero() {
        return Err(refuse(field, "must be more than 0s"));
    }
    Ok(length)
}

fn refuse(field: impl Into<String>, problem: impl Into<String>) -> ConfigError {
    ConfigError::Field { field: field.into(), problem: problem.into() }
}

fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(yaml: &str) -> String {
        Config::parse(yaml).unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_documented() {
        let seconds = SignedDuration::from_secs;
        assert_eq!(
            Config::default(),
            Config {
                operator_namespace: "meshrollout-system".into(),
                leader_elect: true,
                fence: true,
                allow_short_times: false,
                evaluation_interval: seconds(30),
                write_deadline: seconds(4),
                stale_watch: seconds(90),
                drain: seconds(45),
                proxy_acknowledgement: seconds(60),
                harm_window: seconds(60),
                max_clock_skew: seconds(5),
                lease_duration: seconds(15),
                renew_deadline: seconds(10),
                retry_period: seconds(2),
                metrics_sources: vec![],
                proxy_state: ProxyState::default(),
                traces: None,
                sidecars: Sidecars {
                    port: 15020,
                    control_plane_port: 15014,
                    scrape_interval: seconds(15),
                    workload_cert_lifetime: seconds(24 * 3600),
                },
            }
        );
    }

    #[test]
    fn comments_alone_are_the_defaults() {
        assert_eq!(Config::parse("# nothing yet\n\n").unwrap(), Config::default());
    }

    #[test]
    fn the_token_for_the_proxies_state_is_a_file() {
        let config = Config::parse("proxyState: {tokenFile: /var/run/istiod/token}").unwrap();
        assert_eq!(config.proxy_state.token_file, Some("/var/run/istiod/token".into()));
        assert_eq!(config.proxy_state.namespaces, ["istio-system"]);
        assert!(error("proxyState: {token: abc}").contains("token"));
    }

    #[test]
    fn an_error_names_its_field() {
        for (yaml, field) in [
            ("evaluationInterval: 1d", "evaluationInterval: \"1d\" is not a duration"),
            ("staleWatch: 0s", "staleWatch: must be more than 0s"),
            ("operatorNamespace: Not/One", "operatorNamespace: "),
            ("proxyState: {namespaces: [istio-system, '']}", "proxyState.namespaces[1]: "),
            ("retryPeriod: 10s", "retryPeriod: "),
            ("renewDeadline: 15s", "renewDeadline: "),
            ("writeDeadline: 5s", "writeDeadline: "),
        ] {
            assert!(error(yaml).starts_with(field), "{yaml}: {}", error(yaml));
        }
    }

    #[test]
    fn a_key_nobody_knows_is_refused_by_name_and_line() {
        let error = error("drain: 45s\nevaluationintervall: 10s\n");
        assert!(error.contains("evaluationintervall") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused() {
        assert!(
            error("leaderElect: sometimes").contains("line 1"),
            "{}",
            error("leaderElect: sometimes")
        );
    }
}
