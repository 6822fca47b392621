//! The `pgstencil` command.

fn main() {}
