//! The custom resources: what a user writes and what the operator answers.
//!
//! No logic lives here but the rules of the schema, and reading what was stored.

mod definitions;
pub mod names;
pub mod parse;
mod stored;
pub mod v1alpha1;

pub use definitions::{crds, fingerprints};
pub use stored::{StoredRollout, Unreadable};
pub use v1alpha1::*;
