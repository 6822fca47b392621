//! The files and directories of a cluster: the only ones that a cache file may contain.

/// Directories of a new cluster, in the order of their creation, as `initdb` makes them.
pub(crate) fn directories(major: u32) -> impl Iterator<Item = &'static str> {
    const ALL: [&str; 22] = [
        "base",
        "global",
        "pg_commit_ts",
        "pg_dynshmem",
        "pg_logical",
        "pg_logical/mappings",
        "pg_logical/snapshots",
        "pg_multixact",
        "pg_multixact/members",
        "pg_multixact/offsets",
        "pg_notify",
        "pg_replslot",
        "pg_serial",
        "pg_snapshots",
        "pg_stat",
        "pg_stat_tmp",
        "pg_subtrans",
        "pg_tblspc",
        "pg_twophase",
        "pg_wal",
        "pg_wal/archive_status",
        "pg_xact",
    ];
    ALL.into_iter().chain((major >= 17).then_some("pg_wal/summaries"))
}

/// Directories whose files are packed, without those of the databases.
pub(crate) const PACKED: [&str; 6] =
    ["global", "pg_xact", "pg_commit_ts", "pg_multixact/members", "pg_multixact/offsets", "pg_wal"];

/// Directories that must be empty: tablespaces, whose files are elsewhere, and prepared transactions.
pub(crate) const EMPTY: [(&str, &str); 2] =
    [("pg_tblspc", "tablespaces"), ("pg_twophase", "prepared transactions")];

/// The place of a file in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// In a directory that every cluster has; an empty text is the cluster's own directory.
    Fixed {
        /// The directory.
        directory: &'a str,
        /// The file.
        name: &'a str,
    },
    /// In the directory of a database.
    Database {
        /// Oid of the database.
        oid: &'a str,
        /// The file.
        name: &'a str,
    },
}

/// Returns the place of a file, from its path below the data directory. `None`: no cache file contains such a file.
pub(crate) fn place(path: &str) -> Option<Place<'_>> {
    if path == "PG_VERSION" {
        return Some(Place::Fixed { directory: "", name: path });
    }
    let (directory, name) = path.rsplit_once('/')?;
    let allowed = match directory {
        "global" => matches!(name, "pg_control" | "pg_filenode.map") || is_relation(name),
        "pg_xact" | "pg_commit_ts" | "pg_multixact/members" | "pg_multixact/offsets" => {
            (4..=15).contains(&name.len()) && is_hexadecimal(name)
        }
        "pg_wal" => name.len() == 24 && is_hexadecimal(name),
        _ => {
            let oid = directory.strip_prefix("base/").filter(|oid| is_number(oid))?;
            let allowed = matches!(name, "PG_VERSION" | "pg_filenode.map") || is_relation(name);
            return allowed.then_some(Place::Database { oid, name });
        }
    };
    allowed.then_some(Place::Fixed { directory, name })
}

/// Returns whether a text is an oid or a number of that size.
pub(crate) fn is_number(text: &str) -> bool {
    (1..=10).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
}

/// `16384`, `16384_fsm`, `16384.1`, `16384_vm.1`; not the files of temporary tables.
fn is_relation(name: &str) -> bool {
    let (name, segment) = name.split_once('.').unwrap_or((name, "0"));
    let (number, fork) = name.split_once('_').unwrap_or((name, "vm"));
    is_number(number) && is_number(segment) && matches!(fork, "fsm" | "vm" | "init")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_cluster_have_a_place() {
        for path in [
            "PG_VERSION",
            "global/pg_control",
            "global/1262",
            "global/1262_fsm",
            "base/1/PG_VERSION",
            "base/16384/pg_filenode.map",
            "base/16384/16385",
            "base/16384/16385.12",
            "base/16384/16385_vm.1",
            "base/16384/16385_init",
            "pg_xact/0000",
            "pg_multixact/members/0000",
            "pg_wal/000000010000000000000001",
        ] {
            assert!(place(path).is_some(), "{path}");
        }
    }

    #[test]
    fn nothing_else_has_one() {
        for path in [
            "",
            "/PG_VERSION",
            "./PG_VERSION",
            "../PG_VERSION",
            "postgresql.conf",
            "postgresql.auto.conf",
            "pg_hba.conf",
            "pg_ident.conf",
            "postmaster.pid",
            "recovery.signal",
            "standby.signal",
            "backup_label",
            "tablespace_map",
            "base/../PG_VERSION",
            "base/1/../../PG_VERSION",
            "base/1",
            "base/1/1249/1",
            "base/x/1",
            "base/1/t3_16384",
            "base/1/pg_internal.init",
            "base/1/1249_main",
            "base/1/1249.",
            "base/1/_fsm",
            "base/12345678901/1",
            "base/pgsql_tmp/1",
            "global/pg_internal.init",
            "pg_tblspc/16384",
            "pg_tblspc/16384/PG_15_202209061/1/1",
            "pg_wal/00000001.history",
            "pg_wal/00000001000000000000000g",
            "pg_wal/archive_status/000000010000000000000001.ready",
            "pg_replslot/a/state",
            "pg_stat/pgstat.stat",
            "pg_xact/zzzz",
            "PG_VERSION/",
            "base//1",
        ] {
            assert_eq!(place(path), None, "{path}");
        }
    }
}
