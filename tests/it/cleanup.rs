//! The sweep: what dead holders left is dropped, and nothing else ever is.

use std::time::Duration;

use pgstencil::ServerUrl;
use pgstencil::internals::LockKey;
use pgstencil::internals::{Defaults, Endpoint};
use sqlx::{AssertSqlSafe, Connection as _};

use crate::support::hold::{Held, goes, list, oid, only_templates_left, stays};
use crate::support::server::{PATIENCE, quote_ident, quote_literal};
use crate::support::{Build, Pgstencil, Project, Proxy, eventually, server};

fn project() -> Project<'static> {
    let project = Project::with_migrations(server());
    project.append_config("[clone]\norphan_grace = \"1h\"");
    project
}

/// More than the grace later, as far as the notes can tell.
fn after_the_grace(project: &Project<'_>) {
    let sql = "update pgstencil.clone set orphaned_at = orphaned_at - interval '61 minutes'";
    server().psql(&project.registry(), sql);
}

/// Any command that makes something: it sweeps.
#[track_caller]
fn command(project: &Project<'_>) {
    Pgstencil::new(project).args(["run", "--", "true"]).success();
}

/// The state of a clone in `list`.
fn state(project: &Project<'_>, name: &str) -> String {
    let listed = list(project);
    let clones = listed["clones"].as_array().unwrap();
    let clone = clones.iter().find(|c| c["name"] == *name);
    clone.map_or(String::new(), |c| c["state"].as_str().unwrap().to_owned())
}

fn noted(project: &Project<'_>, name: &str) -> bool {
    let sql = format!(
        "select count(*) from pgstencil.clone where orphaned_at is not null and name = {}",
        quote_literal(name)
    );
    server().psql(&project.registry(), &sql) == "1"
}

#[test]
fn a_dead_holders_clone_goes_in_two_steps() {
    let project = project();
    let mut held = Held::idle(&project, &[]);
    let name = held.database.clone();
    assert_eq!(state(&project, &name), "leased");
    held.run.kill9();
    held.end();
    assert!(eventually(PATIENCE, || state(&project, &name) == "orphaned"));
    // Reading notes nothing.
    assert!(!noted(&project, &name));
    command(&project);
    assert!(eventually(PATIENCE, || noted(&project, &name)));
    command(&project);
    stays(&project, &name, Duration::from_millis(500));
    after_the_grace(&project);
    command(&project);
    goes(&project, &name);
    only_templates_left(&project);
}

/// Two background sweeps at once are common: one starts with a `run`, one after it.
#[tokio::test]
async fn a_sweep_does_not_take_another_ones_lock_for_the_holders() {
    let project = project();
    let mut held = Held::idle(&project, &[]);
    let name = held.database.clone();
    let key = "select (classid::bigint << 32) | objid::bigint from pg_locks l
         join pg_database d on d.oid = l.database
         where locktype = 'advisory' and mode = 'ExclusiveLock' and datname = current_database()";
    let key = server().psql(&project.registry(), key);
    held.run.kill9();
    held.end();
    command(&project);
    assert!(eventually(PATIENCE, || noted(&project, &name)));
    let mut session = server().connect(&project.registry()).await;
    let lock = format!("select pg_advisory_lock({key})");
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut session).await.unwrap();
    after_the_grace(&project);
    command(&project);
    std::thread::sleep(Duration::from_millis(500));
    assert!(server().has_database(&name));
    assert!(noted(&project, &name));
    session.close().await.unwrap();
    command(&project);
    goes(&project, &name);
}

#[tokio::test]
async fn a_clone_in_use_stays_whoever_died() {
    let project = project();
    let mut held = Held::inside(&project, &[]);
    let name = held.database.clone();
    let before = oid(&project, &name);
    held.run.kill9();
    for _ in 0..4 {
        command(&project);
        after_the_grace(&project);
    }
    assert_eq!(oid(&project, &name), before);
    // A session that comes after the note takes it back.
    held.end();
    let empty = || crate::support::hold::sessions(&project, &name) == 0;
    assert!(eventually(PATIENCE, empty));
    command(&project);
    assert!(eventually(PATIENCE, || noted(&project, &name)));
    let session = server().connect(&name).await;
    after_the_grace(&project);
    assert!(eventually(PATIENCE, || !empty()));
    command(&project);
    assert!(eventually(PATIENCE, || !noted(&project, &name)));
    assert_eq!(oid(&project, &name), before);
    session.close().await.unwrap();
    let gone = || {
        after_the_grace(&project);
        command(&project);
        !server().has_database(&name)
    };
    assert!(eventually(PATIENCE, gone));
    only_templates_left(&project);
}

#[test]
fn look_alikes_are_untouched_by_everything() {
    let project = project();
    let kept = Pgstencil::new(&project).arg("clone").success();
    let kept = kept.line().rsplit_once('/').unwrap().1.to_owned();
    let comment_of = |name: &str| {
        let sql = format!(
            "select shobj_description(oid, 'pg_database') from pg_database where datname = {}",
            quote_literal(name)
        );
        server().psql("postgres", &sql)
    };
    let mut templates = project.databases();
    templates.retain(|name| name.starts_with("tpl_"));
    let template = templates[0].clone();
    let (name, id) = (project.name(), project.id.clone());
    // Names as ours, without a comment and with the very comments of ours.
    let alike: Vec<(String, String)> = ["", "2", "3"]
        .iter()
        .zip(["", &comment_of(&kept), &comment_of(&template)])
        .flat_map(|(n, comment)| {
            [format!("pgstencil_{id}abcde{n}"), format!("{template}{n}x"), format!("{name}_app_abcdefg{n}")]
                .map(|name| (name, comment.to_owned()))
        })
        .collect();
    for (name, comment) in &alike {
        let ident = quote_ident(name);
        server().psql("postgres", &format!("create database {ident}"));
        server().psql("postgres", &format!("comment on database {ident} is {}", quote_literal(comment)));
    }
    let before: Vec<String> = alike.iter().map(|(name, _)| oid(&project, name)).collect();

    let mut held = Held::idle(&project, &[]);
    held.run.kill9();
    held.end();
    command(&project);
    for (name, _) in &alike {
        Pgstencil::new(&project).args(["release", name]).fails(6);
        Pgstencil::new(&project).args(["run", "--name", name, "--", "true"]).fails(7);
    }
    project.build(&Build::Fail);
    project.add_migration("0003_more", "create table more ()");
    Pgstencil::new(&project).arg("ensure").fails(4);
    project.build(&Build::Migrate);
    Pgstencil::new(&project).args(["release", &kept]).success();
    assert!(eventually(PATIENCE, || noted(&project, &held.database)));
    after_the_grace(&project);
    command(&project);
    goes(&project, &held.database);
    goes(&project, &kept);
    let after: Vec<String> = alike.iter().map(|(name, _)| oid(&project, name)).collect();
    assert_eq!(before, after);
    for (name, comment) in &alike {
        assert_eq!(comment_of(name), *comment);
    }
}

#[test]
fn what_somebody_put_in_the_place_of_ours_is_untouched() {
    let project = project();
    let name = format!("mine_{}", project.id);
    let clone = || Pgstencil::new(&project).args(["clone", "--ttl", "1h", "--name", &name]);
    let comment = |name: &str| {
        let sql = format!(
            "select shobj_description(oid, 'pg_database') from pg_database where datname = {}",
            quote_literal(name)
        );
        quote_literal(&server().psql("postgres", &sql))
    };
    for copied in [false, true] {
        clone().success();
        let mark = comment(&name);
        server().psql("postgres", &format!("drop database {name}"));
        server().psql("postgres", &format!("create database {name}"));
        if copied {
            server().psql("postgres", &format!("comment on database {name} is {mark}"));
        }
        let before = oid(&project, &name);
        clone().fails(7);
        let over = "update pgstencil.clone set expires_at = now() where expires_at is not null";
        server().psql(&project.registry(), over);
        clone().fails(7);
        let forgotten = || {
            command(&project);
            after_the_grace(&project);
            state(&project, &name).is_empty()
        };
        assert!(eventually(PATIENCE, forgotten));
        assert_eq!(oid(&project, &name), before);
        Pgstencil::new(&project).args(["release", &name]).fails(6);
        assert_eq!(oid(&project, &name), before);
        server().psql("postgres", &format!("drop database {name}"));
    }

    // The same with a template: it is built anew beside.
    let mut templates = project.databases();
    templates.retain(|name| name.starts_with("tpl_"));
    let template = quote_ident(&templates[0]);
    let mark = comment(&templates[0]);
    server().psql("postgres", &format!("alter database {template} is_template false"));
    server().psql("postgres", &format!("drop database {template}"));
    server().psql("postgres", &format!("create database {template}"));
    server().psql("postgres", &format!("comment on database {template} is {mark}"));
    let before = oid(&project, &templates[0]);
    let builds = project.builds();
    command(&project);
    command(&project);
    assert_eq!(project.builds(), builds + 1);
    assert_eq!(oid(&project, &templates[0]), before);
}

#[test]
fn a_half_dropped_database_of_ours_is_dropped_to_its_end() {
    let project = project();
    let half_drop = |name: &str| {
        let sql = format!("update pg_database set datconnlimit = -2 where datname = {}", quote_literal(name));
        server().psql("postgres", &sql);
    };
    let cloned = Pgstencil::new(&project).arg("clone").success();
    let cloned = cloned.line().rsplit_once('/').unwrap().1.to_owned();
    half_drop(&cloned);
    Pgstencil::new(&project).args(["release", &cloned]).success();
    goes(&project, &cloned);

    let mut held = Held::idle(&project, &[]);
    held.run.kill9();
    held.end();
    half_drop(&held.database);
    command(&project);
    assert!(eventually(PATIENCE, || noted(&project, &held.database)));
    after_the_grace(&project);
    command(&project);
    goes(&project, &held.database);
    only_templates_left(&project);
}

#[tokio::test]
async fn what_cannot_be_dropped_does_not_keep_the_rest() {
    let project = project();
    let clone = || {
        let output = Pgstencil::new(&project).arg("clone").success();
        output.line().rsplit_once('/').unwrap().1.to_owned()
    };
    let (stuck, free) = (clone(), clone());
    let identity = oid(&project, &stuck);
    // A subscription keeps its database from being dropped, whoever asks.
    let mut session = server().connect(&stuck).await;
    let text = "create subscription s connection 'dbname=x' publication p with (connect = false)";
    sqlx::raw_sql(AssertSqlSafe(text.replace(" s ", &format!(" s_{} ", project.id))))
        .execute(&mut session)
        .await
        .unwrap();
    session.close().await.unwrap();
    Pgstencil::new(&project).args(["release", &stuck]).success();
    Pgstencil::new(&project).args(["release", &free]).success();
    goes(&project, &free);
    // The background tries again for a while, closes the door each time, and may rename what it could not drop.
    let now = || {
        let name = format!("select datname from pg_database where oid = {identity}");
        server().psql("postgres", &name)
    };
    assert_ne!(now(), "", "a database with a subscription was dropped");
    let subscription = format!("s_{}", project.id);
    let subscriptions = format!("select count(*) from pg_subscription where subname = '{subscription}'");
    assert!(eventually(PATIENCE, || {
        let name = now();
        let open = format!("alter database {} allow_connections true", quote_ident(&name));
        let _ = server().try_psql("postgres", &open);
        for text in [
            format!("alter subscription {subscription} disable"),
            format!("alter subscription {subscription} set (slot_name = none)"),
            format!("drop subscription {subscription}"),
        ] {
            let _ = server().try_psql(&name, &text);
        }
        server().psql("postgres", &subscriptions) == "0"
    }));
    command(&project);
    assert!(eventually(PATIENCE, || now().is_empty()), "{} is still there", now());
}

/// Of five passes the last two follow after 5 and 20 s.
#[tokio::test]
async fn a_sweep_ends_when_nothing_more_can_be_dropped() {
    let project = project();
    let cloned = Pgstencil::new(&project).arg("clone").success();
    let name = cloned.line().rsplit_once('/').unwrap().1.to_owned();
    // What keeps a database from being dropped for good.
    let mut session = server().connect(&name).await;
    let subscription = format!("s_{}", project.id);
    let text = format!(
        "create subscription {subscription} connection 'dbname=x' publication p with (connect = false)"
    );
    sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut session).await.unwrap();
    let told = format!("it contains subscription `{subscription}`");
    Pgstencil::new(&project)
        .args(["release", &name])
        .success()
        .stderr_has(&told)
        .stderr_has(&format!("DROP SUBSCRIPTION {subscription};"));
    Pgstencil::new(&project).arg("doctor").success().stdout_has(&told);
    let proxy = Proxy::new(server());
    let url = ServerUrl::parse(&proxy.url(server())).unwrap();
    let endpoint = Endpoint::new(url, &Defaults::default()).unwrap();
    let grace = Duration::from_secs(120);
    pgstencil::internals::clean_up_now(&endpoint, &project.registry(), grace).await.unwrap();
    // Each pass opens the registry.
    let passes = proxy.round_trips().iter().filter(|n| **n > 0).count();
    assert!((1..=3).contains(&passes), "{passes}");
}

/// Sweeps in the foreground; returns what it took.
fn evict(project: &Project<'_>) -> Duration {
    let started = std::time::Instant::now();
    Pgstencil::new(project).args(["evict"]).success();
    started.elapsed()
}

#[test]
fn many_are_dropped_at_once_and_each_only_once() {
    let project = project();
    let mut held = Held::idle(&project, &["--clones", "9"]);
    held.run.kill9();
    held.end();
    let leftovers = || project.databases().len() - 1;
    let orphaned = || state(&project, &held.database) == "orphaned";
    assert!(eventually(PATIENCE, orphaned));
    assert_eq!(leftovers(), 9);
    // The first one notes, the second one drops.
    evict(&project);
    after_the_grace(&project);
    let done = Pgstencil::new(&project).args(["evict", "--json"]).success().json();
    let lines = done["cleanup"].as_array().unwrap();
    assert_eq!(lines.len(), 9, "{done}");
    assert_eq!(leftovers(), 0);
}

#[tokio::test]
async fn drops_give_way_to_copies_but_not_for_ever() {
    let project = project();
    let clone = Pgstencil::new(&project).args(["clone", "--json"]).success();
    let name = clone.json()["clone"]["name"].as_str().unwrap().to_owned();
    // Somebody who copies all the time, as far as the drops can see.
    let mut copier = server().connect(&project.registry()).await;
    sqlx::query("select pg_advisory_lock_shared($1)")
        .bind(LockKey::hurry().value())
        .execute(&mut copier)
        .await
        .unwrap();
    // Given up, and nobody but the next command drops it.
    let give_up =
        format!("update pgstencil.clone set state = 'released' where name = {}", quote_literal(&name));
    server().psql(&project.registry(), &give_up);
    let took = evict(&project);
    assert!(took >= Duration::from_secs(1), "waited only {took:?}");
    assert_eq!(oid(&project, &name), "");
    copier.close().await.unwrap();
}
