//! Observing: what is read from the outside.
