//! pgstencil as a library: in one process, on a runtime with several threads.

use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use pgstencil::config::BackgroundWork;
use pgstencil::{Begun, Filler, Kind, Lease, Outcome, Stencil, StencilBuilder, Ttl, Unfilled};
use sqlx::{ConnectOptions as _, Connection as _};

use crate::support::extension::KEEP;
use crate::support::hold::no_clones_left;
use crate::support::server::PATIENCE;
use crate::support::{Pgstencil, Project, Role, eventually, server};

async fn stencil(project: &Project<'_>) -> Stencil {
    opening(project).await.unwrap()
}

fn opening(project: &Project<'_>) -> StencilBuilder<'static> {
    Stencil::open(project.path().join("pgstencil.toml"))
        .server_url(project.server_url())
        .label("a library's user")
}

async fn released(lease: Lease) {
    assert_eq!(lease.release().await.unwrap(), []);
}

/// Nothing here can see what is printed; that the library does not is clippy's to say
/// (`print_stdout`, `print_stderr`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_tasks_get_eight_clones_from_one_build() {
    let role = Role::new(server());
    let mut project = Project::with_migrations(server());
    project.connect_as(&role);
    let stencil = stencil(&project).await;
    let events = Arc::new(Mutex::new(Vec::new()));
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let (stencil, events) = (stencil.clone(), Arc::clone(&events));
            let options = |database: &str| role.options(database);
            let name_to_options = options("postgres");
            // That this compiles says that the futures are Send.
            tokio::spawn(async move {
                let observe = |event: pgstencil::events::Event<'_>| {
                    events.lock().unwrap().push(format!("{event:?}"));
                };
                let lease = stencil.database().observe(&observe).await.unwrap();
                let name = lease.name().to_owned();
                let mut session = name_to_options.database(&name).connect().await.unwrap();
                sqlx::query("insert into users values (2, $1)")
                    .bind(format!("task {n}"))
                    .execute(&mut session)
                    .await
                    .unwrap();
                let users: i64 =
                    sqlx::query_scalar("select count(*) from users").fetch_one(&mut session).await.unwrap();
                assert_eq!(users, 2);
                session.close().await.unwrap();
                released(lease).await;
                name
            })
        })
        .collect();
    let mut names = Vec::new();
    for task in tasks {
        names.push(task.await.unwrap());
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 8);
    assert_eq!(project.builds(), 1);
    let events = events.lock().unwrap().join("\n");
    assert_eq!(events.matches("Sealed").count(), 1, "{events}");

    let closing = tokio::spawn({
        let stencil = stencil.clone();
        async move { stencil.close().await }
    });
    closing.await.unwrap();
    assert_eq!(project.databases().len(), 1);
}

#[tokio::test]
async fn a_cancelled_caller_leaves_nothing() {
    let role = Role::new(server());
    let mut project = Project::with_migrations(server());
    project.connect_as(&role);
    project.build(&crate::support::Build::Hang);
    let stencil = stencil(&project).await;
    let cancel = tokio_util::sync::CancellationToken::new();
    let token = cancel.clone();
    let work = tokio::spawn(async move {
        let request = stencil.database().wait(Duration::from_secs(60)).cancelled_by(token);
        request.await.map(drop).unwrap_err().kind()
    });
    assert!(eventually_async(|| project.builds() == 1).await);
    cancel.cancel();
    assert_eq!(work.await.unwrap(), pgstencil::Kind::Interrupted);
    assert!(eventually(PATIENCE, || project.databases().is_empty()));
}

async fn eventually_async(mut yes: impl FnMut() -> bool) -> bool {
    crate::support::eventually_async(PATIENCE, async || yes()).await
}

/// Backends of the role's sessions with its registry.
fn backends(role: &Role<'_>) -> Vec<String> {
    let pids = server().psql(
        "postgres",
        &format!(
            "select coalesce(string_agg(pid::text, ' ' order by pid), '') from pg_stat_activity \
             where usename = '{}' and backend_type = 'client backend'",
            role.name
        ),
    );
    pids.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn a_session_serves_one_hand_out_after_another() {
    let role = Role::new(server());
    let mut project = Project::with_migrations(server());
    project.connect_as(&role);
    // Sessions of the thread that drops would be counted, too.
    let stencil = current_thread().block_on(stencil(&project)).without_drops();
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let hand_out = async || released(stencil.database().await.unwrap()).await;
    let first = runtime();
    first.block_on(hand_out());
    // Those that were closed take a moment to end.
    let one = || eventually(PATIENCE, || backends(&role).len() == 1);
    assert!(one());
    let kept = backends(&role);
    let locks = format!("select count(*) from pg_locks where pid = {} and locktype = 'advisory'", kept[0]);
    assert_eq!(server().psql("postgres", &locks), "0");
    first.block_on(hand_out());
    assert!(one());
    assert_eq!(backends(&role), kept);

    // A session that the server ended is not used, nor is one of a runtime that is gone.
    server().psql("postgres", &format!("select pg_terminate_backend({})", kept[0]));
    assert!(eventually(PATIENCE, || backends(&role).is_empty()));
    first.block_on(hand_out());
    assert!(one());
    drop(first);
    let second = runtime();
    second.block_on(hand_out());
    assert!(!backends(&role).is_empty());

    second.block_on(stencil.close());
    assert!(eventually(PATIENCE, || backends(&role).is_empty()));
}

/// Whose a named clone is goes by the checkout that the program says it works in.
#[tokio::test]
async fn a_named_clone_has_an_owner() {
    let project = Project::with_migrations(server());
    let of = async |owner: &str| opening(&project).owner(owner).await.unwrap();
    let name = format!("dev_{}", project.id);
    let (ours, theirs) = (of("ours").await, of("theirs").await);
    let named = |stencil| Stencil::database(stencil).name(&name).ttl(Ttl::Config);
    let made = named(&ours).await.unwrap();
    assert_eq!(made.name(), name);
    assert!(made.expires_at().is_some());
    made.detach(Ttl::Config).await.unwrap();
    let refused = named(&theirs).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::NameTaken);
    let oid = || server().psql("postgres", &format!("select oid from pg_database where datname = '{name}'"));
    let before = oid();
    let taken = named(&theirs).take().await.unwrap();
    assert_eq!(taken.outcome(), Outcome::Reused);
    // It was there before, so it stays.
    drop(taken);
    theirs.close().await;
    assert_eq!(oid(), before);
    let refused = ours.release(&name).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::NameTaken);
    theirs.release(&name).await.unwrap();
    theirs.close().await;
    assert!(!server().has_database(&name));
}

/// A project whose clones would stay for ever, and its stencil.
async fn never() -> (Project<'static>, Stencil) {
    let project = Project::with_migrations(server());
    project.append_config("[clone]\nttl = \"never\"\norphan_grace = \"1s\"\nwarm = 0");
    let stencil = stencil(&project).await;
    (project, stencil)
}

#[test]
fn what_tests_give_back_is_dropped_by_their_own_program() {
    let (project, stencil) = current_thread().block_on(never());
    for _ in 0..12 {
        // Each `#[tokio::test]` has a runtime of its own.
        let runtime = current_thread();
        runtime.block_on(async { released(stencil.database().await.unwrap()).await });
    }
    current_thread().block_on(stencil.close());
    no_clones_left(&project);
}

fn current_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// What a future yields, or `None` if it had to wait so many times: then it is dropped there.
async fn dropped_at<T>(wait: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut waits = 0;
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => {
            waits += 1;
            match waits == wait {
                true => Poll::Ready(None),
                false => Poll::Pending,
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_future_that_is_dropped_at_any_await_leaves_nothing() {
    let (project, stencil) = never().await;
    let acquire = async || stencil.database().ttl(Ttl::Config).await.unwrap();
    // Builds the template.
    released(acquire().await).await;
    // Further on it only waits for the copy, and looks again and again whether that is done.
    let mut dropped = 0;
    for awaits in 1..100 {
        match dropped_at(awaits, acquire()).await {
            None => dropped += 1,
            Some(lease) => released(lease).await,
        }
    }
    assert!(dropped > 3, "{dropped}");
    // An answer may be there before it is waited for, so an early end says nothing.
    for awaits in [1, 1, 1, 2, 3, 4, 5] {
        let _ = dropped_at(awaits, acquire().await.release()).await;
    }
    for awaits in [1, 1, 2, 3, 4, 5, 6] {
        let lease = acquire().await;
        let name = lease.name().to_owned();
        // Whether it had its name out, it may not have known itself.
        let _ = dropped_at(awaits, lease.detach(Ttl::Never)).await;
        let _ = stencil.release(&name).await;
    }
    no_clones_left(&project);
}

#[tokio::test]
async fn a_lease_that_is_dropped_releases_its_databases() {
    let (project, stencil) = never().await;
    for ttl in [None, Some(Ttl::Never)] {
        let request = stencil.database();
        let request = match ttl {
            None => request,
            Some(ttl) => request.ttl(ttl),
        };
        let lease = request.await.unwrap();
        let name = lease.name().to_owned();
        assert!(server().has_database(&name));
        drop(lease);
        stencil.close().await;
        assert!(!server().has_database(&name), "{ttl:?}");
    }
    no_clones_left(&project);
}

#[tokio::test]
async fn a_lease_that_is_detached_outlives_the_program() {
    let (project, stencil) = never().await;
    let lease = stencil.database().await.unwrap();
    let name = lease.name().to_owned();
    let until = lease.detach(Duration::from_secs(3600)).await.unwrap();
    let of_clock = stencil.database().ttl(Duration::from_secs(60)).await.unwrap();
    let other = of_clock.name().to_owned();
    assert_eq!(of_clock.detach(Ttl::Never).await.unwrap(), None);
    stencil.close().await;
    drop(stencil);
    let listed = Pgstencil::new(&project).arg("list").success();
    listed.stdout_has(&name).stdout_has(&other);
    let confirmed = "select count(*) from pgstencil.clone where confirmed and state = 'leased'";
    assert_eq!(server().psql(&project.registry(), confirmed), "2");
    assert!(until.unwrap().as_str() > "2026");
    // The command line in this checkout is the same owner.
    Pgstencil::new(&project).args(["release", &name, &other]).success();
}

/// One request, several clones: their names belong together.
#[tokio::test]
async fn several_clones_have_one_lease() {
    let project = Project::with_migrations(server());
    let stencil = stencil(&project).await;
    let leases = stencil.database().name(format!("w_{}_{{n}}", project.id)).count(3).await.unwrap();
    assert_eq!(leases.len(), 3);
    for (n, clone) in leases.iter().enumerate() {
        assert_eq!(clone.name(), format!("w_{}_{n}", project.id));
        assert!(clone.url().ends_with(&format!("/{}", clone.name())), "{}", clone.name());
        assert_eq!(clone.url_of("app").as_ref(), Some(&clone.url()));
        assert_eq!(clone.url_of("none"), None);
    }
    let variables = leases.variables().unwrap();
    let third = variables.iter().find(|(name, _)| name == "PGSTENCIL_URL_2").unwrap();
    assert_eq!(third.1.to_str(), leases.urls().last().map(String::as_str));
    assert!(!format!("{leases:?}").contains(&leases.urls()[0]));
    assert_eq!(leases.release().await.unwrap(), []);
    stencil.close().await;
}

/// The session was opened on a runtime that nobody drives any more, or that has ended.
#[test]
fn clones_are_given_back_on_another_runtime() {
    let (project, stencil) = current_thread().block_on(never());
    for ended in [false, true] {
        let first = current_thread();
        let lease = first.block_on(async { stencil.database().await.unwrap() });
        let first = match ended {
            true => None,
            false => Some(first),
        };
        current_thread().block_on(async {
            // Without a look at the runtime it waits ten seconds for an answer.
            let released = tokio::time::timeout(Duration::from_secs(8), lease.release()).await;
            assert_eq!(released.unwrap().unwrap(), []);
        });
        drop(first);
    }
    no_clones_left(&project);
}

#[test]
fn a_holder_is_this_process_unless_the_program_knows_better() {
    let project = Project::with_migrations(server());
    let file = project.path().join("pgstencil.toml");
    let program = std::env::current_exe().unwrap();
    let program = program.file_name().unwrap().to_str().unwrap();
    for (label, shown) in [(None, program), (Some("job 7"), "job 7")] {
        let lease = current_thread().block_on(async {
            let builder = Stencil::open(&file).server_url(project.server_url());
            let stencil = match label {
                None => builder.await.unwrap(),
                Some(label) => builder.label(label).await.unwrap(),
            };
            stencil.database().await.unwrap()
        });
        let listed = Pgstencil::new(&project).arg("list").success();
        let host = nix::unistd::gethostname().unwrap();
        let uid = nix::unistd::getuid();
        let user = nix::unistd::User::from_uid(uid).unwrap().unwrap();
        let who = format!(
            "pid {}, role `{}`, {} on {}",
            std::process::id(),
            server().user(),
            user.name,
            host.to_str().unwrap()
        );
        listed.stdout_has(&who);
        let holder = format!("select holder->>'label' from pgstencil.clone where name = '{}'", lease.name());
        assert_eq!(server().psql(&project.registry(), &holder), shown);
        drop(lease);
    }
}

/// The library reads no environment that it is not given.
#[tokio::test]
async fn which_server_is_meant_is_said_by_the_program() {
    let project = Project::with_migrations(server());
    let file = project.path().join("pgstencil.toml");
    let refused = Stencil::open(&file).await.map(drop).unwrap_err();
    assert_eq!(refused.kind(), Kind::Config);
    assert_eq!(refused.hints().len(), 2, "{refused:?}");
    let variables = [("PGSTENCIL_SERVER_URL", project.server_url())];
    let by_variable = Stencil::open(&file).environment(variables.into_iter().collect());
    released(by_variable.await.unwrap().database().await.unwrap()).await;

    let text = project.read("pgstencil.toml").replace("[server]\n", "[server]\nurl = \"env:PLACE\"\n");
    let config = || pgstencil::config::Config::parse(&text, &file).unwrap();
    let refused = Stencil::builder(config()).await.map(drop).unwrap_err();
    assert!(refused.details()[0].contains("PLACE"), "{refused:?}");
    let unset = Stencil::builder(config()).environment(Default::default()).await.map(drop).unwrap_err();
    assert_eq!(unset.message(), "the variable `PLACE` is not set");
    let variables = [("PLACE", project.server_url())];
    let by_file = Stencil::builder(config()).environment(variables.into_iter().collect());
    released(by_file.await.unwrap().database().await.unwrap()).await;
}

async fn run(url: &str, statement: &'static str) -> Result<(), sqlx::Error> {
    let mut session = sqlx::PgConnection::connect(url).await?;
    sqlx::raw_sql(statement).execute(&mut session).await?;
    session.close().await
}

/// Fills with a table, and counts how often.
fn filler(key: &str, fills: &Arc<Mutex<usize>>) -> Filler {
    let fills = Arc::clone(fills);
    Filler::new(key, move |databases: Vec<Unfilled>| {
        *fills.lock().unwrap() += 1;
        async move {
            for database in databases {
                run(&database.url.reveal(), "create table filled (id int); insert into filled values (7)")
                    .await?;
            }
            Ok::<_, sqlx::Error>(())
        }
    })
}

#[tokio::test]
async fn a_template_is_filled_by_code_of_the_program_once_for_each_key() {
    let role = Role::new(server());
    let mut project = Project::extending(server(), KEEP);
    project.connect_as(&role);
    let by_files = stencil(&project).await;
    let fills = Arc::default();
    let by_code = by_files.clone().filled_by(filler("one", &fills));
    let (a, b) = tokio::join!(by_code.database(), by_code.database());
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(*fills.lock().unwrap(), 1);
    for lease in [&a, &b] {
        run(&lease.url(), "select 1 / (id - 6) from filled; insert into filled values (8)").await.unwrap();
    }
    released(a).await;
    released(b).await;
    // Another key is another template, and no extension of the first one; nor are the files.
    let other = by_files.clone().filled_by(filler("two", &fills));
    for (stencil, outcome) in [(&by_code, Outcome::Hit), (&other, Outcome::Miss), (&by_files, Outcome::Miss)]
    {
        let lease = stencil.database().await.unwrap();
        assert_eq!(lease.outcome(), outcome);
        released(lease).await;
    }
    assert_eq!(*fills.lock().unwrap(), 2);
    assert_eq!(project.builds(), 1);
    for stencil in [by_files, by_code, other] {
        stencil.close().await;
    }
    no_clones_left(&project);
}

#[tokio::test]
async fn code_that_fails_does_nothing_or_hangs_makes_no_template() {
    let role = Role::new(server());
    let mut project = Project::with_migrations(server());
    project.connect_as(&role);
    let stencil = stencil(&project).await;
    let fails = Filler::new("one", |_| async { Err("no such fixture") });
    let error = stencil.clone().filled_by(fails).database().await.map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::Build);
    assert!(error.details().iter().any(|line| line.contains("no such fixture")), "{error:?}");
    let nothing = Filler::new("one", |_| async { Ok::<_, sqlx::Error>(()) });
    let error = stencil.clone().filled_by(nothing).database().await.map(drop).unwrap_err();
    assert!(error.message().contains("changed nothing"), "{error:?}");
    let hangs = Filler::new("one", |_| std::future::pending::<Result<(), sqlx::Error>>());
    let hanging = stencil.clone().filled_by(hangs);
    let error = hanging.database().wait(Duration::from_secs(1)).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout);
    stencil.close().await;
    assert!(eventually(PATIENCE, || project.databases().is_empty()));
}

#[tokio::test]
async fn a_template_is_begun_filled_elsewhere_and_sealed_or_discarded() {
    let role = Role::new(server());
    let mut project = Project::with_migrations(server());
    project.connect_as(&role);
    let stencil = stencil(&project).await;
    let begin = async |key| stencil.begin(None, key, None).await.unwrap();
    let building = |begun| match begun {
        Begun::Building(building) => building,
        Begun::Ready(fingerprint) => panic!("{fingerprint} is there"),
    };
    // Given up and discarded, it is not there; the next one begins anew.
    building(begin("one").await).discard().await;
    drop(building(begin("one").await));
    let first = building(begin("one").await);
    // A second one waits for its seal.
    let second = tokio::spawn({
        let stencil = stencil.clone();
        async move { stencil.begin(None, "one", None).await.unwrap() }
    });
    let [database] = first.databases() else { panic!("{first:?}") };
    run(&database.url.reveal(), "create table filled (id int); insert into filled values (7)").await.unwrap();
    assert!(!second.is_finished());
    let fingerprint = first.seal().await.unwrap();
    match second.await.unwrap() {
        Begun::Ready(second) => assert_eq!(second, fingerprint),
        Begun::Building(second) => panic!("{second:?}"),
    }
    assert!(matches!(begin("one").await, Begun::Ready(_)));
    // Empty databases are refused, as those of a build command are.
    let error = building(begin("two").await).seal().await.unwrap_err();
    assert!(error.message().contains("changed nothing"), "{error:?}");
    // Clones come from it as from any other template.
    let by_key = stencil.clone().filled_by(Filler::new("one", |_| async { Err("it is there") }));
    let lease = by_key.database().await.unwrap();
    run(&lease.url(), "select 1 / (id - 6) from filled").await.unwrap();
    released(lease).await;
    assert_eq!(project.builds(), 0);
    by_key.close().await;
    stencil.close().await;
    no_clones_left(&project);
}

/// A test's thread has 2 MiB, and the test itself needs some of them. Without optimisation futures take the most.
#[test]
fn builds_and_hand_outs_fit_into_the_stack_of_a_thread() {
    let project = Project::with_migrations(server());
    let once = |background: BackgroundWork| {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(1_600_000);
            let work = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let stencil = Stencil::open(project.path().join("pgstencil.toml"))
                        .server_url(project.server_url())
                        .background(background)
                        .await
                        .unwrap();
                    stencil.database().await.unwrap().release().await.unwrap();
                    stencil.close().await;
                });
            };
            thread.spawn_scoped(scope, work).unwrap().join().unwrap();
        });
    };
    once(BackgroundWork::Off);
    project.add_migration("1000_more.sql", "create table more ();");
    once(BackgroundWork::Off);
    once(BackgroundWork::Auto);
    assert_eq!(project.builds(), 2);
}
