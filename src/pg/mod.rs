//! The network edge: sessions, what a server says of itself and of its databases, and the
//! statements that create, copy, change and drop databases.

pub mod bound;
pub mod catalog;
pub mod checkup;
pub mod collation;
pub mod connect;
pub mod door;
pub mod endpoint;
mod failure;
pub mod inventory;
pub mod lock;
pub mod message;
pub mod obstacle;
pub mod replay;
pub mod session;
pub mod slots;
pub mod sql;
pub mod sqlstate;

pub use bound::Patience;
pub use door::Door;
pub use endpoint::{Defaults, Endpoint};
pub use failure::{Doing, cause, is_connection_loss, of_user, sqlstate, words};
pub use session::{Deadline, Session};
pub use sqlstate::SqlState;
