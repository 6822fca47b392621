//! Operations on one physical database: the only CREATE, the only DROP, and the strategies of copies.

pub(crate) mod create;
pub(crate) mod drop;
pub(crate) mod strategy;
