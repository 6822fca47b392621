//! Connection slots: the number that pgstencil's role may still take, and the number that background work
//! leaves free.
//!
//! The server reserves some of `max_connections` for superusers, and from 16 on for members of
//! `pg_use_reserved_connections` (<https://www.postgresql.org/docs/current/runtime-config-connection.html>);
//! a role may have its own limit. Background workers that act for a role count as sessions here although they
//! have slots of their own, so the numbers may be too low.

use sqlx::FromRow;

use super::{Doing as _, Endpoint, Session, sql};
use crate::error::Result;

const SLOTS: &str = include_str!("queries/slots.sql");

/// Slot count below which connection slots count as scarce.
pub(super) const SCARCE: i64 = 50;

/// The connection slots of pgstencil's role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRow)]
pub(crate) struct Slots {
    /// Maximum number of slots that the role may take.
    pub(crate) usable: i64,
    /// Number of free slots among them.
    pub(crate) free: i64,
}

impl Slots {
    /// Counts the slots.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) async fn count(session: &mut Session) -> Result<Self> {
        session
            .one(sql::planned("pgstencil_slots", SLOTS, &[]))
            .await
            .doing(|| "count connection slots".into())
    }

    /// Returns whether slots are scarce, because of the server's limit or the role's: then a session that only waits
    /// for work is in the way of others.
    fn are_scarce(self) -> bool {
        self.usable < SCARCE
    }

    /// Notes with the server's endpoint if they are scarce.
    pub(crate) fn note(self, endpoint: &Endpoint) {
        if self.are_scarce() {
            endpoint.found_scarce();
        }
    }

    /// Returns the number of slots that background work leaves free: five, or a tenth if that is more, but
    /// never more than half of them.
    pub(crate) fn left_free(usable: i64) -> i64 {
        (usable / 10).max(5).min(usable / 2)
    }

    /// Returns the number of slots that background work may still take. If it is negative, the caller should
    /// end its session.
    pub(crate) fn spare(self) -> i64 {
        self.free - Slots::left_free(self.usable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn background_work_leaves_some() {
        let left = |usable| Slots::left_free(usable);
        assert_eq!([left(97), left(200), left(17)], [9, 20, 5]);
        // A server or role with few slots must still allow background work.
        assert_eq!([left(7), left(2), left(1)], [3, 1, 0]);
        let slots = |free| Slots { usable: 97, free };
        let of_role = |usable| Slots { usable, free: usable };
        assert_eq!([of_role(3), of_role(97)].map(Slots::are_scarce), [true, false]);
        assert_eq!([slots(20).spare(), slots(9).spare(), slots(8).spare()], [11, 0, -1]);
    }
}
