//! Observing: what is read from the outside, and what could not be.

pub mod objects;
pub mod prometheus;
