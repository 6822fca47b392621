//! Every preset, on the small project that `tests/presets` has for it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::*;
use crate::config::{Extend, FILE_NAME};
use crate::fingerprint::{Append, Obstacle, Recipe, ServerTraits, extension};

/// `expect.toml`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    /// What the next migration causes: `extended` or `full`.
    next: String,
    /// Texts of the config.
    config: Vec<String>,
    /// The newest migration after those of the directory `more` were added; `tests/presets.sh` edits it.
    edit: Option<PathBuf>,
}

fn projects() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/presets")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn recipe(config: &Config) -> Recipe {
    let inputs = Inputs::read(&FileCache::off(), &config.root, &config.definitions[0], &|_| None).unwrap();
    let text = || "C".to_owned();
    inputs.with_server(ServerTraits {
        major: 15,
        encoding: "UTF8".into(),
        provider: "libc".into(),
        collate: text(),
        ctype: text(),
        locale: None,
    })
}

/// The config that `init` would write into `directory`.
fn written(presets: &Presets, directory: &Path) -> (Vec<String>, String) {
    let tree = Tree::read(directory).unwrap();
    let found = detect(presets, &tree);
    let names = found.iter().map(|found| found.preset.name.clone()).collect();
    let text = found.first().map(|found| write(presets, found.preset, &tree, &found.sites[0]).text);
    (names, text.unwrap_or_default())
}

/// The project of a preset, in a directory of its own.
fn project(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy(&projects().join(name).join("project"), dir.path());
    dir
}

#[test]
fn every_preset_has_a_project_in_which_it_is_found_and_writes_a_config_that_works() {
    let presets = Presets::load().unwrap();
    let mut faults = Vec::new();
    for preset in presets.all() {
        let name = &preset.name;
        let expect = fs::read_to_string(projects().join(name).join("expect.toml")).expect(name);
        let expect: Expect = toml::from_str(&expect).expect(name);
        let dir = project(name);
        let (found, text) = written(&presets, dir.path());
        if found != [name.as_str()] {
            faults.push(format!("{name}: found {found:?}"));
            continue;
        }
        if let Some(edit) = &expect.edit
            && !projects().join(name).join("more").join(edit).is_file()
        {
            faults.push(format!("{name}: `edit` names no file of the directory `more`"));
        }
        for wanted in &expect.config {
            if !text.contains(wanted.as_str()) {
                faults.push(format!("{name}: no `{wanted}` in\n{text}"));
            }
        }
        if write::has_values(&text) {
            faults.push(format!("{name}: a value is left in\n{text}"));
        }
        let config = match Config::parse(&text, &dir.path().join(FILE_NAME)) {
            Ok(config) => config,
            Err(e) => {
                faults.push(format!("{name}: {e}\n{text}"));
                continue;
            }
        };
        if let Err(e) = inputs_match(&config) {
            faults.push(format!("{name}: {e}\n{text}"));
            continue;
        }
        // Nothing to improve in what was just written, and the tool of the build command is the preset's.
        let tree = Tree::read(dir.path()).unwrap();
        let (advice, asked) = check(&presets, &config, &tree).unwrap();
        if !advice.is_empty() || !asked.iter().any(|asked| asked.name == *name) {
            faults.push(format!(
                "{name}: {advice:?}, asked {:?}",
                asked.iter().map(|p| &p.name).collect::<Vec<_>>()
            ));
        }
        let old = recipe(&config);
        copy(&projects().join(name).join("next"), dir.path());
        let new = recipe(&config);
        let append = match config.definitions[0].extend {
            Extend::Always => Append::Any,
            _ => Append::Sorted,
        };
        let next = match extension(&old, &new, append) {
            Ok(_) => "extended",
            Err(Obstacle::Equal) => "nothing",
            Err(_) => "full",
        };
        if next != expect.next {
            faults.push(format!("{name}: the next migration is {next}, not {}", expect.next));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

#[test]
fn the_configs_are_commented_and_short() {
    let presets = Presets::load().unwrap();
    for preset in presets.all() {
        let (_, text) = written(&presets, project(&preset.name).path());
        assert!(text.starts_with(&format!("# For {}", preset.title)), "{text}");
        assert!(text.lines().all(|line| line.len() <= 200), "{text}");
    }
}

#[test]
fn a_project_in_a_directory_below_gets_a_root() {
    let presets = Presets::load().unwrap();
    for preset in presets.all() {
        let dir = tempfile::tempdir().unwrap();
        copy(&projects().join(&preset.name).join("project"), &dir.path().join("services/api"));
        let (found, text) = written(&presets, dir.path());
        assert_eq!(found, [preset.name.as_str()]);
        let config = Config::parse(&text, &dir.path().join(FILE_NAME)).unwrap();
        if let Err(e) = inputs_match(&config) {
            panic!("{}: {e}\n{text}", preset.name);
        }
    }
}

#[test]
fn a_plain_sql_directory_counts_only_without_a_tool() {
    let presets = Presets::load().unwrap();
    let dir = project("knex");
    fs::create_dir(dir.path().join("sql")).unwrap();
    fs::write(dir.path().join("sql/001_x.sql"), "").unwrap();
    assert_eq!(written(&presets, dir.path()).0, ["knex"]);
    let empty = tempfile::tempdir().unwrap();
    assert!(written(&presets, empty.path()).0.is_empty());
}

#[test]
fn examples_and_fixtures_count_only_if_nothing_else_is_there() {
    let presets = Presets::load().unwrap();
    let dir = project("alembic");
    copy(&projects().join("knex/project"), &dir.path().join("examples/knex"));
    assert_eq!(written(&presets, dir.path()).0, ["alembic"]);
    let dir = tempfile::tempdir().unwrap();
    copy(&projects().join("knex/project"), &dir.path().join("examples/knex"));
    assert_eq!(written(&presets, dir.path()).0, ["knex"]);
}

#[test]
fn two_tools_are_both_found() {
    let presets = Presets::load().unwrap();
    let dir = project("alembic");
    copy(&projects().join("knex/project"), &dir.path().join("web"));
    assert_eq!(written(&presets, dir.path()).0, ["alembic", "knex"]);
}

#[test]
fn a_text_of_the_project_cannot_leave_its_string() {
    let presets = Presets::load().unwrap();
    let dir = project("alembic");
    for bad in ["x\"; y", "$(touch /tmp/x)", "`id`", "../out", "a'b", "*", "-rf", "/etc"] {
        fs::write(dir.path().join("alembic.ini"), format!("[alembic]\nscript_location = {bad}\n")).unwrap();
        let (_, text) = written(&presets, dir.path());
        assert!(text.contains("migrations = [\"db/migrations/versions/*.py\"]"), "{bad}: {text}");
        Config::parse(&text, &dir.path().join(FILE_NAME)).unwrap();
    }
}

#[track_caller]
fn advice(project_of: &str, files: &[(&str, &str)], config: &str) -> Vec<Advice> {
    let presets = Presets::load().unwrap();
    let dir = project(project_of);
    for (file, text) in files {
        match text.is_empty() {
            true => fs::remove_file(dir.path().join(file)).unwrap(),
            false => fs::write(dir.path().join(file), text).unwrap(),
        }
    }
    let config = Config::parse(config, &dir.path().join(FILE_NAME)).unwrap();
    check(&presets, &config, &Tree::read(dir.path()).unwrap()).unwrap().0
}

#[track_caller]
fn advises(advice: &[Advice], message: &str, hint: &str) {
    let found = advice.iter().any(|advice| advice.message.contains(message) && advice.hint.contains(hint));
    assert!(found, "no `{message}` with `{hint}` in {advice:?}");
}

#[test]
fn embedded_migrations_need_a_build_script() {
    let config = "[template.app]\nmigrations = [\"migrations/*.sql\"]\nbuild = \"cargo run -q\"\n";
    for name in ["sqlx-migrate", "refinery"] {
        assert_eq!(advice(name, &[], config), []);
        advises(&advice(name, &[("build.rs", "")], config), "no build.rs tells cargo", "rerun-if-changed");
        advises(&advice(name, &[("build.rs", "fn main() {}")], config), "src/main.rs", "rerun-if-changed");
    }
}

#[test]
fn dumps_into_the_tree_are_told_with_the_switch() {
    let dbmate = "[template.app]\nmigrations = [\"db/migrations/*.sql\"]\nbuild = \"npx dbmate up\"\n";
    advises(&advice("dbmate", &[], dbmate), "db/schema.sql", "--no-dump-schema");
    let mikro =
        "[template.app]\nmigrations = [\"migrations/*.js\"]\nbuild = \"npx mikro-orm migration:up\"\n";
    let without = [("mikro-orm.config.js", "module.exports = {}")];
    advises(&advice("mikro-orm", &without, mikro), ".snapshot-", "snapshot: false");
    let rails = "[template.app]\nmigrations = [\"db/migrate/*.rb\"]\ninputs = [\"db/schema.rb\"]\nbuild = \"bin/rails db:migrate\"\n";
    let found = advice("rails", &[], rails);
    advises(&found, "db/schema.rb", "dump_schema_after_migration");
    advises(&found, "purges", "db:schema:load");
    let diesel =
        "[template.app]\nmigrations = [\"migrations/**/up.sql\"]\nbuild = \"diesel migration run\"\n";
    let prints = [("diesel.toml", "[print_schema]\nfile = \"src/schema.rs\"\n")];
    advises(&advice("diesel", &prints, diesel), "schema file", "--locked-schema");
}

#[test]
fn inputs_that_should_rerun_and_names_without_order_are_told() {
    let sqitch = "[template.app]\nmigrations = [\"deploy/*.sql\"]\ninputs = [\"sqitch.plan\"]\nbuild = \"sqitch deploy x\"\n";
    let found = advice("sqitch", &[], sqitch);
    advises(&found, "sqitch.plan", "rerun_inputs");
    advises(&found, "have no order", "extend = \"always\"");
    let drizzle = "[template.app]\nmigrations = [\"drizzle/*.sql\"]\ninputs = [\"drizzle/meta/_journal.json\"]\nbuild = \"npx drizzle-kit migrate\"\n";
    advises(&advice("drizzle", &[], drizzle), "_journal.json", "rerun_inputs");
    let sea = "[template.app]\nmigrations = [\"migration/src/m*.rs\"]\ninputs = [\"migration/src/lib.rs\"]\nbuild = \"cargo run -q --manifest-path migration/Cargo.toml -- up\"\n";
    let found = advice("sea-orm", &[], sea);
    advises(&found, "lib.rs", "rerun_inputs");
    advises(&found, "main.rs counts as a migration", "m[0-9]*.rs");
    let alembic =
        "[template.app]\nmigrations = [\"db/migrations/versions/*.py\"]\nbuild = \"alembic upgrade head\"\n";
    advises(&advice("alembic", &[], alembic), "no order", "extend = \"always\"");
    // A tool that no preset knows.
    let own = "[template.app]\nmigrations = [\"deploy/*.sql\"]\nbuild = \"./own-tool\"\n";
    let files = [("sqitch.plan", ""), ("sqitch.conf", ""), ("deploy/b.sql", "SELECT 1;")];
    advises(&advice("sqitch", &files, own), "have no order", "extend = \"always\"");
}
