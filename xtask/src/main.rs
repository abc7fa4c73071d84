//! Set-up, run, test, lint and bench of the workspace: `cargo xtask help`.
fn main() {}
