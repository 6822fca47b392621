//! Checks of the private server: the binaries that can start it, and its data on the disk.

use std::error::Error as _;

use super::Check;
use crate::error::Error;
use crate::private_server::{Listed, State};
use crate::quantity::size;

/// Reports that no Postgres can be started: where it was searched for, and how to get one.
pub fn no_postgres(error: &Error) -> Check {
    let mut words = vec![error.to_string()];
    words.extend(error.details().iter().cloned());
    words.extend(error.source().map(ToString::to_string));
    Check::problem("postgres", words.join("; "), error.hints().join("; "))
}

/// Reports the Postgres that was found.
pub fn postgres(version: &str) -> Check {
    Check::ok("postgres", format!("PostgreSQL {version} can be started"))
}

/// Reports the disk space of the clusters, and whether they are still used.
pub fn clusters(clusters: &[Listed]) -> Vec<Check> {
    let mut checks = Vec::new();
    // Without any Postgres no command uses a cluster, and it is unknown which one will be used.
    let known = clusters.iter().any(|cluster| cluster.current);
    for cluster in clusters {
        let major = cluster.major;
        let bytes = bytes(cluster.bytes);
        if known && !cluster.current {
            checks.push(Check::warning(
                "clusters",
                format!("no command uses the cluster of PostgreSQL {major} ({bytes}) any more"),
                format!("remove it: `pgstencil server remove --major {major}`"),
            ));
        } else {
            checks.push(Check::ok("clusters", format!("PostgreSQL {major} ({bytes})")));
        }
        match &cluster.status.state {
            State::Unclean { rebooted: true } => {
                checks.push(untrusted(major, "the host went down while the private server was running"))
            }
            State::Distrusted(why) => checks.push(untrusted(major, why)),
            _ => {}
        }
        for moved in &cluster.moved {
            checks.push(Check::warning(
                "old data",
                format!(
                    "old data of PostgreSQL {major}, which was moved aside, is still in {} ({})",
                    moved.directory.display(),
                    self::bytes(moved.bytes)
                ),
                "delete it: `pgstencil server remove --moved`",
            ));
        }
        if cluster.status.outdated {
            checks.push(Check::warning(
                "binaries",
                format!(
                    "the binaries of the running PostgreSQL {major} were replaced, so files that it loads from now on may not fit"
                ),
                "restart it: `pgstencil server stop` (the next command starts it)",
            ));
        }
    }
    checks
}

fn untrusted(major: u32, why: &str) -> Check {
    Check::warning(
        "data",
        format!(
            "PostgreSQL {major}: {why}; the next start moves the data aside and creates an empty cluster"
        ),
        "do it now: `pgstencil server start`",
    )
}

fn bytes(bytes: u64) -> String {
    size(i64::try_from(bytes).unwrap_or(i64::MAX))
}
