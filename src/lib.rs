//! pgstencil keeps migrated Postgres template databases and hands out clones of them.

pub mod config;
pub mod error;
pub mod fingerprint;
pub mod names;
pub mod process;
pub mod url;

pub use error::{Error, Kind, Result};
