//! meshrollout.
fn main() {}
