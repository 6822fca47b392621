//! `pgstencil::test`, in test programs of its own: this program again, with the tests in `inner` only.

use std::path::PathBuf;
use std::thread;

use crate::support::{Build, Pgstencil, Project, Role, server, until_done};

/// Tests that only run in a program that another test starts, which names the project.
mod inner {
    use std::time::Duration;

    use pgstencil::test::{blocking, database, try_database};
    use pgstencil::{FillError, Filler, Unfilled};
    use sqlx::{Connection as _, PgConnection};

    fn definition() -> String {
        std::env::var("INNER_DEFINITION").unwrap_or_else(|_| "app".into())
    }

    async fn add_user(url: &str, name: &str) -> i64 {
        let mut session = PgConnection::connect(url).await.unwrap();
        let insert = sqlx::query("insert into users values (2, $1)");
        insert.bind(name).execute(&mut session).await.unwrap();
        let users = sqlx::query_scalar("select count(*) from users").fetch_one(&mut session).await.unwrap();
        session.close().await.unwrap();
        users
    }

    fn users_of(url: &str) -> i64 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(add_user(url, "bob"))
    }

    /// Eight tests, on runtimes of each kind and on none.
    mod eight {
        use super::*;

        macro_rules! tests {
            ($($name:ident)+) => { $(
                #[tokio::test]
                #[ignore = "another test runs it"]
                async fn $name() {
                    let db = database(definition()).await;
                    println!("database {}", db.name());
                    assert_eq!(add_user(db.url(), stringify!($name)).await, 2);
                }
            )+ }
        }
        tests!(one two three four);

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        #[ignore = "another test runs it"]
        async fn five() {
            let db = tokio::spawn(async { database(definition()).await }).await.unwrap();
            println!("database {}", db.name());
            assert_eq!(add_user(db.url(), "five").await, 2);
            // On a thread of the runtime.
            tokio::spawn(async move { drop(db) }).await.unwrap();
        }

        #[tokio::test]
        #[ignore = "another test runs it"]
        async fn six() {
            let db = database(definition()).await;
            println!("database {}", db.name());
            assert_eq!(add_user(db.url(), "six").await, 2);
            drop(db);
            let db = try_database(definition()).await.unwrap();
            assert_eq!(add_user(db.url(), "six").await, 2);
        }

        #[test]
        #[ignore = "another test runs it"]
        fn seven() {
            let db = blocking::database(definition());
            println!("database {}", db.name());
            assert_eq!(users_of(db.url()), 2);
        }

        #[test]
        #[ignore = "another test runs it"]
        fn eight() {
            let db = blocking::try_database(definition()).unwrap();
            println!("database {}", db.name());
            assert_eq!(users_of(db.url()), 2);
        }
    }

    #[tokio::test]
    #[ignore = "another test runs it"]
    async fn panics() {
        let db = database(definition()).await;
        assert_eq!(add_user(db.url(), "kept").await, 3, "as it should");
    }

    #[test]
    #[ignore = "another test runs it"]
    fn panics_without_a_runtime() {
        let _db = blocking::database(definition());
        panic!("as it should");
    }

    #[test]
    #[ignore = "another test runs it"]
    fn keeps() {
        let mut db = blocking::database(definition());
        db.keep();
    }

    #[test]
    #[ignore = "another test runs it"]
    fn sleeps() {
        let db = blocking::database(definition());
        println!("database {}", db.name());
        thread_sleep();
    }

    /// As long as other tests, of which the program has many.
    #[test]
    #[ignore = "another test runs it"]
    fn lingers() {
        let _db = blocking::database(definition());
        std::thread::sleep(Duration::from_secs(1));
    }

    fn thread_sleep() {
        std::thread::sleep(Duration::from_secs(600));
    }

    #[test]
    #[ignore = "another test runs it"]
    fn many_in_a_row() {
        for _ in 0..60 {
            drop(blocking::database(definition()));
        }
    }

    fn code() -> Filler {
        Filler::new("two users", async |databases: Vec<Unfilled>| {
            let mut session = PgConnection::connect(&databases[0].url.reveal()).await?;
            sqlx::raw_sql("create table users (id int, name text); insert into users values (1, 'ann')")
                .execute(&mut session)
                .await?;
            session.close().await?;
            Ok::<(), FillError>(())
        })
    }

    #[tokio::test]
    #[ignore = "another test runs it"]
    async fn code_fills_a_template() {
        let db = database("of_code").filled_by(code()).await;
        println!("database {}", db.name());
        assert_eq!(add_user(db.url(), "bob").await, 2);
        assert_eq!(db.url_of("app"), db.url());
        let other = database("of_code").filled_by(code()).await;
        assert_eq!(add_user(other.url(), "bob").await, 2);
    }

    #[test]
    #[ignore = "another test runs it"]
    fn code_that_blocks_fills_a_template() {
        let migrate = |databases: Vec<Unfilled>| {
            let base = blocking::request("of_code").filled_by(code()).try_get();
            base.map(drop)?;
            tokio::runtime::Handle::current().block_on(async {
                let mut session = PgConnection::connect(&databases[0].url.reveal()).await?;
                sqlx::query("create table users (id int, name text)").execute(&mut session).await?;
                session.close().await
            })?;
            Ok::<(), FillError>(())
        };
        let db = blocking::request("blocks").filled_by(Filler::blocking("1", migrate)).get();
        assert_eq!(users_of(db.url()), 1);
    }

    #[tokio::test]
    #[ignore = "another test runs it"]
    async fn code_that_fails() {
        let fails = Filler::new("1", async |_| Err::<(), _>("no migration today"));
        let error = try_database("fails").filled_by(fails).await.unwrap_err();
        assert_eq!(error.kind(), pgstencil::Kind::Build, "{error:?}");
        assert!(format!("{error:?}").contains("no migration today"), "{error:?}");
        let blocks = Filler::new("2", async |_| {
            blocking::try_database(definition()).map(drop).map_err(|error| error.message().to_owned())
        });
        let error = try_database("fails").filled_by(blocks).await.unwrap_err();
        assert!(format!("{error:?}").contains("cannot block"), "{error:?}");
    }

    #[cfg(feature = "sqlx")]
    #[tokio::test]
    #[ignore = "another test runs it"]
    async fn a_pool_and_migrations() {
        use std::borrow::Cow;

        use sqlx::migrate::{Migration, MigrationType, Migrator};

        let of = |version, sql: &'static str| {
            let sql = sqlx::SqlStr::from_static(sql);
            Migration::new(version, Cow::Borrowed("step"), MigrationType::Simple, sql, false)
        };
        let first = || of(1, "create table users (id int, name text)");
        let one = || Migrator::with_migrations(vec![first()]);
        let two = || Migrator::with_migrations(vec![first(), of(2, "insert into users values (1, 'ann')")]);
        let users = async |db: &pgstencil::test::Database| -> i64 {
            sqlx::query_scalar("select count(*) from users").fetch_one(&db.pool().await).await.unwrap()
        };
        let db = database("migrated").migrations(one()).await;
        assert_eq!(users(&db).await, 0);
        let db = database("migrated").migrations(two()).await;
        assert_eq!(users(&db).await, 1);
        println!("database {}", db.name());
    }
}

/// Runs inner tests as cargo does.
fn inner(project: &Project<'_>, filter: &str) -> Pgstencil {
    let program: PathBuf = std::env::current_exe().unwrap();
    Pgstencil::with_program(project, program)
        .env("CARGO_MANIFEST_DIR", project.path())
        .current_dir("/")
        .args(["--ignored", "--color=never"])
        .arg(format!("test_databases::inner::{filter}"))
}

/// Runs one inner test as nextest does.
fn alone(project: &Project<'_>, test: &str) -> Pgstencil {
    inner(project, test).args(["--exact", "--nocapture"])
}

fn databases(output: &str) -> Vec<String> {
    let names = output.lines().filter_map(|line| Some(line.split_once("database ")?.1.to_owned()));
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.dedup();
    names
}

/// One template, once a command has cleaned up.
#[track_caller]
fn only_the_template_stays(project: &Project<'_>) {
    let clean_up = || drop(Pgstencil::new(project).arg("evict").success());
    let done = until_done(clean_up, || project.databases().len() == 1);
    assert!(done, "{:?}", project.databases());
}

fn project(role: &Role<'static>) -> Project<'static> {
    let mut project = Project::with_migrations(server());
    project.connect_as(role);
    project
}

#[test]
fn threads_of_one_process_get_a_database_each_from_one_build() {
    let role = Role::new(server());
    let project = project(&role);
    let output = inner(&project, "eight::").args(["--test-threads", "8", "--nocapture"]).success();
    output.stdout_has("8 passed");
    assert_eq!(databases(&output.stdout).len(), 8, "{output}");
    assert_eq!(project.builds(), 1);
    output.stderr_has("pgstencil: building template app").stderr_has("pgstencil: built template app");
    // One after another, on the main thread.
    inner(&project, "eight::").args(["--test-threads", "1"]).success().stdout_has("8 passed");
    only_the_template_stays(&project);
    assert_eq!(project.builds(), 1);
    // The command finds the same template.
    Pgstencil::new(&project).args(["run", "--", "true"]).success().stderr_has("hit app");
}

#[test]
fn processes_get_a_database_each_from_one_build() {
    let role = Role::new(server());
    let project = project(&role);
    let tests = ["one", "two", "three", "four", "five", "six", "seven", "eight", "one", "five", "seven"];
    let names: Vec<String> = thread::scope(|scope| {
        let run = |test| alone(&project, &format!("eight::{test}")).success().stdout.clone();
        let running: Vec<_> = tests.map(|test| scope.spawn(move || run(test))).into();
        running.into_iter().flat_map(|running| databases(&running.join().unwrap())).collect()
    });
    let mut once = names.clone();
    once.sort();
    once.dedup();
    assert_eq!((names.len(), once.len()), (tests.len(), tests.len()), "{names:?}");
    assert_eq!(project.builds(), 1);
    only_the_template_stays(&project);
}

#[test]
fn a_panic_keeps_the_database_and_prints_its_url_with_the_name_of_the_test() {
    let role = Role::new(server());
    let project = project(&role);
    for (test, rows) in [("panics", "ann\nkept"), ("panics_without_a_runtime", "ann")] {
        for exact in [false, true] {
            let program = match exact {
                false => inner(&project, test).args(["--test-threads", "2", "--exact"]),
                true => alone(&project, test),
            };
            let output = program.fails(101);
            // Captured or not, it stands with the test's panic.
            let all = format!("{}{}", output.stdout, output.stderr);
            assert!(all.contains("as it should"), "{output}");
            let full = format!("test_databases::inner::{test}");
            let line = format!("pgstencil: test `{full}` panicked, and its database is kept until 20");
            let (_, rest) = all.split_once(&line).unwrap_or_else(|| panic!("{output}"));
            let url = rest.lines().nth(1).unwrap().trim();
            let ask = ["-XAtc", "select name from users order by name"];
            let told = Pgstencil::with_program(&project, "psql").arg(url).args(ask).success();
            told.stdout(&format!("{rows}\n"));
            let release = rest.lines().nth(2).unwrap().trim();
            let name = release.strip_prefix("release it: pgstencil release ").unwrap();
            Pgstencil::new(&project).args(["release", name]).success();
        }
    }
    only_the_template_stays(&project);
}

#[test]
fn a_database_can_be_kept() {
    let role = Role::new(server());
    let project = project(&role);
    let output = alone(&project, "keeps").success();
    output.stderr_has("pgstencil: the database of test `test_databases::inner::keeps` is kept until 20");
    let (_, name) = output.stderr.split_once("pgstencil release ").unwrap();
    Pgstencil::new(&project).args(["release", name.trim()]).success();
    only_the_template_stays(&project);
}

#[test]
fn what_a_killed_test_leaves_is_dropped_by_later_ones() {
    let role = Role::new(server());
    let project = project(&role);
    project.append_config("[clone]\norphan_grace = \"1s\"");
    let sleeps = alone(&project, "sleeps").spawn();
    sleeps.wait_for_text("database ");
    let name = project.databases().into_iter().find(|name| !name.starts_with("tpl_")).unwrap();
    drop(sleeps);
    // Its own database may be left, too.
    let done =
        until_done(|| drop(inner(&project, "lingers").success()), || !project.databases().contains(&name));
    assert!(done, "{:?}", project.databases());
    only_the_template_stays(&project);
}

#[test]
fn tests_wait_for_drops_before_too_many_pile_up() {
    let role = Role::new(server());
    let project = project(&role);
    inner(&project, "many_in_a_row").success();
    let left = || project.databases().len() - 1;
    assert!(left() <= 24, "{:?}", project.databases());
    // In a program that ends with its test.
    alone(&project, "many_in_a_row").success();
    assert!(left() < 8, "{:?}", project.databases());
    only_the_template_stays(&project);
}

#[test]
fn errors_say_what_is_wrong_and_what_to_do() {
    let role = Role::new(server());
    let project = project(&role);
    let output = alone(&project, "eight::seven").env("INNER_DEFINITION", "ap").fails(101);
    output
        .stderr_has("pgstencil: no database for test `test_databases::inner::eight::seven` at ")
        .stderr_has("tests/it/test_databases.rs:")
        .stderr_has("no template definition `ap` in ")
        .stderr_has("hint: did you mean `app`?");
    alone(&project, "eight::one").env("INNER_DEFINITION", "ap").fails(101).stderr_has("did you mean `app`?");
    project.build(&Build::Fail);
    alone(&project, "eight::one").fails(101).stderr_has("the build command");
    std::fs::remove_file(project.path().join("pgstencil.toml")).unwrap();
    let output = alone(&project, "eight::one").fails(101);
    output
        .stderr_has("no `pgstencil.toml` here or in a directory above")
        .stderr_has(&format!("not found: {}", project.path().join("pgstencil.toml").display()))
        .stderr_has("[template.app]")
        .stderr_has("filled_by(FILLER)");
}

#[test]
fn a_template_can_come_from_code() {
    let role = Role::new(server());
    let mut project = Project::with_migrations(server());
    project.connect_as(&role);
    for test in ["code_fills_a_template", "code_that_blocks_fills_a_template", "code_that_fails"] {
        alone(&project, test).success();
    }
    #[cfg(feature = "sqlx")]
    alone(&project, "a_pool_and_migrations").success();
    assert_eq!(project.builds(), 0, "code has filled all of them");
    let listed = Pgstencil::new(&project).arg("list").success();
    listed.stdout_has("of_code").stdout_has("blocks");
    // The templates are shared, whatever process asks.
    let output = alone(&project, "code_fills_a_template").success();
    assert!(!output.stderr.contains("building"), "{output}");
}

/// On a server of its own, since the registry has the default name without a config.
#[test]
fn code_needs_no_config() {
    let server = crate::support::TestServer::private();
    let project = Project::with_migrations(&server);
    std::fs::remove_file(project.path().join("pgstencil.toml")).unwrap();
    let output = alone(&project, "code_fills_a_template").success();
    assert_eq!(databases(&output.stdout).len(), 1, "{output}");
}
