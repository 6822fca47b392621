use std::path::Path;
use std::time::Instant;

use super::*;
use crate::fingerprint::order::group;
use crate::fingerprint::{Append, Obstacle, extension};

/// Returns a recipe with these migrations, whose content is their path.
pub(in crate::fingerprint) fn recipe(migrations: &[&str]) -> Recipe {
    Recipe {
        rerun_inputs: files(&["requirements.lock"]),
        inputs: files(&["seeds/a.sql"]),
        lines: vec![LinesInput {
            file: "requirements.lock".into(),
            matching: "^django".into(),
            hash: "1".into(),
            count: 1,
            text: vec!["django==5.2".into()],
        }],
        companions: files(&["sql/view.sql"]),
        env: vec![variable("SECRET")],
        mapping: vec![variable("DB_NAME")],
        build_env: vec![variable("SETTINGS")],
        build: "make migrate".into(),
        ..Recipe::of_migrations(files(migrations))
    }
}

fn files(paths: &[&str]) -> Vec<FileInput> {
    let mut files: Vec<_> = paths
        .iter()
        .map(|path| FileInput {
            path: path_of(path),
            hash: blake3::hash(path.as_bytes()).to_hex().to_string(),
            bytes: path.len() as u64,
            normal: None,
        })
        .collect();
    files.sort_by(by_path);
    files
}

fn path_of(path: &str) -> RelPath {
    RelPath::new(Path::new(path))
}

fn variable(name: &str) -> EnvInput {
    EnvInput { name: name.into(), hash: Some("1".into()) }
}

/// xorshift: the same numbers for the same seed, which is not 0.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        for shift in [13, -7, 17] {
            self.0 ^= match shift {
                1.. => self.0 << shift,
                _ => self.0 >> -shift,
            };
        }
        (self.0 % limit as u64) as usize
    }
}

pub(in crate::fingerprint) fn shuffle<T>(list: &mut [T], seed: u64) {
    let mut random = Random(seed);
    for end in (1..list.len()).rev() {
        list.swap(end, random.below(end + 1));
    }
}

const BASE: [&str; 3] = ["a/0001_x.py", "a/0004_y.py", "b/0001_x.py"];

fn full_build(change: impl Fn(&mut Recipe), why: &str) {
    let old = recipe(&BASE);
    let mut new = old.clone();
    change(&mut new);
    for order in [Append::Sorted, Append::Any] {
        assert_eq!(extension(&old, &new, order).unwrap_err().to_string(), why);
    }
    let appended: Vec<String> = (5..500).map(|n| format!("a/{n:04}_z.py")).collect();
    let mut all = BASE.to_vec();
    all.extend(appended.iter().map(String::as_str));
    let far = Difference::between(&old, &recipe(&all)).distance();
    assert_eq!(far, appended.len());
    assert!(Difference::between(&old, &new).distance() > far);
    assert!(!Difference::between(&old, &new).is_empty());
}

#[test]
fn each_obstacle_has_its_words() {
    full_build(|r| r.format += 1, "the format of the fingerprint differs (1, 2)");
    full_build(|r| r.build.push('x'), "the build command differs");
    full_build(|r| r.databases.push("b".into()), "`databases` differs");
    full_build(|r| r.from = "template1".into(), "`from` differs (template0, template1)");
    full_build(|r| r.server.major = 18, "the server's major version differs (17, 18)");
    full_build(|r| r.server.encoding = "LATIN1".into(), "the server's encoding differs (UTF8, LATIN1)");
    full_build(
        |r| r.server.collate = "en_US.UTF-8".into(),
        "the server's locale differs (collate: C, en_US.UTF-8)",
    );
    full_build(|r| r.server.locale = Some("de".into()), "the server's locale differs (locale: none, de)");
    let lines = "lines of `requirements.lock` that match `^django` differ";
    full_build(|r| r.lines[0].hash.push('x'), lines);
    full_build(|r| r.lines.clear(), lines);
    full_build(|r| r.env[0].hash = None, "variable `SECRET` differs");
    full_build(|r| r.env.insert(0, variable("A")), "variable `A` differs");
    full_build(|r| r.mapping.clear(), "variable `DB_NAME` of the definition's `env` differs");
    full_build(|r| r.build_env[0].hash = None, "variable `SETTINGS` of the definition's `build_env` differs");
    full_build(|r| r.order = Order::Name, "`order` differs (directory, name)");
    full_build(|r| r.companions[0].hash.push('x'), "companion `sql/view.sql` was changed");
    full_build(|r| r.companions.clear(), "companion `sql/view.sql` is gone");
    full_build(|r| r.inputs.clear(), "input `seeds/a.sql` is gone");
    full_build(|r| r.inputs[0].hash.push('x'), "input `seeds/a.sql` was changed");
    full_build(|r| r.inputs.extend(files(&["seeds/b.sql"])), "input `seeds/b.sql` is new");
    full_build(|r| r.migrations[1].hash.push('x'), "migration `a/0004_y.py` was changed");
    full_build(|r| drop(r.migrations.remove(1)), "migration `a/0004_y.py` is gone");
}

#[test]
fn companions_may_be_added() {
    let old = recipe(&BASE);
    let mut new = old.clone();
    new.companions = files(&["sql/a.sql", "sql/view.sql"]);
    assert_eq!(extension(&old, &new, Append::Sorted), Ok(vec![]));
    assert_eq!(old.core(), new.core());
    assert_ne!(old.fingerprint(), new.fingerprint());
    let difference = Difference::between(&old, &new);
    assert_eq!(difference.distance(), 1);
    assert_eq!(difference.companions.added, [path_of("sql/a.sql")]);
    // Changed together with the migration that reads it.
    new.migrations = files(&["a/0001_x.py", "a/0004_y.py", "a/0005_z.py", "b/0001_x.py"]);
    let added = extension(&old, &new, Append::Sorted);
    assert_eq!(added, Ok(vec![path_of("a/0005_z.py")]));
    // Changed back, but a companion is gone.
    let back = extension(&new, &old, Append::Sorted).unwrap_err();
    assert_eq!(back.to_string(), "companion `sql/a.sql` is gone");
}

#[test]
fn the_text_of_lines_is_told_from_both_sides() {
    let old = recipe(&BASE);
    let mut new = old.clone();
    new.lines[0].text = vec!["django==5.3".into()];
    // The text alone is no difference: recipes from before the text was stored do not have it.
    assert!(Difference::between(&old, &new).is_empty());
    new.lines[0].hash.push('x');
    let texts = Difference::between(&old, &new).texts;
    assert_eq!(
        texts,
        [Texts {
            file: "requirements.lock".into(),
            matching: "^django".into(),
            old: vec!["django==5.2".into()],
            new: vec!["django==5.3".into()],
        }]
    );
}

#[test]
fn line_ends_are_told_from_other_changes() {
    let root = tempfile::tempdir().unwrap();
    let of = |path: &str, content: &str| FileInput {
        path: path_of(path),
        hash: blake3::hash(content.as_bytes()).to_hex().to_string(),
        bytes: content.len() as u64,
        normal: None,
    };
    let contents = [
        ("1.sql", "a;\nb;\n", "a;\r\nb;\r\n"),
        ("2.sql", "a;\r\nb;\r\n", "a;\nb;\n"),
        ("3.sql", "a;\nb;\n", "a;\r\nc;\r\n"),
        ("4.sql", "a;\nb;\n", "a;\nb; \n"),
        ("5.sql", "a;\nb;\n", "a;\nb;\n"),
    ];
    let (mut old, mut new) = (recipe(&[]), recipe(&[]));
    for (path, before, after) in contents {
        std::fs::write(root.path().join(path), after).unwrap();
        old.migrations.push(of(path, before));
        new.migrations.push(of(path, after));
    }
    let mut difference = Difference::between(&old, &new);
    assert_eq!(difference.migrations.changed.len(), 4);
    assert_eq!(difference.line_ends().count(), 0);
    difference.find_line_ends(&old, root.path());
    let found: Vec<String> = difference.line_ends().map(RelPath::to_string).collect();
    assert_eq!(found, ["1.sql", "2.sql"]);
    // Files that are gone are skipped.
    difference.find_line_ends(&old, Path::new("/nowhere"));
    assert_eq!(difference.line_ends().count(), 0);
}

#[test]
fn rerun_inputs_may_differ() {
    let old = recipe(&BASE);
    let mut new = old.clone();
    assert_eq!(extension(&old, &new, Append::Sorted), Err(Obstacle::Equal));
    assert!(Difference::between(&old, &new).is_empty());
    new.rerun_inputs[0].hash.push('x');
    assert_eq!(extension(&old, &new, Append::Sorted), Ok(vec![]));
    assert_eq!(Difference::between(&old, &new).distance(), 1);
    new.rerun_inputs = files(&["other.lock"]);
    assert_eq!(extension(&old, &new, Append::Sorted), Ok(vec![]));
    assert_eq!(Difference::between(&old, &new).distance(), 2);
}

#[test]
fn files_without_order_in_the_base_constrain_nothing() {
    let taken = |old: &[&str], new: &[&str]| extension(&recipe(old), &recipe(new), Append::Sorted);
    let new = ["a/zzz.py", "a/0001_x.py"];
    assert_eq!(taken(&new[..1], &new), Ok(vec![path_of("a/0001_x.py")]));
    assert_eq!(
        taken(&new[..1], &["a/zzz.py", "a/more.py"]).unwrap_err().to_string(),
        "new file `a/more.py` has no place in the order of the files of `a`"
    );
    assert_eq!(
        taken(&["x.py"], &["x.py", "y.py"]).unwrap_err().to_string(),
        "new file `y.py` has no place in the order of the others"
    );
    assert_eq!(taken(&["x.py"], &["x.py", "b/y.py"]), Ok(vec![path_of("b/y.py")]));
}

#[test]
fn a_difference_as_json() {
    let old = recipe(&BASE);
    let mut new = recipe(&["a/0001_x.py", "a/0004_y.py", "a/0005_z.py"]);
    new.migrations[0].hash.push('x');
    new.build = "make".into();
    new.databases.push("b".into());
    new.server.major = 18;
    new.env.clear();
    let difference = Difference::between(&old, &new);
    let none = serde_json::json!({"added": [], "changed": [], "removed": []});
    assert_eq!(
        serde_json::to_value(&difference).unwrap(),
        serde_json::json!({
            "migrations": {
                "added": ["a/0005_z.py"],
                "changed": ["a/0001_x.py"],
                "removed": ["b/0001_x.py"],
            },
            "rerun_inputs": none,
            "inputs": none,
            "lines": [],
            "env": ["SECRET"],
            "mapping": [],
            "build": {"old": "make migrate", "new": "make"},
            "databases": {"old": ["app"], "new": ["app", "b"]},
            "server": [{"property": "major", "old": "17", "new": "18"}],
            "format": null,
        })
    );
    assert_eq!(difference.distance(), (6 << 24) + 1);
}

/// Random sets with larger numbers added are extensions; after any change or loss in the base none is.
#[test]
fn what_appends_extends_and_nothing_else() {
    for seed in 1..300 {
        let mut random = Random(seed);
        let groups = 1 + random.below(4);
        let (mut base, mut added) = (Vec::new(), Vec::new());
        for group in 0..groups {
            let mut number = 0;
            let (old, new) = (1 + random.below(20), random.below(5));
            for nth in 0..old + new {
                number += 1 + random.below(40);
                let width = 1 + random.below(6);
                let list = if nth < old { &mut base } else { &mut added };
                let word = ["a", "z", "v2"][random.below(3)];
                list.push(format!("g{group}/{number:0width$}_{word}.sql"));
            }
        }
        added.push("new/0001_x.sql".to_owned());
        let old: Vec<_> = base.iter().map(String::as_str).collect();
        let mut all = old.clone();
        all.extend(added.iter().map(String::as_str));
        let (old, new) = (recipe(&old), recipe(&all));

        let expected: Vec<_> = added.iter().map(|p| path_of(p)).collect();
        assert_eq!(extension(&old, &new, Append::Sorted), Ok(expected.clone()));
        let difference = Difference::between(&old, &new);
        let mut by_bytes = expected;
        by_bytes.sort();
        assert_eq!(difference.migrations.added, by_bytes);
        assert_eq!(difference.distance(), by_bytes.len());

        let victim = path_of(&base[random.below(base.len())]);
        let at = new.migrations.iter().position(|f| f.path == victim).unwrap();
        let mut changed = new.clone();
        changed.migrations[at].hash.push('x');
        let mut gone = new.clone();
        gone.migrations.remove(at);
        for order in [Append::Sorted, Append::Any] {
            assert_eq!(extension(&old, &changed, order), Err(Obstacle::MigrationChanged(victim.clone())));
            assert_eq!(extension(&old, &gone, order), Err(Obstacle::MigrationGone(victim.clone())));
        }
        // A base that lacks a file, but not the last one of its group.
        let group = group(&victim, Order::Directory).to_vec();
        let last = base.iter().rfind(|p| p.as_bytes().starts_with(&group)).unwrap();
        let mut lacks = old.clone();
        lacks.migrations.retain(|f| f.path != victim);
        let verdict = extension(&lacks, &old, Append::Sorted);
        assert_eq!(verdict.is_ok(), *last == victim.to_string(), "{verdict:?}");
        assert_eq!(extension(&lacks, &old, Append::Any), Ok(vec![victim]));
    }
}

/// `cargo test --lib difference -- --ignored --nocapture speed`
#[test]
#[ignore = "a measurement"]
fn speed() {
    let paths: Vec<String> =
        (0..5000).map(|n| format!("apps/app{}/migrations/{:04}_change.py", n % 50, n / 50)).collect();
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    let (old, new) = (recipe(&paths[..4950]), recipe(&paths));
    let start = Instant::now();
    for _ in 0..100 {
        assert_eq!(extension(&old, &new, Append::Sorted).unwrap().len(), 50);
    }
    println!("100 bases of 4,950 files: {:?}", start.elapsed());
    let start = Instant::now();
    for _ in 0..100 {
        assert_eq!(Difference::between(&old, &new).distance(), 50);
    }
    println!("100 differences: {:?}", start.elapsed());
}
