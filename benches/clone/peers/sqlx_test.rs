//! `#[sqlx::test]`: a database for each test, migrated from nothing.

use std::path::Path;
use std::process::Command;

use super::{Found, Peer, migrations, timed};
use crate::commands::name;
use crate::subject::Subject;

pub(super) const MISSING: &str = "`#[sqlx::test]` (set SQLX_PEER=1; compiles sqlx from crates.io, once)";

const MANIFEST: &str = r#"
[package]
name = "sqlx-peer"
version = "0.0.0"
edition = "2024"

[workspace]

[dependencies]
sqlx = { version = "0.8", default-features = false, features = ["postgres", "runtime-tokio", "macros", "migrate"] }

[profile.dev.package."*"]
opt-level = 2
debug = false
"#;

/// One test that is run alone, and ten more: the difference is what ten take.
const TESTS: &str = r#"
macro_rules! tests {
    ($($name:ident)*) => {
        $(
            #[sqlx::test]
            async fn $name(pool: sqlx::PgPool) {
                sqlx::query("select 1").execute(&pool).await.unwrap();
            }
        )*
    };
}

tests!(alone t1 t2 t3 t4 t5 t6 t7 t8 t9 t10);
"#;

pub(super) fn there() -> bool {
    std::env::var("SQLX_PEER").is_ok_and(|v| v == "1")
}

pub(super) fn find<'s>(subject: &'s Subject<'_>) -> Found<'s> {
    if !there() {
        return Err(MISSING);
    }
    // Kept, with what was compiled, for the next run.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sqlx-peer");
    write(&folder, &subject.project);
    let database = name();
    subject.client("createdb", &[&database]);
    let url = subject.place.url(&database);
    let cargo = move |args: &[&str]| {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        cargo.current_dir(&folder).env("CARGO_TARGET_DIR", folder.join("target")).env("DATABASE_URL", &url);
        timed(cargo.args(["test", "--quiet", "--lib"]).args(args))
    };
    cargo(&["--no-run"]);
    Ok(Peer {
        what: "a test with `#[sqlx::test]`: create, 100 migrations, connect, query, drop",
        step: Box::new(move || {
            let alone = cargo(&["--", "--test-threads=1", "alone"]);
            let all = cargo(&["--", "--test-threads=1"]);
            all.saturating_sub(alone) / 10
        }),
        end: Box::new(move || {
            subject.client("dropdb", &[&database]);
        }),
    })
}

/// Writes only what is not there yet, lest cargo compiles it again.
fn write(folder: &Path, project: &Path) {
    let write = |file: String, text: &str| {
        let file = folder.join(file);
        if std::fs::read_to_string(&file).is_ok_and(|old| old == text) {
            return;
        }
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    };
    write("Cargo.toml".into(), MANIFEST);
    for (i, (name, sql)) in migrations(project).into_iter().enumerate() {
        write(format!("migrations/{}_t{name}.sql", i + 1), &sql);
    }
    write("src/lib.rs".into(), &format!("#![cfg(test)]\n{TESTS}"));
}
