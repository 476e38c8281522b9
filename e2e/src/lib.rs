//! A real control plane as ordinary processes, for tests and for trying things by hand.
//!
//! [`Cluster::start`] brings up etcd, kube-apiserver with an audit log, kube-controller-manager,
//! kube-scheduler, kwok's nodes, istiod with its real injector and validator, and Prometheus, all
//! on free ports and in a folder of its own. No kubelet and no proxy runs: kwok makes pods ready,
//! and the [`Exporter`] says what their sidecars would have measured. With a [`DataPlane`] there is
//! one more node, on which pods are processes, with real sidecars.
//!
//! | question | where |
//! |---|---|
//! | what is running, and how do I reach it? | [`Cluster`] |
//! | which namespaces, workloads and policies are there? | [`scenario`], [`Cluster::apply_yaml`] |
//! | which pods really run, and what do their clients see? | [`DataPlane`], [`RealWorkload`], [`Load`] |
//! | which traffic do the sidecars report? | [`Exporter`] |
//! | how does the metrics source fail? | [`MetricsProxy`] |
//! | how does the way to the apiserver fail? | [`FaultProxy`], [`Schedule`] |
//! | was each write right? | [`Oracle`] |
//! | who led when? | [`Reigns`] |
//! | who wrote what? | [`Audit`] |

mod apply;
mod audit;
mod beginning;
mod cluster;
mod collector;
mod control_plane;
mod demo;
mod error;
mod exporter;
mod fault_proxy;
mod http_probe;
mod install;
mod istio;
mod istio_metrics;
mod kwok;
mod load;
mod metrics_proxy;
mod node;
mod operator;
mod oracle;
mod pki;
mod ports;
mod process;
mod prometheus;
mod reigns;
mod replace;
mod rollout;
mod run_folder;
pub mod scenario;
mod servers;
mod shop;
mod tools;
mod wait;
mod xds;

pub use audit::{Audit, Event, ObjectRef};
pub use cluster::{AuditMark, Cluster, Options};
pub use collector::{Collector, Span};
pub use demo::demo;
pub use error::{Doing, Error};
pub use exporter::{Client, Edge, EdgeId, Exporter, Protocol, Security, Server};
pub use fault_proxy::{Class, Draw, FaultProxy, Moment, Recorded, Schedule};
pub use install::{GUARD, chart_tool, rendered_install};
pub use istio::Istiod;
pub use load::{load, plaintext};
pub use metrics_proxy::{Fault, MetricsProxy, Query};
pub use node::{DataPlane, Image, Load, Mark, RealWorkload, Tally};
pub use operator::{OPERATOR_USER, Operator, OperatorOptions};
pub use oracle::{Oracle, Stage};
pub use prometheus::Prometheus;
pub use reigns::Reigns;
pub use rollout::{Condition, Rollout};
pub use shop::{Shop, ShopTraffic};
pub use wait::until;
