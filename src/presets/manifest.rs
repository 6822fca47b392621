//! The packages that a project's manifests name. A manifest that cannot be read names none.

use regex::Regex;
use serde::{Deserialize, Deserializer, de};
use std::sync::LazyLock;

/// Package of an ecosystem; in a preset `npm:knex`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) ecosystem: Ecosystem,
    pub(super) name: String,
}

/// Where a package comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ecosystem {
    Npm,
    Python,
    Ruby,
    Rust,
    Go,
    Php,
    Elixir,
}

use Ecosystem::{Elixir, Go, Npm, Php, Python, Ruby, Rust};

impl<'de> Deserialize<'de> for Package {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (ecosystem, name) = text.split_once(':').unwrap_or_default();
        let ecosystem = match ecosystem {
            "npm" => Npm,
            "python" => Python,
            "ruby" => Ruby,
            "rust" => Rust,
            "go" => Go,
            "php" => Php,
            "elixir" => Elixir,
            _ => {
                return Err(de::Error::custom(format!(
                    "`{text}` is not a package: npm:knex, python:alembic"
                )));
            }
        };
        Ok(Package { ecosystem, name: name.to_owned() })
    }
}

/// Returns which kind of manifest a file of this path is.
pub(super) fn kind(path: &str) -> Option<Ecosystem> {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    match name {
        "package.json" => Some(Npm),
        "pyproject.toml" | "Pipfile" | "setup.cfg" | "setup.py" => Some(Python),
        "Gemfile" => Some(Ruby),
        "Cargo.toml" => Some(Rust),
        "go.mod" => Some(Go),
        "composer.json" => Some(Php),
        "mix.exs" => Some(Elixir),
        _ => {
            let list = name.ends_with(".txt") || name.ends_with(".in");
            let requirements = name.contains("requirements") || directory.ends_with("requirements");
            (list && requirements).then_some(Python)
        }
    }
}

/// Returns whether a file of this path stands at the top of a project.
pub(super) fn marks_a_project(path: &str) -> bool {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    matches!(name, "pom.xml" | "build.gradle" | "build.gradle.kts")
        || (kind(path).is_some() && !name.ends_with(".txt") && !name.ends_with(".in"))
}

/// Returns the packages that a manifest names.
pub(super) fn packages(path: &str, text: &str) -> Vec<Package> {
    let Some(ecosystem) = kind(path) else { return Vec::new() };
    let names = match ecosystem {
        Npm => keys(&json(text), |key| key.ends_with("ependencies")),
        Php => keys(&json(text), |key| key.starts_with("require")),
        Rust => keys(&toml_of(text), |key| key.ends_with("dependencies")),
        Python if path.ends_with(".toml") || path.ends_with("Pipfile") => {
            let manifest = toml_of(text);
            let mut names = keys(&manifest, |key| key.ends_with("dependencies") || key.ends_with("packages"));
            strings(&manifest, &mut |entry| names.extend(requirement(entry)));
            names
        }
        Python if path.ends_with(".txt") || path.ends_with(".in") => {
            text.lines().filter_map(requirement).collect()
        }
        Python => all(&QUOTED_OR_LINE, text),
        Ruby => all(&GEM, text),
        Go => all(&GO, text),
        Elixir => all(&MIX, text),
    };
    names.into_iter().map(|name| Package { ecosystem, name }).collect()
}

fn expression(text: &str) -> Regex {
    // The expressions are below, and a test uses each.
    Regex::new(text).unwrap_or_else(|e| unreachable!("{e}"))
}

/// A requirement: a name, then a version, extras, a marker or nothing.
static REQUIREMENT: LazyLock<Regex> =
    LazyLock::new(|| expression(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:[\[<>=!~;@#(,].*)?$"));
static QUOTED_OR_LINE: LazyLock<Regex> =
    LazyLock::new(|| expression(r#"(?m)(?:^\s+|["'])([A-Za-z0-9][A-Za-z0-9._-]*)"#));
static GEM: LazyLock<Regex> = LazyLock::new(|| expression(r#"(?m)^\s*gem\s*\(?\s*["']([^"']+)["']"#));
static GO: LazyLock<Regex> =
    LazyLock::new(|| expression(r"(?m)^\s*(?:require\s+|tool\s+)?([\w.-]+\.\w+/[^\s]+)"));
static MIX: LazyLock<Regex> = LazyLock::new(|| expression(r"\{\s*:(\w+)\s*,"));

fn all(expression: &Regex, text: &str) -> Vec<String> {
    expression.captures_iter(text).map(|found| normal(&found[1])).collect()
}

fn requirement(line: &str) -> Option<String> {
    REQUIREMENT.captures(line).map(|found| normal(&found[1]))
}

/// Python's names are equal up to case and `-`, `_`, `.`.
fn normal(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_default()
}

fn toml_of(text: &str) -> serde_json::Value {
    let table: Option<toml::Table> = toml::from_str(text).ok();
    table.and_then(|table| serde_json::to_value(table).ok()).unwrap_or_default()
}

/// Returns the keys of all tables that have such a name, at any depth.
fn keys(value: &serde_json::Value, wanted: fn(&str) -> bool) -> Vec<String> {
    let mut names = Vec::new();
    for (key, below) in value.as_object().into_iter().flatten() {
        match below.as_object() {
            Some(table) if wanted(key) => names.extend(table.keys().map(|name| normal(name))),
            _ => names.extend(keys(below, wanted)),
        }
    }
    names
}

fn strings(value: &serde_json::Value, each: &mut dyn FnMut(&str)) {
    match value {
        serde_json::Value::Array(entries) => {
            for entry in entries {
                match entry.as_str() {
                    Some(text) => each(text),
                    None => strings(entry, each),
                }
            }
        }
        serde_json::Value::Object(table) => table.values().for_each(|below| strings(below, each)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str, text: &str) -> Vec<String> {
        packages(path, text).into_iter().map(|package| package.name).collect()
    }

    #[test]
    fn every_kind_of_manifest_names_its_packages() {
        let npm =
            r#"{"name": "x", "dependencies": {"knex": "3"}, "devDependencies": {"@mikro-orm/cli": "6"}}"#;
        assert_eq!(names("a/package.json", npm), ["knex", "@mikro-orm/cli"]);
        let cargo = "[package]\nname = \"x\"\n[dependencies]\nsea-orm-migration = \"1\"\n\
                     [target.'cfg(unix)'.dev-dependencies]\nsqlx = { version = \"0.8\" }\n";
        assert_eq!(names("Cargo.toml", cargo), ["sea-orm-migration", "sqlx"]);
        let python = "[project]\ndependencies = [\"Alembic>=1.2\", \"flask_migrate[x]; python_version > '3'\"]\n\
                      [tool.poetry.dependencies]\nyoyo-migrations = \"*\"\n";
        let found = names("pyproject.toml", python);
        assert!(["alembic", "flask-migrate", "yoyo-migrations"].iter().all(|n| found.iter().any(|f| f == n)));
        assert_eq!(
            names("requirements/dev.txt", "-r base.txt\n# no\npytest-django==4 # x\naerich\n"),
            ["pytest-django", "aerich"]
        );
        assert!(names("setup.py", "install_requires=['Django>=5']").contains(&"django".to_owned()));
        assert_eq!(
            names("Gemfile", "gem \"rails\", \"~> 7\"\n# gem 'no'\n  gem('sequel')\n"),
            ["rails", "sequel"]
        );
        assert_eq!(
            names("go.mod", "module example.com/x\nrequire (\n\tgithub.com/pressly/goose/v3 v3.1.0\n)\n"),
            ["github.com/pressly/goose/v3"]
        );
        assert_eq!(
            names("composer.json", r#"{"require-dev": {"robmorgan/phinx": "1"}}"#),
            ["robmorgan/phinx"]
        );
        assert_eq!(names("mix.exs", "{:ecto_sql, \"~> 3\"}, {:plug, \">= 0\"}"), ["ecto-sql", "plug"]);
    }

    #[test]
    fn broken_manifests_name_none() {
        for path in ["package.json", "Cargo.toml", "pyproject.toml", "composer.json", "go.mod", "other.txt"] {
            assert!(names(path, "{{{ nonsense").is_empty(), "{path}");
        }
    }
}
