//! Every gate in the way of STRICT, each alone, on a real control plane: the rollout is held with
//! the reason, the object and the remedy, nothing STRICT is written meanwhile (by the audit log),
//! and it goes on when the thing is mended.
//!
//! One cluster and one operator for all tests here; each has namespaces and a rollout of its own.

mod exposure;
mod injection;
pub(crate) mod mesh;
mod plaintext;
mod policies;
mod rules;
mod scope;
mod windows;
