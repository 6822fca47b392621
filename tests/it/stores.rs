//! Stores that are reached by HTTP. A small server on this machine speaks just enough S3, fails and lies. With
//! PGSTENCIL_TEST_STORE, the tests that need no fault run on another store: `tests/stores.sh` starts imitations of real
//! ones.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::cli::Output;
use crate::support::extension::templates;
use crate::support::objects::{BEARER, ID, ObjectServer, SECRET, SESSION, TOKEN};
use crate::support::server::PATIENCE;
use crate::support::{Build, Pgstencil, Project, eventually, server};

const CONFIG: &str = r#"
project = "PROJECT"

[server]
registry = "{registry}"

[remote]
url = "URL"
push = "always"
min_gain = "0s"
KEYS
MORE

[template.app]
migrations = ["migrations/*.sql"]
build = "sh migrate.sh"
build_inputs = false
"#;

/// A store, and two servers with the same project.
struct Fleet {
    one: Project<'static>,
    two: Project<'static>,
    url: String,
    variables: Vec<(String, String)>,
    more: String,
    key: PathBuf,
    public: String,
}

impl Fleet {
    /// A fleet with a store that speaks S3.
    fn on(objects: &ObjectServer) -> Self {
        let endpoint = format!("http://127.0.0.1:{}", objects.port);
        let variables = [
            ("AWS_ACCESS_KEY_ID", ID),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_SESSION_TOKEN", SESSION),
            ("AWS_REGION", "eu-central-1"),
            ("AWS_ENDPOINT_URL", &*endpoint),
            ("AWS_ALLOW_HTTP", "true"),
        ];
        Fleet::with("s3://bucket/some/where", &variables)
    }

    /// A fleet with a store of PUT, GET and PROPFIND.
    fn on_http(objects: &ObjectServer) -> Self {
        let url = format!("http://127.0.0.1:{}/bucket/some/where?allow_http=true", objects.port);
        Fleet::with(&url, &[("PGSTENCIL_REMOTE_TOKEN", TOKEN)])
    }

    /// A fleet with a store that speaks like Google's.
    fn on_google(objects: &ObjectServer) -> Self {
        let endpoint = format!("http://127.0.0.1:{}", objects.port);
        let variables =
            [("GOOGLE_BEARER_TOKEN", BEARER), ("GOOGLE_BASE_URL", &*endpoint), ("GOOGLE_ALLOW_HTTP", "true")];
        Fleet::with("gs://bucket/some/where", &variables)
    }

    /// A fleet with the store that the environment names, or else one of its own.
    fn anywhere() -> Self {
        match std::env::var("PGSTENCIL_TEST_STORE") {
            Err(_) => Fleet::on(&ObjectServer::start()),
            Ok(url) => {
                let of_provider = |name: &str| {
                    ["AWS_", "GOOGLE_", "AZURE_", "PGSTENCIL_REMOTE_"]
                        .iter()
                        .any(|start| name.starts_with(start))
                };
                let variables: Vec<_> = std::env::vars().filter(|(name, _)| of_provider(name)).collect();
                let variables: Vec<_> = variables.iter().map(|(name, value)| (&**name, &**value)).collect();
                Fleet::with(&url, &variables)
            }
        }
    }

    fn with(url: &str, variables: &[(&str, &str)]) -> Self {
        let (one, two) = (Project::with_migrations(server()), Project::with_migrations(server()));
        let key = one.home().join("key");
        let made = Pgstencil::new(&one).args(["cache", "new-key", key.to_str().unwrap()]).success();
        let fleet = Fleet {
            one,
            two,
            url: url.into(),
            variables: variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            more: String::new(),
            key,
            public: made.stdout.trim().into(),
        };
        fleet.configure();
        fleet
    }

    fn configure(&self) {
        let keys = match self.public.as_str() {
            "" => String::new(),
            public => format!("trust = [{public:?}]\nsigning_key = {:?}", self.key.to_str().unwrap()),
        };
        let text = CONFIG
            .replace("PROJECT", &self.one.name())
            .replace("URL", &self.url)
            .replace("KEYS", &keys)
            .replace("MORE", &self.more);
        self.one.config(&text);
        self.two.config(&text);
    }

    fn both(&self) -> [&Project<'static>; 2] {
        [&self.one, &self.two]
    }

    fn command(&self, project: &Project<'_>, args: &[&str]) -> Pgstencil {
        let command = Pgstencil::new(project)
            .args(args)
            .env("PGSTENCIL_BACKGROUND", "off")
            .env("NO_PROXY", "127.0.0.1,localhost");
        self.variables.iter().fold(command, |command, (name, value)| command.env(name, value))
    }

    /// Runs a command, and checks that it shows no secret.
    fn run(&self, project: &Project<'_>, args: &[&str]) -> Output {
        let output = self.command(project, &[&["-v"], args].concat()).run();
        for secret in [SECRET, SESSION, "hush-hush"] {
            assert!(!output.stdout.contains(secret) && !output.stderr.contains(secret), "{output}");
        }
        output
    }

    #[track_caller]
    fn works(&self, project: &Project<'_>, args: &[&str]) -> Output {
        let output = self.run(project, args);
        assert!(output.status.success(), "{output}");
        output
    }

    /// Builds on the first server, which pushes.
    #[track_caller]
    fn pushed(&self) -> Value {
        let output = self.works(&self.one, &["ensure", "--json"]);
        assert!(output.stderr.contains("pushed template app"), "{output}");
        output.json()
    }

    /// The second server gets the template in this way.
    #[track_caller]
    fn second(&self, outcome: &str) -> Output {
        let output = self.works(&self.two, &["ensure", "--json"]);
        assert_eq!(output.json()["outcome"], outcome, "{output}");
        output
    }

    /// The second server builds on what the first one pushed. Returns the answer.
    #[track_caller]
    fn extends(&self, pushed: &Value) -> Value {
        let extended = self.second("extended").json();
        assert_eq!(
            (&extended["base_from"], &extended["extends"]["base"]),
            (&json!("remote"), &pushed["fingerprint"])
        );
        extended
    }

    /// Nothing is pulled, one line says why, and the build is a usual one. After that nothing is left of it.
    #[track_caller]
    fn is_refused(&self, why: &str) {
        let builds = self.two.builds();
        let output = self.second("miss");
        let lines: Vec<_> =
            output.stderr.lines().filter(|line| line.contains("nothing was pulled")).collect();
        assert_eq!(lines.len(), 1, "{output}");
        assert!(lines[0].contains(why), "{output}");
        assert_eq!(self.two.builds(), builds + 1);
        self.forget(&self.two);
    }

    /// Drops the templates of a server, and forgets that the store failed.
    #[track_caller]
    fn forget(&self, project: &Project<'_>) {
        self.works(project, &["evict", "--all", "--yes"]);
        let cache = project.home().join(".cache/pgstencil");
        for file in fs::read_dir(cache).into_iter().flatten().flatten() {
            if file.file_name().to_string_lossy().ends_with(".failed") {
                fs::remove_file(file.path()).unwrap();
            }
        }
    }

    fn doctor(&self) -> Vec<Value> {
        let answer = self.run(&self.two, &["remote", "doctor", "--json"]).json();
        answer["checks"].as_array().unwrap().clone()
    }
}

/// Status of a check, and its words.
#[track_caller]
fn check<'a>(checks: &'a [Value], name: &str) -> (&'a str, &'a str) {
    let check = checks.iter().find(|check| check["name"] == name);
    let check = check.unwrap_or_else(|| panic!("no {name}: {checks:?}"));
    (check["status"].as_str().unwrap(), check["words"].as_str().unwrap())
}

#[test]
fn what_one_server_builds_another_pulls() {
    travels(&Fleet::anywhere());
}

/// The way of a template through a store, and what the store is asked for beside.
fn travels(fleet: &Fleet) {
    let built = fleet.pushed();
    let output = fleet.second("pulled");
    assert_eq!(output.json()["fingerprint"], built["fingerprint"]);
    assert_eq!(fleet.two.builds(), 0);
    let rows = templates(&fleet.two);
    assert_eq!(rows[0]["pulled_from"], fleet.url.split('?').next().unwrap());
    let clone = fleet.works(&fleet.two, &["clone", "--json"]).json();
    let name = clone["clone"]["name"].as_str().unwrap();
    assert_eq!(server().psql(name, "select name from users"), "ann");
    // It has it already.
    let again = fleet.works(&fleet.one, &["push", "--json"]).json();
    let pushed = &again["templates"][0];
    assert_eq!((&pushed["pushed"], &pushed["stored"]), (&json!(false), &json!(true)));
    // A base for more migrations.
    fleet.forget(&fleet.two);
    fleet.two.add_migration("0003_items", "create table items ()");
    fleet.extends(&built);
    // Both are listed.
    let listed = fleet.works(&fleet.one, &["remote", "list", "--json"]).json();
    assert_eq!(listed["entries"].as_array().unwrap().len(), 2, "{listed}");
    assert!(listed["entries"].as_array().unwrap().iter().all(|entry| entry["signed_by"] == fleet.public));
    // All is as it should be, but what the imitation cannot.
    let checks = fleet.doctor();
    for name in ["read", "credentials", "reach", "contents", "write", "read back", "delete", "clock"] {
        assert_eq!(check(&checks, name).0, "ok", "{checks:?}");
    }
    let allowed = match std::env::var("PGSTENCIL_TEST_STORE_CONDITIONS").as_deref() {
        Ok("no") => "warning",
        _ => "ok",
    };
    assert_eq!(check(&checks, "conditional writes").0, allowed, "{checks:?}");
    // Nothing stays.
    let pruned = || {
        let pruned = fleet.works(&fleet.two, &["remote", "prune", "--idle", "1s", "--json"]).json();
        assert!(pruned["entries"].as_array().is_some(), "{pruned}");
        let listed = fleet.works(&fleet.two, &["remote", "list", "--json"]).json();
        listed["entries"].as_array().unwrap().is_empty()
    };
    assert!(eventually(PATIENCE, pruned));
    fleet.forget(&fleet.two);
    fleet.is_refused("it has no template");
}

#[test]
fn of_two_machines_at_once_one_builds() {
    is_built_once(&Fleet::anywhere());
}

/// The second server waits for the build of the first one.
fn is_built_once(fleet: &Fleet) {
    fleet.both().iter().for_each(|project| project.build(&Build::Gate));
    let first = fleet.command(&fleet.one, &["ensure", "--json"]).spawn();
    // It announces the build before it begins.
    assert!(eventually(PATIENCE, || fleet.one.builds() == 1));
    let second = fleet.command(&fleet.two, &["ensure", "--json"]).spawn();
    second.wait_for_text("another machine builds template app");
    fleet.one.write("go", "");
    assert_eq!(first.wait().json()["outcome"], "miss");
    assert_eq!(second.wait().json()["outcome"], "pulled");
    assert_eq!((fleet.one.builds(), fleet.two.builds()), (1, 0));
}

#[test]
fn each_failure_of_a_store_is_a_miss_that_is_told() {
    let objects = ObjectServer::start();
    let mut fleet = Fleet::on(&objects);
    fleet.pushed();
    let all = &["GET", "HEAD", "PUT", "DELETE"];
    for (status, code, words) in [
        ("403 Forbidden", "AccessDenied", "it answered 403 Forbidden (AccessDenied)"),
        ("404 Not Found", "NoSuchBucket", "it answered 404 Not Found (NoSuchBucket)"),
        (
            "412 Precondition Failed",
            "PreconditionFailed",
            "it answered 412 Precondition Failed (PreconditionFailed)",
        ),
        ("429 Too Many Requests", "SlowDown", "it answered 429 Too Many Requests (SlowDown)"),
        ("503 Service Unavailable", "SlowDown", "it answered 503 Service Unavailable (SlowDown)"),
        ("302 Found", "PermanentRedirect", "it answered 302 Found"),
    ] {
        objects.refuse(all, status, code, usize::MAX);
        let checks = fleet.doctor();
        let (status, found) = check(&checks, "reach");
        assert_eq!(status, "problem", "{checks:?}");
        assert!(found.contains(words), "{checks:?}");
        fleet.forget(&fleet.two);
        fleet.is_refused(words);
    }
    let pushed = fleet.run(&fleet.one, &["push"]);
    pushed.code(1).stderr_has("nothing was pushed").stderr_has("it answered 302 Found");
    // `pull` tells a store that fails from one that does not have the template.
    fleet.run(&fleet.two, &["pull"]).code(1).stderr_has("it answered 302 Found");
    objects.heal();
    objects.ways(|ways| ways.lost = Some("manifest"));
    fleet.run(&fleet.two, &["pull"]).code(6).stderr_has("it has no template");
    fleet.run(&fleet.two, &["pull", "0123abcd"]).code(6).stderr_has("it has no template 0123abcd");
    // It is never there for some objects, as in a bucket that one may not list.
    objects.heal();
    objects.ways(|ways| ways.lost = Some("manifest"));
    fleet.is_refused("it has no template");
    // It does not answer.
    objects.ways(|ways| ways.hangs = true);
    fleet.more = "timeout = \"1s\"".into();
    fleet.configure();
    fleet.is_refused("did not answer");
    objects.heal();
    fleet.more.clear();
    // Nothing listens there; and it is left alone after that, as after each failure that takes time.
    let endpoint = fleet.variables.iter_mut().find(|(name, _)| name == "AWS_ENDPOINT_URL").unwrap();
    let good = std::mem::replace(&mut endpoint.1, "http://127.0.0.1:1".into());
    fleet.configure();
    fleet.second("miss").stderr_has("no connection");
    fleet.works(&fleet.two, &["evict", "--all", "--yes"]);
    fleet.variables.iter_mut().find(|(name, _)| name == "AWS_ENDPOINT_URL").unwrap().1 = good;
    fleet.is_refused("is tried again in");
    // It is well again.
    fleet.second("pulled");
}

#[test]
fn a_store_that_is_busy_for_a_moment_is_asked_again() {
    let objects = ObjectServer::start();
    let fleet = Fleet::on(&objects);
    objects.refuse(&["GET", "PUT"], "503 Service Unavailable", "SlowDown", 2);
    fleet.pushed();
    objects.refuse(&["GET", "PUT"], "429 Too Many Requests", "SlowDown", 2);
    fleet.second("pulled");
}

#[test]
fn what_may_not_be_written_can_be_read() {
    let objects = ObjectServer::start();
    let fleet = Fleet::on(&objects);
    fleet.pushed();
    objects.refuse(&["PUT", "DELETE"], "403 Forbidden", "AccessDenied", usize::MAX);
    fleet.two.add_migration("0003_items", "create table items ()");
    // The base is pulled, the build is pushed in vain, and that does not end the reading.
    let output = fleet.second("extended");
    output.stderr_has("nothing was pushed").stderr_has("403 Forbidden (AccessDenied)");
    fleet.forget(&fleet.two);
    assert_eq!(fleet.second("extended").json()["base_from"], "remote");
    let checks = fleet.doctor();
    assert_eq!(check(&checks, "reach").0, "ok", "{checks:?}");
    assert_eq!(check(&checks, "write").0, "problem", "{checks:?}");
    objects.refuse(&["DELETE"], "403 Forbidden", "AccessDenied", usize::MAX);
    let checks = fleet.doctor();
    assert_eq!((check(&checks, "write").0, check(&checks, "delete").0), ("ok", "warning"), "{checks:?}");
}

#[test]
fn conditions_that_a_store_ignores_or_lacks_cost_nothing_but_time() {
    let objects = ObjectServer::start();
    let fleet = Fleet::on(&objects);
    objects.ways(|ways| ways.ignores_conditions = true);
    let built = fleet.pushed();
    assert_eq!(fleet.second("pulled").json()["fingerprint"], built["fingerprint"]);
    let checks = fleet.doctor();
    assert_eq!(check(&checks, "conditional writes").0, "warning", "{checks:?}");
    assert!(objects.keys("probe").is_empty());
    // Two runners push the same at the same time.
    fleet.forget(&fleet.two);
    objects.remove("");
    let pushes = fleet.both().map(|project| fleet.command(project, &["ensure", "--json"]).spawn());
    let outcomes: Vec<Value> = pushes.into_iter().map(|push| push.wait().json()["outcome"].clone()).collect();
    assert!(outcomes.iter().all(|outcome| ["hit", "miss", "pulled"].contains(&outcome.as_str().unwrap())));
    // One that says so is not asked that way.
    objects.remove("");
    objects.heal();
    objects.ways(|ways| ways.knows_no_conditions = true);
    fleet.works(&fleet.one, &["push"]);
    assert_eq!(objects.keys("/manifest").len(), 1);
    let checks = fleet.doctor();
    assert_eq!(check(&checks, "conditional writes").0, "ok", "it is looked at before: {checks:?}");
    fleet.forget(&fleet.two);
    fleet.second("pulled");
}

#[test]
fn what_a_store_loses_or_forgets_is_a_miss() {
    let objects = ObjectServer::start();
    let fleet = Fleet::on(&objects);
    fleet.pushed();
    // A dump is lost: the next push brings it back.
    objects.remove(".dump.zst");
    let checks = fleet.doctor();
    let (status, words) = check(&checks, "entry");
    assert_eq!(status, "warning", "{checks:?}");
    assert!(words.contains("has lost one dump"), "{checks:?}");
    fleet.is_refused("is missing");
    assert_eq!(objects.keys(".dump.zst").len(), 1);
    fleet.second("pulled");
    // So it does with a head.
    objects.remove("/heads/");
    fleet.works(&fleet.one, &["push"]);
    assert_eq!(objects.keys("/heads/").len(), 1);
    // It shows an old manifest, whose dump is gone since a full build replaced it.
    fleet.one.add_migration("0003_items", "create table items ()");
    fleet.two.add_migration("0003_items", "create table items ()");
    let extended = fleet.pushed();
    let fingerprint = extended["fingerprint"].as_str().unwrap();
    assert_eq!(extended["provisional"], true);
    let old = objects.objects();
    fleet.works(&fleet.one, &["ensure", "--rebuild"]);
    fleet.works(&fleet.one, &["push"]);
    let mut shown = objects.objects();
    for (key, object) in old {
        if key.contains(fingerprint) {
            shown.insert(key, object);
        }
    }
    shown.retain(|key, _| !(key.contains(fingerprint) && key.ends_with(".dump.zst")));
    objects.ways(|ways| ways.old = Some(shown));
    fleet.forget(&fleet.two);
    let output = fleet.second("extended");
    assert_eq!(output.json()["base_from"], "remote", "{output}");
    objects.heal();
    fleet.forget(&fleet.two);
    assert_eq!(fleet.second("pulled").json()["provisional"], false);
}

#[test]
fn a_clock_that_differs_is_told() {
    let objects = ObjectServer::start();
    let fleet = Fleet::on(&objects);
    objects.ways(|ways| ways.late = std::time::Duration::from_secs(3600));
    let checks = fleet.doctor();
    let (status, words) = check(&checks, "clock");
    assert_eq!(status, "warning", "{checks:?}");
    assert!(words.contains("differs by 1h"), "{checks:?}");
}

#[test]
fn without_keys_nothing_is_read_or_written() {
    let objects = ObjectServer::start();
    let mut fleet = Fleet::on(&objects);
    fleet.pushed();
    fleet.public.clear();
    fleet.configure();
    objects.requests("", "");
    fleet.is_refused("`[remote] trust` names no key, and only a directory is read without");
    assert_eq!(objects.requests("", ""), 0);
    let checks = fleet.doctor();
    assert_eq!(check(&checks, "read").0, "problem", "{checks:?}");
}

#[test]
fn connections_are_encrypted_unless_the_user_says_so() {
    let objects = ObjectServer::start();
    let mut fleet = Fleet::on(&objects);
    fleet.variables.retain(|(name, _)| name != "AWS_ALLOW_HTTP");
    fleet.is_refused("are not encrypted");
    assert_eq!(objects.requests("", ""), 0);
    fleet.url += "?allow_http=true";
    fleet.configure();
    fleet.pushed();
}

#[test]
fn a_wrong_url_is_refused_without_its_secrets() {
    let fleet = Fleet::with("env:STORE", &[]);
    for (url, words) in [
        ("https://ann:hush-hush@example.org/x", "contains a user or a password"),
        ("az://box/x?sig=hush-hush", "has the option `sig`"),
        ("http://example.org/x", "without encryption"),
        ("ftp://example.org/x", "has the unknown scheme `ftp`"),
    ] {
        let output = fleet.command(&fleet.one, &["ensure"]).env("STORE", url).run();
        output.code(2);
        assert!(output.stderr.contains(words), "{output}");
        assert!(!output.stderr.contains("hush"), "{output}");
    }
}

#[test]
fn google_cloud_storage_is_a_store_too() {
    let objects = ObjectServer::start();
    travels(&Fleet::on_google(&objects));
    is_built_once(&Fleet::on_google(&objects));
    // Without the token.
    let mut fleet = Fleet::on_google(&objects);
    fleet.pushed();
    let token = fleet.variables.iter_mut().find(|(name, _)| name == "GOOGLE_BEARER_TOKEN").unwrap();
    token.1 = "hush-hush-of-yesterday".into();
    fleet.is_refused("403 Forbidden");
}

#[test]
fn a_web_server_is_a_store_too() {
    let objects = ObjectServer::start();
    let mut fleet = Fleet::on_http(&objects);
    let built = fleet.pushed();
    fleet.second("pulled");
    // Bases are found by a list: of a tree, or of one directory after the other.
    fleet.two.add_migration("0003_items", "create table items ()");
    for lists_no_trees in [false, true] {
        objects.ways(|ways| ways.lists_no_trees = lists_no_trees);
        fleet.forget(&fleet.two);
        let extended = fleet.extends(&built);
        let listed = fleet.works(&fleet.one, &["remote", "list", "--json"]).json();
        assert_eq!(listed["entries"].as_array().unwrap().len(), 2, "{listed}");
        let fingerprint = extended["fingerprint"].as_str().unwrap().to_owned();
        objects.remove(&fingerprint);
    }
    // Without lists, only what is exactly right is found.
    objects.ways(|ways| ways.lists_nothing = true);
    fleet.forget(&fleet.two);
    fleet.is_refused("it cannot list what it has");
    let checks = fleet.doctor();
    assert_eq!(check(&checks, "reach").0, "warning", "{checks:?}");
    fs::remove_file(fleet.two.path().join("migrations/0003_items.sql")).unwrap();
    fleet.second("pulled");
    // A server of files can only be read.
    objects.refuse(&["PUT", "DELETE"], "405 Method Not Allowed", "MethodNotAllowed", usize::MAX);
    fleet.forget(&fleet.two);
    fleet.second("pulled");
    let checks = fleet.doctor();
    assert!(check(&checks, "write").1.contains("405"), "{checks:?}");
    // Without the token.
    objects.heal();
    fleet.variables.clear();
    fleet.forget(&fleet.two);
    fleet.is_refused("403 Forbidden");
}
