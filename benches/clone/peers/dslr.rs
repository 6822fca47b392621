//! DSLR: snapshots by `CREATE DATABASE ... TEMPLATE`, from a command line in Python.

use super::{Found, Peer, python_tool, timed};
use crate::commands::name;
use crate::subject::Subject;

pub(super) const MISSING: &str =
    "DSLR (`pip install 'DSLR[psycopg2-binary]'` into the environment that PEERS_VENV names)";

pub(super) fn there() -> bool {
    python_tool("dslr").is_some()
}

pub(super) fn find<'s>(subject: &'s Subject<'_>) -> Found<'s> {
    let dslr = python_tool("dslr").ok_or(MISSING)?;
    let (database, snapshot) = (name(), name());
    subject.client("createdb", &["-T", &subject.template, &database]);
    let url = subject.place.url(&database);
    let run = {
        let snapshot = snapshot.clone();
        move |what: &str| {
            let mut command = subject.place.command(&dslr, &subject.project);
            timed(command.args(["--url", &url, what, &snapshot]))
        }
    };
    run("snapshot");
    let delete = run.clone();
    Ok(Peer {
        what: "`dslr restore`",
        step: Box::new(move || run("restore")),
        end: Box::new(move || {
            delete("delete");
            subject.client("dropdb", &[&database]);
        }),
    })
}
