//! One file per command. Each turns arguments into calls of [`crate::Stencil`], and answers into
//! words.

pub(crate) mod bench;
pub(crate) mod clone;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod ensure;
pub(crate) mod evict;
pub(crate) mod explain;
pub(crate) mod list;
pub(crate) mod owed;
pub(crate) mod paths;
pub(crate) mod pin;
pub(crate) mod prune;
pub(crate) mod release;
pub(crate) mod run;
pub(crate) mod server;
pub(crate) mod stats;
pub(crate) mod verify;
