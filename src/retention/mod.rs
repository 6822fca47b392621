//! Retention: eviction of templates by a pure policy, and the cleanup of what dead holders left.

pub(crate) mod cleanup;
mod cost;
pub(crate) mod evict;
pub mod policy;
pub mod rebuild_policy;
pub(crate) mod warm;
pub mod warm_policy;
