//! The pure core. (Safety argument follows.)
pub mod client_tls;
pub mod effective;
pub mod finding;
pub mod gate;
pub mod ident;
pub mod injection;
pub mod mode;
pub mod plan;
pub mod policy;
pub mod reading;
pub mod snapshot;
pub mod traffic;
pub mod workload;
