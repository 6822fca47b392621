//! One physical database: the one CREATE, the one DROP, and how to copy.

pub(crate) mod create;
pub(crate) mod drop;
pub(crate) mod strategy;
