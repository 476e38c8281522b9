//! Kinds that lead callers from outside the mesh to Services.

use super::meta;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

kind! {
    /// A CustomResourceDefinition: which versions are served, and how they are converted.
    CustomResourceDefinition, ClusterResourceScope, "apiextensions.k8s.io",
    "customresourcedefinitions", {
        /// What it says.
        spec: DefinitionSpec,
        /// Whether it is in force.
        status: Option<DefinitionStatus>,
    }
}

kind! {
    /// An API that the apiserver leads to somebody else.
    APIService, ClusterResourceScope, "apiregistration.k8s.io", "apiservices", {
        /// What it says.
        spec: ApiServiceSpec,
    }
}

kind! {
    /// Which Services an ingress controller sends requests to.
    Ingress, NamespaceResourceScope, "networking.k8s.io", "ingresses", {
        /// What it says.
        spec: IngressSpec,
    }
}

kind! {
    /// Whose an Ingress is.
    IngressClass, ClusterResourceScope, "networking.k8s.io", "ingressclasses", {
        /// What it says.
        spec: IngressClassSpec,
    }
}

/// How a CustomResourceDefinition's objects are converted.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct DefinitionSpec {
    /// Its versions.
    pub versions: Option<Vec<DefinitionVersion>>,
    /// Between its versions.
    pub conversion: Option<Conversion>,
}

/// A version of a CustomResourceDefinition.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct DefinitionVersion {
    /// As in `v1`.
    pub name: String,
    /// The apiserver answers for it.
    pub served: bool,
}

/// What the apiserver says of a CustomResourceDefinition.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct DefinitionStatus {
    /// `Established`: it is in force.
    pub conditions: Option<Vec<DefinitionCondition>>,
}

/// One thing that the apiserver says of a CustomResourceDefinition.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct DefinitionCondition {
    /// What is said.
    pub r#type: String,
    /// `True` or not.
    pub status: String,
}

/// How objects are converted.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Conversion {
    /// Whom the apiserver asks.
    pub webhook: Option<ConversionWebhook>,
}

/// Whom the apiserver asks to convert.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ConversionWebhook {
    /// Where it is.
    pub client_config: Option<ClientConfig>,
}

/// Where the apiserver calls.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct ClientConfig {
    /// In the cluster; absent: at an address.
    pub service: Option<ServiceReference>,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct ServiceReference {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its port; absent: 443.
    pub port: Option<i32>,
}

/// Where an API is served.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct ApiServiceSpec {
    /// Absent: by the apiserver itself.
    pub service: Option<ServiceReference>,
}

/// Which Services requests go to.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressSpec {
    /// Whose it is.
    pub ingress_class_name: Option<String>,
    /// Where requests go that no rule takes.
    pub default_backend: Option<IngressBackend>,
    /// By host.
    pub rules: Option<Vec<IngressRule>>,
}

/// Which Services the requests of one host go to.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct IngressRule {
    /// By path.
    pub http: Option<IngressPaths>,
}

/// Which Services the requests go to, by path.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct IngressPaths {
    /// Each.
    pub paths: Option<Vec<IngressPath>>,
}

/// Which Service the requests of one path go to.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct IngressPath {
    /// Where.
    pub backend: IngressBackend,
}

/// Where requests go.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct IngressBackend {
    /// A Service of the Ingress's own namespace.
    pub service: Option<IngressService>,
}

/// A port of a Service, by number or name.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct IngressService {
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: IngressPort,
}

/// A port, by number or name.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct IngressPort {
    /// By name.
    pub name: Option<String>,
    /// By number.
    pub number: Option<i32>,
}

/// Whose an Ingress is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct IngressClassSpec {
    /// The controller.
    pub controller: Option<String>,
}
