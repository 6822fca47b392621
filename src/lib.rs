//! pgstencil keeps migrated Postgres template databases and hands out clones of them.

pub mod clone;
pub mod config;
pub mod context;
pub mod copy;
pub mod drop;
pub mod error;
pub mod events;
pub mod fingerprint;
pub mod handout;
pub mod lease;
pub mod names;
pub mod pg;
pub mod process;
pub mod registry;
pub mod server;
pub mod stencil;
pub mod sweep;
pub mod template;
pub mod url;
pub mod wire;

pub use error::{Error, Kind, Result};
pub use stencil::Stencil;
