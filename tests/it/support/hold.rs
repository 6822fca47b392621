//! `run` with a command that waits, and questions about what is left of clones.

use std::time::Duration;

use super::cli::Running;
use super::server::PATIENCE;
use super::{Pgstencil, Project, eventually};

/// Says where it is, then waits for a file of that name; ends with the project at the latest.
const WAIT: &str = r#"echo "holding $PGDATABASE."
while [ -e pgstencil.toml ] && [ ! -e "end-$PGDATABASE" ]; do sleep 0.05; done"#;

/// Says where it is, opens a session there, and waits as above with that session open.
const WAIT_INSIDE: &str = r#"echo "holding $PGDATABASE."
while [ -e pgstencil.toml ] && [ ! -e "end-$PGDATABASE" ]; do echo 'select 1;'; sleep 0.05; done |
    psql -X -q -At >/dev/null"#;

/// A `run` that holds a clone until it is told to [`Held::end`].
pub(crate) struct Held<'p, 's> {
    /// The `pgstencil run`.
    pub(crate) run: Running,
    /// The clone's first database.
    pub(crate) database: String,
    project: &'p Project<'s>,
}

impl<'p, 's> Held<'p, 's> {
    /// Its command has no session.
    pub(crate) fn idle(project: &'p Project<'s>, args: &[&str]) -> Self {
        Self::with(project, args, WAIT)
    }

    /// Its command has a session in the clone all the time.
    pub(crate) fn inside(project: &'p Project<'s>, args: &[&str]) -> Self {
        let held = Self::with(project, args, WAIT_INSIDE);
        let there = || sessions(project, &held.database) > 0;
        assert!(eventually(PATIENCE, there), "psql did not connect");
        held
    }

    fn with(project: &'p Project<'s>, args: &[&str], script: &str) -> Self {
        let run = Pgstencil::new(project).arg("run").args(args).args(["--", "sh", "-c", script]).spawn();
        run.wait_for_text(".\n");
        let text = run.stdout_so_far();
        let database = text
            .lines()
            .find_map(|line| line.strip_prefix("holding ")?.strip_suffix('.'))
            .unwrap_or_else(|| panic!("{text:?}"))
            .to_owned();
        Held { run, database, project }
    }

    /// Lets the command end.
    pub(crate) fn end(&self) {
        self.project.write(&format!("end-{}", self.database), "");
    }
}

/// How many sessions are in a database.
pub(crate) fn sessions(project: &Project<'_>, database: &str) -> usize {
    let quoted = super::server::quote_literal(database);
    let sql = format!(
        "select count(*) from pg_stat_activity where datname = {quoted} and backend_type = 'client backend'"
    );
    project.server().psql("postgres", &sql).parse().unwrap()
}

/// The oid of a database, as text; empty if it is not there.
pub(crate) fn oid(project: &Project<'_>, database: &str) -> String {
    let quoted = super::server::quote_literal(database);
    let sql = format!("select oid from pg_database where datname::text = {quoted}");
    project.server().psql("postgres", &sql)
}

/// Waits until the project has no databases but templates. Rows of clones may be left to the next command.
#[track_caller]
pub(crate) fn only_templates_left(project: &Project<'_>) {
    let mut left = Vec::new();
    let clean = eventually(PATIENCE, || {
        left = project.databases();
        left.retain(|name| !name.starts_with("tpl_"));
        left.is_empty()
    });
    assert!(clean, "left behind: {left:?}");
}

/// The same, and until the registry has no clones: a drop forgets the row a moment after the database is gone.
#[track_caller]
pub(crate) fn no_clones_left(project: &Project<'_>) {
    only_templates_left(project);
    let clones = || project.server().psql(&project.registry(), "select name, state from pgstencil.clone");
    assert!(eventually(PATIENCE, || clones().is_empty()), "rows left behind: {}", clones());
}

/// Waits until a database is gone.
#[track_caller]
pub(crate) fn goes(project: &Project<'_>, database: &str) {
    let gone = eventually(PATIENCE, || !project.server().has_database(database));
    assert!(gone, "{database} is still there");
}

/// Looks for a while whether a database stays.
#[track_caller]
pub(crate) fn stays(project: &Project<'_>, database: &str, time: Duration) {
    let gone = eventually(time, || !project.server().has_database(database));
    assert!(!gone, "{database} was dropped");
}

/// `list --json`
#[track_caller]
pub(crate) fn list(project: &Project<'_>) -> serde_json::Value {
    Pgstencil::new(project).args(["list", "--json"]).success().json()
}

/// The clone in `list` that has this name, not one that came too late for it.
#[track_caller]
pub(crate) fn listed(project: &Project<'_>, name: &str) -> serde_json::Value {
    let listed = list(project);
    let clones = listed["clones"].as_array().unwrap();
    let mut leased = clones.iter().filter(|c| c["state"] == "leased");
    leased.find(|c| c["name"] == *name).unwrap().clone()
}
