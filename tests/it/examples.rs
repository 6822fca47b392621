//! The examples, run as their READMEs say.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::{Pgstencil, Project, TestServer, copy, eventually, server};

/// A migration of Wagtail from zero, on a machine that has other work too.
const PATIENCE: Duration = Duration::from_secs(300);

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// The example in a directory and a registry of its own.
fn copy_of<'s>(name: &str, server: &'s TestServer) -> Project<'s> {
    let project = Project::new(server);
    fs::remove_dir_all(project.path()).unwrap();
    copy(&example(name), &project.path());
    let config = project.read("pgstencil.toml");
    let (first, rest) = config.split_once('\n').unwrap();
    assert!(first.starts_with("project = "), "{first}");
    project.config(&format!("project = \"{{project}}\"\n{rest}\n[server]\nregistry = \"{{registry}}\"\n"));
    project
}

fn outcome(project: &Project<'_>) -> String {
    let report: serde_json::Value = serde_json::from_str(&project.read("report.json")).unwrap();
    report["outcome"].as_str().unwrap().to_owned()
}

/// What a run leaves: its template and nothing else, as soon as the drops in the background are done.
#[track_caller]
fn only_templates_stay(project: &Project<'_>, templates: usize) {
    let done = eventually(PATIENCE, || project.databases().len() == templates);
    assert!(done, "{templates} templates expected: {:?}", project.databases());
}

#[test]
fn sql() {
    let project = copy_of("sql", server());
    let run = || Pgstencil::new(&project).args(["run", "--report", "report.json", "--"]);
    run().args(["psql", "-X", "-c", r"\dt"]).success().stdout_has("order_lines");
    assert_eq!(outcome(&project), "miss");
    run().arg("./test.sh").success().stdout_has("6 tests passed\n");
    assert_eq!(outcome(&project), "hit");
    let url = Pgstencil::new(&project).arg("clone").success().line().to_owned();
    Pgstencil::with_program(&project, "psql")
        .args([&url, "-XAtc", "select count(*) from orders"])
        .success()
        .stdout("500\n");
    // A migration fails: its own transaction leaves nothing, and nothing is sealed.
    project.add_migration("0008_broken", "create table t (); select nope;");
    run().arg("true").fails(4).stderr_has("nope");
    project.add_migration("0008_broken", "create table t ();");
    run().args(["psql", "-XAtc", "select count(*) from t"]).success().stdout_has("0\n");
    assert_eq!(outcome(&project), "extended");
    settle(|| Pgstencil::new(&project));
}

/// Waits for the build from nothing that follows an extension, so that it outlives no test.
#[track_caller]
fn settle(pgstencil: impl Fn() -> Pgstencil) {
    let settled = pgstencil().args(["ensure", "--rebuild", "--json"]).success();
    assert_eq!(settled.json()["provisional"], false);
    let verified = pgstencil().args(["verify", "--json"]).success();
    assert_eq!(verified.json()["verified"][0]["equal"], true);
}

#[test]
fn sqlx() {
    // It stays where it is, for cargo's sake, so its registry has the default name.
    let server = TestServer::private();
    let project = Project::new(&server);
    for expected in ["miss", "hit"] {
        let mut run = Pgstencil::new(&project).current_dir(example("sqlx")).limit(PATIENCE);
        for name in ["HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "CARGO_TARGET_DIR"] {
            if let Some(value) = std::env::var_os(name) {
                run = run.env(name, value);
            }
        }
        let report = project.path().join("report.json");
        // With the features of the tests nothing is compiled again.
        let features: &[&str] = if cfg!(feature = "fetch") { &["--features", "fetch"] } else { &[] };
        run.env("CARGO_NET_OFFLINE", "true")
            .args(["run", "--report"])
            .arg(&report)
            .args(["--", "cargo", "run", "--quiet", "--example", "sqlx"])
            .args(features)
            .success()
            .stdout_has("Fundamental Algorithms, by Donald Knuth, lent to Ada\n");
        assert_eq!(outcome(&project), expected);
    }
}

/// The crates are compiled, and not run: `test_databases.rs` tests what they call.
#[test]
fn rust_tests() {
    // That of the tests, which has most of the crates.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let cargo = |words: &[&str]| {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(example("rust-tests")).env("CARGO_TARGET_DIR", target).args(words);
        said(&mut cargo)
    };
    if have(cargo(&["fetch", "--quiet"])).is_none() {
        return;
    }
    let mut check = vec!["check", "--quiet", "--workspace", "--tests"];
    let libpq = ["pg_config", "pkg-config"].map(|program| {
        let asks = if program == "pg_config" { vec!["--libdir"] } else { vec!["--exists", "libpq"] };
        said(Command::new(program).args(asks))
    });
    if let [Err(why), Err(_)] = libpq {
        have::<()>(Err(format!("diesel needs libpq: {why}")));
        check.extend(["--exclude", "shop-diesel"]);
    }
    cargo(&check).unwrap();
    // What only the command needs is not among what they compile.
    let tree = ["tree", "--workspace", "--prefix", "none"];
    let tree = Command::new("cargo").current_dir(example("rust-tests")).args(tree).output().unwrap();
    let tree = String::from_utf8(tree.stdout).unwrap();
    assert!(tree.contains("\nsqlx v0.9"), "{tree}");
    assert!(!tree.contains("\nclap"), "{tree}");
}

/// A step of a workflow: what it runs, and under which id its outputs are known.
struct Step {
    id: Option<String>,
    run: String,
}

/// The `run: |` blocks of a workflow with one job.
fn steps(workflow: &str) -> Vec<Step> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut steps = Vec::new();
    let mut id = None;
    let mut lines = workflow.lines().peekable();
    while let Some(line) = lines.next() {
        let key = line.trim_start();
        if key.starts_with("- ") {
            id = None;
        }
        let key = key.trim_start_matches("- ");
        if let Some(value) = key.strip_prefix("id: ") {
            id = Some(value.to_owned());
        }
        assert!(!key.starts_with("run: ") || key == "run: |", "not a block: {line}");
        if key == "run: |" {
            let outer = indent(line);
            let mut run = String::new();
            while let Some(line) = lines.next_if(|l| l.trim().is_empty() || indent(l) > outer) {
                run += line.trim_start();
                run.push('\n');
            }
            steps.push(Step { id: id.clone(), run });
        }
    }
    steps
}

/// Puts values in the place of `${{ … }}`.
fn fill(text: &str, values: &HashMap<String, String>) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${{ ") {
        let (name, after) = after.split_once(" }}").unwrap();
        filled += before;
        filled += values.get(name).unwrap_or_else(|| panic!("no value for {name}"));
        rest = after;
    }
    filled + rest
}

#[test]
fn github_actions() {
    let workflow = fs::read_to_string(example("github-actions/workflow.yml")).unwrap();
    let steps = steps(&workflow);
    assert_eq!(steps.len(), 2);
    let project = copy_of("sql", server());
    // Each shard has a checkout of its own.
    let work: Vec<PathBuf> = (1..=3)
        .map(|shard| {
            let folder = project.home().join(format!("shard{shard}"));
            copy(&project.path(), &folder);
            folder
        })
        .collect();
    let job = |shard: usize| {
        let folder = &work[shard - 1];
        let mut values = HashMap::from([("matrix.shard".to_owned(), shard.to_string())]);
        let mut said = String::new();
        for step in &steps {
            let outputs = folder.join("outputs");
            fs::write(&outputs, "").unwrap();
            // As the runner calls it.
            let output = Pgstencil::with_program(&project, "bash")
                .current_dir(folder)
                .env("GITHUB_ACTIONS", "true")
                .env("GITHUB_OUTPUT", &outputs)
                .env("GITHUB_STEP_SUMMARY", folder.join("summary.md"))
                .args(["-e", "-c", &fill(&step.run, &values)])
                .success();
            said += &output.stdout;
            for line in fs::read_to_string(&outputs).unwrap().lines() {
                let (name, value) = line.split_once('=').unwrap();
                let id = step.id.as_deref().unwrap();
                values.insert(format!("steps.{id}.outputs.{name}"), value.to_owned());
            }
        }
        let summary = fs::read_to_string(folder.join("summary.md")).unwrap();
        assert!(!summary.trim().is_empty());
        (values["steps.test.outputs.outcome"].clone(), said)
    };
    let jobs: Vec<(String, String)> = std::thread::scope(|scope| {
        let running: Vec<_> = (1..=3).map(|shard| scope.spawn(move || job(shard))).collect();
        running.into_iter().map(|job| job.join().unwrap()).collect()
    });
    let misses = jobs.iter().filter(|(outcome, _)| outcome == "miss").count();
    assert_eq!(misses, 1, "one shard builds: {jobs:?}");
    let ran: Vec<&str> =
        jobs.iter().flat_map(|(_, said)| said.lines().filter_map(|line| line.strip_prefix("ok "))).collect();
    let mut once = ran.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!((ran.len(), once.len()), (6, 6), "each test runs in one shard: {ran:?}");
    assert_eq!(job(1).0, "hit");
    only_templates_stay(&project, 1);
}

/// Machines that start empty: each job has a checkout, a private server and nothing else.
struct Hosted {
    project: Project<'static>,
    jobs: usize,
}

impl Hosted {
    fn new() -> Self {
        let project = copy_of("sql", server());
        if let Some(bindir) = std::env::var_os("PGSTENCIL_TEST_BINDIR") {
            let config = project.read("pgstencil.toml");
            let line = format!("[server]\nbindir = {bindir:?}\n");
            project.write("pgstencil.toml", &config.replace("[server]\n", &line));
        }
        Hosted { project, jobs: 0 }
    }

    /// A new machine: its checkout.
    fn machine(&mut self) -> PathBuf {
        self.jobs += 1;
        let folder = self.project.home().with_file_name(format!("job{}", self.jobs));
        copy(&self.project.path(), &folder.join("checkout"));
        fs::create_dir(folder.join("state")).unwrap();
        folder.join("checkout")
    }

    /// A shell step, as a runner calls it.
    fn step(&self, checkout: &Path, script: &str, variables: &[(&str, &str)]) -> Pgstencil {
        let mut step = Pgstencil::with_program(&self.project, "bash")
            .current_dir(checkout)
            .env_remove("PGSTENCIL_SERVER_URL")
            .env("PGSTENCIL_STATE_DIR", checkout.with_file_name("state"))
            .env("PGSTENCIL_BACKGROUND", "off")
            .env("GITHUB_OUTPUT", checkout.join("outputs"))
            .args(["-e", "-c", script]);
        for (name, value) in variables {
            step = step.env(name, value);
        }
        step
    }

    /// The machine goes away.
    fn end(&self, checkout: &Path) {
        self.step(checkout, "pgstencil server stop --force", &[]).success();
    }

    /// `first` builds, `second` finds the template in the file, and a new migration is built on it.
    fn travels(&mut self, mut job: impl FnMut(&mut Self) -> String) {
        assert_eq!(job(self), "miss");
        assert_eq!(job(self), "hit");
        self.project.add_migration("0008_new", "create table t ();");
        assert_eq!(job(self), "extended");
        assert_eq!(job(self), "hit");
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        for job in 1..=self.jobs {
            let checkout = self.project.home().with_file_name(format!("job{job}")).join("checkout");
            self.step(&checkout, "pgstencil server stop --force", &[]).run();
        }
    }
}

/// Nothing is prepared on a machine that goes away.
fn has_background_off(workflow: &str) {
    assert!(workflow.contains("PGSTENCIL_BACKGROUND: \"off\"\n"), "{workflow}");
}

#[test]
fn github_actions_on_hosted_runners() {
    let workflow = fs::read_to_string(example("github-actions/hosted.yml")).unwrap();
    has_background_off(&workflow);
    let mut store: Vec<(String, Vec<u8>)> = Vec::new();
    Hosted::new().travels(|hosted| {
        let checkout = hosted.machine();
        let outcome = cached_job(hosted, &workflow, &checkout, &[], &mut store);
        hosted.end(&checkout);
        outcome
    });
}

/// A job of a workflow with a file in GitHub's cache, and its steps: key, restore, test and save. Its outcome.
fn cached_job(
    hosted: &Hosted,
    workflow: &str,
    checkout: &Path,
    variables: &[(&str, &str)],
    store: &mut Vec<(String, Vec<u8>)>,
) -> String {
    let steps = steps(workflow);
    let [key, restore, test, save] = &steps[..] else { panic!("{} steps", steps.len()) };
    let mut values = HashMap::from([("matrix.shard".to_owned(), "1".to_owned())]);
    let run = |step: &Step, values: &mut HashMap<String, String>| {
        fs::write(checkout.join("outputs"), "").unwrap();
        hosted.step(checkout, &fill(&step.run, values), variables).success();
        for line in fs::read_to_string(checkout.join("outputs")).unwrap().lines() {
            let (name, value) = line.split_once('=').unwrap();
            let id = step.id.as_deref().unwrap();
            values.insert(format!("steps.{id}.outputs.{name}"), value.to_owned());
        }
    };
    run(key, &mut values);
    let uses = |text: &str| {
        let line = workflow.lines().map(str::trim).rfind(|l| l.starts_with(text)).unwrap();
        line[text.len()..].to_owned()
    };
    let (exact, prefix) = (fill(&uses("key: "), &values), fill(&uses("restore-keys: "), &values));
    let file = checkout.join(uses("path: "));
    let found = store.iter().find(|(key, _)| *key == exact);
    let is_hit = found.is_some();
    let found = found.or_else(|| store.iter().rev().find(|(key, _)| key.starts_with(&prefix)));
    if let Some((_, bytes)) = found {
        fs::write(&file, bytes).unwrap();
    }
    run(restore, &mut values);
    run(test, &mut values);
    let outcome = values["steps.test.outputs.outcome"].clone();
    if !is_hit {
        run(save, &mut values);
        store.push((exact, fs::read(&file).unwrap()));
    }
    outcome
}

/// The server of a job in a container: an empty registry on the test's server.
fn empty_server(hosted: &Hosted, checkout: &Path) -> String {
    let registry = hosted.project.registry();
    let config = fs::read_to_string(checkout.join("pgstencil.toml")).unwrap();
    let own = format!("{registry}_{}", hosted.jobs);
    fs::write(checkout.join("pgstencil.toml"), config.replace(&registry, &own)).unwrap();
    own
}

#[test]
fn jobs_with_a_service_container() {
    if !crate::through::has_programs() {
        return;
    }
    let workflow = fs::read_to_string(example("github-actions/service-container.yml")).unwrap();
    has_background_off(&workflow);
    let mut store: Vec<(String, Vec<u8>)> = Vec::new();
    let mut registries = Vec::new();
    let mut hosted = Hosted::new();
    let url = hosted.project.server_url().to_owned();
    let variables = [("PGSTENCIL_SERVER_URL", url.as_str())];
    hosted.travels(|hosted| {
        let checkout = hosted.machine();
        registries.push(empty_server(hosted, &checkout));
        let outcome = cached_job(hosted, &workflow, &checkout, &variables, &mut store);
        hosted.step(&checkout, "pgstencil evict --all --yes", &variables).success();
        outcome
    });
    let job = fs::read_to_string(example("gitlab-ci/service-container.yml")).unwrap();
    has_background_off(&job);
    let mut cache: Option<Vec<u8>> = None;
    let mut hosted = Hosted::new();
    let node = [variables[0], ("CI_NODE_INDEX", "1"), ("CI_NODE_TOTAL", "3")];
    hosted.travels(|hosted| {
        let checkout = hosted.machine();
        registries.push(empty_server(hosted, &checkout));
        if let Some(bytes) = &cache {
            fs::write(checkout.join("pgstencil.cache"), bytes).unwrap();
        }
        hosted.step(&checkout, &script(&job, "script"), &node).success().stdout_has("ok ");
        hosted.step(&checkout, &script(&job, "after_script"), &node).success();
        cache = fs::read(checkout.join("pgstencil.cache")).ok();
        let report = fs::read_to_string(checkout.join("pgstencil.json")).unwrap();
        hosted.step(&checkout, "pgstencil evict --all --yes", &variables).success();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        report["outcome"].as_str().unwrap().to_owned()
    });
    for registry in registries {
        server().drop_database(&registry);
    }
}

/// The items of a list of a job, as GitLab runs them: one after the other in one shell.
fn script(job: &str, key: &str) -> String {
    let mut lines = job.lines().skip_while(|line| *line != format!("  {key}:")).skip(1);
    let mut script = String::new();
    while let Some(line) = lines.next().filter(|line| line.starts_with("    ")) {
        let line = line.trim_start();
        if let Some(command) = line.strip_prefix("- ") {
            script += &format!("{command}\n");
        } else {
            assert!(line.starts_with('#'), "{line}");
        }
    }
    assert!(!script.is_empty(), "{key}");
    script
}

#[test]
fn gitlab() {
    let job = fs::read_to_string(example("gitlab-ci/hosted.yml")).unwrap();
    has_background_off(&job);
    let node = [("CI_NODE_INDEX", "1"), ("CI_NODE_TOTAL", "3")];
    let mut cached: Option<Vec<u8>> = None;
    Hosted::new().travels(|hosted| {
        let checkout = hosted.machine();
        let file = checkout.join("pgstencil.cache");
        if let Some(bytes) = &cached {
            fs::write(&file, bytes).unwrap();
        }
        hosted.step(&checkout, &script(&job, "script"), &node).success().stdout_has("ok ");
        hosted.step(&checkout, &script(&job, "after_script"), &node).success();
        cached = Some(fs::read(&file).unwrap());
        hosted.end(&checkout);
        let report = fs::read_to_string(checkout.join("pgstencil.json")).unwrap();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        report["outcome"].as_str().unwrap().to_owned()
    });
    let job = fs::read_to_string(example("gitlab-ci/self-hosted.yml")).unwrap();
    on_a_server_that_keeps_running(&script(&job, "script"), &node);
}

/// The block of `command: |`, with `$` as the agent gets it.
fn command(pipeline: &str) -> String {
    let (_, block) = pipeline.split_once("command: |\n").unwrap();
    block.lines().map(|line| line.trim_start().replace("$$", "$") + "\n").collect()
}

#[test]
fn buildkite() {
    let pipeline = fs::read_to_string(example("buildkite/hosted.yml")).unwrap();
    has_background_off(&pipeline);
    let job = [("BUILDKITE_PARALLEL_JOB", "0"), ("BUILDKITE_PARALLEL_JOB_COUNT", "3")];
    let mut volume: Option<PathBuf> = None;
    Hosted::new().travels(|hosted| {
        let checkout = hosted.machine();
        if let Some(volume) = &volume {
            copy(volume, &checkout.join(".pgstencil-cache"));
        }
        hosted.step(&checkout, &command(&pipeline), &job).success().stdout_has("ok ");
        volume = Some(checkout.join(".pgstencil-cache"));
        hosted.end(&checkout);
        let report = fs::read_to_string(checkout.join("pgstencil.json")).unwrap();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        report["outcome"].as_str().unwrap().to_owned()
    });
    let pipeline = fs::read_to_string(example("buildkite/self-hosted.yml")).unwrap();
    on_a_server_that_keeps_running(&command(&pipeline), &job);
}

fn on_a_server_that_keeps_running(script: &str, variables: &[(&str, &str)]) {
    let project = copy_of("sql", server());
    for expected in ["miss", "hit"] {
        let mut run = Pgstencil::with_program(&project, "bash");
        for (name, value) in variables {
            run = run.env(name, value);
        }
        run.args(["-e", "-c", script]).success().stdout_has("ok ");
        let report: serde_json::Value = serde_json::from_str(&project.read("pgstencil.json")).unwrap();
        assert_eq!(report["outcome"], expected);
    }
    only_templates_stay(&project, 1);
}

#[test]
fn ci_prints_the_examples() {
    let project = Project::new(server());
    let ci = |args: &[&str]| Pgstencil::new(&project).env_remove("PGSTENCIL_SERVER_URL").arg("ci").args(args);
    for (system, case, file) in [
        ("github", "hosted", "github-actions/hosted.yml"),
        ("github", "remote", "github-actions/remote.yml"),
        ("github", "self-hosted", "github-actions/workflow.yml"),
        ("github", "service-container", "github-actions/service-container.yml"),
        ("gitlab", "hosted", "gitlab-ci/hosted.yml"),
        ("gitlab", "remote", "gitlab-ci/remote.yml"),
        ("gitlab", "self-hosted", "gitlab-ci/self-hosted.yml"),
        ("gitlab", "service-container", "gitlab-ci/service-container.yml"),
        ("buildkite", "hosted", "buildkite/hosted.yml"),
        ("buildkite", "remote", "buildkite/remote.yml"),
        ("buildkite", "self-hosted", "buildkite/self-hosted.yml"),
    ] {
        let text = fs::read_to_string(example(file)).unwrap();
        let printed = ci(&[system, "--case", case]).success();
        printed.stdout(&text).stderr_has("./test.sh");
        // The first line names the file that the CI system reads.
        let json = ci(&[system, "--case", case, "--json"]).success().json();
        assert_eq!((&json["text"], &json["case"]), (&text.as_str().into(), &case.into()));
        assert!(text.starts_with(&format!("# {} for ", json["file"].as_str().unwrap())), "{text}");
    }
    ci(&["github"]).fails(2).stderr_has("--case hosted").stderr_has("--case self-hosted");
    let hosted = ci(&["github", "--json"]).env("RUNNER_ENVIRONMENT", "github-hosted").success().json();
    assert_eq!(hosted["case"], "hosted");
    let named = Pgstencil::new(&project).args(["ci", "gitlab", "--json"]).success().json();
    assert_eq!(named["case"], "self-hosted");
    ci(&["buildkite", "--case", "service-container"]).fails(2).stderr_has("no service containers");
    ci(&["jenkins"]).fails(2);
    project.append_config("\n[remote]\nurl = \"env:PGSTENCIL_REMOTE\"\n");
    let remote = ci(&["github", "--json"]).success().json();
    assert_eq!(remote["case"], "remote");
}

/// Machines with a Postgres each: the first job builds and pushes, that of another machine pulls, and a new migration is
/// built on the base in the store. `job`: script and variables of a job of the default branch.
fn through_a_store(job: &[String], variables: &[(&str, &str)]) {
    let mut hosted = Hosted::new();
    let store = tempfile::tempdir().unwrap();
    let key = hosted.project.home().join("signing.key");
    let made = Pgstencil::new(&hosted.project).args(["cache", "new-key", key.to_str().unwrap()]).success();
    let public = made.stdout.trim().to_owned();
    let secret = fs::read_to_string(&key).unwrap();
    hosted.project.append_config(&format!(
        "\n[remote]\nurl = \"env:PGSTENCIL_REMOTE\"\npush = \"trusted\"\ntrust = [{public:?}]\n\
         signing_key = \"env:PGSTENCIL_SIGNING_KEY\"\nmin_gain = \"0s\"\n"
    ));
    let url = format!("file://{}", store.path().display());
    let run = |hosted: &mut Hosted, more: &[(&str, &str)]| {
        let checkout = hosted.machine();
        let all = [&[("PGSTENCIL_REMOTE", url.as_str())], variables, more].concat();
        for script in job {
            hosted.step(&checkout, script, &all).success();
        }
        hosted.end(&checkout);
        let report = fs::read_to_string(checkout.join("pgstencil.json")).unwrap();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        (report["outcome"].as_str().unwrap().to_owned(), report["base_from"].clone())
    };
    // A job of a pull request has no key, and pushes nothing.
    let signing = [("PGSTENCIL_SIGNING_KEY", secret.trim())];
    assert_eq!(run(&mut hosted, &[]).0, "miss");
    assert_eq!(run(&mut hosted, &signing).0, "miss");
    assert_eq!(run(&mut hosted, &[]).0, "pulled");
    hosted.project.add_migration("0008_new", "create table t ();");
    assert_eq!(run(&mut hosted, &[]), ("extended".into(), "remote".into()));
}

#[test]
fn jobs_with_a_store() {
    let workflow = fs::read_to_string(example("github-actions/remote.yml")).unwrap();
    let values = HashMap::from([("matrix.shard".to_owned(), "1".to_owned())]);
    let github: Vec<String> = steps(&workflow).iter().map(|step| fill(&step.run, &values)).collect();
    assert_eq!(github.len(), 2);
    let main = [
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_EVENT_NAME", "push"),
        ("GITHUB_REF_PROTECTED", "true"),
        ("GITHUB_REF_NAME", "main"),
    ];
    through_a_store(&github, &main);
    let gitlab = fs::read_to_string(example("gitlab-ci/remote.yml")).unwrap();
    let main = [
        ("GITLAB_CI", "true"),
        ("CI_COMMIT_REF_PROTECTED", "true"),
        ("CI_COMMIT_REF_NAME", "main"),
        ("CI_NODE_INDEX", "1"),
        ("CI_NODE_TOTAL", "3"),
    ];
    through_a_store(&[script(&gitlab, "script")], &main);
    let buildkite = fs::read_to_string(example("buildkite/remote.yml")).unwrap();
    let main = [
        ("BUILDKITE", "true"),
        ("BUILDKITE_BRANCH", "main"),
        ("BUILDKITE_PIPELINE_DEFAULT_BRANCH", "main"),
        ("BUILDKITE_PARALLEL_JOB", "0"),
        ("BUILDKITE_PARALLEL_JOB_COUNT", "3"),
    ];
    through_a_store(&[command(&buildkite)], &main);
}

/// A venv with the example's requirements, kept between test runs; why not, if there is none.
fn venv() -> Result<PathBuf, String> {
    let requirements = example("django/requirements.txt");
    let lock = blake3::hash(&fs::read(&requirements).unwrap()).to_hex();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("django-{}", &lock[..12]));
    fs::create_dir_all(&folder).unwrap();
    let guard = fs::File::create(folder.join("lock")).unwrap();
    guard.lock().unwrap();
    let complete = folder.join("complete");
    let venv = folder.join("venv");
    if !complete.exists() {
        said(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        said(
            Command::new(venv.join("bin/pip"))
                .args(["install", "--quiet", "--disable-pip-version-check", "-r"])
                .arg(&requirements),
        )?;
        fs::write(complete, "").unwrap();
    }
    Ok(venv)
}

fn said(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))),
        Err(e) => Err(format!("{command:?}: {e}")),
    }
}

/// A patch release can lack what a package wants of it: soupsieve 4 asks for 3.11.5, Debian 12 has 3.11.2.
#[test]
fn the_django_example_installs_on_the_oldest_python_that_it_promises() {
    let Some(venv) = have(venv()) else { return };
    for file in ["django/README.md", "django/requirements.in"] {
        let text = fs::read_to_string(example(file)).unwrap();
        assert!(text.contains(" Python 3.11 or newer"), "{file}: {text}");
    }
    let nowhere = tempfile::tempdir().unwrap();
    let installs = said(
        Command::new(venv.join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check"])
            .args(["--dry-run", "--ignore-installed", "--only-binary=:all:"])
            .args(["--python-version", "3.11.0", "--target"])
            .arg(nowhere.path())
            .arg("-r")
            .arg(example("django/requirements.txt")),
    );
    have(installs);
}

/// Without Python, libpq or a package index there is nothing to test, and this says so; with
/// `PGSTENCIL_TEST_DJANGO=1`, as in CI, that is a failure.
fn have<T>(result: Result<T, String>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(why) if std::env::var_os("PGSTENCIL_TEST_DJANGO").is_some() => panic!("{why}"),
        Err(why) => {
            eprintln!("SKIPPED, an example was not tested: {why}");
            None
        }
    }
}

/// The venv with Django; `None` if it cannot be had, as [`have`] says, or cannot use the server.
pub(crate) fn django_venv() -> Option<PathBuf> {
    if server().version_major() < 14 {
        eprintln!("skipped: Django 5.2 needs Postgres 14 or later");
        return None;
    }
    have(venv())
}

/// The Django example with its requirements.
struct Django<'s> {
    project: Project<'s>,
    path: OsString,
}

impl Django<'_> {
    /// See [`have`].
    fn new() -> Option<Self> {
        let venv = django_venv()?;
        let ours = Path::new(env!("CARGO_BIN_EXE_pgstencil")).parent().unwrap();
        let folders = [venv.join("bin"), ours.to_owned()].into_iter();
        let folders = folders.chain(server().bindir().map(Path::to_owned));
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(folders.chain(std::env::split_paths(&inherited))).unwrap();
        Some(Django { project: copy_of("django", server()), path })
    }

    /// `pgstencil run OPTIONS -- COMMAND`, both split at blanks.
    fn run(&self, options: &str, command: &str) -> Pgstencil {
        Pgstencil::new(&self.project)
            .env("PATH", &self.path)
            .limit(PATIENCE)
            .args(["run", "--report", "report.json"])
            .args(options.split_whitespace())
            .arg("--")
            .args(command.split_whitespace())
    }
}

/// Words of `pgstencil`'s warning that the clone was replaced. Django never says these.
const REPLACED: &str = "so the clone saved no time";

#[test]
fn django() {
    let Some(django) = Django::new() else { return };
    // Django's own backend, which looks for new migrations.
    django.project.write(
        "bakery/plain.py",
        "from bakery.settings import *\n\n\
         DATABASES['default']['ENGINE'] = 'django.db.backends.postgresql'\n",
    );
    // The right ways. Were a database made by Django itself, it would stay behind.
    let right = [
        ("miss", "", "python manage.py test --keepdb", "Ran 11 tests"),
        ("hit", "", "python manage.py test --keepdb", "Ran 11 tests"),
        ("hit", "--clones 3", "python manage.py test --keepdb --parallel 2", "Ran 11 tests"),
        ("hit", "", "pytest --reuse-db", "11 passed"),
        ("hit", "--clones 2 --name {project}_{id}_gw{n}", "pytest --reuse-db -n 2", "11 passed"),
        ("hit", "", "python manage.py test --keepdb --settings bakery.plain", "Ran 11 tests"),
    ];
    for (expected, options, command, words) in right {
        let output = django.run(options, command).success();
        let both = format!("{}{}", output.stdout, output.stderr);
        assert!(both.contains(words), "{output}");
        output.lacks(REPLACED);
        assert_eq!(outcome(&django.project), expected, "{command}");
        only_templates_stay(&django.project, 1);
    }
    // The wrong ways: the tests pass, the clone is gone, and a warning says why.
    for command in ["python manage.py test --noinput", "pytest"] {
        django.run("", command).success().stderr_has(REPLACED);
        only_templates_stay(&django.project, 1);
    }
    // Nobody is there to answer; the clone is untouched, and a line says what to add.
    django.run("", "python manage.py test").fails(1).stderr_has("add `--keepdb`").lacks(REPLACED);
    // A migration of our own makes another template.
    django.project.write(
        "orders/migrations/0003_price.py",
        "from django.db import migrations\n\n\
         class Migration(migrations.Migration):\n    \
             dependencies = [('orders', '0002_first_products')]\n    \
             operations = [migrations.RunSQL('update orders_product set cents = cents + 1')]\n",
    );
    let output = django.run("", "python manage.py test --keepdb orders").fails(1);
    output.stderr_has("test_the_sum_of_an_order");
    assert_eq!(outcome(&django.project), "extended");
    settle(|| Pgstencil::new(&django.project).env("PATH", &django.path));
}
