//! The network edge: sessions, the facts that a server reports about itself and its databases, and the
//! statements that create, copy, change and drop databases.

pub(crate) mod bound;
pub(crate) mod catalog;
pub(crate) mod checkup;
pub(crate) mod collation;
pub(crate) mod connect;
pub(crate) mod copy;
pub(crate) mod counts;
pub(crate) mod door;
pub(crate) mod endpoint;
mod failure;
pub mod inventory;
pub(crate) mod lock;
pub(crate) mod message;
pub(crate) mod obstacle;
pub(crate) mod replay;
pub(crate) mod session;
pub(crate) mod slots;
pub(crate) mod sql;
pub(crate) mod sqlstate;
mod tls;
pub(crate) mod washable;

pub(crate) use bound::Patience;
pub(crate) use door::Door;
pub use endpoint::{Defaults, Endpoint};
pub(crate) use failure::{DISK_STUCK, Doing, FREE_DISK, cause, is_connection_loss, of_user, sqlstate, words};
use failure::{FREE_SLOTS, RAISE_WAIT};
pub use session::{Deadline, Session};
pub(crate) use sqlstate::SqlState;
