//! What is kept and what goes: eviction of templates by a pure policy, and the clean-up of what dead holders left.

mod cost;
pub(crate) mod evict;
pub mod policy;
pub(crate) mod sweep;
pub(crate) mod warm;
pub mod warm_policy;
