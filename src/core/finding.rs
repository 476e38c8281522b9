//! Findings: what would break, on which object, how we know, and what to do about it.

use crate::ident::{Namespace, Port};
use std::fmt;

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Level {
    /// Good to know.
    Inform,
    /// Worth a look; stops nothing.
    Warn,
    /// Wait and look again.
    Hold,
    /// A person must act.
    Block,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $code:ident = $number:literal, $level:ident;)+) => {
        /// The stable codes. Hundreds by gate; a code is never reused.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Code {
            $($(#[doc = $doc])+ $code,)+
        }

        impl Code {
            /// Every code, in order.
            pub const ALL: &[Code] = &[$(Code::$code,)+];

            /// `MR0101`.
            pub fn id(self) -> &'static str {
                match self { $(Self::$code => $number,)+ }
            }

            /// The name, which is the condition's reason as well: `PodWithoutProxy`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$code => stringify!($code),)+ }
            }

            /// The level it has unless something raises or lowers it.
            pub fn level(self) -> Level {
                match self { $(Self::$code => Level::$level,)+ }
            }

            /// What it means, for the reference.
            pub fn doc(self) -> &'static str {
                match self { $(Self::$code => concat!($($doc, "\n",)+).trim_ascii(),)+ }
            }
        }
    };
}

codes! {
    /// A pod that would be a server has no sidecar: STRICT does not protect it, and what it sends is plaintext.
    PodWithoutProxy = "MR0101", Block;
    /// Pods made from now on in this namespace would come without a sidecar.
    NamespaceNotInjected = "MR0102", Block;
    /// A template opts out of injection.
    TemplateOptsOut = "MR0103", Block;
    /// A pod on its node's network cannot be injected.
    HostNetworkPod = "MR0104", Warn;
    /// `istio-injection` and `istio.io/rev` stand together; the first wins.
    InjectionLabelConflict = "MR0105", Warn;
    /// A label names a revision or tag that no injector serves.
    RevisionUnserved = "MR0106", Block;
    /// A pod's proxy is of another revision than a new one would be.
    ProxyOutdated = "MR0107", Warn;
    /// An injected pod lacks the label `security.istio.io/tlsMode: istio`: clients send it plaintext.
    TlsModeLabelMissing = "MR0108", Block;
    /// A pod has a sidecar, and what comes to the pod does not go through it: STRICT is not in force there.
    RedirectionMissing = "MR0109", Block;
    /// Init containers run before the sidecar: what gets out of the pod then is plaintext.
    InitContainerCallsEarly = "MR0110", Warn;
    /// The application may start before its sidecar does: what it sends first may fail.
    AppStartsBeforeProxy = "MR0111", Inform;
    /// A namespace asks for sidecars and for ambient at once; the sidecars win.
    DataplaneContradiction = "MR0112", Warn;
    /// A workload speaks proxyless gRPC: nothing is captured, and what PeerAuthentication means is up to its library.
    ProxylessGrpc = "MR0113", Block;
    /// Injection cannot be judged because the injectors are not known.
    InjectionUnknown = "MR0114", Hold;
    /// An ambient pod, a WorkloadEntry or a proxyless workload: this version has no gate for it and refuses rather than guesses.
    DataplaneNotCovered = "MR0115", Block;
    /// A client sent plaintext to a server in the look-back. STRICT would refuse it.
    PlaintextSeen = "MR0201", Block;
    /// A client that the proxy could not name sent plaintext in the look-back.
    PlaintextSourceUnknown = "MR0202", Block;
    /// A client with a sidecar sends plaintext although no rule makes it: it calls pods by their addresses, past the Service, or past its sidecar.
    PodIpTraffic = "MR0203", Block;
    /// A CronJob without sidecars names a server in scope, and no run of it as it is now is in the look-back: what it sends has not been seen.
    RareCaller = "MR0204", Hold;
    /// The mesh spans clusters or networks: clients elsewhere are in no apiserver and no metrics that are read here.
    OtherClusterClients = "MR0208", Block;
    /// A proxied pod has not reported when it should have.
    SeriesMissing = "MR0301", Hold;
    /// The metric's security label was removed or switched off, so plaintext cannot be told from mutual TLS.
    SecurityLabelRemoved = "MR0302", Block;
    /// The metrics source is down, slow, redirecting or no metrics source.
    SourceUnavailable = "MR0303", Hold;
    /// The metrics source warns that its answer is not complete.
    PartialAnswer = "MR0304", Hold;
    /// The metrics contradict themselves: duplicates, not a number, negative.
    AmbiguousSeries = "MR0305", Hold;
    /// The evidence does not reach back over the whole look-back, or has a hole.
    WindowNotCovered = "MR0306", Hold;
    /// A workload with neither mutual TLS nor plaintext in the look-back: unverified, which is not safe.
    NothingSeen = "MR0307", Hold;
    /// Nothing would show us harm after the switch; as a warning, it names the kinds of harm that stay unseen.
    NoRefusalSignal = "MR0308", Block;
    /// The metrics source is served in scope and the operator, which asks it, is not in the mesh: STRICT would blind it.
    ScrapeBreaksUnderStrict = "MR0309", Block;
    /// A workload has a port that is excepted, and what was not mutual TLS cannot be told to have come to that port.
    PortUnknown = "MR0310", Hold;
    /// Our clock and the source's differ, or its newest sample is old.
    ClockSkew = "MR0311", Hold;
    /// A watch has had no event or bookmark within its limit.
    StaleWatch = "MR0312", Hold;
    /// The DestinationRule in force for a client turns TLS off: 503 after STRICT.
    ClientTlsDisabled = "MR0401", Block;
    /// The DestinationRule in force for a client originates TLS that is not the mesh's.
    ClientTlsForeign = "MR0402", Block;
    /// A DestinationRule demands mutual TLS towards pods that cannot end it: broken already today.
    MutualToUnmeshed = "MR0403", Block;
    /// A headless or passthrough Service has an endpoint outside the mesh: clients send plaintext to all of them.
    HeadlessMixed = "MR0404", Block;
    /// An ExternalName leads to a Service in scope under another name, for which clients may not know that it takes mutual TLS.
    ExternalNameAlias = "MR0405", Warn;
    /// A Sidecar keeps Services in scope from clients: what they send there is unknown to their proxies, and goes out as plaintext.
    EgressScopeHidesHost = "MR0406", Warn;
    /// A machine outside Kubernetes says neither whose identity it has nor that it takes mutual TLS: clients send it plaintext.
    WorkloadEntryNoIdentity = "MR0407", Block;
    /// A Service leads to a port that the sidecar does not capture: STRICT is not in force there, and clients send it mutual TLS that nobody ends.
    PortExcluded = "MR0408", Warn;
    /// A Service is not exported to all namespaces: sidecars elsewhere do not know it, and send what is sent there as plaintext.
    HostHidden = "MR0409", Warn;
    /// Pods with sidecars offer no HBONE: what ambient clients send them is plaintext.
    AmbientClientNoHbone = "MR0411", Warn;
    /// Pods of a StatefulSet have a port that no Service declares: what peers send there passes their sidecars in plaintext.
    UndeclaredPeerPort = "MR0412", Warn;
    /// A DestinationRule in force cannot be understood.
    ClientTlsUnknown = "MR0413", Block;
    /// Automatic mutual TLS is off and no rule turns it on: clients send plaintext.
    AutoMtlsOff = "MR0410", Block;
    /// Our policy would not be the effective one: an older policy of the same scope wins.
    PolicyShadowed = "MR0501", Block;
    /// A namespace-wide policy that is not ours stands there.
    PolicyOwnedByOther = "MR0502", Block;
    /// A workload or port policy stays looser than STRICT; it must go before the namespace counts as enforced.
    LooserPolicyRemains = "MR0503", Warn;
    /// A policy has a mode for the Service's port, and the container's has another number: it says nothing.
    PortRuleMissesPort = "MR0504", Block;
    /// A policy selects no workload.
    PolicySelectsNothing = "MR0505", Warn;
    /// A server is at DISABLE; it must become PERMISSIVE and prove mutual TLS first.
    StartsAtDisable = "MR0506", Block;
    /// A policy is read by one control plane only.
    RevisionBoundPolicy = "MR0507", Block;
    /// STRICT already, but never proven here.
    StrictWithoutProof = "MR0508", Warn;
    /// Someone changed or deleted our policy. We do not fight.
    PolicyDrifted = "MR0509", Block;
    /// What was excepted stays looser than STRICT after its exception has ended.
    ExceptionExpired = "MR0510", Block;
    /// Namespace or mesh at DISABLE above a STRICT workload policy: clients never start mutual TLS, an outage today.
    DisabledAboveStrict = "MR0511", Block;
    /// A policy for single ports selects pods that ztunnel serves, which reads it otherwise than a sidecar: one shape opens the whole workload.
    AmbientPolicyShape = "MR0512", Block;
    /// A root or system namespace is in the plan. Nothing is ever written there.
    RootNamespaceInScope = "MR0513", Block;
    /// A policy or the mesh's configuration cannot be understood, so the effective mode is unknown.
    EffectiveModeUnknown = "MR0514", Block;
    /// Less than the minimum of a workload certificate's lifetime is left: rotation is failing.
    CertificateExpiring = "MR0601", Block;
    /// The root certificate ends soon.
    RootExpiring = "MR0602", Block;
    /// Proxies of a namespace trust no root that the control plane's namespace trusts: under mutual TLS they and the others cannot call each other. Of several control planes it is enough to share a root with one; where there is none in common with another, that is a warning.
    RootMismatch = "MR0603", Block;
    /// A pod was made for a trust domain that the mesh's configuration knows no more: until its certificate is renewed servers may refuse it.
    TrustDomainMismatch = "MR0604", Warn;
    /// The control plane was asked for certificates and gave none: renewals fail, or will.
    SigningErrors = "MR0605", Hold;
    /// Several workloads run as `default`: they have one identity, and no policy can tell them apart.
    SharedIdentity = "MR0606", Inform;
    /// What is left of a certificate is not known, because agent metrics (port 15020) are not scraped.
    CertificateUnknown = "MR0607", Hold;
    /// kube-apiserver calls an admission webhook that is served in scope, and it is never in the mesh.
    WebhookBackend = "MR0701", Block;
    /// kube-apiserver leads an aggregated API to a server in scope.
    ApiServiceBackend = "MR0702", Block;
    /// kube-apiserver calls a conversion webhook that is served in scope.
    ConversionBackend = "MR0703", Block;
    /// A probe of the kubelet goes to the application's own port: the injector did not rewrite it.
    ProbeNotRewritten = "MR0704", Block;
    /// A lifecycle hook of the kubelet goes to the application's own port.
    LifecycleHookNotRewritten = "MR0705", Block;
    /// An ingress controller or a gateway outside the mesh sends requests to a server in scope.
    IngressWithoutProxy = "MR0706", Block;
    /// A Service is reachable from outside the cluster without a gateway of the mesh.
    NodePortOrLoadBalancer = "MR0707", Warn;
    /// A port of the node leads to a server in scope.
    HostPort = "MR0708", Warn;
    /// A scraper outside the mesh is sent to an application's own port.
    ScrapedAppPort = "MR0709", Block;
    /// A pod that answers ACME challenges is called from outside the mesh.
    AcmeSolver = "MR0710", Warn;
    /// An application ends TLS of its own: PERMISSIVE lets a client outside the mesh through, STRICT does not.
    AppOwnTls = "MR0711", Block;
    /// A port of a protocol in which the server speaks first does not say so: the sidecar waits for the client.
    ServerFirstProtocol = "MR0712", Warn;
    /// A sidecar or its agent calls a server in scope by itself, and not always over mutual TLS.
    ProxyOwnCalls = "MR0713", Warn;
    /// Connections to a server in scope stay open: the switch changes its listeners, and drains them.
    LongLivedConnections = "MR0714", Warn;
    /// An EnvoyFilter changes inbound listeners or filter chains whose shape STRICT changes.
    InboundEnvoyFilter = "MR0715", Warn;
    /// Who calls in from outside the mesh cannot be judged, because the objects that say so are not known.
    CallersUnknown = "MR0716", Hold;
    /// Sidecars have not taken their configuration, or refused it, or it cannot be seen whether they have.
    ProxyNotSynced = "MR0801", Hold;
    /// The control plane is down or cannot be seen: neither the switch nor a rollback would take effect.
    ControlPlaneUnhealthy = "MR0802", Hold;
    /// Proxies reject configuration.
    ConfigRejected = "MR0803", Hold;
    /// The restoring write, tried with `dryRun=All`, is refused: the way back is closed.
    RollbackWouldBeRefused = "MR0804", Block;
    /// Harm was seen after STRICT.
    HarmAfterStrict = "MR0901", Block;
    /// The evidence was lost after STRICT, for the switched namespaces only.
    MetricsLostAfterStrict = "MR0902", Block;
    /// Another rollout owns the policy of this namespace.
    AnotherRolloutOwns = "MR0904", Block;
    /// A namespace named by the plan does not exist.
    NamespaceMissing = "MR0906", Hold;
    /// The policy could not be written.
    WriteRefused = "MR0907", Hold;
    /// Rolled back, yet a server still refuses plaintext: another policy decides it.
    RollbackNotEffective = "MR0908", Block;
}

/// What a finding is about.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Subject {
    /// Its kind, as Kubernetes spells it.
    pub kind: String,
    /// Its namespace; `None` for cluster-wide things.
    pub namespace: Option<Namespace>,
    /// Its name.
    pub name: String,
    /// A port, where the finding is about one.
    pub port: Option<Port>,
}

/// One finding.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Finding {
    /// Its level here and now.
    pub level: Level,
    /// What it is.
    pub code: Code,
    /// What it is about.
    pub subject: Subject,
    /// One sentence for somebody who was just woken up.
    pub message: String,
    /// The facts it stands on.
    pub evidence: Vec<String>,
    /// The next thing to do, a command where there is one.
    pub remedy: String,
    /// The value measured, where there is one.
    pub value: Option<String>,
    /// The threshold it is held against.
    pub threshold: Option<String>,
}

impl Subject {
    /// An object in a namespace.
    pub fn new(kind: &str, namespace: &Namespace, name: &str) -> Self {
        Self {
            kind: kind.into(),
            namespace: Some(namespace.clone()),
            name: name.into(),
            port: None,
        }
    }

    /// The namespace itself.
    pub fn namespace(namespace: &Namespace) -> Self {
        Self::new("Namespace", namespace, namespace.as_str())
    }

    /// The control plane, whichever of its revisions.
    pub fn istiod() -> Self {
        Self::cluster("Deployment", "istiod")
    }

    /// A thing that is not in a namespace.
    pub fn cluster(kind: &str, name: &str) -> Self {
        Self { kind: kind.into(), namespace: None, name: name.into(), port: None }
    }

    /// The same subject on `port`.
    pub fn on(mut self, port: Port) -> Self {
        self.port = Some(port);
        self
    }
}

impl From<&crate::ident::WorkloadRef> for Subject {
    fn from(workload: &crate::ident::WorkloadRef) -> Self {
        Self::new(&workload.kind, &workload.namespace, &workload.name)
    }
}

impl Finding {
    /// A finding at its code's own level.
    pub fn new(code: Code, subject: impl Into<Subject>, message: impl Into<String>) -> Self {
        Self {
            level: code.level(),
            code,
            subject: subject.into(),
            message: message.into(),
            evidence: vec![],
            remedy: String::new(),
            value: None,
            threshold: None,
        }
    }

    /// At another level than its code's own.
    pub fn at(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// A fact it stands on.
    pub fn evidence(mut self, fact: impl Into<String>) -> Self {
        self.evidence.push(fact.into());
        self
    }

    /// What to do about it.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// The value measured and the threshold it is held against.
    pub fn measured(mut self, value: impl Into<String>, threshold: impl Into<String>) -> Self {
        self.value = Some(value.into());
        self.threshold = Some(threshold.into());
        self
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

impl Level {
    /// One lower-case word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inform => "inform",
            Self::Warn => "warn",
            Self::Hold => "hold",
            Self::Block => "block",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if let Some(namespace) = &self.namespace
            && self.kind != "Namespace"
        {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_unique_and_documented() {
        let ids: BTreeSet<_> = Code::ALL.iter().map(|code| code.id()).collect();
        assert_eq!(ids.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.id().starts_with("MR0") && code.id().len() == 6, "{code}");
            assert!(code.doc().ends_with('.'), "{code}: {}", code.doc());
        }
    }
}
