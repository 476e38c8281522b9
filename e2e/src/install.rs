//! What the chart puts into a cluster, and how its Deployment says the operator is to be started.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::apply::documents;
use crate::operator::seconds;
use crate::tools::Tools;
use crate::{Cluster, Doing, Error, OperatorOptions, until};

const CRDS: [&str; 4] = [
    include_str!("../../crds/meshfences.yaml"),
    include_str!("../../crds/meshreports.yaml"),
    include_str!("../../crds/meshrollouts.yaml"),
    include_str!("../../crds/meshapprovals.yaml"),
];
/// The chart as it is rendered with its own values: a test holds the two together.
const INSTALL: &str = include_str!("../../charts/install.yaml");
const CONTAINER: &str = "/spec/template/spec/containers/0";

/// The guard of policies, which the chart's values can switch off.
pub const GUARD: &str = "meshrollout-guard";

/// The definitions of meshrollout's kinds.
pub(crate) fn kinds() -> Result<Vec<Value>, Error> {
    CRDS.iter().try_fold(vec![], |all, crd| Ok([all, documents(crd)?].concat()))
}

/// How the chart would have the operator started.
pub(crate) struct Start {
    /// The container's arguments.
    pub(crate) args: Vec<String>,
    /// The configuration file that is mounted.
    pub(crate) config: String,
}

impl Start {
    /// As a rendered chart says.
    pub(crate) fn of(objects: &[Value]) -> Result<Self, Error> {
        let config = named(objects, "ConfigMap")?["data"]["config.yaml"].as_str();
        let container = named(objects, "Deployment")?.pointer(CONTAINER);
        let args = container.and_then(|it| it["args"].as_array());
        let (Some(config), Some(args)) = (config, args) else {
            return Err(Error::new("the chart has no configuration, or no arguments"));
        };
        let args = args.iter().filter_map(|arg| arg.as_str().map(str::to_owned)).collect();
        Ok(Self { args, config: config.to_owned() })
    }

    /// As the objects say that helm has put into a cluster.
    pub(crate) async fn installed(cluster: &Cluster) -> Result<Self, Error> {
        let path = ["get", "configmap,deployment", "-n", "meshrollout-system", "-o", "json"];
        let list = cluster.kubectl_text(&path).await.map_err(Error::new)?;
        let list: Value = serde_json::from_str(&list).doing("reading what helm installed")?;
        Self::of(list["items"].as_array().map_or(&[][..], Vec::as_slice))
    }

    /// As the chart says with its own values.
    pub(crate) fn usual() -> Result<Self, Error> {
        Self::of(&documents(INSTALL)?)
    }

    /// The same, with this value for an option that the chart sets.
    pub(crate) fn with(mut self, option: &str, value: &str) -> Result<Self, Error> {
        let begin = format!("--{option}=");
        let arg = self.args.iter_mut().find(|arg| arg.starts_with(&begin));
        let Some(arg) = arg else {
            return Err(Error::new(format!("the chart's Deployment says no {begin}")));
        };
        *arg = begin + value;
        Ok(self)
    }
}

fn named<'a>(objects: &'a [Value], kind: &str) -> Result<&'a Value, Error> {
    let is =
        |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == "meshrollout";
    objects.iter().find(is).ok_or_else(|| Error::new(format!("the chart has no {kind}")))
}

/// `charts/install.yaml` as it would be made now.
pub fn rendered_install() -> Result<String, Error> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/render");
    let output = std::process::Command::new(script).output().doing("running charts/render")?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(Error::new(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

/// The path of a program that looks at the chart as its users' tools do.
pub fn chart_tool(name: &str) -> Result<PathBuf, Error> {
    Ok(Tools::of("chart")?.program(name))
}

impl Cluster {
    /// Runs helm as `admin`. What it prints, or why it would not.
    pub async fn helm(&self, args: &[&str]) -> Result<String, String> {
        let helm = chart_tool("helm").map_err(|error| error.to_string())?;
        let output = self.command(&helm, args).await.map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// A file of the chart's values with the short times of tests, and this cluster's Prometheus
    /// registered as `main`.
    pub fn chart_values(&self) -> Result<PathBuf, Error> {
        let options = OperatorOptions::default();
        let values = json!({
            "allowShortTimes": true,
            "log": {"format": "text"},
            "config": {
                "evaluationInterval": seconds(options.interval),
                "harmWindow": seconds(options.harm_window),
                "drain": "1s",
                "proxyAcknowledgement": "1s",
                "metricsSources": [{"name": "main", "url": self.metrics_proxy().url(),
                    "scrapeInterval": seconds(self.scrape_interval()), "timeout": "5s"}],
            },
        });
        let file = self.folder().join("values.json");
        std::fs::write(&file, values.to_string()).doing("writing the chart's values")?;
        Ok(file)
    }

    /// Installs the CRDs and the chart as a user would, but for the pods: no node here could run
    /// them.
    pub async fn install(&self) -> Result<(), Error> {
        self.install_without(&[]).await
    }

    /// The same, with some of its objects switched off by name.
    pub async fn install_without(&self, off: &[&str]) -> Result<(), Error> {
        // The kinds first: the apiserver looks up what kinds there are when it first meets the fence,
        // and then not for half a minute, in which no operator would go forward.
        let kinds = kinds()?;
        self.apply(&kinds).await.doing("installing the kinds of meshrollout")?;
        // In the list of what is served, which is where the apiserver looks, too.
        let served = async || {
            let all = self.client().list_api_group_resources("meshrollout.dev/v1alpha1").await;
            let all = all.map_err(|error| error.to_string())?.resources;
            let is_served = |kind: &&Value| all.iter().any(|it| *kind == it.kind.as_str());
            match kinds.iter().map(|crd| &crd["spec"]["names"]["kind"]).find(|it| !is_served(it)) {
                Some(missing) => Err(format!("{missing} is not")),
                None => Ok(()),
            }
        };
        until("the CRDs to be served", Duration::from_secs(30), served).await?;
        let mut objects = documents(INSTALL)?;
        objects.retain(|object| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            object["kind"] != "Deployment" && !off.contains(&name)
        });
        self.apply(&objects).await.doing("installing meshrollout")
    }
}
