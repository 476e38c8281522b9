//! What meshrollout does on a real control plane and, as root, on a real data plane.
//!
//! One program, so that it is linked once; `e2e/run` runs each of these modules as a process of its
//! own.

mod alerts;
mod bad_times;
mod blind;
mod chart;
mod commands;
mod conditions;
mod conflicts;
mod data_plane;
mod evidence;
mod faults;
mod fence;
mod gates;
mod guard;
mod harm;
mod harness;
mod judged;
mod kills;
mod leaders;
mod leftovers;
mod observe;
mod ownership;
mod people;
mod planted;
mod rights;
mod rollout;
mod signals;
mod soak;
mod specs;
mod stale;
mod traces;
mod truth;
mod unanswered;
