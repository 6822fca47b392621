//! Passwords and stored settings in what the server says, in warnings, and in what a program traces.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use pgstencil::Stencil;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Metadata, Subscriber};

use crate::support::{Build, Pgstencil, Project, Role, server};

/// Writes down all that anything traces, at every level.
#[derive(Clone, Default)]
struct Traced(Arc<Mutex<String>>);

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        *self.0 += &format!("{field}={value:?} ");
    }
}

impl Subscriber for Traced {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        span.record(&mut Fields(&mut self.0.lock().unwrap()));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        values.record(&mut Fields(&mut self.0.lock().unwrap()));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Fields(&mut self.0.lock().unwrap()));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A project whose clones get a stored setting and run statements with the password in them.
fn project(role: &Role<'static>, after_clone_sql: &str) -> Project<'static> {
    let mut project = Project::with_migrations(server());
    project.connect_as(role);
    project.build(&Build::Script(
        "migrate\nsql -d \"$DATABASE_URL\" -c \"alter database \\\"$PGDATABASE\\\" set search_path = 'hidden_schema'\" \
         -c \"alter database \\\"$PGDATABASE\\\" set application_name = 'hidden-setting'\"\n"
            .into(),
    ));
    let config = project.read("pgstencil.toml");
    let line = format!("extend = \"never\"\nafter_clone_sql.app = '''{after_clone_sql}'''\n");
    project.write("pgstencil.toml", &config.replace("extend = \"never\"\n", &line));
    project
}

#[tokio::test]
async fn traces_hold_no_password_and_no_stored_setting() {
    let role = Role::with(server(), "createdb", "hidden-word");
    let project = project(&role, "create table public.seen as select '{password}' as word, '{url}' as url");
    let file = project.path().join("pgstencil.toml");
    let stencil = Stencil::open(file).server_url(project.server_url()).await.unwrap();
    let traced = Traced::default();
    let name = {
        let here = Dispatch::new(traced.clone());
        // If it were the only one, tracing would ask the subscriber of the thread that is first to get to a place in
        // the code, and for ever: a thread of another test, which has none.
        let _second = Dispatch::new(Traced::default());
        let _here = tracing::dispatcher::set_default(&here);
        let lease = stencil.database().await.unwrap();
        let name = lease.name().to_owned();
        assert_eq!(server().psql(&name, "select word from public.seen"), "hidden-word");
        lease.release().await.unwrap();
        name
    };
    let traced = traced.0.lock().unwrap();
    // It is the trace of all this.
    assert!(traced.contains(&name), "{traced}");
    assert!(traced.contains("SET \\\"application_name\\\" TO '…'"), "{traced}");
    assert!(traced.contains("run the user's statements"), "{traced}");
    assert!(!traced.contains("hidden"), "{traced}");
}

#[test]
fn what_the_server_says_of_after_clone_sql_holds_no_password() {
    for (password, sql, said) in [
        ("hidden-word", "select '{password}'::int", "invalid input syntax for type integer: \"***\""),
        ("it's a \"word\\", "select '{password}'::int", "integer: \"***\""),
        ("it's a \"word\\", "select 1 from '{password}'", "at or near \"'***'\""),
        ("it's a \"word\\", "select 1 from E'{password}'", "at or near \"E'***'\""),
        ("it's a \"word\\", "select \"{password}\"", "column \"***\" does not exist"),
        ("hidden word", "select '{url}'::int", ":***@"),
        (
            "hidden-word",
            "do $$ begin raise 'no' using detail = '{password} is wrong'; end $$",
            "*** is wrong",
        ),
    ] {
        let role = Role::with(server(), "createdb", password);
        let project = project(&role, sql);
        for args in [&["clone"][..], &["--json", "clone"], &["run", "-v", "--", "true"]] {
            let failed = Pgstencil::new(&project).args(args).fails(4);
            let all = format!("{}{}", failed.stdout, failed.stderr);
            let plain = all.replace("\\\"", "\"").replace("\\\\", "\\");
            assert!(plain.contains(said), "{said}\n{failed}");
            assert!(!all.contains("hidden") && !all.contains("word"), "{failed}");
            assert!(!all.contains("it's") && !all.contains("it''s"), "{failed}");
        }
    }
}

/// A setting whose name says that it is a secret, which the clone does not get.
#[test]
fn a_warning_about_a_stored_setting_does_not_show_a_secret() {
    let role = Role::new(server());
    let mut project = Project::with_migrations(server());
    project.connect_as(&role);
    project.build(&Build::Script(format!(
        "migrate\npsql -X -q -d '{}' -c \"alter database \\\"$PGDATABASE\\\" set app.api_key = 'hidden-setting'\"\n",
        server().url("postgres")
    )));
    Pgstencil::new(&project)
        .arg("clone")
        .success()
        .stderr_has("SET app.api_key = ***")
        .lacks("hidden-setting");
}
