//! Writes 50 migrations, with two tables each, and two files of tests: 500, or the number in `TESTS`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

fn main() -> std::io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=TESTS");
    let tests = env::var("TESTS").ok().and_then(|tests| tests.parse().ok()).unwrap_or(500);
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    // sqlx takes a path in the crate only.
    let migrations = PathBuf::from("migrations");
    fs::create_dir_all(&migrations)?;
    for n in 1..=50 {
        let mut sql = String::new();
        for part in ["a", "b"] {
            let table = format!("table_{n}{part}");
            let _ = writeln!(
                sql,
                "create table {table} (id bigint generated always as identity primary key, name text not null);\n\
                 create index on {table} (name);\n\
                 insert into {table} (name) values ('first');"
            );
        }
        fs::write(migrations.join(format!("{n:04}_step.sql")), sql)?;
    }
    let (mut ours, mut theirs) = (String::new(), String::new());
    for n in 0..tests {
        let _ = writeln!(ours, "#[tokio::test] async fn t{n:03}() {{ one({n}).await }}");
        let _ = writeln!(
            theirs,
            "#[sqlx::test(migrations = \"./migrations\")] async fn t{n:03}(pool: sqlx::PgPool) {{ rust_tests::work(&pool, {n}).await }}"
        );
    }
    fs::write(out.join("ours.rs"), ours)?;
    fs::write(out.join("theirs.rs"), theirs)?;
    fs::write(
        out.join("migrations.rs"),
        "/// The 50 migrations.\npub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!(\"./migrations\");",
    )
}
