//! What pgstencil must not touch, and must not forget.

use pgstencil::internals::LockKey;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _};

use crate::support::server::PATIENCE;
use crate::support::{Pgstencil, Project, Role, eventually, random_id, server};

fn project_of(role: &Role<'static>) -> Project<'static> {
    let mut project = Project::with_migrations(server());
    project.connect_as(role);
    project.append_config("[clone]\norphan_grace = \"100ms\"");
    project
}

fn pgstencil(project: &Project<'_>, args: &[&str]) -> Pgstencil {
    Pgstencil::new(project).args(args)
}

fn rows(project: &Project<'_>) -> String {
    server().psql(&project.registry(), "select count(*) from pgstencil.clone")
}

#[test]
fn a_clone_that_a_person_renamed_is_theirs() {
    let role = Role::new(server());
    let project = project_of(&role);
    let name = format!("mine_{}", project.id);
    pgstencil(&project, &["clone", "--name", &name]).success();
    let kept = format!("kept_{}", project.id);
    server().psql("postgres", &format!("alter database {name} rename to {kept}"));
    // Another one of the old name, as well.
    server().psql("postgres", &format!("create database {name} owner {}", role.name));
    pgstencil(&project, &["release", &name]).success();
    assert!(eventually(PATIENCE, || {
        pgstencil(&project, &["ensure"]).success();
        rows(&project) == "0"
    }));
    assert!(server().has_database(&kept) && server().has_database(&name));
    assert_eq!(server().psql(&kept, "select name from users"), "ann");
}

/// A person drops a clone that was released and makes a database of their own of that name, while
/// the background drop is at it. Theirs stays, at whatever moment it comes.
#[tokio::test]
async fn a_name_that_changes_hands_during_a_drop_is_the_persons() {
    let role = Role::new(server());
    let project = project_of(&role);
    let name = format!("contested_{}", project.id);
    let mut admin = server().admin().await;
    let mut taken = 0;
    for round in 0..12_u64 {
        pgstencil(&project, &["clone", "--name", &name]).success();
        // Somebody whom the role may not send away makes the drop wait.
        let mut guest = server().connect(&name).await;
        pgstencil(&project, &["release", &name]).success();
        tokio::time::sleep(std::time::Duration::from_millis(60 + round * 7)).await;
        let _ = guest.execute("select 1").await;
        drop(guest);
        let swap =
            [format!("drop database if exists {name} with (force)"), format!("create database {name}")];
        let mut made = true;
        for statement in swap {
            made &= admin.execute(AssertSqlSafe(statement)).await.is_ok();
        }
        if made {
            taken += 1;
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            assert!(server().has_database(&name), "round {round}");
            server().drop_database(&name);
        }
        assert!(eventually(PATIENCE, || {
            pgstencil(&project, &["ensure"]).success();
            rows(&project) == "0"
        }));
        assert!(!server().has_database(&name));
    }
    assert!(taken > 0);
}

#[test]
fn a_latecomers_row_does_not_hide_the_live_clone() {
    let role = Role::new(server());
    let project = project_of(&role);
    let name = format!("same_{}", project.id);
    let first = pgstencil(&project, &["clone", "--name", &name]).success();
    let late = format!(
        "insert into pgstencil.clone (id, project, definition, fingerprint, name, state, lease, holder)
         select 'late{}', project, definition, fingerprint, name, 'released', lease, holder
         from pgstencil.clone where state = 'leased'",
        random_id()
    );
    server().psql(&project.registry(), &late);
    let again = pgstencil(&project, &["clone", "--name", &name, "--json"]).success();
    assert_eq!(again.json()["outcome"], "reused");
    assert_eq!(again.json()["clone"]["databases"]["app"]["url"], first.line());
    let late = late.replacen("'late", "'last", 1);
    server().psql(&project.registry(), &late);
    pgstencil(&project, &["release", &name]).success();
    assert!(eventually(PATIENCE, || !server().has_database(&name)));
}

/// The maker was killed while further sessions of its were in CREATE: what they make does not show
/// before it is there, so its row has to stay until they are done.
#[tokio::test]
async fn a_database_that_is_being_created_is_not_forgotten() {
    let role = Role::new(server());
    let project = project_of(&role);
    pgstencil(&project, &["ensure"]).success();
    let private = format!("pgstencil_{}", random_id());
    let mut copier = role.options(&project.registry()).connect().await.unwrap();
    sqlx::query("select pg_advisory_lock_shared($1)")
        .bind(LockKey::copying("dead").value())
        .execute(&mut copier)
        .await
        .unwrap();
    server().psql(
        &project.registry(),
        &format!(
            "insert into pgstencil.clone (id, project, definition, fingerprint, name, state, lease, holder)
             select 'dead', project, definition, fingerprint, 'x', 'creating', 'session', '{{\"host\":\"h\",\"pid\":1}}'
             from pgstencil.template;
             insert into pgstencil.database (clone_id, role, ordinal, private_name, name, nonce, state)
             values ('dead', 'app', 0, '{private}', 'x_{}', 'nonce', 'creating')",
            project.id
        ),
    );
    for _ in 0..3 {
        pgstencil(&project, &["run", "--", "true"]).success();
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let waiting = "select count(*) from pgstencil.clone where id = 'dead'";
    assert_eq!(server().psql(&project.registry(), waiting), "1");
    copier.execute(AssertSqlSafe(format!("create database {private}"))).await.unwrap();
    drop(copier);
    assert!(eventually(PATIENCE, || {
        pgstencil(&project, &["run", "--", "true"]).success();
        !server().has_database(&private)
    }));
    assert!(eventually(PATIENCE, || { server().psql(&project.registry(), waiting) == "0" }));
}

fn admin(sql: &str) {
    server().psql("postgres", sql);
}

/// The warnings of `release --json`, of a clone that is not released.
#[track_caller]
fn refused(project: &Project<'_>, name: &str) -> String {
    let output = pgstencil(project, &["release", "--json", name]).success();
    let answer = output.json();
    assert_eq!(answer["released"], serde_json::json!([]));
    let warnings = answer["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{answer}");
    let warning = warnings[0].as_str().unwrap().to_owned();
    output.stderr(&format!("warning: {warning}\n"));
    warning
}

#[test]
fn a_release_says_what_it_leaves_alone_and_why() {
    let role = Role::new(server());
    let project = project_of(&role);
    let other = Role::new(server());
    for (n, (change, why)) in [
        ("comment on database {} is 'mine now'", "its comment no longer has pgstencil's ownership tag"),
        ("alter database {} rename to {}_kept", "it was renamed to `"),
        ("alter database {} owner to {other}", "it belongs to role `"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("changed{n}_{}", project.id);
        pgstencil(&project, &["clone", "--name", &name]).success();
        admin(&change.replace("{}", &name).replace("{other}", &other.name));
        let doctor = pgstencil(&project, &["doctor"]).success();
        doctor
            .stdout_has(&format!("warning  changed databases: database `{name}` of leased clone"))
            .stdout_has(why);
        let warning = refused(&project, &name);
        assert!(warning.starts_with(&format!("database `{name}` is not dropped: {why}")), "{warning}");
    }
    let gone = format!("gone_{}", project.id);
    pgstencil(&project, &["clone", "--name", &gone]).success();
    admin(&format!("drop database {gone}"));
    let warning = refused(&project, &gone);
    assert!(warning.ends_with("it no longer exists"), "{warning}");
    // What only lacks the right is remembered.
    assert!(eventually(PATIENCE, || {
        pgstencil(&project, &["evict"]).success();
        rows(&project) == "1"
    }));
    let name = format!("changed2_{}", project.id);
    // The sweep that a command before left behind may be at it, and holds its lock.
    let stays = format!("database `{name}` is not dropped: it belongs to role");
    assert!(eventually(PATIENCE, || {
        let evicted = pgstencil(&project, &["evict"]).success();
        evicted.stdout.contains(&stays)
    }));
    assert_eq!(
        refused(&project, &name),
        format!(
            "database `{name}` is not dropped: it belongs to role `{}` now, and a cleanup drops it once pgstencil has the privilege",
            other.name
        )
    );
    pgstencil(&project, &["clone", "--name", &name]).fails(7).stderr_has("it belongs to role");
    for name in [format!("changed0_{}", project.id), format!("changed1_{}_kept", project.id), name.clone()] {
        assert_eq!(server().psql(&name, "select name from users"), "ann");
    }
    admin(&format!("grant {} to {}", other.name, role.name));
    assert!(eventually(PATIENCE, || {
        pgstencil(&project, &["evict"]).success();
        rows(&project) == "0"
    }));
    assert!(!server().has_database(&name));
}

/// More than one pass takes, all older than what can be dropped.
#[test]
fn what_lacks_the_right_does_not_keep_the_rest() {
    let role = Role::new(server());
    let project = project_of(&role);
    let other = Role::new(server());
    let stuck = format!("stuck_{}", project.id);
    pgstencil(&project, &["clone", "--name", &stuck]).success();
    admin(&format!("alter database {stuck} owner to {}", other.name));
    // One database will do for all of the rows.
    server().psql(
        &project.registry(),
        "insert into pgstencil.clone (id, project, definition, fingerprint, name, state, lease, holder, created_at)
         select 'stuck' || n, project, definition, fingerprint, name, 'released', lease, holder, created_at - interval '1 hour'
         from pgstencil.clone, generate_series(1, 60) n;
         insert into pgstencil.database (clone_id, role, ordinal, private_name, name, nonce, oid, state)
         select 'stuck' || n, role, ordinal, private_name || n, name, nonce, oid, state
         from pgstencil.database, generate_series(1, 60) n where clone_id is not null",
    );
    let free = format!("free_{}", project.id);
    pgstencil(&project, &["clone", "--name", &free]).success();
    pgstencil(&project, &["release", &free]).success();
    assert!(eventually(PATIENCE, || !server().has_database(&free)));
    assert!(server().has_database(&stuck));
    // The drop forgets the row a moment after the database is gone.
    assert!(eventually(PATIENCE, || rows(&project) == "61"), "{}", rows(&project));
    assert!(server().has_database(&stuck));
}

#[test]
fn the_mend_of_a_changed_database_is_a_statement_that_works() {
    let role = Role::new(server());
    let project = project_of(&role);
    let name = format!("fixed_{}", project.id);
    let moved = format!("moved_{}", project.id);
    pgstencil(&project, &["clone", "--name", &name]).success();
    for change in
        [format!("comment on database {name} is null"), format!("alter database {name} rename to {moved}")]
    {
        admin(&change);
        let answer = pgstencil(&project, &["doctor", "--json"]).success().json();
        let checks = answer["checks"].as_array().unwrap();
        let check = checks.iter().find(|c| c["name"] == "changed databases").unwrap();
        let hint = check["hint"].as_str().unwrap();
        admin(hint.split_once(';').unwrap().0);
        pgstencil(&project, &["doctor"]).success().lacks("changed databases");
    }
    // A copy of the mark, as a restored dump may bring, is no mark.
    admin(&format!("create database {moved}"));
    let comment =
        format!("select shobj_description(oid, 'pg_database') from pg_database where datname = '{name}'");
    let comment = server().psql("postgres", &comment);
    admin(&format!("comment on database {moved} is '{comment}'"));
    pgstencil(&project, &["doctor"]).success().stdout_has(&format!(
        "database `{moved}` has the ownership tag of `{name}`, but is another database"
    ));
    pgstencil(&project, &["release", &name]).success().stderr(&format!("released: {name}\n"));
    assert!(eventually(PATIENCE, || !server().has_database(&name)));
    assert!(server().has_database(&moved));
}

#[test]
fn a_run_says_what_its_command_did_to_the_clone() {
    let role = Role::new(server());
    let project = project_of(&role);
    let script = |sql: &str| format!("psql -XAtqd postgres -c \"{sql}\"");
    for (n, (change, why)) in [
        (
            "comment on database \\\"$PGDATABASE\\\" is 'mine'",
            "its comment no longer has pgstencil's ownership tag",
        ),
        ("alter database \\\"$PGDATABASE\\\" rename to \\\"${PGDATABASE}_kept\\\"", "it was renamed to `"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("run{n}_{}", project.id);
        pgstencil(&project, &["run", "-q", "--name", &name, "--", "sh", "-c", &script(change)])
            .success()
            .stderr_has(&format!("warning: database `{name}` is not dropped: {why}"));
    }
    assert!(eventually(PATIENCE, || rows(&project) == "0"));
    assert!(server().has_database(&format!("run0_{}", project.id)));
    assert!(server().has_database(&format!("run1_{}_kept", project.id)));
}
