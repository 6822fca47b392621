//! Retention: eviction of templates by a pure policy, and the cleanup of what dead holders left.

mod cost;
pub(crate) mod evict;
pub mod policy;
pub(crate) mod sweep;
pub(crate) mod warm;
pub mod warm_policy;
