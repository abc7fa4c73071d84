//! netns
fn main() {}
