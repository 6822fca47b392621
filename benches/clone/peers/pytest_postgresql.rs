//! pytest-postgresql: a fixture that copies a template for each test, and drops the copy.

use std::time::Duration;

use regex::Regex;
use tempfile::TempDir;

use super::{Found, Peer, python_imports, python_tool, timed};
use crate::samples::median;
use crate::subject::Subject;

pub(super) const MISSING: &str =
    "pytest-postgresql (`pip install pytest-postgresql 'psycopg[binary]'` into PEERS_VENV)";

/// The first test pays for the template, and does not count.
const MODULE: &str = r#"
import os, pathlib
import pytest
from pytest_postgresql import factories

server = factories.postgresql_noproc(
    host=os.environ["PGHOST"], port=int(os.environ["PGPORT"]),
    user=os.environ["PGUSER"], password=os.environ["PGPASSWORD"],
    dbname="bench_pytest_postgresql", load=[pathlib.Path(__file__).with_name("schema.sql")],
)
db = factories.postgresql("server")


@pytest.mark.parametrize("n", range(11))
def test_a_database_of_its_own(db, n):
    db.execute("select 1")
"#;

pub(super) fn there() -> bool {
    python_imports("pytest_postgresql, psycopg")
}

pub(super) fn find<'s>(subject: &'s Subject<'_>) -> Found<'s> {
    if !there() {
        return Err(MISSING);
    }
    let pytest = python_tool("pytest").ok_or(MISSING)?;
    let folder = module_folder(subject);
    let time = Regex::new(r#"<testcase[^>]* time="([0-9.]+)""#).unwrap();
    Ok(Peer {
        what: "a test with pytest-postgresql: create, connect, query, drop",
        step: Box::new(move || {
            let mut command = subject.place.command(&pytest, folder.path());
            timed(command.args(["-q", "-p", "no:cacheprovider", "--junitxml=report.xml"]));
            let report = std::fs::read_to_string(folder.path().join("report.xml")).unwrap();
            let seconds: Vec<f64> =
                time.captures_iter(&report).skip(1).map(|found| found[1].parse().unwrap()).collect();
            Duration::from_secs_f64(median(&seconds))
        }),
        end: Box::new(|| {}),
    })
}

fn module_folder(subject: &Subject<'_>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let schema: String = super::migrations(&subject.project).into_iter().map(|(_, sql)| sql).collect();
    std::fs::write(folder.path().join("schema.sql"), schema).unwrap();
    std::fs::write(folder.path().join("test_databases.py"), MODULE).unwrap();
    std::fs::write(folder.path().join("pytest.ini"), "[pytest]\n").unwrap();
    folder
}
