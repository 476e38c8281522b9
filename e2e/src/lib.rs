//! The control-plane harness.
