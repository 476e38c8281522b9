//! Seven meshes in one: in each a server and, beside a client that does all right, one of the
//! things that STRICT breaks.

use meshrollout_e2e::scenario::Injection;
use meshrollout_e2e::{Cluster, Load, RealWorkload};
use serde_json::json;

use super::{PORT, served};

const TLS_PORT: u16 = 8443;
const PER_SECOND: u32 = 8;

/// One of the seven.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Cause {
    NoSidecar,
    OutsideTheMesh,
    RuleDisable,
    MixedHeadless,
    OwnProbes,
    TlsPort,
    PodAddress,
}

use Cause::{
    MixedHeadless, NoSidecar, OutsideTheMesh, OwnProbes, PodAddress, RuleDisable, TlsPort,
};

impl Cause {
    pub(super) const ALL: [Self; 7] =
        [NoSidecar, OutsideTheMesh, RuleDisable, MixedHeadless, OwnProbes, TlsPort, PodAddress];

    pub(super) fn what(self) -> &'static str {
        match self {
            NoSidecar => "a pod without a sidecar, in a namespace of the mesh",
            OutsideTheMesh => "a client in a namespace outside the mesh",
            RuleDisable => "a client with a sidecar and a DestinationRule DISABLE",
            MixedHeadless => "a headless Service with one endpoint outside the mesh",
            OwnProbes => "a probe that is not rewritten",
            TlsPort => "a client outside the mesh of a port with TLS of its own",
            PodAddress => "a client with a sidecar that calls the pod's IP",
        }
    }

    /// The server's namespace.
    pub(super) fn namespace(self) -> &'static str {
        match self {
            NoSidecar => "nosidecar",
            OutsideTheMesh => "outside",
            RuleDisable => "ruled",
            MixedHeadless => "mixed",
            OwnProbes => "probed",
            TlsPort => "webhook",
            PodAddress => "direct",
        }
    }

    /// Where its misled client lives.
    pub(super) fn clients(self) -> String {
        format!("to-{}", self.namespace())
    }

    fn url(self) -> String {
        let namespace = self.namespace();
        match self {
            TlsPort => format!("https://echo.{namespace}:{TLS_PORT}/"),
            MixedHeadless => format!("http://all.{namespace}:{PORT}/"),
            _ => format!("http://echo.{namespace}:{PORT}/"),
        }
    }

    pub(super) fn port(self) -> u16 {
        if self == TlsPort { TLS_PORT } else { PORT }
    }
}

/// One mesh of the seven, with its clients.
pub(super) struct Mesh {
    pub(super) cause: Cause,
    /// Of the client that does all right.
    pub(super) good: Load,
    /// Of the one that STRICT would cut; a probe has none.
    pub(super) misled: Option<Load>,
}

impl Mesh {
    /// Makes it, and returns once all are served.
    pub(super) async fn make(cluster: &Cluster, cause: Cause) -> Self {
        let (namespace, clients) = (cause.namespace(), cause.clients());
        let injection = match cause {
            OutsideTheMesh | TlsPort => Injection::Absent,
            _ => Injection::Enabled,
        };
        cluster.namespace(namespace, Injection::Enabled, &[]).await.unwrap();
        cluster.namespace(&clients, injection, &[]).await.unwrap();
        let server = match cause {
            TlsPort => {
                for place in [namespace, &clients, "good"] {
                    let host = format!("echo.{namespace}");
                    cluster.certificate(place, "webhook-tls", &[&host]).await.unwrap();
                }
                RealWorkload::tls_echo(namespace, "echo", TLS_PORT, "webhook-tls")
            }
            _ => RealWorkload::echo(namespace, "echo", PORT),
        };
        let mut server = server.counting_refusals();
        match cause {
            OwnProbes => {
                server = server.annotation("sidecar.istio.io/rewriteAppHTTPProbers", "false");
            }
            MixedHeadless => {
                server = server.label("group", "all");
                let bare = RealWorkload::echo(namespace, "bare", PORT)
                    .label("group", "all")
                    .label("sidecar.istio.io/inject", "false");
                cluster.run(&bare).await.unwrap();
                let all = json!({"apiVersion": "v1", "kind": "Service",
                    "metadata": {"namespace": namespace, "name": "all"},
                    "spec": {"clusterIP": "None", "selector": {"group": "all"},
                        "ports": [{"name": "http", "port": PORT}]}});
                cluster.apply(&[all]).await.unwrap();
            }
            RuleDisable => {
                let host = format!("echo.{namespace}.svc.cluster.local");
                cluster.destination_rule(&clients, "plain", &host, "DISABLE").await.unwrap();
            }
            NoSidecar | OutsideTheMesh | TlsPort | PodAddress => {}
        }
        cluster.run(&server).await.unwrap();
        let by_name = format!("http://echo.{namespace}:{PORT}/");
        let good = match cause {
            TlsPort => {
                RealWorkload::tls_load("good", namespace, &cause.url(), PER_SECOND, "webhook-tls")
            }
            _ => RealWorkload::load("good", namespace, &by_name, PER_SECOND),
        };
        let good = served(cluster, &good).await;
        let misled = match Self::misled(cluster, cause).await {
            Some(client) => Some(served(cluster, &client).await),
            None => None,
        };
        Self { cause, good, misled }
    }

    async fn misled(cluster: &Cluster, cause: Cause) -> Option<RealWorkload> {
        let clients = cause.clients();
        let load = |url: &str| RealWorkload::load(&clients, "client", url, PER_SECOND);
        Some(match cause {
            OwnProbes => return None,
            NoSidecar => load(&cause.url()).label("sidecar.istio.io/inject", "false"),
            OutsideTheMesh | RuleDisable | MixedHeadless => load(&cause.url()),
            TlsPort => {
                RealWorkload::tls_load(&clients, "client", &cause.url(), PER_SECOND, "webhook-tls")
            }
            PodAddress => {
                let pods = cluster.pods(cause.namespace(), "echo").await.unwrap();
                let address = pods[0].status.as_ref().unwrap().pod_ip.clone().unwrap();
                load(&format!("http://{address}:{PORT}/"))
            }
        })
    }

    /// Does what the findings say is to be done. Returns the client that came in place of the
    /// misled one, if one did.
    pub(super) async fn mend(&mut self, cluster: &Cluster) -> Option<Load> {
        let (namespace, clients) = (self.cause.namespace(), self.cause.clients());
        match self.cause {
            NoSidecar => {
                let label = "sidecar.istio.io/inject";
                cluster.label_pods(&clients, "client", label, None).await.unwrap();
            }
            OutsideTheMesh | TlsPort => {
                let label = "istio-injection";
                cluster.label_namespace(&clients, label, Some("enabled")).await.unwrap();
                cluster.rollout_restart(&clients, "client").await.unwrap();
            }
            RuleDisable => {
                cluster.delete("destinationrule", &clients, "plain").await.unwrap();
            }
            MixedHeadless => {
                let label = "sidecar.istio.io/inject";
                cluster.label_pods(namespace, "bare", label, None).await.unwrap();
                // Its proxy goes on in plaintext until istiod pushes everything anew.
                cluster.rollout_restart(&clients, "client").await.unwrap();
            }
            OwnProbes => {
                let rewritten = RealWorkload::echo(namespace, "echo", PORT).counting_refusals();
                cluster.run(&rewritten).await.unwrap();
            }
            PodAddress => {
                let by_name = self.cause.url();
                let client = RealWorkload::load(&clients, "client", &by_name, PER_SECOND);
                cluster.run(&client).await.unwrap();
            }
        }
        if matches!(self.cause, RuleDisable | OwnProbes) {
            return None;
        }
        self.misled = Some(cluster.load(&clients, "client").await.unwrap());
        self.misled.clone()
    }

    pub(super) fn loads(&self) -> impl Iterator<Item = &Load> {
        [&self.good].into_iter().chain(&self.misled)
    }
}

/// All seven.
pub(super) async fn seven(cluster: &Cluster) -> Vec<Mesh> {
    cluster.namespace("good", Injection::Enabled, &[]).await.unwrap();
    // Side by side: most of it is waiting for pods.
    futures::future::join_all(Cause::ALL.map(|cause| Mesh::make(cluster, cause))).await
}
