//! meshrollout takes an Istio mesh from PERMISSIVE to STRICT mutual TLS, stage by stage, and only
//! where it can prove that nothing breaks.
//!
//! Three rings; a file uses only its own ring and the rings inside it.
//!
//! | ring | where | may use |
//! | --- | --- | --- |
//! | 0 core | the crate `meshrollout-core` | no kube, no tokio, no clock, no input or output |
//! | 1 client-free | [`api`], [`istio`], [`kubernetes`], [`translate`], [`manifest`], [`status`], [`preflight`], [`manual`] | ring 0, k8s-openapi, kube's metadata types, serde |
//! | 2 I/O | everything else | anything; only one file writes policies |

pub mod admin;
pub mod api;
pub mod apply;
pub mod cli;
pub mod config;
pub mod controller;
pub mod fence;
pub mod files;
pub mod istio;
pub mod kubernetes;
pub mod lease;
pub mod manifest;
pub mod manual;
pub mod metrics;
pub mod observe;
pub mod preflight;
mod remote;
pub mod report;
pub mod status;
pub mod traces;
pub mod translate;
