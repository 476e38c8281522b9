//! What of Istio's metrics is evidence of what, whoever counts it (`istio-semantics.md` E).

use crate::translate::evidence::PORT;
use jiff::SignedDuration;

/// The labels that tell the callers of one kind apart.
pub(in crate::observe) const CALLER: [&str; 9] = [
    "reporter",
    "connection_security_policy",
    "request_protocol",
    "source_workload_namespace",
    "source_workload",
    "destination_workload_namespace",
    "destination_workload",
    "destination_service",
    PORT,
];
pub(in crate::observe) const DESTINATION: [&str; 2] =
    ["destination_workload_namespace", "destination_workload"];
/// The labels that tell by what clusters a server was called: its own is in every series of its own.
pub(in crate::observe) const ARRIVED: [&str; 4] = [
    "destination_workload_namespace",
    "destination_workload",
    "source_cluster",
    "destination_cluster",
];
pub(in crate::observe) const EDGE: [&str; 4] = [
    "source_workload_namespace",
    "source_workload",
    "destination_service_namespace",
    "destination_service",
];

/// Servers report how a call arrived; a client's sidecar never computes it (E2).
pub(in crate::observe) const SERVER_SIDE: [&str; 2] = ["destination", "waypoint"];
pub(in crate::observe) const CLIENT_SIDE: &str = "source";
pub(in crate::observe) const MUTUAL_TLS: &str = "mutual_tls";

/// The connection was cut, refused or failed; flags come in lists too, such as `UF,URX` (E5).
pub(in crate::observe) const FAILED: [&str; 3] = ["UC", "UF", "URX"];

pub(in crate::observe) const REQUESTS_TOTAL: &str = "istio_requests_total";
pub(in crate::observe) const OPENED_TOTAL: &str = "istio_tcp_connections_opened_total";
/// A connection's flags are known when it closes.
pub(in crate::observe) const CLOSED_TOTAL: &str = "istio_tcp_connections_closed_total";
pub(in crate::observe) const SENT_TOTAL: &str = "istio_tcp_sent_bytes_total";
pub(in crate::observe) const RECEIVED_TOTAL: &str = "istio_tcp_received_bytes_total";

/// Who exports it tells of refusals, zero or not.
pub(in crate::observe) const REFUSALS: &str = "envoy_listener_no_filter_chain_match";
/// Whoever comes with TLS of their own meets a filter chain, and is refused in the handshake: for
/// want of a certificate of the mesh, or because the server's is not the one they expect. Seen on a
/// real Envoy; a handshake that merely breaks off counts in neither.
pub(in crate::observe) const HANDSHAKES: [&str; 2] =
    ["envoy_listener_ssl_fail_verify_no_cert", "envoy_listener_ssl_connection_error"];

/// The certificate of the workload itself is called `default`.
pub(in crate::observe) const CERTIFICATE: &str = "istio_agent_cert_expiry_seconds";

/// So long a rejected configuration, and a certificate that was not signed, speaks against a control
/// plane.
pub(in crate::observe) const REJECTS_WINDOW: SignedDuration = SignedDuration::from_mins(10);

/// What a control plane says of itself.
pub(in crate::observe) const BUILD: &str = "istio_build";
pub(in crate::observe) const REJECTS: &str = "pilot_total_xds_rejects";
/// Requests for certificates of those who were not believed, that could not be read, or not be
/// signed (`security/pkg/server/ca/monitoring.go`).
pub(in crate::observe) const UNSIGNED: [&str; 3] = [
    "citadel_server_authentication_failure_count",
    "citadel_server_csr_parsing_err_count",
    "citadel_server_csr_sign_err_count",
];
pub(in crate::observe) const CONVERGENCE: &str = "pilot_proxy_convergence_time_bucket";
pub(in crate::observe) const ROOT_EXPIRES_AT: &str = "citadel_server_root_cert_expiry_timestamp";
pub(in crate::observe) const ROOT_EXPIRES_IN: &str = "citadel_server_root_cert_expiry_seconds";
