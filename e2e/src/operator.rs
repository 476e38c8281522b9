//! The operator, as a process of the same kind as the control plane's.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::install::Start;
use crate::node::EXPOSITION_PORT;
use crate::process::{Process, Program};
use crate::{Cluster, Doing, Error, until};

/// Whom the audit log names: the ServiceAccount that the chart makes.
pub const OPERATOR_USER: &str = "system:serviceaccount:meshrollout-system:meshrollout";

/// How the operator is to run. The times are short, so that a test sees an end.
#[derive(Clone, Debug)]
pub struct OperatorOptions {
    /// Between evaluations.
    pub interval: Duration,
    /// The width of a window in which harm is counted.
    pub harm_window: Duration,
    /// Further lines of its configuration file.
    pub config: String,
    /// Whether the cluster's Prometheus is registered, as `main`. Without it a rollout can name no
    /// metrics source, and the operator asks the sidecars itself.
    pub prometheus: bool,
    /// Further lines of its metrics source, each indented by two.
    pub source: String,
    /// Whether the times of a rollout may be shorter than its minimums.
    pub allow_short_times: bool,
    /// The apiserver's address, when it is not to be reached directly: a [`crate::FaultProxy`]'s.
    pub apiserver: Option<String>,
}

impl Default for OperatorOptions {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            harm_window: Duration::from_secs(2),
            config: "drain: 1s\nproxyAcknowledgement: 1s\n".to_owned(),
            prometheus: true,
            source: String::new(),
            allow_short_times: true,
            apiserver: None,
        }
    }
}

/// A running operator; it goes when this value goes.
pub struct Operator {
    process: Process,
    admin: String,
    log: PathBuf,
}

impl Cluster {
    /// Starts an operator under the rights of [`Cluster::install`], with the cluster's Prometheus
    /// registered as `main`, behind the proxy that can be made to fail. Returns when it is ready.
    pub async fn operator(&self, options: &OperatorOptions) -> Result<Operator, Error> {
        let mut start = Start::usual()?.with("log-format", "text")?;
        start = start.with("log", "info,meshrollout=debug")?;
        let scrape = seconds(self.scrape_interval());
        start.config += &format!(
            "evaluationInterval: {}\nharmWindow: {}\nallowShortTimes: {}\n{}{}",
            seconds(options.interval),
            seconds(options.harm_window),
            options.allow_short_times,
            options.config,
            self.sidecars_config(),
        );
        if options.prometheus {
            start.config += &format!(
                "metricsSources:\n- name: main\n  url: {}\n  scrapeInterval: {scrape}\n  timeout: 5s\n{}",
                self.metrics_proxy().url(),
                options.source,
            );
        }
        self.start_operator(start, options.apiserver.as_deref()).await
    }

    /// Starts an operator as the Deployment says that helm has put there.
    pub async fn installed_operator(&self) -> Result<Operator, Error> {
        self.start_operator(Start::installed(self).await?, None).await
    }

    /// Only where its files and ports are is another matter here than in a pod.
    async fn start_operator(
        &self,
        start: Start,
        apiserver: Option<&str>,
    ) -> Result<Operator, Error> {
        let binary = meshrollout().await?;
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder().join(format!("operator-{number}"));
        std::fs::create_dir_all(&folder).doing("making the operator's folder")?;
        let file = folder.join("config.yaml");
        std::fs::write(&file, &start.config).doing("writing the operator's configuration")?;
        let port = self.free_port()?;
        let kubeconfig = match apiserver {
            Some(address) => unauthenticated(&folder, address)?,
            None => self.kubeconfig_for(OPERATOR_USER, None)?,
        };
        let start = start
            .with("config", &file.display().to_string())?
            .with("admin-address", &format!("127.0.0.1:{port}"))?;
        let process = Program::new("operator", binary, &folder)
            .args(start.args)
            .env("POD_NAME", format!("operator-{number}"))
            // As others inject it, for other programs: it must make itself felt nowhere.
            .env("OTEL_TRACES_SAMPLER", "always_off")
            .env("KUBECONFIG", kubeconfig.display().to_string())
            .start()?;
        let mut operator = Operator {
            process,
            admin: format!("http://127.0.0.1:{port}"),
            log: folder.join("operator.log"),
        };
        operator.ready().await?;
        Ok(operator)
    }

    /// Lines of an operator's configuration: how it scrapes real sidecars, and this istiod.
    pub fn sidecars_config(&self) -> String {
        format!(
            "sidecars: {{scrapeInterval: {}, port: {EXPOSITION_PORT}, controlPlanePort: {}}}\n",
            seconds(self.scrape_interval()),
            self.istiod().monitoring_port(),
        )
    }

    /// Runs the command line as `admin`.
    pub async fn meshrollout(&self, args: &[&str]) -> Result<Output, Error> {
        self.command(&meshrollout().await?, args).await
    }

    /// Runs the command line on files, where there is no cluster.
    pub async fn meshrollout_on_files(args: &[&str]) -> Result<Output, Error> {
        let program = meshrollout().await?;
        let running = || format!("running {} {}", program.display(), args.join(" "));
        tokio::process::Command::new(&program).args(args).output().await.doing(running())
    }

    /// Runs the command line as this user, whom `admin` impersonates.
    pub async fn meshrollout_as(&self, user: &str, args: &[&str]) -> Result<Output, Error> {
        let reading = || format!("reading {}", self.kubeconfig().display());
        let text = std::fs::read(self.kubeconfig()).doing(reading())?;
        let mut config: Value = serde_json::from_slice(&text).doing(reading())?;
        config["users"][0]["user"]["as"] = json!(user);
        let path = self.folder().join(format!("{user}.kubeconfig"));
        let writing = format!("writing {}", path.display());
        std::fs::write(&path, config.to_string()).doing(writing)?;
        self.command_by(&path, &meshrollout().await?, args).await
    }
}

/// At least one, as the operator's configuration has it.
pub(crate) fn seconds(length: Duration) -> String {
    format!("{}s", length.as_secs().max(1))
}

impl Operator {
    async fn ready(&mut self) -> Result<(), Error> {
        let limit = Duration::from_secs(30);
        let address = format!("{}/readyz", self.admin);
        until("the operator to be ready", limit, async || {
            if let Err(error) = self.process.check() {
                return Ok(Err(error));
            }
            get(&address).await.map(|_| Ok(()))
        })
        .await?
    }

    /// Where its metrics are scraped, as host and port.
    pub fn scraped_at(&self) -> &str {
        self.admin.trim_start_matches("http://")
    }

    /// A page of its admin address, such as `/metrics`.
    pub async fn page(&self, path: &str) -> Result<String, Error> {
        get(&format!("{}{path}", self.admin)).await.map_err(Error::new)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Where it logs to.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// Its process id.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Resident memory now, in KiB.
    pub fn memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// How often it has evaluated a rollout.
    pub async fn evaluations(&self, rollout: &str) -> Result<u64, Error> {
        let page = self.page("/metrics").await?;
        let series = format!("meshrollout_evaluations_total{{rollout=\"{rollout}\"}} ");
        let count = page.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok());
        Ok(count.unwrap_or(0))
    }

    /// Waits until it has evaluated a rollout this many times more: what it did not do by then,
    /// it does not do.
    pub async fn evaluated(&self, rollout: &str, times: u64, limit: Duration) -> Result<(), Error> {
        let before = self.evaluations(rollout).await?;
        until(&format!("{times} more evaluations of {rollout}"), limit, async || {
            let now = self.evaluations(rollout).await.map_err(|error| error.to_string())?;
            if now >= before + times { Ok(()) } else { Err(format!("{} more", now - before)) }
        })
        .await
    }

    /// Asks it to end, as a kubelet does, and waits until it has.
    pub async fn stop(mut self) -> Result<(), Error> {
        let id = self.process.id().to_string();
        let asked = tokio::process::Command::new("kill").args(["-TERM", &id]).status().await;
        asked.doing("asking the operator to end")?;
        until("the operator to end", Duration::from_secs(15), async || {
            if self.process.check().is_err() { Ok(()) } else { Err("it runs".to_owned()) }
        })
        .await
    }

    /// Fails with the end of its log when it has ended.
    pub fn check(&mut self) -> Result<(), Error> {
        self.process.check()
    }
}

/// For a server that knows whom it stands for.
fn unauthenticated(folder: &Path, server: &str) -> Result<PathBuf, Error> {
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "e2e", "cluster": {"server": server}}],
        "users": [{"name": "e2e", "user": {}}],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "e2e"}}],
        "current-context": "e2e",
    });
    let file = folder.join("kubeconfig");
    std::fs::write(&file, config.to_string()).doing("writing the operator's kubeconfig")?;
    Ok(file)
}

async fn get(address: &str) -> Result<String, String> {
    let uri: http::Uri = address.parse().map_err(|error| format!("{error}"))?;
    let server = format!("http://{}", uri.authority().map_or("", |at| at.as_str()));
    let mut config = kube::Config::new(server.parse().map_err(|error| format!("{error}"))?);
    config.default_retry = false;
    // Else every question would load the system's certificates, a third of all that tests compute.
    config.root_cert = Some(vec![]);
    let client = kube::Client::try_from(config).map_err(|error| error.to_string())?;
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let request =
        http::Request::get(path).body(kube::client::Body::empty()).map_err(|e| e.to_string())?;
    let answer = client.send(request).await.map_err(|error| error.to_string())?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    if status.is_success() { Ok(text) } else { Err(format!("{status}: {text}")) }
}

/// The binary under test: `MESHROLLOUT`, or built from the sources as they are now, in the profile
/// of this test.
async fn meshrollout() -> Result<PathBuf, Error> {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    BUILT
        .get_or_try_init(async || {
            if let Some(given) = std::env::var_os("MESHROLLOUT") {
                return Ok(PathBuf::from(given));
            }
            let me = std::env::current_exe().doing("finding the test's own folder")?;
            // …/target/PROFILE/deps/TEST, or …/target/PROFILE/meshrollout-e2e
            let folder = me.parent().unwrap_or(Path::new("."));
            let folder =
                if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
            let (release, is_test) = (folder.ends_with("release"), me.parent() != Some(folder));
            let mut build = tokio::process::Command::new(
                std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
            );
            // A test finds it built with the features of all tests, and need not build it twice.
            let args: &[_] = match is_test {
                true => &["test", "--no-run", "--workspace", "--test=tidy"],
                false => &["build", "--package=meshrollout", "--bin=meshrollout"],
            };
            build
                .args(args)
                .arg("--quiet")
                .args(release.then_some("--release"))
                .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
            if let Some(target) = folder.parent() {
                build.arg("--target-dir").arg(target);
            }
            // What cargo tells a test of its own package: build scripts that look at it, as ring's
            // does, would run again, and half of the tree with them, here and in the next test.
            for (name, _) in std::env::vars_os() {
                let told = name.to_string_lossy();
                if told.starts_with("CARGO_PKG_") || told.starts_with("CARGO_MANIFEST_") {
                    build.env_remove(&name);
                }
            }
            let output = build.output().await.doing("building meshrollout")?;
            match output.status.success() {
                true => Ok(folder.join("meshrollout")),
                false => Err(Error::new(format!(
                    "building meshrollout failed:\n{}",
                    String::from_utf8_lossy(&output.stderr)
                ))),
            }
        })
        .await
        .cloned()
}
