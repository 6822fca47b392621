//! Integration tests; one binary, so that there is one link and one Postgres.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a failed unwrap is a failed test, and tests tell where they left things"
)]

mod background;
mod base;
mod bench;
mod build;
mod cache;
mod checkout;
mod cleanup;
mod clone;
mod config_cli;
mod connect;
mod crash;
mod differing;
mod docs;
mod doctor;
mod evict;
mod evidence;
mod examples;
mod explain;
mod extend;
mod failing;
mod fallback;
mod faults;
#[cfg(feature = "fetch")]
mod fetch;
mod fidelity;
mod file_cache;
mod flat;
mod hand_out;
mod hooks;
mod init;
mod inputs;
mod inventory;
mod kept;
mod layers;
mod lease;
mod library;
mod look;
mod newcomer;
mod normalize;
mod overtaken;
mod owner;
mod packages;
mod passwords;
mod private;
mod private_server;
mod prune;
mod rebuild;
mod recycle;
mod registry;
mod remote;
mod rights;
mod run;
mod runners;
mod safety;
mod screen;
mod seal;
mod serve;
mod server_commands;
mod smoke;
mod source;
mod stale;
mod stats;
#[cfg(feature = "remote")]
mod stores;
mod strangers;
mod support;
mod terminal;
mod test_databases;
mod through;
mod throughput;
mod trust;
mod unsealed;
mod verify;
mod verify_rows;
mod warm;
mod wash;
mod waypoints;
