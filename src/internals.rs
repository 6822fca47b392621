//! Items that this repository's own tests and benchmarks need besides the interface. They may change at any time.

pub use crate::doctor::{Status, private_server as doctor_private_server};
pub use crate::names::folded;
pub use crate::pg::inventory;
pub use crate::pg::lock::LockKey;
pub use crate::pg::{Deadline, Defaults, Endpoint, Session};
pub use crate::private_server::disk;
pub use crate::private_server::{PrivateServer, PrivateServerSettings, Running, State};
pub use crate::stencil::clean_up_now;
