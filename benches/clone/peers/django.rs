//! pytest-django: the whole test run of a project, with a database made by Django, and with a clone.

use std::path::{Path, PathBuf};

use super::{python_imports, python_tool, timed};
use crate::commands::name;
use crate::place::{Place, tell};
use crate::project::markdown;
use crate::samples::{Samples, ms, times};
use crate::subject::{Config, PGSTENCIL, Subject};

const MISSING: &str = "pytest-django (`pip install pytest-django` and the project's requirements into \
                       PEERS_VENV, and give a Django project: `cargo bench --bench clone -- examples/django`)";

const PYTEST: [&str; 3] = ["-q", "-p", "no:cacheprovider"];

/// Prints a table for each Django project.
pub(super) fn measure(place: &Place, projects: &[PathBuf], rounds: usize) {
    let django = |p: &&PathBuf| p.join("manage.py").is_file();
    let mut projects = projects.iter().filter(django).peekable();
    let there = projects.peek().is_some() && python_imports("pytest_django");
    let Some(pytest) = python_tool("pytest").filter(|_| there) else {
        println!("\nSkipped: {MISSING}.");
        return;
    };
    for project in projects {
        one(place, project, &pytest, rounds);
    }
}

fn one(place: &Place, project: &Path, pytest: &Path, rounds: usize) {
    const CREATE: &str = "`pytest --create-db`";
    const REUSE: &str = "`pgstencil run -- pytest --reuse-db`";
    const RUN: &str = "of it `pgstencil run -- true`";
    let subject = Subject::new(place, project);
    let variables = mapped_variables(&subject.project, &name(), place);
    let config = subject.config(Config::Warm);
    let mut samples = Samples::default();
    for round in 0..rounds {
        tell(&format!("{}: {}/{rounds}", project.display(), round + 1));
        subject.settle();
        let mut create = place.command(pytest, &subject.project);
        create.args(PYTEST).arg("--create-db").envs(variables.clone());
        samples.add(CREATE, timed(&mut create));
        let mut run = place.command(PGSTENCIL, &subject.project);
        run.arg("--config").arg(&config).args(["run", "-q", "--"]);
        run.arg(pytest).args(PYTEST).arg("--reuse-db");
        samples.add(REUSE, timed(&mut run));
        subject.settle();
        let (took, _) = subject.pgstencil(Config::Warm, &["run", "-q", "--", "true"]);
        samples.add(RUN, took);
    }
    let rows: Vec<_> = [CREATE, REUSE, RUN]
        .map(|what| {
            let ratio = times(samples.ratio(&[what], &[CREATE]));
            vec![what.into(), ms(samples.median(what)), ratio]
        })
        .to_vec();
    let head = [format!("all tests of {}", project.display()), "median ms".into(), format!("÷ {CREATE}")];
    println!("{}", markdown(&head, &rows));
}

/// The variables of a project's first template, filled for a database.
fn mapped_variables(project: &Path, database: &str, place: &Place) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(project.join("pgstencil.toml")).unwrap();
    let config: toml::Table = toml::from_str(&text).unwrap();
    let template = config["template"].as_table().unwrap().values().next();
    let Some(env) = template.unwrap().get("env").and_then(|e| e.as_table()) else {
        return Vec::new();
    };
    let filled = |value: &str| {
        value
            .replace("{name}", database)
            .replace("{url}", &place.url(database))
            .replace("{host}", &place.server.host())
            .replace("{port}", &place.server.port().to_string())
            .replace("{user}", &place.server.user())
            .replace("{password}", &place.server.password())
    };
    env.iter().map(|(name, value)| (name.clone(), filled(value.as_str().unwrap()))).collect()
}
