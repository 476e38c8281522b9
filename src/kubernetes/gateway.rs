//! The Gateway API: routes that lead requests from outside the cluster to Services. Its definitions
//! need not be installed.

use super::meta;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

/// The group of its kinds.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

kind! {
    /// Which Services a gateway sends requests to.
    HTTPRoute, NamespaceResourceScope, "gateway.networking.k8s.io", "httproutes", {
        /// What it says.
        spec: RouteSpec,
    }
}

kind! {
    /// The same for gRPC.
    GRPCRoute, NamespaceResourceScope, "gateway.networking.k8s.io", "grpcroutes", {
        /// What it says.
        spec: RouteSpec,
    }
}

kind! {
    /// A gateway.
    Gateway, NamespaceResourceScope, "gateway.networking.k8s.io", "gateways", {
        /// What it says.
        spec: GatewaySpec,
    }
}

kind! {
    /// Whose a gateway is.
    GatewayClass, ClusterResourceScope, "gateway.networking.k8s.io", "gatewayclasses", {
        /// What it says.
        spec: GatewayClassSpec,
    }
}

/// By which gateways, and where to.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteSpec {
    /// Gateways, or Services within the mesh.
    pub parent_refs: Option<Vec<Reference>>,
    /// Where to.
    pub rules: Option<Vec<RouteRule>>,
}

/// Where some of the requests go.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteRule {
    /// Each takes a share.
    pub backend_refs: Option<Vec<Backend>>,
    /// What is done to them on the way.
    pub filters: Option<Vec<RouteFilter>>,
}

/// Who takes a share, and what is done to it on the way.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Backend {
    /// Who.
    #[serde(flatten)]
    pub to: Reference,
    /// What.
    pub filters: Option<Vec<RouteFilter>>,
}

/// What is done to requests on the way.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteFilter {
    /// They are sent to somebody else as well.
    pub request_mirror: Option<Mirror>,
}

/// Who gets a copy.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Mirror {
    /// Who.
    pub backend_ref: Reference,
}

/// Another object, and a port of it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Reference {
    /// Its group.
    pub group: Option<String>,
    /// Its kind.
    pub kind: Option<String>,
    /// Its namespace; absent: the same.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: Option<i32>,
}

/// What a gateway says.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewaySpec {
    /// Whose it is.
    pub gateway_class_name: String,
}

/// Whose a gateway is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayClassSpec {
    /// The controller.
    pub controller_name: String,
}
