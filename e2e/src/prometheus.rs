use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::pki::text;
use crate::process::{Process, Program};
use crate::tools::Tools;
use crate::{Doing, Error, http_probe, istio_metrics, until};

const CONFIG: &str = "prometheus.json";

/// The running Prometheus.
pub struct Prometheus {
    program: Program,
    folder: PathBuf,
    port: u16,
    process: Mutex<Option<Process>>,
}

impl Prometheus {
    pub(crate) fn launch(
        tools: &Tools,
        folder: &Path,
        port: u16,
        scrape_interval: Duration,
        targets: &Targets<'_>,
    ) -> Result<Self, Error> {
        let config = folder.join(CONFIG);
        std::fs::write(&config, targets.config(scrape_interval)).doing("writing its config")?;
        let program = Program::new("prometheus", tools.program("prometheus"), folder).args([
            format!("--config.file={}", text(&config)),
            format!("--storage.tsdb.path={}", text(&folder.join("tsdb"))),
            format!("--web.listen-address=127.0.0.1:{port}"),
            "--log.level=warn".to_owned(),
        ]);
        let process = Mutex::new(Some(program.start()?));
        Ok(Self { program, folder: folder.to_owned(), port, process })
    }

    /// Its address, without a fault proxy in between.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Scrapes this address too, and evaluates these rules once a second.
    pub async fn watch(&self, address: &str, rules: &str) -> Result<(), Error> {
        let config = self.folder.join(CONFIG);
        let reading = || format!("changing {}", config.display());
        let old = std::fs::read(&config).doing(reading())?;
        let mut new: Value = serde_json::from_slice(&old).doing(reading())?;
        let job = json!({"job_name": "operator", "static_configs": [{"targets": [address]}]});
        if let Some(jobs) = new["scrape_configs"].as_array_mut() {
            jobs.retain(|one| one["job_name"] != job["job_name"]);
            jobs.push(job);
        }
        std::fs::write(self.folder.join("rules.yaml"), rules).doing("writing the rules")?;
        new["rule_files"] = json!(["rules.yaml"]);
        new["global"]["evaluation_interval"] = json!("1s");
        std::fs::write(&config, new.to_string()).doing(reading())?;
        self.stop().await;
        self.start().await
    }

    /// Kills it; what it had scraped stays on disk.
    pub async fn stop(&self) {
        drop(self.process.lock().await.take());
    }

    /// Starts it again on the same data and waits until it answers.
    pub async fn start(&self) -> Result<(), Error> {
        {
            let mut process = self.process.lock().await;
            if process.is_none() {
                *process = Some(self.program.start()?);
            }
        }
        self.ready().await
    }

    pub(crate) async fn ready(&self) -> Result<(), Error> {
        let ready = until("Prometheus to be ready", Duration::from_secs(30), async || {
            http_probe::ready(self.port, "/-/ready").await
        });
        let Err(error) = ready.await else { return Ok(()) };
        Err(match self.process.lock().await.as_ref() {
            Some(process) => process.blame(&error.to_string()),
            None => error,
        })
    }

    pub(crate) async fn process_id(&self) -> Option<u32> {
        self.process.lock().await.as_ref().map(Process::id)
    }

    /// The samples of an instant query, each with its `metric` and `value`.
    pub async fn query(&self, promql: &str) -> Result<Vec<Value>, Error> {
        let asking = || format!("asking Prometheus for {promql}");
        let path = format!("/api/v1/query?query={}", percent_encoded(promql));
        let (status, body) = http_probe::get(self.port, &path).await.doing(asking())?;
        let mut answer: Value = serde_json::from_str(&body).doing(asking())?;
        match answer["data"]["result"].take() {
            Value::Array(samples) if status == 200 => Ok(samples),
            _ => Err(Error::new(format!("{}: {status} {body}", asking()))),
        }
    }
}

/// What Prometheus scrapes.
pub(crate) struct Targets<'a> {
    pub(crate) istiod: SocketAddr,
    pub(crate) exporter: u16,
    /// The file that names the real sidecars, if there are to be any.
    pub(crate) sidecars: Option<&'a Path>,
}

impl Targets<'_> {
    /// One target stands for all sidecars of kwok's pods and names namespace and pod itself.
    ///
    /// A target per pod by service discovery would be truer to life, but Prometheus takes up
    /// discovered changes every 5 s only (`discovery.Manager`), five scrapes late. A series that
    /// a scrape lacks goes stale at once either way.
    fn config(&self, scrape_interval: Duration) -> String {
        let interval = format!("{}ms", scrape_interval.as_millis());
        let mut jobs = vec![
            json!({"job_name": "istiod", "static_configs": [{
                "targets": [self.istiod.to_string()],
                "labels": {"namespace": "istio-system", "app": "istiod", "pod": "istiod"},
            }]}),
            json!({"job_name": "kubernetes-pods", "honor_labels": true, "static_configs": [{
                "targets": [format!("127.0.0.1:{}", self.exporter)],
            }]}),
        ];
        if let Some(file) = self.sidecars {
            jobs.push(json!({
                "job_name": "sidecars", "metrics_path": "/stats/prometheus",
                "file_sd_configs": [{"files": [text(file)]}],
                "metric_relabel_configs": istio_metrics::relabelling(),
            }));
        }
        let global = json!({"scrape_interval": interval, "scrape_timeout": interval});
        json!({"global": global, "scrape_configs": jobs}).to_string()
    }
}

fn percent_encoded(text: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
