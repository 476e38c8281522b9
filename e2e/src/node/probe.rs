use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use crate::{Error, http_probe};

/// Asked more often than a spec says while it fails: a test waits for the first success.
const IMPATIENT: Duration = Duration::from_millis(200);

/// A probe of one container, from outside the pod as a kubelet's: its sidecar is in between.
pub(super) struct Prober {
    what: Option<What>,
    period: Duration,
    timeout: Duration,
    failure_threshold: u32,
    asked: Option<Instant>,
    failures: u32,
    passes: bool,
}

enum What {
    Get { port: u16, path: String },
    Connect { port: u16 },
}

impl Prober {
    /// Without a probe it passes at once. Fails where the spec has a kind not known here.
    pub(super) fn new(container: &Container, probe: Option<&Probe>) -> Result<Self, Error> {
        let what = match probe {
            None => None,
            Some(probe) => Some(What::of(container, probe).ok_or_else(|| {
                Error::new(format!("{} has a probe that this node does not know", container.name))
            })?),
        };
        let number = |field: fn(&Probe) -> Option<i32>, default: u32| {
            probe.and_then(field).and_then(|it| u32::try_from(it).ok()).unwrap_or(default)
        };
        let seconds = |count: u32| Duration::from_secs(count.into());
        Ok(Self {
            passes: what.is_none(),
            what,
            period: seconds(number(|it| it.period_seconds, 10)),
            timeout: seconds(number(|it| it.timeout_seconds, 1)),
            failure_threshold: number(|it| it.failure_threshold, 3),
            asked: None,
            failures: 0,
        })
    }

    /// What it last found; asks anew when it is time to.
    pub(super) async fn passes(&mut self, pod: Ipv4Addr, now: Instant) -> bool {
        let Some(what) = &self.what else { return true };
        let pause = if self.passes { self.period } else { IMPATIENT };
        if self.asked.is_some_and(|asked| now < asked + pause) {
            return self.passes;
        }
        self.asked = Some(now);
        match tokio::time::timeout(self.timeout, what.ask(pod)).await {
            Ok(true) => (self.passes, self.failures) = (true, 0),
            Ok(false) | Err(_) => {
                self.failures += 1;
                self.passes &= self.failures < self.failure_threshold;
            }
        }
        self.passes
    }

    /// Of a container that has just begun again.
    pub(super) fn reset(&mut self) {
        (self.passes, self.failures, self.asked) = (self.what.is_none(), 0, None);
    }
}

impl What {
    fn of(container: &Container, probe: &Probe) -> Option<Self> {
        if let Some(get) = &probe.http_get {
            let path = get.path.clone().unwrap_or_else(|| "/".to_owned());
            let plain = get.scheme.as_deref().is_none_or(|scheme| scheme == "HTTP");
            return plain.then_some(Self::Get { port: number(container, &get.port)?, path });
        }
        let port = &probe.tcp_socket.as_ref()?.port;
        Some(Self::Connect { port: number(container, port)? })
    }

    async fn ask(&self, pod: Ipv4Addr) -> bool {
        match self {
            Self::Get { port, path } => {
                let address = format!("{pod}:{port}");
                let Ok(stream) = TcpStream::connect(&address).await else { return false };
                let answer = http_probe::fetch(stream, &address, path).await;
                answer.is_ok_and(|(status, _)| (200..400).contains(&status))
            }
            Self::Connect { port } => TcpStream::connect((pod, *port)).await.is_ok(),
        }
    }
}

fn number(container: &Container, port: &IntOrString) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            ports.find(|port| port.name.as_ref() == Some(name))?.container_port
        }
    };
    u16::try_from(number).ok()
}
