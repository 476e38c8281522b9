//! One container of a pod that lives.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;

use super::pod::{AGAIN, BEAT};
use super::probe::Prober;
use super::status::{ContainerStatus, Stage};
use crate::Error;
use crate::process::{Process, Program};

/// When a container is to end.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum End {
    /// Well, before the next may begin.
    First,
    /// With its work, well or not.
    Once,
    /// It is begun again when it ends.
    Never,
}

/// One container of a pod that lives.
pub(super) struct Held {
    name: String,
    image: String,
    pod: Ipv4Addr,
    end: End,
    program: Program,
    process: Option<Process>,
    startup: Prober,
    readiness: Prober,
    stage: Stage,
    started: bool,
    ready: bool,
    restarts: u32,
    not_before: Option<Instant>,
    /// Between the wish that it ends and the word to it: `preStop.sleep`.
    pause: Duration,
}

impl Held {
    pub(super) fn new(
        container: &Container,
        pod: Ipv4Addr,
        end: End,
        program: Program,
    ) -> Result<Self, Error> {
        Ok(Self {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            pod,
            end,
            program,
            process: None,
            startup: Prober::new(container, container.startup_probe.as_ref())?,
            readiness: Prober::new(container, container.readiness_probe.as_ref())?,
            stage: Stage::Waiting("its turn has not come".to_owned()),
            started: false,
            ready: false,
            restarts: 0,
            not_before: None,
            pause: pause(container),
        })
    }

    pub(super) async fn step(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        match &self.stage {
            Stage::Ended(_) => return Ok(()),
            Stage::Waiting(_) => {
                if self.not_before.is_some_and(|moment| now < moment) {
                    return Ok(());
                }
                self.process = Some(self.program.start()?);
                self.stage = Stage::Running(Timestamp::now());
            }
            Stage::Running(_) => {}
        }
        let Some(process) = &mut self.process else { return Ok(()) };
        if let Some(status) = process.ended()? {
            // A program that a signal ended has no code; a shell would say 128 and more.
            let code = status.code().unwrap_or(128);
            let trouble = process.blame(&format!("ended ({status})"));
            self.ended(code, now);
            return if code == 0 { Ok(()) } else { Err(trouble) };
        }
        self.started = self.started || self.startup.passes(self.pod, now).await;
        self.ready = self.started && self.readiness.passes(self.pod, now).await;
        Ok(())
    }

    /// Asks the program to end, after the pause that the spec wants, and waits until it has.
    pub(super) async fn end(&mut self) {
        if self.process.is_some() {
            tokio::time::sleep(self.pause).await;
        }
        let Some(process) = &mut self.process else { return };
        process.ask_to_end();
        while matches!(process.ended(), Ok(None)) {
            tokio::time::sleep(BEAT).await;
        }
    }

    fn ended(&mut self, code: i32, now: Instant) {
        // With what it may have left of its process group.
        self.process = None;
        (self.started, self.ready) = (false, false);
        self.startup.reset();
        self.readiness.reset();
        let is_final = match self.end {
            End::First => code == 0,
            End::Once => true,
            End::Never => false,
        };
        if is_final {
            self.stage = Stage::Ended(code);
            return;
        }
        self.restarts += 1;
        self.not_before = Some(now + AGAIN * self.restarts.min(10));
        self.stage = Stage::Waiting(format!("it ended with code {code} and is begun again"));
    }

    pub(super) fn lets_next_begin(&self) -> bool {
        match self.end {
            End::First => self.stage == Stage::Ended(0),
            End::Once | End::Never => self.started,
        }
    }

    pub(super) fn status(&self) -> ContainerStatus {
        ContainerStatus {
            name: self.name.clone(),
            image: self.image.clone(),
            stage: self.stage.clone(),
            ready: self.ready || (self.end == End::First && self.stage == Stage::Ended(0)),
            started: self.started,
            restarts: self.restarts,
            ends_first: self.end == End::First,
        }
    }
}

/// Of all hooks the one that needs nobody to run it.
fn pause(container: &Container) -> Duration {
    let hook = container.lifecycle.as_ref().and_then(|it| it.pre_stop.as_ref());
    let seconds = hook.and_then(|hook| hook.sleep.as_ref()).map_or(0, |sleep| sleep.seconds);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
