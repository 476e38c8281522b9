//! Observing: what is read from the outside, and what could not be.

mod clock;
pub mod evidence;
pub mod objects;
pub mod prometheus;
pub mod proxies;
pub mod sidecars;
