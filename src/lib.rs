//! meshrollout.
