//! What is kept and what goes: eviction of templates by a pure policy, and the clean-up of what dead holders left.

mod cost;
pub mod evict;
pub mod policy;
pub mod sweep;
pub mod warm;
pub mod warm_policy;
