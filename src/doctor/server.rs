//! Checks of the server itself: version, privileges, settings, room for sessions and locks.

use super::Check;
use super::registry::Ours;
use crate::error::Result;
use crate::pg::Session;
use crate::pg::checkup::{self, Found, Load, Rights, Settings};
use crate::pg::slots::Slots;
use crate::pg::sql::quote_ident;
use crate::quantity::count;

/// Facts about the server.
pub(super) struct Seen {
    pub(super) role: String,
    pub(super) settings: Settings,
    pub(super) rights: Rights,
    pub(super) load: Load,
    pub(super) slots: Slots,
    pub(super) databases: Vec<Found>,
    pub(super) orphans: Vec<String>,
}

pub(super) async fn read(session: &mut Session) -> Result<Seen> {
    let rights = checkup::rights(session).await?;
    let orphans = match rights.superuser {
        true => checkup::orphan_directories(session).await?,
        false => Vec::new(),
    };
    Ok(Seen {
        role: session.facts().role.clone(),
        settings: checkup::settings(session).await?,
        rights,
        load: checkup::load(session).await?,
        slots: Slots::count(session).await?,
        databases: checkup::databases(session).await?,
        orphans,
    })
}

/// First minor releases, of August 2023, that mark a database whose DROP was interrupted.
/// <https://www.postgresql.org/docs/release/15.4/>
const MARK_INVALID: [(u32, u32); 3] = [(13, 12), (14, 9), (15, 4)];

/// Number of slots below which a short session of background work can keep a program from its own.
const FEW: i64 = 8;

pub(super) fn version(number: u32) -> Check {
    let (major, minor) = (number / 10_000, number % 10_000);
    let name = "server version";
    let old = MARK_INVALID.iter().find(|(m, least)| *m == major && minor < *least);
    match old {
        Some((_, least)) => Check::warning(
            name,
            format!(
                "PostgreSQL {major}.{minor}: an interrupted DROP leaves a damaged database that looks intact"
            ),
            format!("update to {major}.{least} or later"),
        ),
        None if major > 18 => Check::warning(
            name,
            format!(
                "PostgreSQL {major}.{minor} is newer than the versions that pgstencil was tested with (13 to 18)"
            ),
            "check for a newer version of pgstencil",
        ),
        None => Check::ok(name, format!("PostgreSQL {major}.{minor}")),
    }
}

pub(super) fn judge(seen: &Seen) -> Vec<Check> {
    vec![rights(seen), copies(&seen.settings), orphans(seen)]
}

fn rights(seen: &Seen) -> Check {
    let role = quote_ident(&seen.role);
    if !seen.rights.create {
        return Check::problem(
            "rights",
            format!("role {role} may not create databases"),
            format!("as a superuser: ALTER ROLE {role} CREATEDB;"),
        );
    }
    Check::ok(
        "rights",
        match seen.rights.signal {
            true => format!("role {role} may create databases and end sessions of other roles"),
            false => format!(
                "role {role} may create databases, but not end sessions of other roles: such a session in a database fails its build, and delays the drop of a clone (GRANT pg_signal_backend TO {role}; would permit it)"
            ),
        },
    )
}

/// Checks the settings that make copies slower, by measurement.
fn copies(settings: &Settings) -> Check {
    let is = |name: &str, value: &str| settings.get(name).is_some_and(|v| v == value);
    let mut slow = Vec::new();
    let mut hint = Vec::new();
    if is("wal_level", "minimal") {
        slow.push("wal_level = minimal makes copies through the WAL half as fast");
        hint.push("wal_level = replica");
    }
    if settings.get("wal_compression").is_some_and(|v| v != "off") {
        slow.push("wal_compression makes copies through the WAL up to eight times slower");
        hint.push("wal_compression = off");
    }
    // In pages of 8 kB. Each CREATE and DROP scans the pool.
    let buffers = settings.get("shared_buffers").and_then(|v| v.parse::<u64>().ok());
    if buffers.is_some_and(|pages| pages > 2 * 131_072) {
        slow.push(
            "with shared_buffers above 2 GB, each CREATE and DROP takes longer, since it scans all of them",
        );
        hint.push("shared_buffers = 512MB");
    }
    match slow.is_empty() {
        true => Check::ok("settings", "no setting slows copies down"),
        false => Check::warning("settings", slow.join("; "), hint.join(", ")),
    }
}

fn orphans(seen: &Seen) -> Check {
    let name = "orphan directories";
    match seen.orphans.as_slice() {
        [] if !seen.rights.superuser => Check::ok(name, "not checked: only a superuser can see them"),
        [] => Check::ok(name, "none"),
        some => Check::warning(
            name,
            format!(
                "a killed server left files of databases that no longer exist: base/{}",
                some.join(", base/")
            ),
            "if no CREATE DATABASE is running, remove these directories from the data directory",
        ),
    }
}

/// Checks `fsync`, the largest cost of copies; a server with only pgstencil's databases can do without it.
pub(super) fn judge_fsync(seen: &Seen, fsync: bool, ours: &Ours, registry: &str) -> Check {
    let name = "fsync";
    let system = ["postgres", "template0", "template1", registry];
    let foreign = seen.databases.iter().any(|d| !system.contains(&d.name.as_str()) && !ours.knows(d.oid));
    match (fsync, foreign) {
        (false, _) => Check::ok(name, "off, so copies are as fast as possible"),
        (true, true) => Check::ok(name, "on, since the server also has other databases than pgstencil's"),
        (true, false) => Check::warning(
            name,
            "on, and this server appears to have only pgstencil's databases: with fsync off, copies would be about 3 times faster",
            "if everything on this server can be recreated, set fsync = off and full_page_writes = off",
        ),
    }
}

fn of_clones(clones: i64) -> String {
    count(usize::try_from(clones).unwrap_or_default(), "clone")
}

/// Checks the connection slots that background work leaves to others.
fn judge_slots(slots: Slots, background: bool) -> Check {
    let name = "connection slots";
    let (usable, kept, free) = (slots.usable, Slots::left_free(slots.usable), slots.free.max(0));
    if background && usable < FEW {
        let words = format!(
            "pgstencil's role may have only {usable} sessions: while background work has one, a program that needs all of them gets an error"
        );
        return Check::warning(
            name,
            words,
            "raise max_connections or the role's CONNECTION LIMIT, or set `background = \"off\"` in [clone]",
        );
    }
    match slots.spare() >= 0 {
        true => Check::ok(
            name,
            format!("{free} are free, and background work leaves {kept} of them to other clients"),
        ),
        false => Check::warning(
            name,
            format!("only {free} are free, so warm clones and drops wait until more than {kept} are free"),
            "end idle sessions, or raise max_connections or the role's CONNECTION LIMIT",
        ),
    }
}

/// Checks the room for sessions and locks, against the clones in use. `background`: whether background work may be
/// done.
pub(super) fn judge_room(seen: &Seen, ours: &Ours, background: bool) -> Vec<Check> {
    let number = |name: &str| {
        let value = seen.settings.get(name);
        value.and_then(|v| v.parse::<i64>().ok()).unwrap_or(0)
    };
    let (most, used, clones) = (number("max_connections"), seen.load.sessions, ours.clones_in_use);
    let sessions = if used * 10 >= most * 9 {
        Check::problem(
            "max_connections",
            format!("{used} of {most} connections are in use, so new connections will soon be refused"),
            format!("max_connections = {}, or end idle sessions", (most * 2).max(200)),
        )
    } else if (used + clones) * 10 >= most * 8 {
        Check::warning(
            "max_connections",
            format!(
                "{used} of {most} connections are in use, and {}: one more connection for each would exceed 80 %",
                of_clones(clones)
            ),
            format!("max_connections = {}", (most * 2).max(200)),
        )
    } else {
        Check::ok(
            "max_connections",
            format!("{used} of {most} connections are in use, and {}", of_clones(clones)),
        )
    };
    let background = judge_slots(seen.slots, background);
    // Truncating or dumping a whole database takes a lock for each table, index and TOAST table.
    let slots = number("max_locks_per_transaction") * (most + number("max_prepared_transactions"));
    let wanted = ours.most_relations * clones.max(1);
    let locks = match wanted > slots && slots > 0 {
        true => Check::warning(
            "max_locks_per_transaction",
            format!(
                "the server has room for {slots} locks, and truncating all tables of {} at the same time takes {wanted}",
                match clones {
                    0 | 1 => "a clone".to_owned(),
                    n => format!("{n} clones"),
                }
            ),
            format!("max_locks_per_transaction = {}", (wanted / most.max(1) + 1).max(128)),
        ),
        false => Check::ok(
            "max_locks_per_transaction",
            format!("room for {slots} locks, of which at most {wanted} are needed"),
        ),
    };
    vec![sessions, background, locks]
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    fn seen(settings: &[(&str, &str)], sessions: i64) -> Seen {
        let owned = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Seen {
            role: "me".into(),
            settings: owned.collect(),
            rights: Rights { superuser: false, create: true, signal: false },
            load: Load { sessions },
            slots: Slots { usable: 97, free: 97 - sessions },
            databases: Vec::new(),
            orphans: Vec::new(),
        }
    }

    #[test]
    fn old_minor_releases_are_told() {
        assert_eq!(version(150_003).status, Status::Warning);
        assert_eq!(version(150_004).status, Status::Ok);
        assert_eq!(version(160_000).status, Status::Ok);
        assert_eq!(version(190_000).status, Status::Warning);
    }

    #[test]
    fn slow_settings_are_told_together() {
        let check = copies(&seen(&[("wal_level", "minimal"), ("wal_compression", "pglz")], 1).settings);
        assert_eq!(check.status, Status::Warning);
        assert_eq!(check.hint.unwrap(), "wal_level = replica, wal_compression = off");
        let check = copies(&seen(&[("shared_buffers", "524288")], 1).settings);
        assert!(check.words.contains("shared_buffers"));
        let good = [("wal_level", "replica"), ("wal_compression", "off"), ("shared_buffers", "16384")];
        assert_eq!(copies(&seen(&good, 1).settings).status, Status::Ok);
    }

    #[test]
    fn full_houses_are_told() {
        let settings = [("max_connections", "100"), ("max_locks_per_transaction", "64")];
        let status = |sessions, clones, relations| {
            let ours = Ours { clones_in_use: clones, most_relations: relations, ..Ours::default() };
            let checks = judge_room(&seen(&settings, sessions), &ours, true);
            [checks[0].status, checks[1].status, checks[2].status]
        };
        let (ok, warning) = (Status::Ok, Status::Warning);
        assert_eq!(status(10, 5, 300), [ok, ok, ok]);
        assert_eq!(status(10, 75, 10), [warning, ok, ok]);
        assert_eq!(status(88, 0, 10), [warning, ok, ok]);
        assert_eq!(status(90, 0, 10), [Status::Problem, warning, ok]);
        assert_eq!(status(10, 5, 4000), [ok, ok, warning]);
    }

    #[test]
    fn a_few_slots_are_told_only_to_who_has_background_work() {
        let check = |usable, free, background| judge_slots(Slots { usable, free }, background).status;
        assert_eq!(check(3, 3, true), Status::Warning);
        assert_eq!(check(3, 3, false), Status::Ok);
        assert_eq!(check(3, 0, false), Status::Warning);
        assert_eq!(check(FEW, FEW, true), Status::Ok);
    }

    #[test]
    fn a_missing_right_comes_with_its_statement() {
        let mut seen = seen(&[], 1);
        seen.rights.create = false;
        let check = rights(&seen);
        assert_eq!(check.status, Status::Problem);
        assert_eq!(check.hint.unwrap(), "as a superuser: ALTER ROLE \"me\" CREATEDB;");
    }
}
