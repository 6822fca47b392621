//! Integration tests; one binary, so that there is one link and one Postgres.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a failed unwrap is a failed test, and tests tell where they left things"
)]

mod clone;
mod crash;
mod docs;
mod examples;
mod layers;
mod lease;
mod managed_server;
mod run;
mod smoke;
mod support;
mod sweep;
