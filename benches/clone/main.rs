//! What a clone costs, beside what else one can do for a fresh database: whole commands, the processor time of all
//! processes, the library, a long loop, and other people's tools, interleaved in one run, as markdown:
//!
//! ```console
//! $ cargo bench --bench clone                        # templates of 100 tables, 400 tables, 500 MB
//! $ cargo bench --bench clone -- examples/django     # projects of yours as well
//! ```
//!
//! Wants the client programs of Postgres (`psql`, `createdb`, `pg_dump`, ...) beside the server's
//! binaries or on the PATH, and some 10 GB of room. By environment:
//!
//! | variable | what it does |
//! |---|---|
//! | `ROUNDS` | rounds of the tables (20) |
//! | `ONLY` | parts, of `commands,cost,library,recycled,steady,peers`; or `projects`, for `commands` without the generated templates |
//! | `FSYNC=on` | a server that keeps its data; its data directory then is in the temporary directory, since tmpfs knows no fsync |
//! | `DATA_FOLDER` | where the private server's data directory goes (`/dev/shm`): an existing directory |
//! | `PGSTENCIL_TEST_BINDIR` | another version's binaries |
//! | `PGSTENCIL_TEST_SERVER_URL` | a running server, by its superuser; what the run makes there, it drops |
//! | `PEERS_VENV` | a Python environment with `DSLR[psycopg2-binary]`, `pytest-postgresql`, `pytest-django`; its `bin` goes first on the PATH of all builds |
//! | `SQLX_PEER=1` | `#[sqlx::test]`, too: compiles sqlx from crates.io, once for each target directory |
//!
//! Each round does every thing once, one after the other, and starts with another one than the round
//! before. Before each, everything in the background has ended: drops, and the making of warm clones.
//! Ratios are medians of the ratios within rounds.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints, and a failed unwrap is a failed run"
)]

#[path = "../../tests/it/support/mod.rs"]
#[allow(unused_imports, reason = "a part of what the tests stand on")]
mod support;

mod commands;
mod cost;
mod library;
mod peers;
mod place;
mod project;
mod recycled;
mod samples;
mod steady;
mod subject;

use std::path::PathBuf;

use place::Place;
use project::Generated;

fn main() {
    // cargo adds `--bench`.
    let projects: Vec<PathBuf> =
        std::env::args_os().skip(1).filter(|a| a != "--bench").map(PathBuf::from).collect();
    let rounds = std::env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(20);
    let only = std::env::var("ONLY").unwrap_or_default();
    let wanted = |part: &str| only.is_empty() || only.split(',').any(|o| o == part);

    let place = Place::new();
    println!("{}", place.conditions());
    if wanted("commands") || wanted("projects") {
        let generated = [Generated::tables(100), Generated::tables(400), Generated::megabytes(500)];
        let generated = generated.iter().filter(|_| wanted("commands"));
        let folders: Vec<(String, PathBuf)> = generated
            .map(|g| (g.what(), g.folder()))
            .chain(projects.iter().map(|p| (p.display().to_string(), p.clone())))
            .collect();
        commands::measure(&place, &folders, rounds);
    }
    if wanted("cost") {
        cost::measure(&place, rounds);
    }
    if wanted("library") {
        library::measure(&place);
    }
    if wanted("recycled") {
        recycled::measure(&place, rounds);
    }
    if wanted("steady") {
        steady::measure(&place);
    }
    if wanted("peers") {
        peers::measure(&place, &projects, rounds.min(10));
    }
    println!("\nLoad average at the end: {}", place::load());
}
