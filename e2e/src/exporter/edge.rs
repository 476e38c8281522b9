/// What a control plane calls its own cluster where nobody says otherwise.
pub(super) const HERE: &str = "Kubernetes";

/// Traffic from a client to a server.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Who calls. A workload without a ready pod calls nobody.
    pub from: Client,
    /// Who is called.
    pub to: Server,
    /// Requests, or TCP connections, per second over all pods together.
    pub rps: f64,
    /// What is spoken.
    pub protocol: Protocol,
    /// How it is sent.
    pub security: Security,
    /// The HTTP status.
    pub code: u16,
    /// Envoy's response flags. With `UC`, `UF`, `URX`, `UH` or `NR` the server never sees the
    /// request, so only the client's sidecar reports it.
    pub flags: String,
    /// The cluster that the client says it is of.
    pub cluster: String,
}

/// Who calls.
#[derive(Clone, Debug)]
pub enum Client {
    /// A workload of the cluster, meshed or not, as its pods are at the moment.
    Workload {
        /// Its namespace.
        namespace: String,
        /// Its name, that of the Deployment for instance.
        name: String,
    },
    /// Somebody outside the mesh of whom the server's sidecar knows nothing.
    Unknown,
}

/// Who is called.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its namespace.
    pub namespace: String,
    /// The workload's name.
    pub workload: String,
    /// The Service's name.
    pub service: String,
}

/// What is spoken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// Counted in `istio_requests_total`.
    Http,
    /// Counted in `istio_requests_total` as `grpc`.
    Grpc,
    /// Short connections: opened, closed and bytes.
    Tcp,
    /// Connections opened long ago: bytes only.
    TcpLongLived,
    /// Connections that are opened and kept.
    TcpKept,
}

/// How it is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Security {
    /// Mutual TLS from pods with a sidecar, plaintext from others, as auto mTLS does.
    Auto,
    /// Mutual TLS.
    MutualTls,
    /// Plaintext, even from a sidecar, as a DestinationRule of mode DISABLE makes it.
    Plaintext,
}

impl Client {
    /// A workload of the cluster.
    pub fn workload(namespace: &str, name: &str) -> Self {
        Self::Workload { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl Server {
    /// A workload behind a Service of the same name.
    pub fn workload(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            workload: name.to_owned(),
            service: name.to_owned(),
        }
    }

    /// The same workload behind a Service of another name.
    #[must_use]
    pub fn behind(self, service: &str) -> Self {
        Self { service: service.to_owned(), ..self }
    }
}

impl Edge {
    /// Five successful HTTP requests per second, sent as auto mTLS sends them.
    pub fn new(from: Client, to: Server) -> Self {
        Self {
            from,
            to,
            rps: 5.0,
            protocol: Protocol::Http,
            security: Security::Auto,
            code: 200,
            flags: "-".to_owned(),
            cluster: HERE.to_owned(),
        }
    }

    /// At another rate.
    #[must_use]
    pub fn rps(self, rps: f64) -> Self {
        Self { rps, ..self }
    }

    /// From another cluster, as an east-west gateway lets it in.
    #[must_use]
    pub fn from_cluster(self, cluster: &str) -> Self {
        Self { cluster: cluster.to_owned(), ..self }
    }

    /// In another protocol.
    #[must_use]
    pub fn protocol(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    /// In plaintext, whatever the client is.
    #[must_use]
    pub fn plaintext(self) -> Self {
        Self { security: Security::Plaintext, ..self }
    }

    /// In mutual TLS, whatever the client is.
    #[must_use]
    pub fn mutual_tls(self) -> Self {
        Self { security: Security::MutualTls, ..self }
    }

    /// Answered so: `answered(503, "UC")` is what a client's sidecar reports when the server
    /// refuses its plaintext.
    #[must_use]
    pub fn answered(self, code: u16, flags: &str) -> Self {
        Self { code, flags: flags.to_owned(), ..self }
    }

    pub(super) fn reaches_the_server(&self) -> bool {
        !self.flags.split(',').any(|flag| ["UC", "UF", "URX", "UH", "NR"].contains(&flag))
    }
}
