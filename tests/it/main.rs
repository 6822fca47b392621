//! Integration tests; one binary.

#![allow(
    clippy::unwrap_used,
    reason = "clippy sees tests, but not the functions that they share"
)]

mod managed_server;
