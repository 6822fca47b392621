//! `pgstencil serve --stdio`, as a test runner's plugin uses it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::hold::{goes, listed, no_clones_left};
use crate::support::{Build, Pgstencil, Project, eventually, server};

/// The other end of the pipes.
struct Client {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    last: u64,
}

impl Client {
    fn new(project: &Project<'_>) -> Self {
        let mut child = Pgstencil::new(project).args(["serve", "--stdio"]).piped();
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Client { child, requests, answers, last: 0 }
    }

    /// Sends a request without an id; returns the id that it got.
    fn send(&mut self, mut request: Value) -> u64 {
        self.last += 1;
        request["id"] = self.last.into();
        writeln!(self.requests.as_mut().unwrap(), "{request}").unwrap();
        self.last
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).expect(&line)
    }

    #[track_caller]
    fn ask(&mut self, request: Value) -> Value {
        let id = self.send(request);
        let answer = self.answer();
        assert_eq!(answer["id"], id, "{answer}");
        assert_eq!(answer["version"], 1, "{answer}");
        answer
    }

    /// Ends standard input, as the end of the client does, and returns the exit code.
    fn end(&mut self) -> Option<i32> {
        self.requests = None;
        self.child.wait().unwrap().code()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn name(answer: &Value) -> String {
    answer["clone"]["name"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[test]
fn databases_are_acquired_released_and_kept() {
    let project = Project::with_migrations(server());
    let mut client = Client::new(&project);
    let first = client.ask(json!({"acquire": {}}));
    assert_eq!(first["outcome"], "miss", "{first}");
    let url = &first["clone"]["databases"]["app"]["url"];
    assert!(url.as_str().unwrap().ends_with(&name(&first)), "{first}");
    assert_eq!(server().psql(&name(&first), "select count(*) from users"), "1");
    assert_eq!(listed(&project, &name(&first))["state"], "leased");

    let second = client.ask(json!({"acquire": {"template": "app", "name": format!("{}_x", project.name())}}));
    assert_eq!((second["outcome"].as_str(), name(&second)), (Some("hit"), format!("{}_x", project.name())));
    let kept = client.ask(json!({"keep": name(&second)}));
    assert_eq!(kept["kept"].as_str(), Some(&*name(&second)));
    assert!(kept["expires_at"].is_string(), "{kept}");

    let released = client.ask(json!({"release": name(&first)}));
    assert_eq!(released["released"].as_str(), Some(&*name(&first)));
    goes(&project, &name(&first));

    let third = client.ask(json!({"acquire": {}}));
    assert_eq!(client.end(), Some(0));
    goes(&project, &name(&third));
    assert_eq!(listed(&project, &name(&second))["state"], "leased");
    Pgstencil::new(&project).args(["release", &name(&second)]).success();
}

#[test]
fn requests_that_fail_are_answered() {
    let project = Project::with_migrations(server());
    let mut client = Client::new(&project);
    for (request, kind, words) in [
        (json!({"release": "nothing"}), "not_found", "holds no clone `nothing`"),
        (json!({"acquire": {"template": "other"}}), "usage", "no template definition `other`"),
        (json!({"acquire": {"name": "{nonsense}"}}), "usage", "nonsense"),
        (json!({"acquire": {"unknown": 1}}), "usage", "this is not a request"),
        (json!({"something": "else"}), "usage", "this is not a request"),
    ] {
        let error = client.ask(request)["error"].take();
        assert_eq!(error["kind"], kind, "{error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
    }
    writeln!(client.requests.as_mut().unwrap(), "no JSON").unwrap();
    let answer = client.answer();
    assert_eq!((&answer["id"], &answer["error"]["kind"]), (&Value::Null, &json!("usage")));
    client.ask(json!({"acquire": {}}));
    assert_eq!(client.end(), Some(0));
    no_clones_left(&project);
}

#[test]
fn a_missing_config_is_the_answer_of_each_request() {
    let project = Project::new(server());
    std::fs::remove_file(project.path().join("pgstencil.toml")).unwrap();
    let mut client = Client::new(&project);
    for _ in 0..2 {
        let error = client.ask(json!({"acquire": {}}))["error"].take();
        assert_eq!(error["kind"], "config", "{error}");
        assert!(!error["hints"].as_array().unwrap().is_empty(), "{error}");
    }
    assert_eq!(client.end(), Some(0));
}

#[test]
fn requests_at_once_share_one_build() {
    let project = Project::with_migrations(server());
    let mut client = Client::new(&project);
    for _ in 0..4 {
        client.send(json!({"acquire": {}}));
    }
    let mut names: Vec<String> = (0..4).map(|_| name(&client.answer())).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 4);
    assert_eq!(project.builds(), 1);
    assert_eq!(client.end(), Some(0));
    no_clones_left(&project);
}

#[test]
fn later_edits_of_the_migrations_are_seen() {
    let project = Project::with_migrations(server());
    let mut client = Client::new(&project);
    client.ask(json!({"acquire": {}}));
    project.add_migration("0009_more", "create table more ()");
    let mut seen = None;
    assert!(eventually(std::time::Duration::from_secs(60), || {
        let answer = client.ask(json!({"acquire": {}}));
        let new = answer["outcome"] != "hit";
        seen = new.then(|| name(&answer));
        new || {
            client.ask(json!({"release": name(&answer)}));
            false
        }
    }));
    assert_eq!(server().psql(&seen.unwrap(), "select count(*) from more"), "0");
    assert_eq!(client.end(), Some(0));
}

#[test]
fn ctrl_c_ends_a_build_but_not_the_process() {
    let project = Project::with_migrations(server());
    project.build(&Build::Hang);
    let mut client = Client::new(&project);
    client.send(json!({"acquire": {}}));
    assert!(eventually(std::time::Duration::from_secs(60), || project.builds() == 1));
    client.signal(Signal::SIGINT);
    let error = client.answer()["error"].take();
    assert_eq!(error["kind"], "interrupted", "{error}");
    project.build(&Build::Migrate);
    let held = eventually(std::time::Duration::from_secs(60), || {
        client.ask(json!({"acquire": {}})).get("error").is_none()
    });
    assert!(held);
    client.signal(Signal::SIGTERM);
    assert_eq!(client.child.wait().unwrap().code(), Some(0));
    no_clones_left(&project);
}

#[test]
fn a_client_that_goes_ends_its_build() {
    let project = Project::with_migrations(server());
    project.build(&Build::Hang);
    let mut client = Client::new(&project);
    client.send(json!({"acquire": {}}));
    assert!(eventually(std::time::Duration::from_secs(60), || project.builds() == 1));
    assert_eq!(client.end(), Some(0));
    no_clones_left(&project);
}
