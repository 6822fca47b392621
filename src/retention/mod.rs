//! Retention: eviction of templates and rebuilds of provisional ones by pure policies, and the cleanup of what dead
//! holders left.

pub(crate) mod cleanup;
mod cost;
pub(crate) mod evict;
pub(crate) mod evidence;
pub mod policy;
pub mod rebuild_policy;
pub(crate) mod recycle;
pub(crate) mod warm;
pub mod warm_policy;
