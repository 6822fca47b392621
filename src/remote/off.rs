//! Without the feature `cli` there is no store.

/// No store.
#[derive(Debug)]
pub(crate) enum Remote {}
