use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::config::{Config, InputLines};
use crate::{Kind, names::Fingerprint};

/// A tree in a temporary directory.
pub(super) struct Tree(TempDir);

impl Tree {
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        let tree = Tree(TempDir::new().unwrap());
        for (path, text) in files {
            tree.write(path, text);
        }
        tree
    }

    pub(super) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root().join(path)
    }

    pub(super) fn write(&self, path: impl AsRef<Path>, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(&self, target: impl AsRef<Path>, link: &str) {
        symlink(target, self.at(link)).unwrap();
    }

    fn read(&self, definition: &Definition) -> Inputs {
        Inputs::read(&FileCache::off(), self.root(), definition, &unset).unwrap()
    }

    /// Returns the paths that `migrations = globs` selects.
    fn paths(&self, globs: &[&str]) -> Vec<String> {
        let read = self.read(&migrations(globs));
        read.migrations.iter().map(|f| f.path.to_string()).collect()
    }

    fn error(&self, definition: &Definition) -> Error {
        Inputs::read(&FileCache::off(), self.root(), definition, &unset).unwrap_err()
    }
}

/// A tree, and the definition of a config with some keys in its root.
pub(super) struct Configured {
    tree: Tree,
    pub(super) definition: Definition,
}

impl Configured {
    pub(super) fn new(files: &[(&str, &str)], keys: &str) -> Self {
        let tree = Tree::new(files);
        let text = format!("project = \"shop\"\n[template.app]\nbuild = \"sh bin/x.sh\"\n{keys}\n");
        let config = Config::parse(&text, &tree.at("pgstencil.toml")).unwrap();
        Configured { tree, definition: config.definitions[0].clone() }
    }
}

impl std::ops::Deref for Configured {
    type Target = Tree;

    fn deref(&self) -> &Tree {
        &self.tree
    }
}

fn unset(_: &str) -> Option<OsString> {
    None
}

fn definition() -> Definition {
    Definition { name: "app".into(), build: "migrate".into(), ..Definition::default() }
}

fn migrations(globs: &[&str]) -> Definition {
    Definition { migrations: globs.iter().map(|&g| g.into()).collect(), ..definition() }
}

fn lines(file: &str, matching: &str) -> Definition {
    let wanted = InputLines { file: file.into(), matching: matching.into() };
    Definition { input_lines: vec![wanted], ..definition() }
}

fn server() -> ServerTraits {
    ServerTraits {
        major: 17,
        encoding: "UTF8".into(),
        provider: "libc".into(),
        collate: "C.UTF-8".into(),
        ctype: "C.UTF-8".into(),
        locale: None,
    }
}

fn print(inputs: Inputs) -> Fingerprint {
    inputs.with_server(server()).fingerprint()
}

/// Joins message, details and hints to one text.
fn words(error: &Error) -> String {
    let lines = std::iter::once(error.message().to_owned());
    lines.chain(error.details().to_vec()).chain(error.hints().to_vec()).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn says(error: &Error, kind: Kind, parts: &[&str]) {
    assert_eq!(error.kind(), kind, "{error:?}");
    let words = words(error);
    for part in parts {
        assert!(words.contains(part), "`{part}` is not in:\n{words}");
    }
}

const PY: &[(&str, &str)] = &[
    ("a/migrations/0001.py", "one"),
    ("a/migrations/0002.py", "two"),
    ("b/migrations/0001.py", "three"),
    ("b/migrations/notes.md", "four"),
    ("b/tests/migrations/0001.py", "five"),
];

pub(super) fn sample() -> Recipe {
    let file = |path: &str| FileInput {
        path: RelPath::new(Path::new(path)),
        hash: blake3::hash(path.as_bytes()).to_hex().to_string(),
        bytes: path.len() as u64,
        normal: None,
    };
    let hash = blake3::hash(b"x").to_hex().to_string();
    Recipe {
        format: Recipe::FORMAT,
        migrations: vec![file("m/1.sql"), file("m/2.sql")],
        rerun_inputs: vec![file("lock")],
        inputs: vec![file("seed")],
        lines: vec![LinesInput {
            file: "lock".into(),
            matching: "^django".into(),
            hash: hash.clone(),
            count: 1,
            text: vec!["django==5.2".into()],
        }],
        companions: vec![],
        order: Order::Directory,
        build_env: vec![],
        env: vec![EnvInput { name: "A".into(), hash: Some(hash) }, EnvInput { name: "B".into(), hash: None }],
        mapping: vec![EnvInput { name: "DB_NAME".into(), hash: Some("cd".repeat(32)) }],
        build: "migrate".into(),
        key: None,
        databases: vec!["app".into(), "proxy".into()],
        from: "template0".into(),
        server: ServerTraits { locale: Some("en".into()), ..server() },
    }
}

// --- The recipe ---

#[test]
fn the_format_does_not_drift() {
    // If this fails, the encoding has changed: raise `Recipe::FORMAT`, then put the new value here.
    let golden = "fa3a1dbfab940e1a30ec5d939c82a989df350eeee62b8424b977388e3d603eab";
    assert_eq!(sample().fingerprint().to_string(), golden);
}

#[test]
fn every_field_counts() {
    let changes: &[fn(&mut Recipe)] = &[
        |r| r.format += 1,
        |r| r.migrations[0].path = RelPath::new(Path::new("m/3.sql")),
        |r| r.migrations[0].hash = r.migrations[1].hash.clone(),
        |r| r.migrations[0].bytes += 1,
        |r| r.migrations.truncate(1),
        |r| r.migrations.clear(),
        |r| r.migrations.swap(0, 1),
        |r| r.rerun_inputs[0].bytes += 1,
        |r| r.inputs[0].bytes += 1,
        |r| std::mem::swap(&mut r.inputs, &mut r.rerun_inputs),
        |r| std::mem::swap(&mut r.inputs, &mut r.migrations),
        |r| r.lines[0].file.push('x'),
        |r| r.lines[0].matching.push('x'),
        |r| r.lines[0].hash.clear(),
        |r| r.lines[0].count += 1,
        |r| r.lines.clear(),
        |r| r.env[0].name.push('x'),
        |r| r.env[0].hash = None,
        |r| r.env[0].hash = Some(String::new()),
        |r| r.env[1].hash = Some(String::new()),
        |r| r.env.truncate(1),
        |r| r.mapping[0].name.push('x'),
        |r| r.mapping[0].hash = None,
        |r| r.mapping.clear(),
        |r| std::mem::swap(&mut r.mapping, &mut r.env),
        |r| r.build.push('x'),
        |r| r.build.clear(),
        |r| r.key = Some(String::new()),
        |r| r.key = Some("migrate".into()),
        |r| r.databases[0].push('x'),
        |r| r.databases.swap(0, 1),
        |r| r.databases.truncate(1),
        |r| r.from = "template1".into(),
        |r| r.companions = r.inputs.clone(),
        |r| std::mem::swap(&mut r.companions, &mut r.inputs),
        |r| r.order = Order::Name,
        |r| r.build_env = r.mapping.clone(),
        |r| std::mem::swap(&mut r.build_env, &mut r.mapping),
        |r| r.server.major += 1,
        |r| r.server.encoding = "LATIN1".into(),
        |r| r.server.provider = "icu".into(),
        |r| r.server.collate.push('x'),
        |r| r.server.ctype.push('x'),
        |r| r.server.locale = None,
        |r| r.server.locale = Some(String::new()),
        |r| r.server.locale = Some("de".into()),
    ];
    let mut seen = vec![sample().fingerprint()];
    for (at, change) in changes.iter().enumerate() {
        let mut recipe = sample();
        change(&mut recipe);
        let print = recipe.fingerprint();
        assert!(!seen.contains(&print), "change {at} makes no new fingerprint");
        seen.push(print);
    }
}

#[test]
fn strings_do_not_run_into_each_other() {
    let with = |roles: &[&str], build: &str| {
        let databases = roles.iter().map(|&r| r.to_owned()).collect();
        Recipe { databases, build: build.into(), ..sample() }.fingerprint()
    };
    let all = [
        with(&["ab", "c"], "x"),
        with(&["a", "bc"], "x"),
        with(&["abc"], "x"),
        with(&["abc", ""], "x"),
        with(&["ab"], "xc"),
        with(&["ab\0c"], "x"),
    ];
    for (i, a) in all.iter().enumerate() {
        assert!(!all[..i].contains(a), "{i}");
    }
}

#[test]
fn json_and_back() {
    let mut recipe = sample();
    recipe.inputs[0].path = RelPath::new(Path::new(OsStr::from_bytes(b"a\xffb\\x41\n")));
    recipe.key = Some("schema 17".into());
    let key = RecipeKey::new(vec![7; 32]);
    let json = serde_json::to_string(&KeptRecipe::new(&recipe, &key)).unwrap();
    assert!(json.contains(r#""format":1"#), "{json}");
    assert!(json.contains(r#""path":"m/1.sql""#), "{json}");
    let kept: KeptRecipe = serde_json::from_str(&json).unwrap();
    let back = kept.into_comparable(&recipe, &key);
    assert_eq!(back, recipe);
    assert_eq!(back.fingerprint(), recipe.fingerprint());
}

#[test]
fn what_is_kept_or_shown_of_a_variable_has_no_hash_that_values_could_be_tried_against() {
    let mut recipe = sample();
    recipe.build_env = vec![EnvInput { name: "SETTINGS".into(), hash: None }];
    let mut plain = Vec::new();
    let variables = recipe.env.iter_mut().chain(&mut recipe.mapping);
    for variable in variables.chain(&mut recipe.build_env) {
        let hash = blake3::hash(variable.name.as_bytes()).to_hex().to_string();
        plain.push(hash.clone());
        variable.hash = Some(hash);
    }
    let key = |byte| RecipeKey::new(vec![byte; 32]);
    let kept = KeptRecipe::new(&recipe, &key(7));
    let json = serde_json::to_string(&kept).unwrap();
    let shown = format!("{recipe:?} {kept:?} {:?}", key(7));
    for hash in &plain {
        assert!(!json.contains(hash.as_str()) && !shown.contains(hash.as_str()));
    }
    assert_ne!(json, serde_json::to_string(&KeptRecipe::new(&recipe, &key(8))).unwrap());

    // A changed value is still recognized; with the key of another registry it is not.
    let old = kept.clone().into_comparable(&recipe, &key(7));
    assert!(Difference::between(&old, &recipe).is_empty());
    let other = kept.clone().into_comparable(&recipe, &key(8));
    assert!(!Difference::between(&other, &recipe).env.is_empty());
    recipe.env[0].hash = Some("another".into());
    let old = kept.into_comparable(&recipe, &key(7));
    let difference = Difference::between(&old, &recipe);
    assert_eq!(difference.env, [recipe.env[0].name.clone()]);
    assert!(difference.mapping.is_empty());
}

/// A recipe of the first release, which had fewer fields.
#[test]
fn recipes_that_are_kept_can_still_be_read() {
    let key = RecipeKey::new(vec![7; 32]);
    let mut recipe = sample();
    recipe.lines[0].text.clear();
    let json = serde_json::to_value(KeptRecipe::new(&recipe, &key)).unwrap();
    let fields: Vec<&String> = json.as_object().unwrap().keys().collect();
    let released = [
        "build",
        "databases",
        "env",
        "format",
        "inputs",
        "lines",
        "mapping",
        "migrations",
        "rerun_inputs",
        "server",
    ];
    assert_eq!(fields, released);
    let line: Vec<&String> = json["lines"][0].as_object().unwrap().keys().collect();
    assert_eq!(line, ["count", "file", "hash", "matching"]);
    let kept: KeptRecipe = serde_json::from_value(json).unwrap();
    let back = kept.into_comparable(&sample(), &key);
    assert!(Difference::between(&back, &sample()).is_empty());
    assert_eq!(back.fingerprint(), sample().fingerprint());

    let mut new = sample();
    new.companions = new.inputs.clone();
    new.order = Order::Name;
    new.build_env = vec![EnvInput { name: "SETTINGS".into(), hash: Some("ab".repeat(32)) }];
    let json = serde_json::to_string(&KeptRecipe::new(&new, &key)).unwrap();
    let kept: KeptRecipe = serde_json::from_str(&json).unwrap();
    assert_eq!(kept.into_comparable(&new, &key), new);
}

/// The keyed hash as computed by the registry's schema.
#[test]
fn a_keyed_hash_is_the_same_everywhere() {
    let mut recipe = sample();
    recipe.env = vec![EnvInput { name: "A".into(), hash: Some("00".into()) }];
    let kept = KeptRecipe::new(&recipe, &RecipeKey::new(vec![1; 32]));
    let json = serde_json::to_value(&kept).unwrap();
    let expected = "3e404d04a8f8e944b7c3a1fd1083b7bd979946eb48a9ac1d9240adc1afc4a007";
    assert_eq!(json["env"][0]["hash"], expected);
}

#[test]
fn path_texts_are_lossless() {
    let all: &[&[u8]] = &[
        b"a",
        b"\\",
        b"\\\\",
        b"\\x41",
        b"\xff",
        b"\\xff",
        b"a\nb",
        b"a b\"'",
        "ü😀".as_bytes(),
        b"\xf0\x9f",
    ];
    let mut texts = Vec::new();
    for bytes in all {
        let path = RelPath::new(Path::new(OsStr::from_bytes(bytes)));
        let text = path.to_string();
        assert_eq!(RelPath::parse(&text), Some(path), "{text}");
        assert!(!texts.contains(&text), "{text}");
        texts.push(text);
    }
    assert_eq!(texts[4..8], ["\\xff", "\\\\xff", "a\\x0ab", "a b\"'"]);
    for broken in ["\\", "\\n", "\\x4", "\\xzz", "\\x+1"] {
        assert_eq!(RelPath::parse(broken), None, "{broken}");
    }
}

// --- Independence of the machine ---

#[test]
fn neither_order_of_creation_nor_place_nor_time_counts() {
    let definition = migrations(&["**/migrations/*.py"]);
    let one = Tree::new(PY);
    let reversed: Vec<_> = PY.iter().rev().copied().collect();
    let other = Tree::new(&reversed);
    other.write("unrelated/x", "");
    for (path, _) in PY {
        let file = fs::File::open(other.at(path)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(other.at(path), mode).unwrap();
    }
    assert_eq!(one.read(&definition), other.read(&definition));
    assert_eq!(print(one.read(&definition)), print(other.read(&definition)));

    let through = TempDir::new().unwrap();
    let link = through.path().join("link");
    symlink(one.root(), &link).unwrap();
    assert_eq!(Inputs::read(&FileCache::off(), &link, &definition, &unset).unwrap(), one.read(&definition));
}

#[test]
fn sorted_by_bytes() {
    let tree = Tree::new(&[("a/x", ""), ("a-b", ""), ("B", ""), ("é", ""), ("z", "")]);
    assert_eq!(tree.paths(&["**"]), ["B", "a-b", "a/x", "z", "é"]);
}

#[test]
fn content_and_name_count() {
    let definition = migrations(&["**/migrations/*.py"]);
    let tree = Tree::new(PY);
    let before = print(tree.read(&definition));
    tree.write("b/migrations/notes.md", "changed");
    assert_eq!(print(tree.read(&definition)), before);
    fs::rename(tree.at("a/migrations/0002.py"), tree.at("a/migrations/0003.py")).unwrap();
    let renamed = print(tree.read(&definition));
    assert_ne!(renamed, before);
    tree.write("a/migrations/0003.py", "TWO");
    assert_ne!(print(tree.read(&definition)), renamed);
}

#[test]
fn a_worktree_has_the_same_fingerprint() {
    let git = |dir: &Path, args: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(dir).args(["-c", "user.name=x", "-c", "user.email=x@x"]).args(args);
        assert!(git.output().unwrap().status.success(), "{args:?}");
    };
    let tree = Tree::new(PY);
    git(tree.root(), &["init", "-q"]);
    git(tree.root(), &["add", "."]);
    git(tree.root(), &["commit", "-qm", "x"]);
    let elsewhere = TempDir::new().unwrap();
    let worktree = elsewhere.path().join("wt");
    git(tree.root(), &["worktree", "add", "-q", worktree.to_str().unwrap()]);
    assert!(worktree.join(".git").is_file());
    let definition = migrations(&["**"]);
    let theirs = Inputs::read(&FileCache::off(), &worktree, &definition, &unset).unwrap();
    assert_eq!(theirs.migrations.len(), PY.len());
    assert_eq!(theirs, tree.read(&definition));
}

/// Walks in another process, whose user ignores all of these files, from another working directory.
#[test]
fn the_users_ignore_file_does_not_count() {
    const ROOT: &str = "PGSTENCIL_TEST_HOSTILE_ROOT";
    let definition = migrations(&["**/migrations/*.py"]);
    if let Some(root) = std::env::var_os(ROOT) {
        let hostile = ignore::gitignore::Gitignore::global().0;
        assert!(hostile.num_ignores() > 0, "the trap is not set");
        let read = Inputs::read(&FileCache::off(), Path::new(&root), &definition, &unset).unwrap();
        println!("fingerprint {}", print(read));
        return;
    }
    let home = Tree::new(&[
        (".gitconfig", "[core]\nexcludesFile = ~/ignore\n"),
        ("ignore", "*.py\nmigrations/\n"),
        (".config/git/ignore", "*.py\n"),
    ]);
    let tree = Tree::new(PY);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "fingerprint::tests::the_users_ignore_file_does_not_count", "--nocapture"])
        .env(ROOT, tree.root())
        .env("HOME", home.root())
        .env("XDG_CONFIG_HOME", home.at(".config"))
        .env("GIT_CONFIG_GLOBAL", home.at(".gitconfig"))
        .env("LC_ALL", "tr_TR.UTF-8")
        .current_dir("/")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains(&format!("fingerprint {}", print(tree.read(&definition)))), "{said}");
}

// --- Ignore files ---

#[test]
fn only_the_trees_own_gitignore_counts() {
    let outer = Tree::new(&[
        (".gitignore", "*.py"),
        (".ignore", "*.py"),
        ("project/.ignore", "*.py"),
        ("project/.rgignore", "*.py"),
        ("project/.git/info/exclude", "*.py"),
        ("project/.git/HEAD", "ref: refs/heads/main"),
        ("project/.git/x.py", ""),
        ("project/m/1.py", ""),
    ]);
    fs::create_dir(outer.at(".git")).unwrap();
    let read =
        Inputs::read(&FileCache::off(), &outer.at("project"), &migrations(&["**/*.py"]), &unset).unwrap();
    assert_eq!(read.migrations.len(), 1);
}

#[test]
fn gitignore_counts_with_and_without_git() {
    let tree = Tree::new(&[
        (".gitignore", "/build/\n*.pyc.py\n[\n"),
        ("build/migrations/1.py", ""),
        ("m/1.py", ""),
        ("m/1.pyc.py", ""),
        ("m/.gitignore", "2.py\n!1.pyc.py\n"),
        ("m/2.py", ""),
        ("n/2.py", ""),
        (".hidden/3.py", ""),
        ("sub/.git/HEAD", ""),
        ("sub/4.pyc.py", ""),
    ]);
    let expected = [".hidden/3.py", "m/1.py", "m/1.pyc.py", "n/2.py"];
    assert_eq!(tree.paths(&["**/*.py"]), expected);
    fs::create_dir(tree.at(".git")).unwrap();
    assert_eq!(tree.paths(&["**/*.py"]), expected);
    assert_eq!(
        ignored(tree.root(), &migrations(&["**/*.py", "!build/**"])).unwrap(),
        ["m/2.py", "sub/4.pyc.py"]
    );
}

#[test]
fn a_path_without_wildcards_counts_although_a_gitignore_hides_it() {
    let tree = Tree::new(&[
        (".gitignore", "local.py\n/build/\n"),
        ("local.py", "one"),
        ("build/made.py", "two"),
        ("build/[x].py", "three"),
        ("build/more.py", "four"),
        ("m/1.sql", ""),
        (".git/config", ""),
    ]);
    let of = |inputs: &[&str]| Definition {
        inputs: inputs.iter().map(|&glob| glob.into()).collect(),
        ..migrations(&["m/*.sql"])
    };
    let paths = |definition: &Definition| {
        let files = tree.read(definition).inputs;
        let paths = files.iter().map(|f| f.path.to_string());
        paths.collect::<Vec<_>>().join(" ")
    };
    let named = of(&["local.py", "build/made.py", "build/\\[x].py"]);
    assert_eq!(paths(&named), "build/[x].py build/made.py local.py");
    let before = print(tree.read(&named));
    tree.write("local.py", "two");
    assert_ne!(print(tree.read(&named)), before);
    assert_eq!(ignored(tree.root(), &named).unwrap(), [""; 0]);
    // The file counts for the key that names it, unless a later glob excludes it.
    let both = Definition {
        rerun_inputs: vec!["local.py".into()],
        ..of(&["**/*.py", "build/made.py", "build/more.py", "!build/more.*"])
    };
    assert_eq!(paths(&both), "build/made.py");
    assert_eq!(tree.read(&both).rerun_inputs.len(), 1);
    // A wildcard does not name a file, and nothing below `.git` is an input.
    for glob in ["local.p?", "build/*.py", ".git/config", "absent.py"] {
        says(&tree.error(&of(&[glob])), Kind::Config, &["matches no file"]);
    }
    fs::remove_file(tree.at("local.py")).unwrap();
    says(&tree.error(&named), Kind::Config, &["glob `local.py` matches no file"]);
    tree.link("nowhere", "local.py");
    says(&tree.error(&named), Kind::Failed, &["`local.py` is chosen by `inputs`"]);
}

// --- Globs ---

#[test]
fn the_last_glob_decides() {
    let tree = Tree::new(PY);
    assert_eq!(
        tree.paths(&["**/migrations/*.py", "!**/tests/**"]),
        ["a/migrations/0001.py", "a/migrations/0002.py", "b/migrations/0001.py"]
    );
    assert_eq!(
        tree.paths(&["**/*.py", "!a/**", "a/migrations/0002.py", "!nothing/**"]),
        ["a/migrations/0002.py", "b/migrations/0001.py", "b/tests/migrations/0001.py"]
    );
    // `*` does not match a slash.
    assert_eq!(tree.paths(&["*/migrations/*2.py"]), ["a/migrations/0002.py"]);
    assert_eq!(
        tree.paths(&["{a,b/tests}/migrations/0001.py"]),
        ["a/migrations/0001.py", "b/tests/migrations/0001.py"]
    );
}

#[test]
fn a_file_may_be_of_several_kinds() {
    let tree = Tree::new(PY);
    let definition = Definition {
        inputs: vec!["a/**".into()],
        rerun_inputs: vec!["b/**/*.md".into()],
        ..migrations(&["**/migrations/*.py", "!b/**"])
    };
    let read = tree.read(&definition);
    assert_eq!((read.migrations.len(), read.rerun_inputs.len(), read.inputs.len()), (2, 1, 2));
    assert_eq!(read.migrations, read.inputs);
    assert_eq!(read.migrations[0].hash, blake3::hash(b"one").to_hex().to_string());
    assert_eq!(read.migrations[0].bytes, 3);
}

#[test]
fn odd_names() {
    let names: &[&[u8]] = &[
        b"\xff\xfe.py",
        b"a\nb.py",
        b"a b.py",
        b"a\"b.py",
        b"a'b.py",
        b"-x.py",
        b".py",
        "😀.py".as_bytes(),
        b"a\\b.py",
        b"!x.py",
        b"\x1b[31m.py",
        b"caf\xc3\xa9.py",
        b"cafe\xcc\x81.py",
    ];
    let tree = Tree::new(&[]);
    for name in names {
        tree.write(Path::new("m").join(OsStr::from_bytes(name)), "");
    }
    let read = tree.read(&migrations(&["m/*.py"]));
    let mut expected: Vec<Vec<u8>> = names.iter().map(|n| [b"m/", *n].concat()).collect();
    expected.sort();
    let got: Vec<Vec<u8>> = read.migrations.iter().map(|f| f.path.as_bytes().to_vec()).collect();
    assert_eq!(got, expected);

    tree.write("!x.py", "");
    assert_eq!(tree.paths(&["\\!x.py"]), ["!x.py"]);
}

#[test]
fn globs_that_make_no_sense() {
    let tree = Tree::new(PY);
    for (globs, part) in [
        (&["/a/*.py"][..], "glob `/a/*.py` starts with a slash"),
        (&["./a/*.py"], "contains a `.` component"),
        (&["../a/*.py"], "leaves the root with `..`"),
        (&["a/../b/*.py"], "leaves the root"),
        (&["**", "!../x"], "glob `!../x` leaves the root"),
        (&["a//b"], "two slashes"),
        (&[""], "glob `` is empty"),
        (&["a[/x"], "glob `a[/x` is invalid"),
        (&["!a/**"], "glob `!a/**` has no earlier glob to exclude from"),
        (&["**/*.py", "!**"], "the `!` globs exclude every file that the others match"),
    ] {
        says(&tree.error(&migrations(globs)), Kind::Config, &[part, "`migrations` of template `app`"]);
    }
    says(&tree.error(&definition()), Kind::Config, &["template `app` has no inputs"]);
}

#[test]
fn globs_that_match_nothing_say_why() {
    let tree = Tree::new(PY);
    tree.write(".gitignore", "gen/\n");
    tree.write("gen/1.sql", "");
    tree.write("gen/2.sql", "");
    let root = tree.root().display().to_string();
    let error = tree.error(&Definition { inputs: vec!["nope/*.sql".into()], ..migrations(&["**/*.py"]) });
    says(&error, Kind::Config, &["`inputs` of template `app`: glob `nope/*.sql` matches no file", &root]);
    assert!(error.hints().is_empty(), "{error:?}");
    for (glob, part) in [
        ("gen/*.sql", "2 matching files are ignored: `gen/1.sql` by line `gen/` of `.gitignore`"),
        ("A/Migrations/*.py", "`a/migrations/0001.py` differs only in case"),
        ("migrations/*.py", "`a/migrations/0001.py` exists\nwrite `**/migrations/*.py`"),
        ("a/migrations", "`a/migrations` is a directory\nwrite `a/migrations/**`"),
        ("a/migrations/", "`a/migrations` is a directory"),
    ] {
        says(&tree.error(&migrations(&[glob])), Kind::Config, &["matches no file", part]);
    }
}

#[test]
fn a_missing_root_is_named() {
    let error = Inputs::read(&FileCache::off(), Path::new("/no/such/root"), &migrations(&["**"]), &unset)
        .unwrap_err();
    says(&error, Kind::Config, &["cannot enter the root `/no/such/root`"]);
}

// --- Links and special files ---

#[test]
fn links_are_read_through() {
    let outside = Tree::new(&[("x/deep/9.sql", "nine"), ("y.sql", "why")]);
    let tree = Tree::new(&[("m/1.sql", "one")]);
    tree.link("1.sql", "m/2.sql");
    tree.link(outside.at("y.sql"), "m/3.sql");
    tree.link(outside.at("x"), "m/dir");
    tree.link("nowhere", "m/unrelated");
    let read = tree.read(&migrations(&["m/**/*.sql"]));
    let paths: Vec<_> = read.migrations.iter().map(|f| f.path.to_string()).collect();
    assert_eq!(paths, ["m/1.sql", "m/2.sql", "m/3.sql", "m/dir/deep/9.sql"]);
    assert_eq!(read.migrations[0].hash, read.migrations[1].hash);
    assert_eq!(read.migrations[3].bytes, 4);
}

#[test]
fn loops_and_links_to_the_outside_of_the_root_are_passed_over() {
    let outer = Tree::new(&[("other/x.sql", ""), ("project/m/1.sql", "")]);
    outer.link("..", "project/m/up");
    outer.link("../..", "project/m/out");
    outer.link("/", "project/m/top");
    outer.link(".", "project/m/self");
    outer.link("self-loop", "project/m/self-loop");
    let read =
        Inputs::read(&FileCache::off(), &outer.at("project"), &migrations(&["**/*.sql"]), &unset).unwrap();
    let paths: Vec<_> = read.migrations.iter().map(|f| f.path.to_string()).collect();
    assert_eq!(paths, ["m/1.sql"]);
}

#[test]
fn a_chosen_link_that_leads_nowhere_is_an_error() {
    let tree = Tree::new(&[("m/1.sql", ""), (".gitignore", "*.tmp.sql")]);
    tree.link("gone", "m/0.tmp.sql");
    assert_eq!(tree.paths(&["m/*.sql"]), ["m/1.sql"]);
    tree.write("m/9.tmp.sql", "");
    assert_eq!(ignored(tree.root(), &migrations(&["m/*.sql"])).unwrap(), ["m/9.tmp.sql"]);
    tree.link("gone", "m/2.sql");
    let error = tree.error(&migrations(&["m/*.sql"]));
    says(&error, Kind::Failed, &["the link `m/2.sql` is chosen by `migrations` but leads nowhere"]);
    assert_eq!(tree.paths(&["m/*.sql", "!m/2.sql"]), ["m/1.sql"]);
    tree.link("loop.sql", "m/loop.sql");
    says(&tree.error(&migrations(&["m/*.sql", "!m/2.sql"])), Kind::Failed, &["`m/loop.sql`"]);
}

#[test]
fn a_fifo_is_not_opened() {
    let tree = Tree::new(&[("m/1.sql", "")]);
    nix::unistd::mkfifo(&tree.at("m/2.sql"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tree.at("m/sock")).unwrap();
    let error = tree.error(&migrations(&["m/*.sql"]));
    says(&error, Kind::Failed, &["`m/2.sql` is chosen by `migrations` but is not a file"]);
    let error = tree.error(&migrations(&["m/*", "!m/2.sql"]));
    says(&error, Kind::Failed, &["`m/sock` is chosen"]);
    assert_eq!(tree.paths(&["m/1*"]), ["m/1.sql"]);
    says(&tree.error(&lines("m/2.sql", "x")), Kind::Config, &["`m/2.sql` is not a file"]);
}

#[test]
fn what_cannot_be_read_is_named() {
    // For root no directory is closed.
    if nix::unistd::geteuid().is_root() {
        return;
    }
    let closed = |path: PathBuf| {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    };
    let tree = Tree::new(&[("m/1.sql", ""), ("m/sub/2.sql", ""), ("other/3.sql", "")]);
    closed(tree.at("other"));
    assert_eq!(tree.paths(&["m/**"]).len(), 2);
    closed(tree.at("m/sub"));
    says(&tree.error(&migrations(&["m/**"])), Kind::Failed, &["m/sub"]);
    closed(tree.at("m/1.sql"));
    says(&tree.error(&migrations(&["m/*.sql"])), Kind::Failed, &["m/1.sql"]);
}

// --- Lines and variables ---

#[test]
fn only_matching_lines_count() {
    let tree = Tree::new(&[("lock", "Django==5.1\nfoo==1\ndjango==x")]);
    let definition = lines("lock", "(?i)^django==");
    let before = tree.read(&definition);
    assert_eq!(before.lines[0].count, 2);
    tree.write("lock", "bar==2\r\nDjango==5.1\r\ndjango==x\r\n");
    assert_eq!(tree.read(&definition), before);
    tree.write("lock", "django==x\nDjango==5.1\n");
    assert_ne!(tree.read(&definition), before);
    fs::write(tree.at("lock"), b"\xff\xfe junk\nDjango==5.1\xff\n").unwrap();
    assert_eq!(tree.read(&definition).lines[0].count, 1);
    // A file that is named directly counts even if a .gitignore hides it.
    tree.write(".gitignore", "lock");
    assert_eq!(tree.read(&definition).lines[0].count, 1);
}

#[test]
fn of_a_line_the_first_group_counts() {
    let tree = Tree::new(&[("lock", "django==5.1.3 --hash=a\nfoo==1\n")]);
    let minor = lines("lock", r"(?i)^(django==\d+\.\d+)");
    let before = tree.read(&minor);
    assert_eq!(before.lines[0].text, ["django==5.1"]);
    tree.write("lock", "foo==2\ndjango==5.1.4 --hash=b\n");
    assert_eq!(tree.read(&minor), before);
    tree.write("lock", "django==5.2 --hash=c\n");
    assert_ne!(print(tree.read(&minor)), print(before));
    // If the group takes no part, or there is none, the line counts.
    tree.write("lock", "django==5.1\nfoo==1 x\n");
    let maybe = tree.read(&lines("lock", r"^(django==\d+)|^foo"));
    assert_eq!(maybe.lines[0].text, ["django==5", "foo==1 x"]);
    let whole = tree.read(&lines("lock", "^(?:django|foo)=="));
    assert_eq!(whole.lines[0].text, ["django==5.1", "foo==1 x"]);
}

/// The expressions of the README.
#[test]
fn lock_files_of_several_tools() {
    let uv = "[[package]]\nname = \"django\"\nversion = \"5.2.1\"\nsource = { registry = \"x\" }\n\n\
              [[package]]\nname = \"django-environ\"\nversion = \"0.12\"\n";
    let poetry = "[[package]]\nname = \"django\"\nversion = \"5.2.1\"\ndescription = \"x\"\n";
    let npm = "{\n  \"packages\": {\n    \"node_modules/knex\": {\n      \"version\": \"3.1.0\",\n    },\n    \
               \"node_modules/x/node_modules/knex\": {\n      \"version\": \"1.0.0\",\n    }\n  }\n}\n";
    let python = r#"^name = "django"\nversion = "(\d+\.\d+)"#;
    let node = r#""node_modules/knex": \{\n +"version": "(\d+\.\d+)"#;
    for (text, matching, version, next) in [
        (uv, python, "5.2", ("5.2.1", "5.2.2", "5.3.0")),
        (poetry, python, "5.2", ("5.2.1", "5.2.2", "5.3.0")),
        (npm, node, "3.1", ("3.1.0", "3.1.1", "3.2.0")),
    ] {
        let tree = Tree::new(&[("lock", text)]);
        let definition = lines("lock", matching);
        let read = || tree.read(&definition);
        let before = read();
        assert_eq!(before.lines[0].text, [version]);
        let (now, patch, minor) = next;
        tree.write("lock", &text.replace(now, patch).replace('\n', "\r\n"));
        assert_eq!(read(), before);
        tree.write("lock", &text.replace(now, minor));
        assert_ne!(read(), before);
    }
    // Without a group the lines count.
    let tree = Tree::new(&[("lock", poetry)]);
    let both = tree.read(&lines("lock", r#""django"\nversion"#));
    assert_eq!(both.lines[0].text, ["name = \"django\"\nversion = \"5.2.1\""]);
    says(&tree.error(&lines("lock", r"absent\n")), Kind::Config, &["nothing in `lock` matches `absent\\n`"]);
}

#[test]
fn text_that_is_kept_is_short_and_without_passwords() {
    let long = format!("django @ https://me:s3cret@host/{}\n", "x".repeat(1000));
    let tree = Tree::new(&[("lock", long.repeat(50).as_str())]);
    let read = tree.read(&lines("lock", "django"));
    assert_eq!(read.lines[0].count, 50);
    assert_eq!(read.lines[0].text.len(), 20);
    assert!(read.lines[0].text[0].starts_with("django @ https://***@host/xxx"));
    assert!(read.lines[0].text.iter().all(|t| t.len() <= 200));
}

#[test]
fn what_only_the_tests_see_is_no_input_and_the_root_counts_as_the_word() {
    let with = |table: fn(&mut Definition) -> &mut BTreeMap<String, String>, value: &str| {
        // Each tree has another root.
        let tree = Tree::new(&[("m/1.sql", "")]);
        let mut definition = migrations(&["m/*.sql"]);
        table(&mut definition).insert("DATA".into(), value.into());
        print(tree.read(&definition))
    };
    let plain = print(Tree::new(&[("m/1.sql", "")]).read(&migrations(&["m/*.sql"])));
    assert_eq!(with(|d| &mut d.run_env, "{root}/a"), plain);
    for table in
        [(|d: &mut Definition| &mut d.env) as fn(&mut Definition) -> &mut BTreeMap<String, String>, |d| {
            &mut d.build_env
        }]
    {
        assert_ne!(with(table, "{root}/a"), plain);
        assert_eq!(with(table, "{root}/a"), with(table, "{root}/a"));
        assert_ne!(with(table, "{root}/a"), with(table, "{root}/b"));
    }
    assert_ne!(with(|d| &mut d.env, "{root}/a"), with(|d| &mut d.build_env, "{root}/a"));
}

#[test]
fn lines_that_cannot_be() {
    let tree = Tree::new(&[("requirements.lock", "django==5")]);
    for (definition, part) in [
        (lines("requirments.lock", "x"), "did you mean `requirements.lock`?"),
        (lines("requirements.lock", "(x"), "`(x` is not a regular expression"),
        (lines("requirements.lock", "^Django"), "no line of `requirements.lock` matches `^Django`"),
        (lines("/etc/passwd", "x"), "path `/etc/passwd` starts with a slash"),
        (lines("../x", "x"), "leaves the root"),
        (lines(".", "x"), "`.` component"),
    ] {
        says(&tree.error(&definition), Kind::Config, &[part, "`input_lines` of template `app`"]);
    }
}

#[test]
fn variables_count_by_hash() {
    let tree = Tree::new(&[]);
    let definition = Definition { env_inputs: vec!["B".into(), "A".into(), "A".into()], ..definition() };
    let read = |value: Option<&str>| {
        let look = |name: &str| value.filter(|_| name == "A").map(OsString::from);
        Inputs::read(&FileCache::off(), tree.root(), &definition, &look).unwrap()
    };
    let names: Vec<_> = read(None).env.into_iter().map(|v| v.name).collect();
    assert_eq!(names, ["A", "B"]);
    let (unset, empty, secret) = (read(None), read(Some("")), read(Some("hunter2")));
    assert_ne!(print(unset.clone()), print(empty.clone()));
    assert_ne!(print(empty), print(secret.clone()));
    assert!(!format!("{secret:?}").contains("hunter2"));
}

// --- Speed ---

/// `cargo test --release --lib fingerprint -- --ignored --nocapture speed`
#[test]
#[ignore = "a measurement"]
fn speed() {
    let tree = Tree(TempDir::new_in("/dev/shm").unwrap());
    for app in 0..50 {
        for n in 0..20 {
            tree.write(format!("app{app}/migrations/{n:04}.py"), &"x = 1\n".repeat(200));
        }
        for n in 0..980 {
            tree.write(format!("app{app}/src/d{}/f{n}.py", n / 20), "x");
        }
    }
    for globs in [&["**/migrations/*.py", "!**/tests/**"][..], &["*/migrations/*.py"]] {
        let definition = migrations(globs);
        let mut times: Vec<_> = (0..11)
            .map(|_| {
                let start = Instant::now();
                assert_eq!(print(tree.read(&definition)).to_string().len(), 64);
                assert_eq!(tree.read(&definition).migrations.len(), 1000);
                start.elapsed() / 2
            })
            .collect();
        times.sort();
        println!("{globs:?}: median {:?}, best {:?}, worst {:?}", times[5], times[0], times[10]);
    }
}

/// Returns the files that count only because `build` names them.
fn named(tree: &Tree, definition: &Definition) -> Vec<String> {
    let read = tree.read(definition);
    let all: Vec<_> = read.inputs.iter().map(|f| f.path.clone()).collect();
    assert!(read.named.iter().all(|path| all.contains(path)));
    read.named.iter().map(ToString::to_string).collect()
}

#[test]
fn text_files_that_the_build_command_names_are_inputs() {
    let tree = Tree::new(&[
        ("m/1.sql", "one"),
        ("migrate.sh", "migrate"),
        ("scripts/seed.py", "seed"),
        ("hidden.sh", "x"),
        (".gitignore", "hidden.sh\n"),
    ]);
    fs::write(tree.at("program"), b"\x7fELF\0\0").unwrap();
    let definition = Definition {
        build: "./migrate.sh && (cd scripts; python seed.py) && ./program && ./hidden.sh m m/1.sql".into(),
        ..migrations(&["m/*"])
    };
    assert_eq!(named(&tree, &definition), ["migrate.sh", "scripts/seed.py"]);
    let before = print_of(&tree, &definition);
    tree.write("migrate.sh", "migrate more");
    assert_ne!(print_of(&tree, &definition), before);
    let off = Definition { build_inputs: false, ..definition.clone() };
    assert_eq!(named(&tree, &off), [""; 0]);
    let excluded = Definition { inputs: vec!["scripts/**".into(), "!**/*.sh".into()], ..definition.clone() };
    assert_eq!(named(&tree, &excluded), [""; 0]);
    // The selection by another key counts.
    let elsewhere = Definition {
        rerun_inputs: vec!["*.sh".into()],
        input_lines: vec![InputLines { file: "scripts/seed.py".into(), matching: "seed".into() }],
        ..definition
    };
    assert_eq!(named(&tree, &elsewhere), [""; 0]);
    assert_eq!(tree.read(&elsewhere).inputs.len(), 0);
}

#[test]
fn a_glob_that_matches_only_an_excluded_broken_link_has_matched() {
    let tree = Tree::new(&[("m/1.sql", "a"), ("gone/kept", "")]);
    tree.link("nowhere", "gone/2.sql");
    assert_eq!(tree.paths(&["m/*.sql", "gone/*.sql", "!gone/**"]), ["m/1.sql"]);
}

fn print_of(tree: &Tree, definition: &Definition) -> Vec<FileInput> {
    tree.read(definition).inputs
}
