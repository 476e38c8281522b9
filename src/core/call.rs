//! What becomes of a call: what a client puts on the wire towards an endpoint, and what the server
//! makes of it.
//!
//! Source: Istio `pilot/pkg/networking/core/cluster_tls.go`, `xds/endpoints/mtls_checker.go` and
//! `model/push_context.go:BestEffortInferServiceMTLSMode`; `istio-semantics.md` B2 and B5. Compared
//! with what a real istiod sends in `e2e/tests/scenarios/truth.rs`.

use crate::client_tls::{ClientTls, Rule, Wire};
use crate::effective::{DecidedBy, Effective, Policies};
use crate::egress::Scope;
use crate::ident::Namespace;
use crate::mode::Mode;
use crate::policy::Policy;
use crate::reading::Reading;
use crate::snapshot::Snapshot;
use crate::workload::{NamespaceFacts, Pod, Proxy, Service, ServicePort};
use std::fmt;

/// One client and one port of a Service, under policies that need not be today's.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The mesh's configuration, and the rules.
    pub snapshot: &'a Snapshot,
    /// The policies in force.
    pub policies: &'a Policies,
    /// Where the client runs.
    pub client: &'a Namespace,
    /// The client: its proxy, its labels, its revision.
    pub pod: &'a Pod,
    /// Where the Service is.
    pub facts: &'a NamespaceFacts,
    /// The Service.
    pub service: &'a Service,
    /// The port that the client dials.
    pub port: &'a ServicePort,
}

/// What a client puts on the wire, and who decided it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sent<'a> {
    /// What it is.
    pub bytes: Bytes,
    /// The object, or the lack of one, that makes it so.
    pub by: Because<'a>,
}

/// What goes on the wire.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Bytes {
    /// No TLS of a proxy's. The application may have put TLS of its own into it.
    Plaintext,
    /// Mutual TLS of the mesh.
    IstioMutual,
    /// The mesh's tunnel (HBONE): mutual TLS, of which no policy takes anything away.
    Tunnel,
    /// TLS that a rule makes the proxy speak, and that is not the mesh's: `SIMPLE` or `MUTUAL`.
    Foreign(&'static str),
    /// Why it cannot be told.
    Unknown(String),
}

/// Why a client sends what it sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Because<'a> {
    /// The client has no proxy, or none whose choice we know.
    Client,
    /// Automatic mutual TLS: the endpoint announces it, or it does not.
    Automatic,
    /// Automatic mutual TLS is off in the mesh's configuration.
    MeshConfig,
    /// This rule.
    Rule(&'a Rule),
    /// This policy says DISABLE, and clients go by it.
    Policy(&'a Policy),
    /// This Sidecar does not import the Service.
    Unimported(&'a Scope),
    /// ztunnel: the endpoint offers a tunnel, or it does not. It goes by no rule and no Sidecar.
    Ztunnel,
    /// Clients take one decision for all endpoints of this Service, and one of them has no sidecar.
    Mixed,
}

/// What a server takes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Accepts<'a> {
    /// It has no proxy, or one that is passed by: what its application takes.
    NoProxy,
    /// What its sidecar takes.
    Mode(Effective<'a>),
    /// Why it cannot be told.
    Unknown(String),
}

/// How a call ends.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Fate {
    /// It works, over mutual TLS of the mesh.
    MutualTls,
    /// It works, without.
    Plaintext,
    /// It does not work.
    Fails,
    /// It depends on what objects do not show.
    Unknown,
}

impl<'a> Call<'a> {
    /// What the rules make of it: of the whole host first, then of each subset that has a policy; and
    /// so once more for each control plane that tells its clients something else.
    pub fn rules(&self) -> Vec<ClientTls<'a>> {
        let Self { snapshot, client, pod, facts, service, port, .. } = *self;
        snapshot.rules.client_tls(client, &pod.labels, &facts.name, &service.host, port.port)
    }

    /// What the client sends to `endpoint` where the rules come to `tls`.
    pub fn sent(&self, tls: &ClientTls<'a>, endpoint: &Pod) -> Sent<'a> {
        let client = |bytes| Sent { bytes, by: Because::Client };
        match self.pod.proxy {
            Proxy::Sidecar { .. } | Proxy::Gateway => {}
            Proxy::None => return client(Bytes::Plaintext),
            Proxy::Ambient => return Sent { bytes: tunnelled(endpoint), by: Because::Ztunnel },
            Proxy::Proxyless => {
                return client(Bytes::Unknown("its client speaks proxyless gRPC".into()));
            }
        }
        if let Some(scope) = self.hidden_by() {
            return Sent { bytes: self.unknown_to(scope), by: Because::Unimported(scope) };
        }
        if endpoint.proxy == Proxy::Ambient {
            let why = "whether it goes through the tunnel is up to istiod (PILOT_ENABLE_AMBIENT)";
            return client(Bytes::Unknown(why.into()));
        }
        let bytes = match &tls.wire {
            Wire::Auto => return self.automatic(tls, endpoint),
            Wire::Plaintext => Bytes::Plaintext,
            Wire::IstioMutual => Bytes::IstioMutual,
            Wire::Foreign(mode) => Bytes::Foreign(mode),
            Wire::Unknown(why) => Bytes::Unknown(why.clone()),
        };
        Sent { bytes, by: by_rule(tls) }
    }

    /// The Sidecar that keeps the Service from the client. Gateways have none.
    fn hidden_by(&self) -> Option<&'a Scope> {
        let Self { snapshot, client, pod, facts, service, port, .. } = *self;
        if pod.proxy == Proxy::Gateway {
            return None;
        }
        let scopes = snapshot.egress.in_force(client, &pod.labels);
        let hides = |scope: &Scope| !scope.imports(client, &facts.name, &service.host, port.port);
        let mut hiding = scopes.iter().flatten().copied().filter(|scope| hides(scope));
        // Of several that may be in force one that lets plaintext out counts by itself, one that lets
        // nothing out only where no other would let it.
        let leak = hiding.clone().find(|scope| !snapshot.sends_to_known_only(scope));
        let all_hide = scopes.iter().all(|scope| scope.is_some_and(hides));
        leak.or_else(|| hiding.next().filter(|_| all_hide))
    }

    /// What is sent to whom `scope` does not import: it goes out as it is, or not at all.
    fn unknown_to(&self, scope: &Scope) -> Bytes {
        match self.snapshot.sends_to_known_only(scope) {
            true => Bytes::Unknown("its proxy sends nothing to whom it does not know".into()),
            false => Bytes::Plaintext,
        }
    }

    /// No rule names a TLS mode for the port (B2, from the third rule on).
    fn automatic(&self, tls: &ClientTls<'a>, endpoint: &Pod) -> Sent<'a> {
        let sends = |bytes, by| Sent { bytes, by };
        let (plain, mutual) = (Bytes::Plaintext, Bytes::IstioMutual);
        match &self.snapshot.mesh {
            Reading::Known(mesh) if mesh.auto_mtls => {}
            Reading::Known(_) => return sends(plain, Because::MeshConfig),
            Reading::Unknown(cause) => {
                return sends(Bytes::Unknown(cause.to_string()), Because::MeshConfig);
            }
        }
        // What clients believe is what their own control plane tells them.
        let revision = self.pod.revision();
        if let Some(sent) = unless_mutual(self.policies.service_guess(&self.facts.name, revision)) {
            return sent;
        }
        if self.service.headless || tls.passthrough {
            if self.facts.endpoints(self.service).any(|(_, pod)| !announces(pod)) {
                return sends(plain, Because::Mixed);
            }
            // A gateway knows the endpoints of a headless Service one by one.
            if self.pod.proxy != Proxy::Gateway {
                return sends(mutual, Because::Automatic);
            }
        }
        match (announces(endpoint), tls.told) {
            (true, Some(true)) => return sends(mutual, Because::Automatic),
            (true, None) => {}
            (true, Some(false)) => return sends(plain, by_rule(tls)),
            (false, _) => return sends(plain, Because::Automatic),
        }
        unless_mutual(self.mode(endpoint, revision))
            .unwrap_or_else(|| sends(mutual, Because::Automatic))
    }

    /// What `endpoint` takes on the port.
    pub fn accepts(&self, endpoint: &Pod) -> Accepts<'a> {
        match &endpoint.proxy {
            Proxy::None => Accepts::NoProxy,
            Proxy::Sidecar { .. } if self.passes_by(endpoint) => Accepts::NoProxy,
            Proxy::Sidecar { revision, .. } => match self.mode(endpoint, revision.as_deref()) {
                Reading::Known(effective) => Accepts::Mode(effective),
                Reading::Unknown(cause) => Accepts::Unknown(cause.to_string()),
            },
            Proxy::Gateway => {
                Accepts::Unknown("a gateway's listeners are what its Gateway objects say".into())
            }
            Proxy::Ambient => self.ztunnel_accepts(endpoint),
            Proxy::Proxyless => Accepts::Unknown("its server speaks proxyless gRPC".into()),
        }
    }

    /// What ztunnel lets through to `endpoint` (A9). It denies plaintext where STRICT is in force, and
    /// DISABLE is to it what PERMISSIVE is. Policies for single ports it reads otherwise than a
    /// sidecar, and one shape of them opens the whole workload.
    fn ztunnel_accepts(&self, endpoint: &Pod) -> Accepts<'a> {
        let Self { policies, facts, .. } = *self;
        let own = policies.workload(&facts.name, &endpoint.labels, None);
        if let Some(policy) = own.filter(|policy| !policy.ports.is_empty()) {
            return Accepts::Unknown(format!(
                "PeerAuthentication {}/{} is for single ports, and ztunnel serves the pod",
                policy.namespace, policy.name
            ));
        }
        match policies.effective(&facts.name, &endpoint.labels, None, None) {
            Reading::Known(Effective { mode: Mode::Disable, decided_by }) => {
                Accepts::Mode(Effective { mode: Mode::Permissive, decided_by })
            }
            Reading::Known(effective) => Accepts::Mode(effective),
            Reading::Unknown(cause) => Accepts::Unknown(cause.to_string()),
        }
    }

    /// What comes to the port goes past the sidecar of `endpoint` (C6).
    fn passes_by(&self, endpoint: &Pod) -> bool {
        self.port.target.is_some_and(|port| !endpoint.inbound.captures(port))
    }

    /// The mode of `endpoint`, as the control plane of `revision` sees it.
    fn mode(&self, endpoint: &Pod, revision: Option<&str>) -> Reading<Effective<'a>> {
        let Self { policies, facts, port, .. } = *self;
        if port.target.is_none()
            && let Some(policy) = policies.port_level(&facts.name, &endpoint.labels, revision)
        {
            return Reading::Unknown(crate::reading::Cause::NotRead(format!(
                "the container port behind {}, of which {}/{} speaks,",
                port.name, policy.namespace, policy.name
            )));
        }
        policies.effective(&facts.name, &endpoint.labels, port.target, revision)
    }
}

fn by_rule<'a>(tls: &ClientTls<'a>) -> Because<'a> {
    tls.decided_by.map_or(Because::Automatic, Because::Rule)
}

/// What clients send where this mode of the server keeps them from automatic mutual TLS.
fn unless_mutual(mode: Reading<Effective<'_>>) -> Option<Sent<'_>> {
    match mode {
        Reading::Known(Effective { mode: Mode::Disable, decided_by }) => {
            Some(Sent { bytes: Bytes::Plaintext, by: decided_by.into() })
        }
        Reading::Known(_) => None,
        Reading::Unknown(cause) => {
            Some(Sent { bytes: Bytes::Unknown(cause.to_string()), by: Because::Automatic })
        }
    }
}

/// What ztunnel sends to `endpoint` (B5).
fn tunnelled(endpoint: &Pod) -> Bytes {
    match endpoint.proxy {
        _ if endpoint.offers_tunnel() => Bytes::Tunnel,
        Proxy::Sidecar { .. } if endpoint.is_to_be_made() => {
            Bytes::Unknown("whether its sidecar will offer a tunnel is not known".into())
        }
        Proxy::Sidecar { .. }
        | Proxy::Gateway
        | Proxy::None
        | Proxy::Proxyless
        | Proxy::Ambient => Bytes::Plaintext,
    }
}

/// Clients take the endpoint for one that ends mutual TLS: they see the label, not the proxy (B1).
fn announces(pod: &Pod) -> bool {
    pod.takes_mutual_tls() || pod.labels.value("security.istio.io/tlsMode") == Some("istio")
}

impl Fate {
    /// How a call with these bytes ends at such a server (B5).
    pub fn of(bytes: &Bytes, accepts: &Accepts<'_>) -> Self {
        let mode = match accepts {
            Accepts::NoProxy => None,
            Accepts::Mode(effective) => Some(effective.mode),
            Accepts::Unknown(_) => return Self::Unknown,
        };
        match (bytes, mode) {
            (Bytes::Unknown(_), _) => Self::Unknown,
            (Bytes::Tunnel, _) => Self::MutualTls,
            (Bytes::Plaintext, Some(Mode::Strict)) => Self::Fails,
            (Bytes::Plaintext, _) => Self::Plaintext,
            (Bytes::IstioMutual, None | Some(Mode::Disable)) => Self::Fails,
            (Bytes::IstioMutual, Some(_)) => Self::MutualTls,
            (Bytes::Foreign(_), Some(Mode::Strict)) => Self::Fails,
            // It works where the application itself ends that TLS.
            (Bytes::Foreign(_), _) => Self::Unknown,
        }
    }

    /// `mTLS`, `Plaintext`, `Fails`, `Unknown`.
    pub fn name(self) -> &'static str {
        match self {
            Self::MutualTls => "mTLS",
            Self::Plaintext => "Plaintext",
            Self::Fails => "Fails",
            Self::Unknown => "Unknown",
        }
    }
}

impl Bytes {
    /// `Plaintext`, `ISTIO_MUTUAL`, `SIMPLE`, `MUTUAL`, `Unknown`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Plaintext => "Plaintext",
            Self::IstioMutual | Self::Tunnel => "ISTIO_MUTUAL",
            Self::Foreign(mode) => mode,
            Self::Unknown(_) => "Unknown",
        }
    }
}

impl<'a> From<DecidedBy<'a>> for Because<'a> {
    fn from(decided_by: DecidedBy<'a>) -> Self {
        decided_by.policy().map_or(Self::Automatic, Self::Policy)
    }
}

impl fmt::Display for Because<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => f.write_str("the client itself"),
            Self::Automatic => f.write_str("automatic mutual TLS"),
            Self::MeshConfig => f.write_str("meshConfig.enableAutoMtls"),
            Self::Rule(rule) => write!(f, "DestinationRule {}/{}", rule.namespace, rule.name),
            Self::Policy(policy) => {
                write!(f, "PeerAuthentication {}/{}", policy.namespace, policy.name)
            }
            Self::Unimported(scope) => write!(f, "Sidecar {}/{}", scope.namespace, scope.name),
            Self::Ztunnel => f.write_str("ztunnel"),
            Self::Mixed => f.write_str("an endpoint outside the mesh"),
        }
    }
}

#[cfg(test)]
mod tests;
