//! The configuration files of a disposable server.

use std::path::Path;

use super::host;

const MB: u64 = 1 << 20;

/// Returns `postgresql.conf`. It is rewritten before each start, and includes `custom.conf` of the same
/// directory.
pub(super) fn postgresql_conf(cluster: &Path, major: u32, port: u16, socket: &Path) -> String {
    // A larger pool makes drops and creates slower, since each scans it.
    let buffers = match host::memory() {
        Some(memory) => (memory / 8 / MB).clamp(16, 256),
        None => 256,
    };
    let mut text = format!(
        "\
# Written by pgstencil before each start. Put your own settings into custom.conf in this directory.
cluster_name = 'pgstencil'
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = {socket}
unix_socket_permissions = 0700
hba_file = {hba}
password_encryption = 'scram-sha-256'
max_connections = 200
max_locks_per_transaction = 256
shared_buffers = {buffers}MB

# Nothing waits for the disk: after a power loss pgstencil starts with an empty cluster.
fsync = off
full_page_writes = off
# Without fsync this costs microseconds, and a killed server loses no commit.
synchronous_commit = on
# minimal makes CREATE DATABASE ... STRATEGY wal_log slower, and so does compression, a lot.
wal_level = replica
wal_compression = off
max_wal_size = 4GB
checkpoint_timeout = 1h
autovacuum_naptime = 5min

# Defaults for clients.
timezone = 'UTC'
log_timezone = 'UTC'
datestyle = 'iso, mdy'
default_text_search_config = 'pg_catalog.english'

# pgstencil reads the log, and statements may hold passwords.
lc_messages = 'C'
log_min_error_statement = panic
",
        socket = quote(socket),
        hba = quote(&cluster.join("pg_hba.conf")),
    );
    if cfg!(target_os = "linux") {
        // /dev/shm is small in containers, and systemd empties it when the user logs out.
        text += "dynamic_shared_memory_type = mmap\n";
    }
    if major >= 18 {
        // Workers cost more than they gain here.
        text += "io_method = sync\n";
    }
    text
}

/// `pg_hba.conf`: requires the password everywhere, also on the socket.
pub(super) const PG_HBA_CONF: &str = "\
# Written by pgstencil before each start.
local  all          all                scram-sha-256
host   all          all  127.0.0.1/32  scram-sha-256
local  replication  all                scram-sha-256
host   replication  all  127.0.0.1/32  scram-sha-256
";

/// The configuration in the data directory of a cluster from a cache file. The server reads only `pg_ident.conf` and
/// `postgresql.auto.conf`.
pub(super) const INNER: [(&str, &str); 4] = [
    ("postgresql.conf", "# The settings are in ../postgresql.conf.\n"),
    ("postgresql.auto.conf", "# Written by ALTER SYSTEM.\n"),
    ("pg_hba.conf", PG_HBA_CONF),
    ("pg_ident.conf", "# No maps.\n"),
];

/// Quotes a value for `postgresql.conf`.
fn quote(path: &Path) -> String {
    let text = path.to_string_lossy();
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Returns the locales to try for a new cluster, best first: byte order with Unicode letters, which is the
/// same on every machine, then byte order alone.
pub(super) fn locales(major: u32) -> Vec<Vec<&'static str>> {
    let mut choices = Vec::new();
    if major >= 17 {
        let builtin = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"];
        choices.push([&builtin[..], &["--locale=C.UTF-8"]].concat());
        choices.push([&builtin[..], &["--locale=C"]].concat());
    }
    choices.push(vec!["--locale=C.UTF-8"]);
    let letters = if cfg!(target_os = "macos") { "--lc-ctype=UTF-8" } else { "--lc-ctype=en_US.UTF-8" };
    choices.push(vec!["--locale=C", letters]);
    choices.push(vec!["--locale=C"]);
    choices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted() {
        let text = postgresql_conf(Path::new("/it's\\here"), 17, 7, Path::new("/s"));
        assert!(text.contains(r"hba_file = '/it''s\\here/pg_hba.conf'"), "{text}");
        assert!(!text.contains("io_method"));
        assert!(postgresql_conf(Path::new("/c"), 18, 7, Path::new("/s")).contains("io_method"));
    }
}
