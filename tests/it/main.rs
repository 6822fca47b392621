//! Integration tests; one binary, so that there is one link and one Postgres.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a failed unwrap is a failed test, and tests tell where they left things"
)]

mod build;
mod config_cli;
mod connect;
mod docs;
mod examples;
mod fallback;
mod fidelity;
mod layers;
mod library;
mod look;
mod managed_server;
mod rights;
mod safety;
mod smoke;
mod support;
