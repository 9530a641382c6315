//! The `lem` command.
fn main() {}
