//! pgstencil as a library: in one process, on a runtime with several threads.

use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use pgstencil::config::Config;
use pgstencil::stencil::{Deadline, Defaults, Endpoint, Holder, Term, Wanted};
use pgstencil::url::ServerUrl;
use pgstencil::variables::Outcome;
use pgstencil::{Kind, Stencil};
use sqlx::{ConnectOptions as _, Connection as _};

use crate::support::hold::only_templates_left;
use crate::support::server::PATIENCE;
use crate::support::{Pgstencil, Project, Role, eventually, server};

fn stencil(project: &Project<'_>) -> Stencil {
    let config = Config::load(&project.path().join("pgstencil.toml")).unwrap();
    let url = ServerUrl::parse(project.server_url()).unwrap();
    let endpoint = Endpoint::new(url, &Defaults::default()).unwrap();
    let holder = Holder { label: "a library's user".into(), ..Holder::default() };
    Stencil::new(config, endpoint, holder, Arc::new(|_: &str| None))
}

fn wanted(term: Term) -> Wanted {
    Wanted { term, ..Wanted::default() }
}

/// Nothing here can see what is printed; that the library does not is clippy's to say
/// (`print_stdout`, `print_stderr`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_tasks_get_eight_clones_from_one_build() {
    let role = Role::new(server());
    let mut project = Project::with_migrations(server());
    project.connect_as(&role);
    let stencil = stencil(&project);
    let events = Arc::new(Mutex::new(Vec::new()));
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let (stencil, events) = (stencil.clone(), Arc::clone(&events));
            let options = |database: &str| role.options(database);
            let name_to_options = options("postgres");
            // That this compiles says that the futures are Send.
            tokio::spawn(async move {
                let deadline = Deadline::default();
                let observe = |event: pgstencil::events::Event<'_>| {
                    events.lock().unwrap().push(format!("{event:?}"));
                };
                let acquired = stencil.acquire(&wanted(Term::Session), &deadline, &observe).await.unwrap();
                let name = acquired.clones[0].name().to_owned();
                let keeper = stencil.keep(acquired.registry, &acquired.clones);
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
                let kept = keeper.stop().await.unwrap();
                assert_eq!(kept.warnings, Vec::<String>::new());
                let warnings = stencil.give_back(kept.registry, &acquired.clones).await.unwrap();
                assert_eq!(warnings, Vec::<String>::new());
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
    let stencil = stencil(&project);
    let deadline = Deadline::new(Some(Duration::from_secs(60)), Default::default());
    let cancel = deadline.cancel.clone();
    let work = tokio::spawn(async move {
        let observe = |_: pgstencil::events::Event<'_>| {};
        let done = stencil.acquire(&wanted(Term::Session), &deadline, &observe).await;
        done.map(|_| ()).unwrap_err().kind()
    });
    assert!(eventually_async(|| project.builds() == 1).await);
    cancel.cancel();
    assert_eq!(work.await.unwrap(), pgstencil::Kind::Interrupted);
    assert!(eventually(PATIENCE, || project.databases().is_empty()));
}

async fn eventually_async(mut yes: impl FnMut() -> bool) -> bool {
    for _ in 0..1000 {
        if yes() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
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
    let stencil = stencil(&project).without_drops();
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let hand_out = async || {
        let acquired = stencil.acquire(&wanted(Term::Session), &Deadline::default(), &|_| {}).await.unwrap();
        let warnings = stencil.give_back(Some(acquired.registry), &acquired.clones).await;
        assert_eq!(warnings.unwrap(), Vec::<String>::new());
    };
    let first = runtime();
    first.block_on(hand_out());
    let kept = backends(&role);
    assert_eq!(kept.len(), 1);
    let locks = format!("select count(*) from pg_locks where pid = {} and locktype = 'advisory'", kept[0]);
    assert_eq!(server().psql("postgres", &locks), "0");
    first.block_on(hand_out());
    assert_eq!(backends(&role), kept);

    // A session that the server ended is not used, nor is one of a runtime that is gone.
    server().psql("postgres", &format!("select pg_terminate_backend({})", kept[0]));
    first.block_on(hand_out());
    let kept = backends(&role);
    assert_eq!(kept.len(), 1);
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
    let of = |owner: &str| {
        let stencil = stencil(&project);
        let mut holder = stencil.holder().clone();
        holder.checkout.owner = owner.to_owned();
        Stencil::new(stencil.config().clone(), stencil.endpoint().clone(), holder, Arc::new(|_: &str| None))
    };
    let named = Wanted { pattern: format!("dev_{}", project.id).parse().unwrap(), ..wanted(Term::Usual) };
    let deadline = Deadline::default();
    let (ours, theirs) = (of("ours"), of("theirs"));
    let acquire = async |stencil: &Stencil, wanted: &Wanted| {
        let acquired = stencil.acquire(wanted, &deadline, &|_| {}).await?;
        acquired.registry.close().await;
        Ok::<_, pgstencil::Error>((acquired.outcome, acquired.clones))
    };
    let (_, made) = acquire(&ours, &named).await.unwrap();
    assert!(made[0].expires_at.is_some() && !made[0].by_session);
    let refused = acquire(&theirs, &named).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::NameTaken);
    let take = Wanted { take: true, ..named.clone() };
    let (outcome, taken) = acquire(&theirs, &take).await.unwrap();
    assert_eq!(outcome, Outcome::Reused);
    assert_eq!(taken[0].oids, made[0].oids);
    let names = [made[0].name().to_owned()];
    let refused = ours.release(&names, false, &deadline).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::NameTaken);
    theirs.release(&names, false, &deadline).await.unwrap();
    let name = ours.config().server.registry.clone();
    pgstencil::stencil::sweep_now(ours.endpoint(), &name, Duration::from_secs(120)).await.unwrap();
    assert!(!server().has_database(&names[0]));
}

/// Has no clone, by the work of this process alone.
#[track_caller]
fn only_templates_stay(project: &Project<'_>) {
    only_templates_left(project);
    let clones = "select count(*) from pgstencil.clone";
    assert_eq!(server().psql(&project.registry(), clones), "0");
}

/// A project whose clones would stay for ever, and its stencil.
fn never() -> (Project<'static>, Stencil) {
    let project = Project::with_migrations(server());
    project.append_config("[clone]\nttl = \"never\"\norphan_grace = \"1s\"\nwarm = 0");
    let stencil = stencil(&project);
    (project, stencil)
}

#[test]
fn what_tests_give_back_is_dropped_by_their_own_program() {
    let (project, stencil) = never();
    for _ in 0..12 {
        // Each `#[tokio::test]` has a runtime of its own.
        let runtime = current_thread();
        runtime.block_on(async {
            let deadline = Deadline::default();
            let acquired = stencil.acquire(&wanted(Term::Session), &deadline, &|_| {}).await.unwrap();
            let keeper = stencil.keep(acquired.registry, &acquired.clones);
            let kept = keeper.stop().await.unwrap();
            let warnings = stencil.give_back(kept.registry, &acquired.clones).await.unwrap();
            assert_eq!(warnings, Vec::<String>::new());
        });
    }
    current_thread().block_on(stencil.close());
    only_templates_stay(&project);
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
    let (project, stencil) = never();
    let deadline = Deadline::default();
    let wanted = wanted(Term::Usual);
    let acquire = async || stencil.acquire(&wanted, &deadline, &|_| {}).await.unwrap();
    // Builds the template.
    let first = acquire().await;
    let first = stencil.give_back(Some(first.registry), &first.clones).await;
    first.unwrap();
    // Further on it only waits for the copy, and looks again and again whether that is done.
    let mut dropped = 0;
    for awaits in 1..100 {
        let Some(mut acquired) = dropped_at(awaits, acquire()).await else {
            dropped += 1;
            continue;
        };
        stencil.confirm(&mut acquired).await.unwrap();
        let back = stencil.give_back(Some(acquired.registry), &acquired.clones);
        back.await.unwrap();
    }
    assert!(dropped > 3, "{dropped}");
    // An answer may be there before it is waited for, so an early end says nothing.
    for awaits in [1, 1, 1, 2, 3, 4, 5] {
        let mut acquired = acquire().await;
        stencil.confirm(&mut acquired).await.unwrap();
        let back = stencil.give_back(Some(acquired.registry), &acquired.clones);
        let _ = dropped_at(awaits, back).await;
    }
    only_templates_stay(&project);
}

/// The session was opened on a runtime that nobody drives any more, or that has ended.
#[test]
fn clones_are_given_back_on_another_runtime() {
    let (project, stencil) = never();
    let deadline = Deadline::default();
    for (ended, kept) in [(false, false), (false, true), (true, false), (true, true)] {
        let first = current_thread();
        let (clones, registry, keeper) = first.block_on(async {
            let acquired = stencil.acquire(&wanted(Term::Session), &deadline, &|_| {}).await.unwrap();
            let clones = acquired.clones;
            match kept {
                true => {
                    let keeper = stencil.keep(acquired.registry, &clones);
                    (clones, None, Some(keeper))
                }
                false => (clones, Some(acquired.registry), None),
            }
        });
        let first = match ended {
            true => None,
            false => Some(first),
        };
        current_thread().block_on(async {
            let registry = match keeper {
                Some(keeper) => keeper.stop().await.unwrap().registry,
                None => registry,
            };
            let back = stencil.give_back(registry, &clones);
            // Without a look at the runtime it waits ten seconds for an answer.
            let back = tokio::time::timeout(Duration::from_secs(8), back).await;
            assert_eq!(back.unwrap().unwrap(), Vec::<String>::new());
        });
        drop(first);
    }
    only_templates_stay(&project);
}

#[test]
fn a_holder_is_this_process_unless_the_program_knows_better() {
    let project = Project::with_migrations(server());
    let config = Config::load(&project.path().join("pgstencil.toml")).unwrap();
    let url = ServerUrl::parse(project.server_url()).unwrap();
    let endpoint = Endpoint::new(url, &Defaults::default()).unwrap();
    let stencil = Stencil::new(config, endpoint, Holder::default(), Arc::new(|_: &str| None));
    let acquired = current_thread().block_on(async {
        stencil.acquire(&wanted(Term::Session), &Deadline::default(), &|_| {}).await.unwrap()
    });
    let listed = Pgstencil::new(&project).arg("list").success();
    let host = nix::unistd::gethostname().unwrap();
    let uid = nix::unistd::getuid();
    let user = nix::unistd::User::from_uid(uid).unwrap().unwrap();
    let who = format!(
        "pid {}, role `{}`, {} on {} ",
        std::process::id(),
        server().user(),
        user.name,
        host.to_str().unwrap()
    );
    listed.stdout_has(&who);
    let program = std::env::current_exe().unwrap();
    let program = program.file_name().unwrap().to_str().unwrap();
    assert_eq!(stencil.holder().label, program);
    drop(acquired);
}
