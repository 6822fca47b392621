//! One physical database: the one CREATE, the one DROP, and how to copy.

pub mod create;
pub mod drop;
pub mod strategy;
