//! The whole way from a text to a [`Config`], and every error on it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::model::Places;
use super::*;
use crate::url::ServerUrl;

/// A directory `shop` with a config file in it.
struct Project {
    dir: tempfile::TempDir,
}

impl Project {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("shop")).unwrap();
        let project = Project { dir };
        fs::write(project.file(), text).unwrap();
        project
    }

    fn folder(&self) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join("shop")
    }

    fn file(&self) -> PathBuf {
        self.folder().join(FILE_NAME)
    }
}

fn load(text: &str) -> Config {
    Config::load(&Project::new(text).file()).unwrap()
}

/// The error as a person sees it, without the directory.
fn fails(text: &str) -> String {
    let project = Project::new(text);
    let e = Config::load(&project.file()).expect_err(text);
    assert_eq!(e.kind(), crate::error::Kind::Config, "{e:?}");
    let folder = format!("{}", project.folder().display());
    let mut shown = e.message().to_owned();
    for line in e.details() {
        shown += &format!("\n  {line}");
    }
    for hint in e.hints() {
        shown += &format!("\nhint: {hint}");
    }
    shown.replace(&format!("{folder}/"), "").replace(&folder, "SHOP")
}

/// `fails` for a minimal config with more lines in its definition, which begin at line 4.
fn fails_with(lines: &str) -> String {
    fails(&format!("{MINIMAL}{lines}\n"))
}

/// `fails` for lines in front of a minimal config.
fn fails_top(lines: &str) -> String {
    fails(&format!("{lines}\n{MINIMAL}"))
}

#[test]
fn the_least_config_has_all_defaults() {
    let project = Project::new(MINIMAL);
    let config = Config::load(&project.file()).unwrap();
    assert_eq!(
        config,
        Config {
            project: "shop".into(),
            file: project.file(),
            origin: Origin::Named,
            root: project.folder(),
            file_cache: true,
            server: ServerSettings::default(),
            clone: CloneSettings::default(),
            eviction: EvictionSettings::default(),
            remote: RemoteSettings::default(),
            definitions: vec![Definition {
                name: "app".into(),
                migrations: vec!["migrations/**/*.sql".into()],
                build: "sqlx migrate run".into(),
                ..Definition::default()
            }],
        }
    );
}

const FULL: &str = r#"
project = "My-Shop"

[server]
url = "postgres://me:s3cret@db/x?sslmode=require"
registry = "reg"
client_host = "pg"
client_port = 6543
client_for = "all"
bindir = "bin"
run_as = "pg"

[clone]
strategy = "file_copy"
ttl = "never"
named = "project"
branch_ttl = "3d"
background = "off"
orphan_grace = "1h 30m"
warm = 3
warm_max = 4
recycle = "never"

[eviction]
max_size = "1.5GB"
max_templates = 7
max_idle = "never"
keep = 0

[template.b]
build = "make migrate"
migrations = ["a/*.sql", "!**/tests/**"]
order = "name"
companions = ["v/*.sql"]
rerun_inputs = ["x.lock"]
inputs = ["{a,b}/*"]
input_lines = [{ file = "r.lock", match = '(?i)^django==' }]
normalize = [{ files = "a/*.py", as = "python" }]
extend = "always"
rebuild = "never"
build_until = "make migrate TO={version}"
waypoints = "never"
max_extensions = 3
stale_after = "7d"
verify_ignore = ["users.token", "app.users.*"]
serial_builds = true
env_inputs = ["LANG", "_X1"]
from = "golden"
databases = ["default", "proxy-1"]
after_clone = "true"
before_release = "rm -r bucket"
build_timeout = "90s"
allow_empty = true
allow_unchanged = true
build_inputs = false

[template.b.after_clone_sql]
default = "select '{proxy-1.name}', '{1,2}'"
proxy-1 = " "

[template.b.env]
DB = "{name}-{proxy-1.host} {{}}"
DATABASE_URL = "{url}"

[template.b.build_env]
DB = "{url:postgresql+asyncpg}"

[template.b.run_env]
DATA = "{root}/data"

[template.a]
build = "true"
inputs = ["a"]
"#;

#[test]
fn every_key_arrives() {
    let project = Project::new(FULL);
    let config = Config::load(&project.file()).unwrap();
    assert_eq!(config.project, "my-shop_04a7dd");
    assert_eq!(
        config.server,
        ServerSettings {
            url: Some(UrlSetting::Literal(
                ServerUrl::parse("postgres://me:s3cret@db/x?sslmode=require").unwrap()
            )),
            registry: "reg".into(),
            client_host: Some("pg".into()),
            client_port: Some(6543),
            client_for: ClientFor::All,
            bindir: Some(project.folder().join("bin")),
            run_as: Some("pg".into()),
        }
    );
    assert_eq!(
        config.clone,
        CloneSettings {
            strategy: Strategy::FileCopy,
            ttl: "never".into(),
            named: Named::Project,
            branch_ttl: "3d".into(),
            background: BackgroundWork::Off,
            orphan_grace: "1h 30m".into(),
            warm: 3,
            warm_max: 4,
            recycle: Recycle::Never,
        }
    );
    assert_eq!(
        config.eviction,
        EvictionSettings { max_size: "1.5GB".into(), max_templates: 7, max_idle: "never".into(), keep: 0 }
    );
    let names: Vec<_> = config.definitions.iter().map(|d| &d.name).collect();
    assert_eq!(names, ["a", "b"]);
    let pairs = |pairs: &[(&str, &str)]| {
        let owned = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        owned.collect::<BTreeMap<_, _>>()
    };
    assert_eq!(
        config.definitions[1],
        Definition {
            name: "b".into(),
            migrations: vec!["a/*.sql".into(), "!**/tests/**".into()],
            order: Order::Name,
            companions: vec!["v/*.sql".into()],
            rerun_inputs: vec!["x.lock".into()],
            inputs: vec!["{a,b}/*".into()],
            input_lines: vec![InputLines { file: "r.lock".into(), matching: "(?i)^django==".into() }],
            normalize: vec![Normalize { files: "a/*.py".into(), form: Form::Python }],
            env_inputs: vec!["LANG".into(), "_X1".into()],
            build: "make migrate".into(),
            from: "golden".into(),
            databases: vec!["default".into(), "proxy-1".into()],
            extend: Extend::Always,
            rebuild: Rebuild::Never,
            build_until: "make migrate TO={version}".into(),
            waypoints: Waypoints::Never,
            max_extensions: 3,
            stale_after: "7d".into(),
            verify_ignore: vec!["users.token".into(), "app.users.*".into()],
            serial_builds: true,
            after_clone: "true".into(),
            before_release: "rm -r bucket".into(),
            after_clone_sql: pairs(&[("default", "select '{proxy-1.name}', '{1,2}'")]),
            build_timeout: "90s".into(),
            allow_empty: true,
            allow_unchanged: true,
            build_inputs: false,
            env: pairs(&[("DATABASE_URL", "{url}"), ("DB", "{name}-{proxy-1.host} {{}}")]),
            build_env: pairs(&[("DB", "{url:postgresql+asyncpg}")]),
            run_env: pairs(&[("DATA", "{root}/data")]),
            places: Places::default(),
        }
    );
}

#[test]
fn strategies() {
    for (word, strategy) in [
        ("auto", Strategy::Auto),
        ("wal_log", Strategy::WalLog),
        ("file_copy", Strategy::FileCopy),
        ("reflink", Strategy::Reflink),
    ] {
        let config = load(&format!("{MINIMAL}[clone]\nstrategy = \"{word}\""));
        assert_eq!(config.clone.strategy, strategy);
    }
}

/// Each of the lines, put behind a minimal config, gives this error. Line 4 is the first of them.
fn check(cases: &[(&str, &str)]) {
    for (lines, error) in cases {
        assert_eq!(&fails_with(lines), error, "for: {lines}");
    }
}

#[test]
fn unknown_keys() {
    check(&[
        (
            "migration = []",
            "pgstencil.toml:4:1: unknown key `template.app.migration`
  keys known here: after_clone, after_clone_sql, allow_empty, allow_unchanged, before_release, build, build_env, build_inputs, build_timeout, build_until, companions, databases, env, env_inputs, extend, from, input_lines, inputs, max_extensions, migrations, normalize, order, rebuild, rerun_inputs, run_env, serial_builds, stale_after, verify_ignore, waypoints
hint: did you mean `migrations`?",
        ),
        (
            "evict = true",
            "pgstencil.toml:4:1: unknown key `template.app.evict`
  keys known here: after_clone, after_clone_sql, allow_empty, allow_unchanged, before_release, build, build_env, build_inputs, build_timeout, build_until, companions, databases, env, env_inputs, extend, from, input_lines, inputs, max_extensions, migrations, normalize, order, rebuild, rerun_inputs, run_env, serial_builds, stale_after, verify_ignore, waypoints",
        ),
        (
            "warm = 2",
            "pgstencil.toml:4:1: unknown key `template.app.warm`
  keys known here: after_clone, after_clone_sql, allow_empty, allow_unchanged, before_release, build, build_env, build_inputs, build_timeout, build_until, companions, databases, env, env_inputs, extend, from, input_lines, inputs, max_extensions, migrations, normalize, order, rebuild, rerun_inputs, run_env, serial_builds, stale_after, verify_ignore, waypoints
hint: `warm` is a key of `[clone]`",
        ),
        (
            "registry = 'x'",
            "pgstencil.toml:4:1: unknown key `template.app.registry`
  keys known here: after_clone, after_clone_sql, allow_empty, allow_unchanged, before_release, build, build_env, build_inputs, build_timeout, build_until, companions, databases, env, env_inputs, extend, from, input_lines, inputs, max_extensions, migrations, normalize, order, rebuild, rerun_inputs, run_env, serial_builds, stale_after, verify_ignore, waypoints
hint: `registry` is a key of `[server]`",
        ),
        (
            "migrations_ = 'x'",
            "pgstencil.toml:4:1: unknown key `template.app.migrations_`
  keys known here: after_clone, after_clone_sql, allow_empty, allow_unchanged, before_release, build, build_env, build_inputs, build_timeout, build_until, companions, databases, env, env_inputs, extend, from, input_lines, inputs, max_extensions, migrations, normalize, order, rebuild, rerun_inputs, run_env, serial_builds, stale_after, verify_ignore, waypoints
hint: did you mean `migrations`?",
        ),
        (
            "input_lines = [{ file = 'x', match = 'y', mach = 1 }]",
            "pgstencil.toml:4:43: unknown key `template.app.input_lines[0].mach`
  keys known here: file, match
hint: did you mean `match`?",
        ),
        (
            "[clone]
hot = 1",
            "pgstencil.toml:5:1: unknown key `clone.hot`
  keys known here: background, branch_ttl, named, orphan_grace, recycle, strategy, ttl, warm, warm_max",
        ),
        (
            "[clone]
max_size = '1GB'",
            "pgstencil.toml:5:1: unknown key `clone.max_size`
  keys known here: background, branch_ttl, named, orphan_grace, recycle, strategy, ttl, warm, warm_max
hint: `max_size` is a key of `[eviction]`",
        ),
        (
            "[evict]
keep = 1",
            "pgstencil.toml:4:2: unknown key `evict`
  keys known here: clone, defaults, eviction, file_cache, project, remote, root, server, template
hint: did you mean `eviction`?",
        ),
        (
            "[templates.x]",
            "pgstencil.toml:4:2: unknown key `templates`
  keys known here: clone, defaults, eviction, file_cache, project, remote, root, server, template
hint: did you mean `template`?",
        ),
    ]);
}

#[test]
fn wrong_types() {
    check(&[
        (
            "inputs = 'x'",
            r#"pgstencil.toml:4:10: `template.app.inputs` must be a list of strings, but is a string
hint: put it in brackets: `inputs = ["…"]`"#,
        ),
        (
            "build_timeout = 30",
            r#"pgstencil.toml:4:17: `template.app.build_timeout` must be a string, but is a number
hint: write it with its unit, in quotes: `"90s"`, `"30m"`, `"12h"`, `"14d"`"#,
        ),
        (
            "allow_empty = 'yes'",
            "pgstencil.toml:4:15: `template.app.allow_empty` must be `true` or `false`, but is a string",
        ),
        (
            "allow_empty = 1",
            "pgstencil.toml:4:15: `template.app.allow_empty` must be `true` or `false`, but is a number",
        ),
        (
            "inputs = ['a', 3]",
            "pgstencil.toml:4:16: `template.app.inputs[1]` must be a string, but is a number",
        ),
        (
            "env_inputs = {a=1}",
            "pgstencil.toml:4:14: `template.app.env_inputs` must be a list of strings, but is a table",
        ),
        (
            "input_lines = ['x']",
            "pgstencil.toml:4:16: `template.app.input_lines[0]` must be a table, but is a string",
        ),
        (
            "input_lines = [{ file = 'x' }]",
            "pgstencil.toml:4:16: `template.app.input_lines[0].match` is missing
  match: Regular expression that a line must match to count. What its first group matches counts, else the line.",
        ),
        (
            r#"build_timeout = "a\u0000""#,
            "pgstencil.toml:4:17: `template.app.build_timeout` has a zero byte",
        ),
        (
            "env = { A = 1 }",
            "pgstencil.toml:4:13: `template.app.env.A` must be a string, but is a number
hint: put it in quotes",
        ),
        (
            "[server]
client_port = 0",
            "pgstencil.toml:5:15: `server.client_port` is 0, not a number from 1 to 65535",
        ),
        (
            "[server]
client_port = 65536",
            "pgstencil.toml:5:15: `server.client_port` is 65536, not a number from 1 to 65535",
        ),
        (
            "[server]
client_port = '1'",
            "pgstencil.toml:5:15: `server.client_port` must be a whole number, but is a string
hint: leave out the quotes",
        ),
        (
            "[server]
client_port = 99999999999999999999",
            "pgstencil.toml:5:15: `server.client_port` is 99999999999999999999, not a number from 1 to 65535",
        ),
        (
            "[clone]
strategy = 1",
            "pgstencil.toml:5:12: `clone.strategy` must be a string, but is a number
hint: put it in quotes",
        ),
        (
            "[clone]
ttl = 1.5",
            "pgstencil.toml:5:7: `clone.ttl` must be a string, but is a number
hint: put it in quotes",
        ),
    ]);
}

#[test]
fn bad_durations() {
    check(&[
        (
            "build_timeout = '12x'",
            r#"pgstencil.toml:4:17: `template.app.build_timeout` is `12x`, which is not a duration: unknown time unit "x", supported units: ns, us/µs, ms, sec, min, hours, days, weeks, months, years (and few variations)
hint: write it like `90s`, `30m`, `12h`, `14d`, `1h 30m`"#,
        ),
        (
            "build_timeout = 'never'",
            "pgstencil.toml:4:17: `template.app.build_timeout` is `never`, which is not allowed here
hint: write it like `90s`, `30m`, `12h`, `14d`, `1h 30m`",
        ),
        (
            "build_timeout = '0s'",
            "pgstencil.toml:4:17: `template.app.build_timeout` is `0s`, but must be longer than zero
hint: write it like `90s`, `30m`, `12h`, `14d`, `1h 30m`",
        ),
        (
            "build_timeout = '20y'",
            "pgstencil.toml:4:17: `template.app.build_timeout` is `20y`, which is more than ten years
hint: write it like `90s`, `30m`, `12h`, `14d`, `1h 30m`",
        ),
        (
            "build_timeout = ''",
            "pgstencil.toml:4:17: `template.app.build_timeout` is ``, which is not a duration: value was empty
hint: write it like `90s`, `30m`, `12h`, `14d`, `1h 30m`",
        ),
        (
            "[clone]
ttl = 'nevr'",
            "pgstencil.toml:5:7: `clone.ttl` is `nevr`, which is not a duration: expected number at 0
hint: write it like `90s`, `30m`, `12h`, `14d`, `1h 30m`, or `never`",
        ),
        (
            "[clone]
warm = 101",
            "pgstencil.toml:5:8: `clone.warm` is 101, not a number from 0 to 100",
        ),
        (
            "[clone]
orphan_grace = '0m'",
            "pgstencil.toml:5:16: `clone.orphan_grace` is `0m`, but must be longer than zero
hint: write it like `90s`, `30m`, `12h`, `14d`, `1h 30m`",
        ),
    ]);
}

#[test]
fn sizes() {
    for (text, bytes) in [
        ("500MB", Some(500_000_000)),
        ("20GB", Some(20_000_000_000)),
        ("8 GiB", Some(8 << 30)),
        ("1234B", Some(1234)),
        ("unlimited", None),
    ] {
        let config = load(&format!("{MINIMAL}[eviction]\nmax_size = \"{text}\""));
        assert_eq!(*config.eviction.max_size, bytes, "{text}");
    }
    check(&[
        (
            "[eviction]
max_size = '12 sacks'",
            r#"pgstencil.toml:5:12: `eviction.max_size` is `12 sacks`, which is not a size
hint: write it like `500MB`, `20GB`, `1.5TB`, `8GiB`, or `unlimited`"#,
        ),
        (
            "[eviction]
max_size = '20'",
            "pgstencil.toml:5:12: `eviction.max_size` is `20`, which has no unit
hint: write it like `500MB`, `20GB`, `1.5TB`, `8GiB`, or `unlimited`",
        ),
        (
            "[eviction]
max_size = '0GB'",
            "pgstencil.toml:5:12: `eviction.max_size` is `0GB`, but must be greater than zero
hint: write it like `500MB`, `20GB`, `1.5TB`, `8GiB`, or `unlimited`",
        ),
        (
            "[eviction]
max_templates = 0",
            "pgstencil.toml:5:17: `eviction.max_templates` is 0, not a number from 1 to 100000",
        ),
        (
            "[eviction]
keep = -1",
            "pgstencil.toml:5:8: `eviction.keep` is -1, not a number from 0 to 100000",
        ),
        (
            "[eviction]
keep = 99999999999999999999",
            "pgstencil.toml:5:8: `eviction.keep` is 99999999999999999999, not a number from 0 to 100000",
        ),
    ]);
}

#[test]
fn bad_databases() {
    check(&[
        (
            "databases = []",
            r#"pgstencil.toml:4:13: `template.app.databases` is empty
hint: name at least one database, or leave the key out for `["app"]`"#,
        ),
        (
            "databases = ['a', 'a']",
            "pgstencil.toml:4:19: `template.app.databases[1]` names `a` a second time",
        ),
        (
            "databases = ['a-b', 'A_b']",
            "pgstencil.toml:4:21: `template.app.databases[1]` is `A_b`, which is too similar to `a-b`
  both would be `PGSTENCIL_URL_A_B` for commands
hint: choose aliases that differ in more than case, `-` and `_`",
        ),
        (
            "databases = ['a b']",
            "pgstencil.toml:4:14: `template.app.databases[0]` is not a name for a database: `a b`
hint: use ASCII letters, digits, `_` and `-`",
        ),
        (
            "databases = ['']",
            "pgstencil.toml:4:14: `template.app.databases[0]` is an empty name of a database",
        ),
        (
            "databases = ['0']",
            "pgstencil.toml:4:14: `template.app.databases[0]` is `0`, which looks like the number of a clone
  `PGSTENCIL_URL_0` already has a meaning with `--clones`
hint: use another alias, such as `db0`",
        ),
        (
            "databases = ['p', 'p_1']",
            "pgstencil.toml:4:19: `template.app.databases[1]` is `p_1`, which looks like the number of a clone
  `PGSTENCIL_URL_P_1` already has a meaning with `--clones`
hint: use another alias, such as `db1`",
        ),
        (
            "databases = ['abcdefghijklmnopqrstuvwxyzabcdefghijklmnopq']",
            "pgstencil.toml:4:14: `template.app.databases[0]` is too long a name for a database: 43 characters; at most 32 fit",
        ),
    ]);
}

#[test]
fn bad_globs_and_input_lines() {
    check(&[
        (
            "inputs = ['[a']",
            "pgstencil.toml:4:11: `template.app.inputs[0]` is `[a`, which is not a glob: unclosed character class; missing ']'
hint: `*` is any part of a name, `**` any directories, `?` one character, `[ab]` and `{a,b}` choices, `!` in front excludes",
        ),
        (
            "inputs = ['!{a']",
            "pgstencil.toml:4:11: `template.app.inputs[0]` is `!{a`, which is not a glob: unclosed alternate group; missing '}' (maybe escape '{' with '[{]'?)
hint: `*` is any part of a name, `**` any directories, `?` one character, `[ab]` and `{a,b}` choices, `!` in front excludes",
        ),
        (
            "inputs = ['/a']",
            "pgstencil.toml:4:11: `template.app.inputs[0]` is `/a`, but paths start from the root
hint: leave out what is above the root; `root` at the top of the file can move it up",
        ),
        (
            "inputs = ['~/a']",
            "pgstencil.toml:4:11: `template.app.inputs[0]` is `~/a`, but paths start from the root
hint: leave out what is above the root; `root` at the top of the file can move it up",
        ),
        (
            "inputs = ['!/a']",
            "pgstencil.toml:4:11: `template.app.inputs[0]` is `/a`, but paths start from the root
hint: leave out what is above the root; `root` at the top of the file can move it up",
        ),
        (
            "inputs = ['a/../b']",
            r#"pgstencil.toml:4:11: `template.app.inputs[0]` is `a/../b`, which leaves the root
hint: `root = ".."` at the top of the file moves the root up"#,
        ),
        (
            "inputs = ['./a']",
            "pgstencil.toml:4:11: `template.app.inputs[0]` is `./a`, but paths start from the root anyway
hint: write `a`",
        ),
        (
            "inputs = ['']",
            "pgstencil.toml:4:11: `template.app.inputs[0]` is empty",
        ),
        (
            "inputs = ['!']",
            "pgstencil.toml:4:11: `template.app.inputs[0]` is empty",
        ),
        (
            "inputs = ['a/']",
            "pgstencil.toml:4:11: `template.app.inputs[0]` is the directory `a/`, but files are wanted
hint: write `a/**`",
        ),
        (
            "inputs = ['!a']",
            "pgstencil.toml:4:10: `template.app.inputs` only excludes, so it can match nothing
hint: put a glob without `!` in front",
        ),
        (
            "input_lines = [{ file = '../x', match = 'y' }]",
            r#"pgstencil.toml:4:25: `template.app.input_lines[0].file` is `../x`, which leaves the root
hint: `root = ".."` at the top of the file moves the root up"#,
        ),
        (
            "input_lines = [{ file = 'x', match = '(' }]",
            r#"pgstencil.toml:4:38: `template.app.input_lines[0].match` is not a regular expression: unclosed group
hint: in single quotes TOML leaves backslashes alone: `match = '^v\d'`"#,
        ),
        (
            "build_until = 'sqlx migrate run'",
            "pgstencil.toml:4:15: `template.app.build_until` has no `{version}`, so it would not stop
hint: write it like `sqlx migrate run --target-version {version}`",
        ),
        (
            "normalize = [{ files = '**/*.py', as = 'pyhton' }]",
            "pgstencil.toml:4:40: `template.app.normalize[0].as` is `pyhton`, which is not one of its values
  values: python",
        ),
        (
            "normalize = [{ files = '**/*.sql', as = 'sql' }]",
            "pgstencil.toml:4:41: `template.app.normalize[0].as` is `sql`, which is not one of its values
  values: python
  comments of SQL migrations are commands (`-- migrate:down`, `-- +goose Up`)
  sqlx, Flyway and Prisma refuse to run if the bytes of an applied migration changed",
        ),
        (
            "normalize = [{ files = '**/*.sql', as = 'python' }]",
            "pgstencil.toml:4:24: `template.app.normalize[0].files` is `**/*.sql`, and SQL files have no normal form
  comments of SQL migrations are commands (`-- migrate:down`, `-- +goose Up`)
  sqlx, Flyway and Prisma refuse to run if the bytes of an applied migration changed",
        ),
        (
            "normalize = [{ files = '**/*', as = 'python' }]",
            "pgstencil.toml:4:24: `template.app.normalize[0].files` is `**/*`, which does not end in `.py`
hint: name only Python files, as in `**/migrations/*.py`",
        ),
        (
            "normalize = [{ files = '!a.py', as = 'python' }]",
            "pgstencil.toml:4:24: `template.app.normalize[0].files` is `!a.py`, which excludes
hint: name the files that count by their normal form",
        ),
        (
            "input_lines = [{ file = 'x', match = '''a
[''' }]",
            r#"pgstencil.toml:4:38: `template.app.input_lines[0].match` is not a regular expression: unclosed character class
hint: in single quotes TOML leaves backslashes alone: `match = '^v\d'`"#,
        ),
    ]);
}

#[test]
fn bad_variables_and_placeholders() {
    check(&[
        (
            "env_inputs = ['A=B']",
            "pgstencil.toml:4:15: `template.app.env_inputs[0]` is not the name of a variable: `A=B`
hint: letters, digits and `_`, not a digit first, and no `$`",
        ),
        (
            "env_inputs = ['$A']",
            "pgstencil.toml:4:15: `template.app.env_inputs[0]` is not the name of a variable: `$A`
hint: letters, digits and `_`, not a digit first, and no `$`",
        ),
        (
            "env_inputs = ['A', 'A']",
            "pgstencil.toml:4:20: `template.app.env_inputs[1]` names `A` a second time",
        ),
        (
            "after_clone_sql = { ap = '' }",
            "pgstencil.toml:4:26: `template.app.after_clone_sql.ap` is for a database that the definition does not have
  databases: app
hint: did you mean `app`?",
        ),
        (
            r#"after_clone_sql = { app = "select '{nmae}'" }"#,
            "pgstencil.toml:4:27: `template.app.after_clone_sql.app`: unknown placeholder `{nmae}`
  known: {url} {name} {host} {port} {user} {password} {root} {url:SCHEME} {password:url}
  and {ALIAS.FIELD} with the aliases app
hint: did you mean `{name}`?
hint: braces that are not a placeholder: put a space after the first, `{ nmae}`",
        ),
        (
            r#"after_clone_sql = { app = "'" }"#,
            "pgstencil.toml:4:27: `template.app.after_clone_sql.app`: a quote `'` without an end",
        ),
        (
            "env = { 'A=' = 'x' }",
            r#"pgstencil.toml:4:16: `template.app.env."A="` is not the name of a variable: `A=`
hint: letters, digits and `_`, not a digit first, and no `$`"#,
        ),
        (
            "env = { PGSTENCIL_URL = 'x' }",
            "pgstencil.toml:4:25: `template.app.env.PGSTENCIL_URL` is a variable that pgstencil itself sets
hint: map a variable of another name; pgstencil always sets the `PGSTENCIL_…` variables",
        ),
        (
            "env = { A = '{app}' }",
            "pgstencil.toml:4:13: `template.app.env.A`: unknown placeholder `{app}`
  known: {url} {name} {host} {port} {user} {password} {root} {url:SCHEME} {password:url}
  and {ALIAS.FIELD} with the aliases app
hint: did you mean `{app.url}`?
hint: write `{{` and `}}` for literal braces",
        ),
        (
            "env = { A = '{' }",
            "pgstencil.toml:4:13: `template.app.env.A`: a single `{`
hint: write `{{` and `}}` for literal braces",
        ),
    ]);
}

#[test]
fn bad_servers() {
    check(&[
        (
            "[server]
url = ''",
            "pgstencil.toml:5:7: `server.url` is empty
hint: leave the key out for the private local server",
        ),
        (
            "[server]
url = 'env:$X'",
            "pgstencil.toml:5:7: `server.url` names `$X`, which is not the name of a variable
hint: write `env:DATABASE_URL`, without `$` and braces",
        ),
        (
            "[server]
url = 'mysql://u:s3cret@h'",
            "pgstencil.toml:5:7: `server.url`: the server URL has the scheme `mysql`, which is not a Postgres scheme
hint: use `postgresql://…` (also `postgres://`, `postgresql+DRIVER://`, `postgis://`)",
        ),
        (
            "[server]
registry = ''",
            "pgstencil.toml:5:12: `server.registry` has 0 bytes; a database name has 1 to 63",
        ),
        (
            "[server]
registry = 'template1'",
            "pgstencil.toml:5:12: `server.registry` is `template1`, which belongs to the server
hint: pgstencil creates a database of its own: choose a name that is not taken",
        ),
        (
            "[server]
client_host = 'a:1/b'",
            "pgstencil.toml:5:15: `server.client_host` is `a:1/b`, not a host
hint: write a host name, an address or a socket directory; the port goes to `client_port`",
        ),
        (
            "[server]
bindir = ''",
            "pgstencil.toml:5:10: `server.bindir` is empty
hint: leave the key out to let pgstencil find one",
        ),
        (
            "[server]
run_as = ' '",
            "pgstencil.toml:5:10: `server.run_as` is empty
hint: leave the key out to let pgstencil find one",
        ),
    ]);
}

#[test]
fn bad_definitions() {
    check(&[
        (
            "[template.'a b']
build='x'
inputs=['a']",
            r#"pgstencil.toml:4:1: `template."a b"` is not a name for a definition: `a b`
hint: use ASCII letters, digits, `_` and `-`"#,
        ),
        (
            "[template.'']
build='x'
inputs=['a']",
            r#"pgstencil.toml:4:1: `template.""` is an empty name of a definition"#,
        ),
        (
            "[template.abcdefghijklmnopqrstuvwxyzabcdefghijklmnopq]
build='x'
inputs=['a']",
            "pgstencil.toml:4:1: `template.abcdefghijklmnopqrstuvwxyzabcdefghijklmnopq` is too long a name for a definition: 43 characters; at most 32 fit",
        ),
        (
            "[template.x]
inputs=['a']",
            "pgstencil.toml:4:1: `template.x.build` is missing
  build: The migrate command, run by `sh -c` in the root. Required here or in `[defaults]`.",
        ),
        (
            "[template.x]
build=''
inputs=['a']",
            "pgstencil.toml:5:7: `template.x.build` is empty
hint: give your migrate command, such as `sqlx migrate run`",
        ),
        (
            "[template.x]
build='x'",
            r#"pgstencil.toml:4:1: `template.x` has no inputs, so its template would never be rebuilt
hint: name the migrations: `migrations = ["migrations/**/*.sql"]`"#,
        ),
    ]);
}

#[test]
fn bad_choices() {
    check(&[
        (
            "[clone]
strategy = 'reflnk'",
            "pgstencil.toml:5:12: `clone.strategy` is `reflnk`, which is not one of its values
  values: auto, wal_log, file_copy, reflink
hint: did you mean `reflink`?",
        ),
        (
            "[clone]
strategy = 'x'",
            "pgstencil.toml:5:12: `clone.strategy` is `x`, which is not one of its values
  values: auto, wal_log, file_copy, reflink",
        ),
    ]);
}

#[test]
fn bad_top_of_the_file() {
    let cases = [
        (
            "project = ''",
            "pgstencil.toml:1:11: `project` is ``, without a letter or digit
hint: it becomes part of database names: use letters, digits, `-` and `_`",
        ),
        (
            "project = '--'",
            "pgstencil.toml:1:11: `project` is `--`, without a letter or digit
hint: it becomes part of database names: use letters, digits, `-` and `_`",
        ),
        (
            "project = 'abcdefghijklmnopqrstuvwxyzabcdefghijklmnopq'",
            "pgstencil.toml:1:11: `project` has 43 characters; at most 32 fit",
        ),
        (
            "root = 'x'",
            "pgstencil.toml:1:8: `root` is `x`, which cannot be opened
hint: it is relative to `SHOP`",
        ),
        (
            "root = 'pgstencil.toml'",
            "pgstencil.toml:1:8: `root` is `pgstencil.toml`, which is not a directory
hint: it is relative to `SHOP`",
        ),
        (
            "root = 1",
            "pgstencil.toml:1:8: `root` must be a string, but is a number
hint: put it in quotes",
        ),
        (
            "build = 'x'",
            "pgstencil.toml:1:1: unknown key `build`
  keys known here: clone, defaults, eviction, file_cache, project, remote, root, server, template
hint: `build` is a key of `[template.NAME]`",
        ),
        ("server = 1", "pgstencil.toml:1:10: `server` must be a table, but is a number"),
        (
            "template.migrations = ['x']",
            "pgstencil.toml:1:23: `template.migrations` must be a table, but is a list
hint: give the definition a name: write `[template.app]` above its keys",
        ),
        ("clone = 'x'", "pgstencil.toml:1:9: `clone` must be a table, but is a string"),
    ];
    for (text, error) in cases {
        assert_eq!(fails_top(text), error, "for: {text}");
    }
}

#[test]
fn broken_toml() {
    assert!(fails("x = = 1").starts_with("pgstencil.toml:1:5: not TOML: "));
    assert_eq!(fails("a = 1\na = 2"), "pgstencil.toml:2:1: not TOML: duplicate key");
    // Columns count characters, and a byte order mark is no character.
    let e = fails("\u{feff}project = 'äöü'\nroot = [");
    assert!(e.starts_with("pgstencil.toml:2:"), "{e}");
    let wide = format!("{MINIMAL}env = {{ 'ä' = 'x' }}");
    assert!(fails(&wide).starts_with("pgstencil.toml:4:15: "), "{wide}");
}

#[test]
fn no_definition() {
    let error = format!(
        "pgstencil.toml: no `[template.NAME]`: there is nothing to build\n\
         hint: add a definition:\n{MINIMAL}"
    );
    for text in ["", "[template]", "[server]\nregistry = 'r'"] {
        assert_eq!(fails(text), error);
    }
    assert_eq!(fails("template = 1"), "pgstencil.toml:1:12: `template` must be a table, but is a number");
}

#[test]
fn no_error_repeats_the_password() {
    for url in ["mysql://u:s3cret@h", "postgres://u:s3cret@h:x/d", "u:s3cret@h"] {
        let text = fails_with(&format!("[server]\nurl = '{url}'"));
        assert!(text.starts_with("pgstencil.toml:5:7: `server.url`: the server URL"));
        assert!(!text.contains("s3cret"), "{text}");
    }
    let broken = fails("[server]\nurl = 'postgres://u:s3cret@h' x");
    assert!(!broken.contains("s3cret"), "{broken}");
}

#[test]
fn hosts_for_clients() {
    for host in ["pg", "10.0.0.1", "::1", "[fe80::1]", "/run/pg"] {
        let text = format!("{MINIMAL}[server]\nclient_host = '{host}'");
        assert_eq!(load(&text).server.client_host.as_deref(), Some(host));
    }
    for host in ["pg:5432", "a b", "a@b", "a,b", "a/b", ""] {
        let e = fails_with(&format!("[server]\nclient_host = '{host}'"));
        let start = format!("pgstencil.toml:5:15: `server.client_host` is `{host}`, not a host");
        assert!(e.starts_with(&start), "{e}");
    }
}

#[test]
fn projects() {
    let project = |given: &str| load(&format!("project = '{given}'\n{MINIMAL}")).project;
    for kept in ["shop", "my-shop_2", "_x_", "0"] {
        assert_eq!(project(kept), kept);
    }
    for (lossy, head) in [("My-Shop.2", "my-shop_2_"), ("_é_x_", "x_"), ("é", "")] {
        let found = project(lossy);
        assert!(found.starts_with(head), "{found}");
        assert_eq!(found.len(), head.len() + 6, "{found}");
    }
    assert_ne!(project("my.shop"), project("my_shop"));
    let most = "a".repeat(32);
    assert_eq!(project(&most), most);
}

/// The default of `project` for a root directory below a temporary one.
fn default_project(dir: &std::path::Path, root: &str) -> String {
    let folder = dir.join(root);
    fs::create_dir_all(&folder).unwrap();
    let config = Config::parse(MINIMAL, &folder.join(FILE_NAME)).unwrap();
    config.project
}

#[test]
fn the_default_project_is_the_root_folder_without_git() {
    let dir = tempfile::tempdir().unwrap();
    let project = |root: &str| default_project(dir.path(), root);
    assert_eq!(project("my-shop"), "my-shop");
    // It is cut to length, and what that loses is in a hash.
    let (one, other) = ("a".repeat(40) + "1", "a".repeat(40) + "2");
    assert!(project(&one).starts_with(&("a".repeat(25) + "_")));
    assert_eq!(project(&one).len(), 32);
    assert_ne!(project(&one), project(&other));
    // Or has nothing to be made of.
    let folder = dir.path().join("---");
    fs::create_dir(&folder).unwrap();
    let e = Config::parse(MINIMAL, &folder.join(FILE_NAME)).expect_err("no name");
    assert!(e.message().ends_with("has no name for the project"));
    assert_eq!(e.hints(), ["add `project = \"NAME\"` at the top of the file"]);
}

#[test]
fn the_default_project_is_the_repository_and_the_way_down_from_its_top() {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let main = dir.path().join("mono/.git");
    fs::create_dir_all(main.join("objects")).unwrap();
    write("mono/.git/HEAD", "ref: refs/heads/main\n");
    write("mono/.git/worktrees/wt/HEAD", "ref: refs/heads/x\n");
    write("mono/.git/worktrees/wt/commondir", "../..\n");
    let own = main.join("worktrees/wt");
    write("other/.git", &format!("gitdir: {}\n", own.display()));
    let project = |root: &str| default_project(dir.path(), root);
    for top in ["mono", "other"] {
        assert_eq!(project(top), "mono");
        assert_eq!(project(&format!("{top}/services/a")), "mono_services_a");
        assert_eq!(project(&format!("{top}/my-app")), "mono_my-app");
        let lossy = project(&format!("{top}/My.App"));
        assert!(lossy.starts_with("mono_my_app_"), "{lossy}");
    }
    assert_eq!(project("mono/My.App"), project("other/My.App"));
    assert_ne!(project("mono/My.App"), project("mono/my/app"));
}

#[test]
fn root_is_relative_to_the_file() {
    let project = Project::new("");
    let sub = project.folder().join("db/conf");
    fs::create_dir_all(&sub).unwrap();
    let file = sub.join(FILE_NAME);
    let text = format!("root = '../..'\n{MINIMAL}[server]\nbindir = 'bin'");
    fs::write(&file, text).unwrap();
    let config = Config::load(&file).unwrap();
    assert_eq!(config.root, project.folder());
    assert_eq!(config.project, "shop");
    assert_eq!(config.server.bindir, Some(project.folder().join("bin")));
}

#[test]
fn files_that_cannot_be_read() {
    let project = Project::new(MINIMAL);
    let missing = project.folder().join("other.toml");
    let e = Config::load(&missing).expect_err("missing");
    assert_eq!(e.message(), format!("no config file `{}`", missing.display()));
    assert_eq!(e.hints(), [format!("put this into `pgstencil.toml`:\n{MINIMAL}")]);
    let e = Config::load(&project.folder()).expect_err("directory");
    assert_eq!(e.message(), format!("cannot read `{}`", project.folder().display()));
    fs::write(project.file(), [0xff]).unwrap();
    let e = Config::load(&project.file()).expect_err("not UTF-8");
    assert_eq!(e.message(), format!("{}: not UTF-8", project.file().display()));
}

#[test]
fn found_upwards() {
    let project = Project::new(MINIMAL);
    let deep = project.folder().join("a/b");
    // A directory of that name is not a config file.
    fs::create_dir_all(deep.join(FILE_NAME)).unwrap();
    let found = discover(&deep).unwrap().unwrap();
    assert_eq!(found.path(), project.file());
    assert_eq!(found.load().unwrap().origin, Origin::Own);
    assert_eq!(find(&project.folder()).unwrap().path(), project.file());

    fs::remove_file(project.file()).unwrap();
    let e = find(&deep).expect_err("none");
    assert_eq!(e.message(), "no `pgstencil.toml` here or in a directory above");
    let looked = |dir: &Path| format!("not found: {}", dir.join(FILE_NAME).display());
    assert_eq!(e.details()[0], looked(&deep));
    assert_eq!(e.details()[2], looked(&project.folder()));
    assert_eq!(e.details().last(), Some(&looked(Path::new("/"))));
    assert_eq!(e.hints().len(), 1);
}

#[test]
fn definitions_by_name() {
    let one = load(MINIMAL);
    assert_eq!(one.definition(None).unwrap().name, "app");
    assert_eq!(one.definition(Some("app")).unwrap().name, "app");
    let e = one.definition(Some("apq")).expect_err("unknown");
    assert!(e.message().starts_with("no template definition `apq` in "));
    assert_eq!(e.hints(), ["did you mean `app`?"]);
    let two = load(FULL);
    assert_eq!(two.definition(Some("b")).unwrap().name, "b");
    let e = two.definition(None).expect_err("two");
    assert!(e.message().ends_with(" has several template definitions"));
    assert_eq!(e.details(), ["definitions: a, b"]);
    assert_eq!(e.hints(), ["name one with `--template NAME`"]);
}

#[test]
fn what_is_in_effect_can_be_loaded_again() {
    for text in [MINIMAL, FULL, REFERENCE] {
        let project = Project::new(text);
        let config = Config::load(&project.file()).unwrap();
        let shown = config.effective_toml().unwrap();
        assert!(!shown.contains("s3cret"), "{shown}");
        let mut again = Config::parse(&shown, &project.file()).unwrap();
        if let Some(UrlSetting::Literal(url)) = &config.server.url {
            // The one thing that is not in it.
            assert!(shown.contains("postgres://me:***@db/x?sslmode=require"));
            again.server.url = Some(UrlSetting::Literal(url.clone()));
        }
        assert_eq!(again, config);
        assert!(!config.effective_json().unwrap().to_string().contains("s3cret"));
    }
    let minimal = load(MINIMAL);
    assert!(minimal.effective_toml().unwrap().contains(
        "# not set: remote.signing_key, remote.url, server.bindir, server.client_host, server.client_port, server.run_as, server.url\n"
    ));
    let json = minimal.effective_json().unwrap();
    assert_eq!(json["server"]["url"], serde_json::Value::Null);
    assert_eq!(json["template"]["app"]["databases"][0], "app");
}

/// Every key of the schema as `(table, key)`. Those of `[defaults]` are those of a definition.
fn schema_keys() -> Vec<(String, String)> {
    fn walk(table: &str, schema: &serde_json::Value, keys: &mut Vec<(String, String)>) {
        for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
            keys.push((table.to_owned(), key.clone()));
            if key == "defaults" {
                continue;
            }
            walk(key, schema, keys);
            walk(key, &schema["additionalProperties"], keys);
            walk(key, &schema["items"], keys);
        }
    }
    let mut keys = Vec::new();
    walk("", &schema(), &mut keys);
    keys
}

#[test]
fn the_schema_is_strict_and_described() {
    fn walk(path: &str, schema: &serde_json::Value) {
        for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{key}");
            assert!(schema["description"].is_string(), "{path}");
            walk(&path, schema);
            walk(&path, &schema["additionalProperties"]);
            walk(&path, &schema["items"]);
        }
        if schema["properties"].is_object() {
            assert_eq!(schema["additionalProperties"], false, "{path}");
            assert_eq!(schema["type"], "object", "{path}");
        }
    }
    let schema = schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    walk("", &schema);
    let text = schema.to_string();
    assert!(!text.contains("null") && !text.contains("$ref"), "{text}");
    let template = &schema["properties"]["template"]["additionalProperties"];
    // `[defaults]` may have it.
    assert_eq!(template["required"], serde_json::Value::Null);
    assert_eq!(template["properties"]["build_timeout"]["default"], "30m");
    assert_eq!(schema["properties"]["server"]["properties"]["client_port"]["maximum"], 65535);
}

/// Every table of the config in effect has exactly the schema's keys: nothing is checked that the
/// schema does not know, nor the other way round.
#[test]
fn schema_and_config_have_the_same_keys() {
    fn walk(table: &str, value: &serde_json::Value, keys: &mut Vec<(String, String)>) {
        for (key, value) in value.as_object().into_iter().flatten() {
            keys.push((table.to_owned(), key.clone()));
            match key.as_str() {
                "template" => walk(key, &value["b"], keys),
                "input_lines" | "normalize" => walk(key, &value[0], keys),
                "server" | "clone" | "eviction" | "remote" => walk(key, value, keys),
                _ => {}
            }
        }
    }
    let mut keys = Vec::new();
    walk("", &load(FULL).effective_json().unwrap(), &mut keys);
    // What is in effect has the defaults in its definitions.
    let mut of_schema = schema_keys();
    of_schema.retain(|(_, key)| key != "defaults");
    assert_eq!(keys, of_schema);
    let schema = schema();
    let template = &schema["properties"]["template"]["additionalProperties"]["properties"];
    assert_eq!(&schema["properties"]["defaults"]["properties"], template);
}

#[test]
fn the_reference_equals_the_defaults() {
    let reference = load(REFERENCE);
    let minimal = load(MINIMAL);
    assert_eq!(reference.project, minimal.project);
    assert_eq!(reference.server, minimal.server);
    assert_eq!(reference.clone, minimal.clone);
    assert_eq!(reference.eviction, minimal.eviction);
    assert_eq!(reference.remote, minimal.remote);
    assert_eq!(reference.definitions, minimal.definitions);
}

/// The reference with its commented-out examples switched on.
fn reference_with_examples() -> String {
    let key = regex::Regex::new(r"^# ([A-Za-z_]+ = .*)$").unwrap();
    let mut lines: Vec<String> = Vec::new();
    for line in REFERENCE.lines() {
        let Some(example) = key.captures(line) else {
            lines.push(line.to_owned());
            continue;
        };
        let name = example[1].split(' ').next().unwrap();
        // An example below a default of its table takes its place.
        let table = lines.iter().rposition(|line| line.starts_with('[')).unwrap_or(0);
        let default = lines[table..].iter().position(|l| l.starts_with(&format!("{name} = ")));
        if let Some(at) = default {
            lines.remove(table + at);
        }
        lines.push(example[1].to_owned());
    }
    lines.join("\n")
}

#[test]
fn the_examples_of_the_reference_load() {
    let config = load(&reference_with_examples().replace("root = \"..\"", "root = \".\""));
    assert_eq!(config.server.client_port, Some(5432));
    assert_eq!(config.definitions[0].input_lines.len(), 1);
    assert_eq!(config.definitions[0].normalize.len(), 1);
    assert_eq!(config.definitions[0].after_clone_sql.len(), 1);
    assert_eq!(config.definitions[0].env.len(), 1);
    assert_eq!(config.definitions[0].build_env.len(), 1);
    assert_eq!(config.definitions[0].run_env.len(), 1);
}

#[test]
fn the_reference_mentions_every_key() {
    let text = reference_with_examples();
    let value: toml::Table = toml::from_str(&text).unwrap();
    let json = serde_json::to_value(&value).unwrap();
    for (table, key) in schema_keys() {
        let table = match table.as_str() {
            "" => &json,
            "template" => &json["template"]["app"],
            list @ ("input_lines" | "normalize") => &json["template"]["app"][list][0],
            table => &json[table],
        };
        assert!(table.get(&key).is_some(), "`{key}` is not in the reference");
    }
}

const DEFAULTS: &str = r#"
[defaults]
build = "make migrate"
migrations = ["a/*.sql"]
inputs = ["seeds/*"]
build_timeout = "5m"
input_lines = [{ file = "lock", match = "^(x)" }]

[defaults.env]
A = "{name}"
B = "shared"

[template.one]

[template.two]
build = "make other"
inputs = []
databases = ["default", "proxy"]

[template.two.env]
B = "{proxy.name}"
C = "own"
"#;

#[test]
fn definitions_take_from_the_defaults_what_they_lack() {
    let project = Project::new(DEFAULTS);
    let config = Config::load(&project.file()).unwrap();
    let [one, two] = config.definitions.as_slice() else {
        panic!("{:?}", config.definitions);
    };
    let env = |definition: &Definition| {
        let pairs = definition.env.iter().map(|(k, v)| format!("{k}={v}"));
        pairs.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(one.build, "make migrate");
    assert_eq!(one.migrations, ["a/*.sql"]);
    assert_eq!(one.inputs, ["seeds/*"]);
    assert_eq!(*one.build_timeout, Duration::from_secs(300));
    assert_eq!(one.input_lines.len(), 1);
    assert_eq!(one.databases, ["app"]);
    assert_eq!(env(one), "A={name} B=shared");
    assert_eq!(two.build, "make other");
    assert_eq!(two.migrations, ["a/*.sql"]);
    assert_eq!(two.inputs, [""; 0]);
    assert_eq!(env(two), "A={name} B={proxy.name} C=own");
    // What is in effect needs no defaults.
    let shown = config.effective_toml().unwrap();
    assert!(!shown.contains("defaults"), "{shown}");
    assert_eq!(Config::parse(&shown, &project.file()).unwrap(), config);
}

#[test]
fn faults_in_the_defaults_are_placed_there() {
    let with = |defaults: &str| fails(&format!("[defaults]\n{defaults}\n\n{MINIMAL}"));
    assert_eq!(
        with("build_timeout = \"soon\"").lines().next().unwrap(),
        "pgstencil.toml:2:17: `defaults.build_timeout` is `soon`, which is not a duration: expected number at 0"
    );
    assert_eq!(
        with("env.A = \"{ulr}\"").lines().next().unwrap(),
        "pgstencil.toml:2:9: `defaults.env.A`: unknown placeholder `{ulr}`"
    );
    assert_eq!(
        with("migration = []"),
        "pgstencil.toml:2:1: unknown key `defaults.migration`
  keys known here: after_clone, after_clone_sql, allow_empty, allow_unchanged, before_release, build, build_env, build_inputs, build_timeout, build_until, companions, databases, env, env_inputs, extend, from, input_lines, inputs, max_extensions, migrations, normalize, order, rebuild, rerun_inputs, run_env, serial_builds, stale_after, verify_ignore, waypoints
hint: did you mean `migrations`?"
    );
    assert_eq!(
        with("env_inputs = [\"PATH\"]\nenv.PATH = \"x\"").lines().next().unwrap(),
        "pgstencil.toml:2:15: `defaults.env_inputs[0]` names `PATH`, but `env` of template `app` sets it"
    );
    // The definition's own value is at fault, not the shared one.
    assert!(
        fails(&format!("[defaults]\nbuild_timeout = \"5m\"\n\n{MINIMAL}build_timeout = \"0s\"\n"))
            .starts_with("pgstencil.toml:7:17: `template.app.build_timeout` is `0s`")
    );
}

#[test]
fn env_inputs_are_variables_that_the_build_sees() {
    for table in ["env", "build_env"] {
        assert_eq!(
            fails_with(&format!(
                "env_inputs = [\"LANG\", \"X\"]\n[template.app.{table}]\nX = \"1\""
            )),
            format!(
                "pgstencil.toml:4:23: `template.app.env_inputs[1]` names `X`, but `{table}` of template `app` sets it
  the fingerprint would contain a value that the build never sees
hint: remove it from `env_inputs`: the fingerprint contains the values of `{table}` anyway"
            )
        );
    }
    // The build sees the environment's.
    load(&format!("{MINIMAL}env_inputs = [\"X\"]\n[template.app.run_env]\nX = \"1\"\n"));
}

#[test]
fn alias_suffixes() {
    assert_eq!(alias_suffix("p-1_x"), "P_1_X");
}

#[test]
fn only_a_value_whose_quotes_are_missing_gets_that_hint() {
    let hint = |text: &str| fails(text).contains("\nhint: put strings in quotes");
    assert!(hint("[template.app]\nbuild = ./migrate.sh\n"));
    assert!(hint("[template.app]\nmigrations = [a/*.sql]\nbuild = \"x\"\n"));
    // Two of them: one after the other.
    assert!(hint("[template.app]\nmigrations = a/*.sql\nbuild = ./migrate.sh\n"));
    // The fault is an array that was not closed.
    assert!(!hint("[template.app]\nmigrations = [\"a\"\n[clone]\nwarm = 2\n"));
    assert!(!hint("[template.app]\nbuild = \"x\n"));
    assert!(!hint("[template.app\nbuild = 1\n"));
}
