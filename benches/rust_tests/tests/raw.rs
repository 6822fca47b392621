//! As many times as there are tests: CREATE DATABASE ... STRATEGY FILE_COPY, the work of a test, and DROP, by 8 sessions.

use std::sync::atomic::{AtomicI32, Ordering};

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _};

const SESSIONS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run.sh runs it"]
async fn raw() {
    let options: PgConnectOptions = std::env::var("PGSTENCIL_SERVER_URL").unwrap().parse().unwrap();
    let mut session = options.connect().await.unwrap();
    let template: String =
        sqlx::query_scalar("select datname from pg_database where datname like 'tpl\\_%' limit 1")
            .fetch_one(&mut session)
            .await
            .unwrap();
    let cycles = std::env::var("TESTS").ok().and_then(|tests| tests.parse().ok()).unwrap_or(500);
    let next = AtomicI32::new(0);
    let lane = async || {
        let mut session = options.connect().await.unwrap();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= cycles {
                break;
            }
            let create = format!("create database raw_{n} template \"{template}\" strategy file_copy");
            session.execute(AssertSqlSafe(create)).await.unwrap();
            let own = options.clone().database(&format!("raw_{n}"));
            let pool = PgPoolOptions::new().max_connections(5).connect_with(own).await.unwrap();
            rust_tests::work(&pool, n).await;
            pool.close().await;
            session.execute(AssertSqlSafe(format!("drop database raw_{n}"))).await.unwrap();
        }
    };
    futures_util::future::join_all((0..SESSIONS).map(|_| lane())).await;
}
