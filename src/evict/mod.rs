//! Eviction: templates that go to keep the budget.

pub mod policy;
