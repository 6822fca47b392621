//! Operations on one physical database: the only CREATE, the only DROP, the strategies of copies, and visits.

pub(crate) mod create;
pub(crate) mod drop;
pub(crate) mod strategy;
pub(crate) mod visit;
