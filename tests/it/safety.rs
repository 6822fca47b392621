//! What pgstencil must not touch, and must not forget.

use pgstencil::pg::lock::LockKey;
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
    server().psql(
        "postgres",
        &format!("alter database {name} rename to {kept}"),
    );
    // Another one of the old name, as well.
    server().psql(
        "postgres",
        &format!("create database {name} owner {}", role.name),
    );
    pgstencil(&project, &["release", &name]).success();
    assert!(eventually(PATIENCE, || {
        pgstencil(&project, &["ensure"]).success();
        rows(&project) == "0"
    }));
    assert!(server().has_database(&kept) && server().has_database(&name));
    assert_eq!(server().psql(&kept, "select name from users"), "ann");
}

/// A person drops a clone that was given back and makes a database of their own of that name, while
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
        let swap = [
            format!("drop database if exists {name} with (force)"),
            format!("create database {name}"),
        ];
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
    assert_eq!(
        again.json()["clone"]["databases"]["app"]["url"],
        first.line()
    );
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
    copier
        .execute(AssertSqlSafe(format!("create database {private}")))
        .await
        .unwrap();
    drop(copier);
    assert!(eventually(PATIENCE, || {
        pgstencil(&project, &["run", "--", "true"]).success();
        !server().has_database(&private)
    }));
    assert!(eventually(PATIENCE, || {
        server().psql(&project.registry(), waiting) == "0"
    }));
}
