use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde_json::{Value, json};

/// Where a container is in its life.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// Not begun, for this reason.
    Waiting(String),
    /// Since then.
    Running(Timestamp),
    /// With this exit code.
    Ended(i32),
}

/// What is said of one container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ContainerStatus {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) stage: Stage,
    pub(super) ready: bool,
    /// Its startup probe, if any, has passed.
    pub(super) started: bool,
    pub(super) restarts: u32,
    /// An init container that is to end before the next begins.
    pub(super) ends_first: bool,
}

/// What is said of a pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct PodStatus {
    pub(super) address: Option<Ipv4Addr>,
    pub(super) host: Ipv4Addr,
    pub(super) init: Vec<ContainerStatus>,
    pub(super) main: Vec<ContainerStatus>,
    /// Its containers are not begun again once they end.
    pub(super) is_job: bool,
    /// Why it does not come up, if so.
    pub(super) trouble: Option<String>,
    pub(super) since: Timestamp,
}

/// Since when each condition of a pod has been as it is.
#[derive(Default)]
pub(super) struct Conditions(BTreeMap<&'static str, (bool, Timestamp)>);

impl Conditions {
    fn say(&mut self, kind: &'static str, holds: bool) -> Value {
        let known = self.0.get(kind).filter(|(held, _)| *held == holds);
        let since = known.map_or_else(Timestamp::now, |(_, since)| *since);
        self.0.insert(kind, (holds, since));
        json!({"type": kind, "status": if holds { "True" } else { "False" },
            "lastTransitionTime": since})
    }
}

impl PodStatus {
    /// As the `status` of a Pod.
    pub(super) fn json(&self, conditions: &mut Conditions) -> Value {
        let initialized = self.init.iter().all(|it| match it.stage {
            Stage::Ended(code) => code == 0,
            Stage::Running(_) => it.started && !it.ends_first,
            Stage::Waiting(_) => false,
        });
        let sidecars = self.init.iter().filter(|it| !it.ends_first);
        let ready = initialized && sidecars.chain(&self.main).all(|it| it.ready);
        let address = self.address.map(|address| address.to_string());
        json!({
            "phase": self.phase(),
            "message": self.trouble,
            "hostIP": self.host.to_string(),
            "hostIPs": [{"ip": self.host.to_string()}],
            "podIP": address,
            "podIPs": address.as_ref().map(|address| vec![json!({"ip": address})]),
            "startTime": self.since,
            "conditions": [
                conditions.say("Initialized", initialized),
                conditions.say("ContainersReady", ready),
                conditions.say("Ready", ready),
            ],
            "initContainerStatuses": self.init.iter().map(ContainerStatus::json).collect::<Vec<_>>(),
            "containerStatuses": self.main.iter().map(ContainerStatus::json).collect::<Vec<_>>(),
        })
    }

    /// One of the words of the Kubernetes API.
    fn phase(&self) -> &'static str {
        let ended = |it: &ContainerStatus| matches!(it.stage, Stage::Ended(_));
        let well = |it: &ContainerStatus| it.stage == Stage::Ended(0);
        let begun = |it: &ContainerStatus| !matches!(it.stage, Stage::Waiting(_));
        if self.is_over() {
            return if self.main.iter().all(well) { "Succeeded" } else { "Failed" };
        }
        match self.main.iter().any(|it| begun(it) || ended(it)) {
            true => "Running",
            false => "Pending",
        }
    }

    /// Nothing of it runs again.
    pub(super) fn is_over(&self) -> bool {
        self.is_job && self.main.iter().all(|it| matches!(it.stage, Stage::Ended(_)))
    }
}

impl ContainerStatus {
    fn json(&self) -> Value {
        let state = match &self.stage {
            Stage::Waiting(why) => {
                json!({"waiting": {"reason": "ContainerCreating", "message": why}})
            }
            Stage::Running(since) => json!({"running": {"startedAt": since}}),
            Stage::Ended(0) => json!({"terminated": {"exitCode": 0, "reason": "Completed"}}),
            Stage::Ended(code) => json!({"terminated": {"exitCode": code, "reason": "Error"}}),
        };
        json!({
            "name": self.name, "image": self.image, "imageID": "", "state": state,
            "ready": self.ready, "started": self.started, "restartCount": self.restarts,
        })
    }
}
