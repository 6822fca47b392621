//! Startup options with which a session connects to a database that may belong to another user, before it can
//! check the owner.
//!
//! From 17 on a database can have event triggers that run at the start of a session, with the privileges of its
//! role (<https://www.postgresql.org/docs/current/event-trigger-definition.html#EVENT-TRIGGER-LOGIN>). Only a
//! superuser creates them, but each new database has those of `template1`, and its owner can change the
//! tables and functions that they use. So the session must start in a way that runs none of them:
//!
//! - A superuser starts with `event_triggers = off`. The server refuses that option to other roles.
//! - Every other role starts as `pg_database_owner`. Only the owner of the database and its members can
//!   become that role: the server refuses strangers before any trigger runs.
//!
//! Both are startup options, and cost no round trip. The first session finds out which of them the server
//! accepts, if any, by its refusals. A caller can store the result in a file (`remember`) for the next
//! process.
//!
//! The remaining cases, a server that was older than 17 when it was last used, and a role that has become
//! superuser since, are noticed by the first session after that.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::sqlstate::SqlState;
use crate::private_file::{self, Reader};

/// The way in which a role connects to databases of a server without running code of their owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// No options: on a server before 17 nothing runs when a session starts.
    Before17,
    /// Event triggers off: for superusers.
    Quiet,
    /// As the owner of the database, or not at all: for other roles.
    Owner,
}

impl Door {
    /// Returns the door of a superuser on a server of this version, such as `15.14`.
    pub fn of_superuser(version: &str) -> Option<Door> {
        let major = version.split(|c: char| !c.is_ascii_digit()).next()?;
        Some(match major.parse::<u32>().ok()? {
            ..=16 => Door::Before17,
            _ => Door::Quiet,
        })
    }

    /// Returns the startup options.
    pub(super) fn options(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Door::Before17 => &[],
            Door::Quiet => &[("event_triggers", "off")],
            Door::Owner => &[("role", "pg_database_owner")],
        }
    }

    /// Returns the door to try when the server refuses this one with a SQLSTATE; `None`: the door was not the cause.
    pub(super) fn next(self, state: SqlState) -> Option<Door> {
        match (self, state) {
            // There is no such setting.
            (Door::Quiet, SqlState::UNDEFINED_OBJECT) => Some(Door::Before17),
            // The role must not set it.
            (Door::Quiet, SqlState::INSUFFICIENT_PRIVILEGE) => Some(Door::Owner),
            // There is no such role: the stored door is that of another server, of version 13.
            (Door::Owner, SqlState::INVALID_PARAMETER_VALUE) => Some(Door::Before17),
            _ => None,
        }
    }
}

/// Maximum number of servers in the file.
const MOST: usize = 100;

type Known = BTreeMap<String, Door>;

fn key(host: &str, port: u16, user: &str) -> String {
    format!("{host}:{port} {user}")
}

/// Reads the file, if no other user wrote it.
fn read(file: &Path) -> Known {
    let ours = |about: fs::Metadata| about.is_file() && about.uid() == geteuid().as_raw();
    if !fs::symlink_metadata(file).is_ok_and(ours) {
        return Known::new();
    }
    let text = fs::read(file).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Returns the stored door of a server and a role. A port that is not in the file is taken for another way to
/// the same host's server (a tunnel, a container's port), if all known doors there are those of servers
/// before 17.
pub(super) fn recall(file: &Path, host: &str, port: u16, user: &str) -> Option<Door> {
    let known = read(file);
    if let Some(door) = known.get(&key(host, port, user)) {
        return Some(*door);
    }
    let same = |key: &String| {
        let rest = key.strip_prefix(host).and_then(|k| k.strip_prefix(':'));
        rest.and_then(|rest| rest.split_once(' '))
            .is_some_and(|(port, name)| port.parse::<u16>().is_ok() && name == user)
    };
    let mut others = known.iter().filter(|(key, _)| same(key)).peekable();
    others.peek()?;
    others.all(|(_, door)| *door == Door::Before17).then_some(Door::Before17)
}

/// Stores the door in the file; `None` removes it. A failed write is not an error: the next process finds the
/// door again.
pub(super) fn remember(file: &Path, host: &str, port: u16, user: &str, door: Option<Door>) {
    let (mut known, key) = (read(file), key(host, port, user));
    if known.get(&key).copied() == door {
        return;
    }
    if known.len() >= MOST {
        known.clear();
    }
    match door {
        Some(door) => known.insert(key, door),
        None => known.remove(&key),
    };
    let Ok(text) = serde_json::to_vec_pretty(&known) else {
        return;
    };
    let directory = file.parent().unwrap_or(Path::new("/"));
    if private_file::create_directories(directory, false).is_ok() {
        let _ = private_file::replace_file(file, &text, Reader::Us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_counts_for_its_server_and_role() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state/doors.json");
        let recall = |port, user| recall(&file, "db", port, user);
        let remember = |port, user, door| remember(&file, "db", port, user, door);
        assert_eq!(recall(1, "a"), None);
        remember(1, "a", Some(Door::Owner));
        remember(1, "b c", Some(Door::Before17));
        assert_eq!(recall(1, "a"), Some(Door::Owner));
        assert_eq!(recall(1, "b c"), Some(Door::Before17));
        // Another port is another way to a server on which nothing can run; but not if something could.
        assert_eq!(recall(2, "b c"), Some(Door::Before17));
        assert_eq!(recall(2, "a"), None);
        remember(3, "b c", Some(Door::Quiet));
        assert_eq!(recall(2, "b c"), None);
        assert_eq!(recall(1, "b c"), Some(Door::Before17));
        remember(1, "a", None);
        assert_eq!(recall(1, "a"), None);
        assert_eq!(super::recall(&file, "d", 1, "b c"), None);
    }

    #[test]
    fn a_link_or_a_broken_file_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("f"), directory.path().join("l"));
        remember(&file, "db", 1, "a", Some(Door::Quiet));
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(recall(&link, "db", 1, "a"), None);
        fs::write(&file, "{").unwrap();
        assert_eq!(recall(&file, "db", 1, "a"), None);
    }
}
