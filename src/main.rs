//! The `liveiso` program.

fn main() {}
