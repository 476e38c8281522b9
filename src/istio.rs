//! The Istio kinds we read or write: hand-written, partial, lenient.
//!
//! Foreign objects may hold anything: values of a newer Istio, fields of the wrong type written
//! while a CRD was missing. None of that may fail a watch. So a spec is a [`Lenient`], and an enum
//! keeps a spelling it does not know.

mod destination_rule;
mod envoy_filter;
mod lenient;
mod peer_authentication;
mod sidecar;
mod telemetry;
mod wasm_plugin;
mod workload_entry;

pub use destination_rule::*;
pub use envoy_filter::*;
pub use lenient::Lenient;
pub use peer_authentication::*;
pub use sidecar::*;
pub use telemetry::*;
pub use wasm_plugin::*;
pub use workload_entry::*;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Istio's selector: labels that must all be there, exactly; no expressions.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadSelector {
    /// The labels; none selects everything.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
}

/// Defines a namespaced Istio kind with a lenient spec.
macro_rules! kind {
    ($(#[$doc:meta])* $kind:ident, $spec:ty, $group:literal, $version:literal, $plural:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, serde::Deserialize, PartialEq, serde::Serialize)]
        pub struct $kind {
            /// Name, namespace, labels, versions.
            #[serde(default)]
            pub metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
            /// What it says.
            #[serde(default)]
            pub spec: $crate::istio::Lenient<$spec>,
        }

        impl kube::Resource for $kind {
            type DynamicType = ();
            type Scope = kube::core::NamespaceResourceScope;

            fn kind(_: &()) -> std::borrow::Cow<'_, str> {
                stringify!($kind).into()
            }

            fn group(_: &()) -> std::borrow::Cow<'_, str> {
                $group.into()
            }

            fn version(_: &()) -> std::borrow::Cow<'_, str> {
                $version.into()
            }

            fn plural(_: &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &self.metadata
            }

            fn meta_mut(
                &mut self,
            ) -> &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

/// Defines an enum of Istio's spellings that keeps the ones it does not know.
macro_rules! spelling {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
        #[serde(from = "String", into = "String")]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
            /// A spelling this version does not know.
            Unknown(String),
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                match text.as_str() {
                    $($text => Self::$variant,)+
                    _ => Self::Unknown(text),
                }
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                match value {
                    $($name::$variant => $text.into(),)+
                    $name::Unknown(text) => text,
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $(Self::$variant => f.write_str($text),)+
                    Self::Unknown(text) => f.write_str(text),
                }
            }
        }
    };
}

use {kind, spelling};
