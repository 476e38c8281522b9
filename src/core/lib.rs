//! The pure core. (Safety argument follows.)
pub mod action;
pub mod clearance;
pub mod client_tls;
pub mod condition;
pub mod decide;
pub mod effective;
pub mod finding;
pub mod gate;
pub mod ident;
pub mod injection;
pub mod invariant;
pub mod mode;
pub mod plan;
pub mod policy;
pub mod progress;
pub mod reading;
pub mod rollback;
pub mod snapshot;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod traffic;
pub mod workload;
