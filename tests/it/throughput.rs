//! A program that requests and releases databases without a pause: released clones are dropped as fast as they come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use pgstencil::Stencil;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

use crate::support::extension::registry;
use crate::support::server::PATIENCE;
use crate::support::{Pgstencil, Project, Role, eventually, server};

async fn stencil(project: &Project<'_>) -> Stencil {
    project.append_config("[clone]\nwarm = 0");
    let config = project.path().join("pgstencil.toml");
    Stencil::open(config).server_url(project.server_url()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_program_never_leaves_more_than_fifty_clones_to_drop() {
    let role = Role::new(server());
    let mut project = Project::with_migrations(server());
    project.connect_as(&role);
    let stencil = stencil(&project).await;
    stencil.ensure(None).await.unwrap();
    let (ended, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let watch = {
        let (ended, most) = (Arc::clone(&ended), Arc::clone(&most));
        let mut session = server().connect(&project.registry()).await;
        tokio::spawn(async move {
            let released = "select count(*) from pgstencil.clone where state = 'released'";
            while !ended.load(Ordering::Relaxed) {
                let count: i64 = sqlx::query_scalar(released).fetch_one(&mut session).await.unwrap();
                most.fetch_max(usize::try_from(count).unwrap(), Ordering::Relaxed);
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            session.close().await.unwrap();
        })
    };
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let stencil = stencil.clone();
            let options = role.options("postgres");
            tokio::spawn(async move {
                for _ in 0..12 {
                    let lease = stencil.database().await.unwrap();
                    let mut session: PgConnection =
                        options.clone().database(lease.name()).connect().await.unwrap();
                    sqlx::query("insert into users values (2, 'x')").execute(&mut session).await.unwrap();
                    session.close().await.unwrap();
                    assert_eq!(lease.release().await.unwrap(), []);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    ended.store(true, Ordering::Relaxed);
    watch.await.unwrap();
    let most = most.load(Ordering::Relaxed);
    assert!(most <= 50, "{most}");
    stencil.close().await;
    assert_eq!(registry(&project, "select count(*) from pgstencil.clone"), "0");
    // Those of the cleanup thread are closed, too.
    let sessions = format!(
        "select count(*) from pg_stat_activity where usename = '{}' and datid is not null",
        role.name
    );
    assert!(eventually(PATIENCE, || server().psql("postgres", &sessions) == "0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_that_cannot_be_dropped_keeps_no_other_from_it() {
    let role = Role::new(server());
    let mut project = Project::with_migrations(server());
    project.connect_as(&role);
    let stencil = stencil(&project).await;
    let lease = stencil.database().await.unwrap();
    let stuck = lease.name().to_owned();
    let oid = server().psql("postgres", &format!("select oid from pg_database where datname = '{stuck}'"));
    // A superuser's session, which this role cannot end.
    let visitor = server().connect(&stuck).await;
    lease.release().await.unwrap();
    let there = |oid: &str| {
        server().psql("postgres", &format!("select count(*) from pg_database where oid = {oid}")) == "1"
    };
    for _ in 0..3 {
        let lease = stencil.database().await.unwrap();
        let name = lease.name().to_owned();
        let other =
            server().psql("postgres", &format!("select oid from pg_database where datname = '{name}'"));
        assert_eq!(lease.release().await.unwrap(), []);
        assert!(eventually(PATIENCE, || !there(&other)));
        assert!(there(&oid));
    }
    visitor.close().await.unwrap();
    let visits = format!("select count(*) from pg_stat_activity where datid = {oid}");
    assert!(eventually(PATIENCE, || server().psql("postgres", &visits) == "0"));
    stencil.close().await;
    // If the program has given up by then, the next command tries again.
    Pgstencil::new(&project).arg("evict").success();
    assert!(eventually(PATIENCE, || !there(&oid)));
}
