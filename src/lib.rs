//! pgstencil keeps migrated Postgres template databases and hands out clones of them.

pub mod config;
pub mod error;
pub mod names;
pub mod server;
pub mod url;

pub use error::{Error, Kind, Result};
