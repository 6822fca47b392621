//! The private server, with real servers in temporary directories.
//!
//! `PGSTENCIL_TEST_BINDIR` names the Postgres to test with; else the newest of the machine is taken.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgstencil::ServerUrl;
use pgstencil::internals::{PrivateServer, PrivateServerSettings, Running, State};
use pgstencil::internals::{Status, doctor_private_server as private_server};
use pgstencil::{Kind, Result};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, Row};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A directory for one private server, which ends with it.
struct Place {
    top: TempDir,
    settings: PrivateServerSettings,
}

impl Place {
    fn new() -> Self {
        Place::below("")
    }

    /// With the state directory at this path below a new directory.
    fn below(path: &str) -> Self {
        let shm = Path::new("/dev/shm");
        let parent = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
        let top = tempfile::Builder::new().prefix("ps").tempdir_in(parent).unwrap();
        // The account that runs Postgres under root must be able to enter.
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut settings = PrivateServerSettings::new(top.path().join(path).join("state"));
        settings.system_dir = top.path().join("system");
        settings.path = std::env::var_os("PATH");
        settings.bindir = std::env::var_os("PGSTENCIL_TEST_BINDIR").map(PathBuf::from);
        Place { top, settings }
    }

    fn server(&self) -> PrivateServer {
        PrivateServer::new(self.settings.clone())
    }

    async fn start(&self) -> Result<Running> {
        self.server().start(PATIENCE).await
    }

    async fn state(&self) -> State {
        self.server().status().await.unwrap().state
    }

    fn clusters(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for state in [&self.settings.state_dir, &self.settings.system_dir] {
            let entries = fs::read_dir(state.join("server")).into_iter().flatten().flatten();
            found.extend(entries.map(|e| e.path()).filter(|p| p.is_dir()));
        }
        found
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let data: Vec<_> = self.clusters().iter().map(|c| c.join("data")).collect();
        for pid in processes_in(&data) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
        }
        let begun = Instant::now();
        while !processes_in(&data).is_empty() && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
        for cluster in self.clusters() {
            let record = fs::read_to_string(cluster.join("cluster.json")).unwrap_or_default();
            if let Some(start) = record.find("/tmp/pgstencil-") {
                let folder = record[start..].split('"').next().unwrap();
                let _ = fs::remove_dir_all(folder);
            }
        }
    }
}

/// Processes of Postgres that work in one of these directories.
fn processes_in(folders: &[PathBuf]) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| folders.contains(&cwd)))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn postmasters_in(data: &Path) -> usize {
    let all = processes_in(&[data.to_owned()]);
    let parent = |pid: i32| -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    all.iter().filter(|pid| parent(**pid).is_some_and(|parent| !all.contains(&parent))).count()
}

async fn connect(url: &ServerUrl) -> PgConnection {
    options(url).connect().await.unwrap()
}

fn options(url: &ServerUrl) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host(&url.host().unwrap())
        .port(url.port().unwrap())
        .username(&url.user().unwrap())
        .password(&url.password().unwrap())
        .database("postgres")
        .ssl_mode(PgSslMode::Disable)
}

async fn sql(url: &ServerUrl, statement: &str) {
    let mut c = connect(url).await;
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut c).await.unwrap();
}

async fn text(url: &ServerUrl, query: &str) -> String {
    let mut c = connect(url).await;
    let row = sqlx::query(AssertSqlSafe(query)).fetch_one(&mut c).await.unwrap();
    row.get(0)
}

fn kill_hard(running: &Running) {
    kill(Pid::from_raw(running.pid), Signal::SIGKILL).unwrap();
    while fs::read_link(format!("/proc/{}/cwd", running.pid)).is_ok() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn starts_once_stops_and_keeps_port_password_and_data() {
    let place = Place::new();
    assert_eq!(place.state().await, State::NotInitialised);

    let first = place.start().await.unwrap();
    assert!(first.started);
    assert_eq!(first.notices, Vec::<String>::new());
    assert_eq!(place.state().await, State::Running);
    sql(&first.url, "create table kept as select 'still here' as what").await;
    for (setting, value) in [
        ("fsync", "off"),
        ("listen_addresses", "127.0.0.1"),
        ("wal_level", "replica"),
        ("password_encryption", "scram-sha-256"),
        ("server_encoding", "UTF8"),
    ] {
        let query = format!("select current_setting('{setting}')");
        assert_eq!(text(&first.url, &query).await, value, "{setting}");
    }
    assert_eq!(text(&first.url, "select lower('ÄÉ')").await, "äé");
    assert_eq!(
        text(&first.url, "select string_agg(distinct auth_method, ',') from pg_hba_file_rules").await,
        "scram-sha-256"
    );

    let again = place.start().await.unwrap();
    assert!(!again.started);
    assert_eq!((again.pid, again.url.reveal()), (first.pid, first.url.reveal()));

    let stopped = place.server().stop(PATIENCE).await.unwrap();
    assert_eq!(stopped.majors.len(), 1);
    assert_eq!(place.state().await, State::Stopped);
    assert!(place.server().stop(PATIENCE).await.unwrap().majors.is_empty());

    let later = place.start().await.unwrap();
    assert!(later.started && later.pid != first.pid);
    assert_eq!(later.url.reveal(), first.url.reveal());
    assert_eq!(text(&later.url, "select what from kept").await, "still here");
    // The socket asks for the password as well.
    let socket = options(&later.url).socket(later.socket_dir.as_ref().unwrap());
    socket.clone().connect().await.unwrap();
    let denied = socket.password("wrong").connect().await.unwrap_err();
    assert!(denied.to_string().contains("password"), "{denied}");
    // And a server that stopped in order may be found by another boot.
    place.server().stop(PATIENCE).await.unwrap();
    let mut rebooted = place.settings.clone();
    rebooted.boot_id = Some("another".into());
    let running = PrivateServer::new(rebooted).start(PATIENCE).await.unwrap();
    assert_eq!(text(&running.url, "select what from kept").await, "still here");
}

#[tokio::test]
async fn first_starts_at_once_make_one_server() {
    let place = Place::new();
    let starts: Vec<_> = (0..4)
        .map(|_| {
            let server = place.server();
            tokio::spawn(async move { server.start(PATIENCE).await })
        })
        .collect();
    let mut all = Vec::new();
    for start in starts {
        all.push(start.await.unwrap().unwrap());
    }
    assert_eq!(all.iter().filter(|r| r.started).count(), 1);
    assert!(all.iter().all(|r| r.pid == all[0].pid && r.url == all[0].url));
    assert_eq!(postmasters_in(&all[0].data_dir), 1);
}

#[tokio::test]
async fn a_taken_port_is_left_to_its_owner() {
    let place = Place::new();
    let first = place.start().await.unwrap();
    place.server().stop(PATIENCE).await.unwrap();
    let port = first.url.port().unwrap();
    let _thief = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let moved = place.start().await.unwrap();
    assert_ne!(moved.url.port(), Some(port));
    assert!(moved.notices[0].contains(&format!("port {port}")), "{:?}", moved.notices);
}

#[tokio::test]
async fn a_killed_server_recovers_within_the_same_boot_only() {
    let mut place = Place::new();
    let first = place.start().await.unwrap();
    sql(&first.url, "create table kept as select 'still here' as what").await;
    // A backend that is at work notices late that its postmaster is gone.
    let mut busy = connect(&first.url).await;
    let work = tokio::spawn(async move {
        sqlx::raw_sql("select count(*) from generate_series(1, 300000000)").execute(&mut busy).await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    kill_hard(&first);
    assert_eq!(place.state().await, State::Unclean { rebooted: false });
    let second = place.start().await.unwrap();
    assert!(second.started && second.notices.is_empty(), "{:?}", second.notices);
    assert_eq!(second.url.reveal(), first.url.reveal());
    assert_eq!(text(&second.url, "select what from kept").await, "still here");
    assert_eq!(postmasters_in(&second.data_dir), 1);
    work.abort();

    // The number of the pid file belongs to an unrelated process of the same account now.
    kill_hard(&second);
    let pid_file = second.data_dir.join("postmaster.pid");
    let owner = fs::metadata(&second.data_dir).unwrap().uid();
    let mut sleep = Command::new("sleep");
    std::os::unix::process::CommandExt::uid(&mut sleep, owner);
    let mut unrelated = sleep.arg("100").spawn().unwrap();
    let content = fs::read_to_string(&pid_file).unwrap();
    let rest = content.split_once('\n').unwrap().1;
    fs::write(&pid_file, format!("{}\n{rest}", unrelated.id())).unwrap();
    assert_eq!(place.state().await, State::Unclean { rebooted: false });
    let third = place.start().await;
    unrelated.kill().unwrap();
    unrelated.wait().unwrap();
    let third = third.unwrap();
    assert_eq!(text(&third.url, "select what from kept").await, "still here");

    kill_hard(&third);
    place.settings.boot_id = Some("another".into());
    assert_eq!(place.state().await, State::Unclean { rebooted: true });
    let fresh = place.start().await.unwrap();
    assert!(fresh.notices[0].contains("the host went down"), "{:?}", fresh.notices);
    assert!(fresh.notices[0].contains("data.crashed-"), "{:?}", fresh.notices);
    assert_eq!(text(&fresh.url, "select to_regclass('kept')::text is null || ''").await, "true");
    // Each directory that is moved aside has a name of its own, stays, and is named until it is removed.
    let first = moved(&fresh);
    kill_hard(&fresh);
    place.settings.boot_id = Some("a third".into());
    let running = place.start().await.unwrap();
    let both = moved(&running);
    assert!(both.len() == 2 && both.contains(&first[0]), "{both:?}");
    assert!(first[0].join("global/pg_control").exists());
    for start in 0..2 {
        let again = place.start().await.unwrap();
        for folder in &both {
            let told = again.notices.join("\n");
            assert!(told.contains(folder.to_str().unwrap()), "{start}: {told}");
            assert!(told.contains("server remove --moved"), "{told}");
        }
    }
    let clusters = place.server().clusters(PATIENCE).await.unwrap();
    let listed: Vec<_> = clusters[0].moved.iter().map(|m| m.directory.clone()).collect();
    assert_eq!(listed, both);
    assert!(clusters[0].moved.iter().all(|m| m.bytes > 1_000_000));
    place.server().remove_moved(&both, PATIENCE).await.unwrap();
    assert_eq!(place.start().await.unwrap().notices, Vec::<String>::new());
}

/// The directories that were moved aside, in order.
fn moved(running: &Running) -> Vec<PathBuf> {
    let cluster = running.data_dir.parent().unwrap();
    let entries = fs::read_dir(cluster).unwrap().flatten();
    let mut moved: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with("data.crashed-")
        })
        .collect();
    moved.sort();
    moved
}

/// What a power loss can do to a file.
enum Damage {
    /// It never got its contents.
    Emptied,
    /// Its first page was never written.
    Zeroed,
    /// Its name was never written.
    Gone,
}

impl Damage {
    fn to(&self, file: &Path) {
        match self {
            Damage::Emptied => fs::write(file, "").unwrap(),
            Damage::Zeroed => {
                let mut bytes = fs::read(file).unwrap();
                let page = bytes.len().min(8192);
                bytes[..page].fill(0);
                fs::write(file, bytes).unwrap();
            }
            Damage::Gone => fs::remove_file(file).unwrap(),
        }
    }
}

#[tokio::test]
async fn a_clean_stop_is_proved_and_what_a_power_loss_takes_after_it_is_noticed() {
    let mut place = Place::new();
    let first = place.start().await.unwrap();
    sql(&first.url, "create table kept as select 'still here' as what").await;
    let file_of = "select pg_relation_filepath('kept')";
    let table = first.data_dir.join(text(&first.url, file_of).await);
    let base = table.parent().unwrap().to_owned();
    place.server().stop(PATIENCE).await.unwrap();
    place.settings.boot_id = Some("another".into());
    assert_eq!(place.state().await, State::Stopped);

    for (file, damage) in [
        (table.clone(), Damage::Emptied),
        (table.clone(), Damage::Zeroed),
        (table.clone(), Damage::Gone),
        (base.join("1259"), Damage::Emptied),
        (base.join("pg_filenode.map"), Damage::Zeroed),
        (base.join("PG_VERSION"), Damage::Emptied),
        (first.data_dir.join("global/1262"), Damage::Zeroed),
        (first.data_dir.join("pg_xact/0000"), Damage::Zeroed),
    ] {
        let whole = place.top.path().join("whole");
        fs::rename(&file, &whole).unwrap();
        fs::copy(&whole, &file).unwrap();
        damage.to(&file);
        let state = place.state().await;
        let State::Distrusted(why) = state else {
            panic!("{}: {state:?}", file.display());
        };
        let folder = file.parent().unwrap().strip_prefix(&first.data_dir).unwrap();
        assert!(why.contains(folder.to_str().unwrap()), "{why}");
        fs::rename(&whole, &file).unwrap();
        assert_eq!(place.state().await, State::Stopped, "{}", file.display());
    }
    // A copy of the whole directory may have lost the times of all files.
    let restore = place.top.path().join("times");
    fs::create_dir(&restore).unwrap();
    let copied = Command::new("cp").args(["-R"]).arg(&first.data_dir).arg(&restore).status();
    assert!(copied.unwrap().success());
    let owner = fs::metadata(&first.data_dir).unwrap();
    let chown = Command::new("chown")
        .args(["-R", &format!("{}:{}", owner.uid(), owner.gid())])
        .arg(&restore)
        .status();
    assert!(chown.unwrap().success());
    fs::rename(&first.data_dir, place.top.path().join("original")).unwrap();
    fs::rename(restore.join("data"), &first.data_dir).unwrap();

    let kept = place.start().await.unwrap();
    assert_eq!(kept.notices, Vec::<String>::new());
    // The disk may get new pages before it gets the new control file, which tells the proofs apart.
    for proof in ["synced.json", "data/pgstencil.synced"] {
        let proof = kept.data_dir.parent().unwrap().join(proof);
        assert!(!proof.exists(), "{}", proof.display());
    }
    assert_eq!(text(&kept.url, "select what from kept").await, "still here");
    place.server().stop(PATIENCE).await.unwrap();
    Damage::Emptied.to(&table);
    // Within the same boot nothing is lost, so nothing is looked at.
    assert_eq!(place.state().await, State::Stopped);
    place.settings.boot_id = Some("a third".into());
    let fresh = place.start().await.unwrap();
    let told = fresh.notices.join("\n");
    assert!(told.contains("changed or was lost") && told.contains("data.crashed-"), "{told}");
    assert_eq!(moved(&fresh).len(), 1);
}

#[tokio::test]
async fn a_server_that_the_host_stops_in_order_is_proved_too() {
    let mut place = Place::new();
    let first = place.start().await.unwrap();
    sql(&first.url, "create table kept as select 'still here' as what; create table empty ()").await;
    let path = |table: &str| format!("select pg_relation_filepath('{table}')");
    let table = first.data_dir.join(text(&first.url, &path("kept")).await);
    assert_eq!(fs::metadata(first.data_dir.join(text(&first.url, &path("empty")).await)).unwrap().len(), 0);
    // As the shutdown of a host does.
    kill(Pid::from_raw(first.pid), Signal::SIGTERM).unwrap();
    place.settings.boot_id = Some("another".into());
    let second = place.start().await.unwrap();
    assert!(second.started);
    assert_eq!(second.notices, Vec::<String>::new());
    assert_eq!(text(&second.url, "select what from kept").await, "still here");

    // The watcher was killed, or the power failed before it was done: there is no proof.
    kill(Pid::from_raw(second.pid), Signal::SIGTERM).unwrap();
    let proof = second.data_dir.join("pgstencil.synced");
    let control = second.data_dir.join("global/pg_control");
    let is_proved = || {
        let (proof, control) = (fs::read(&proof), fs::read(&control).unwrap());
        control[16] == 1 && proof.is_ok_and(|proof| proof.starts_with(&control))
    };
    assert!(crate::support::eventually(PATIENCE, is_proved));
    place.settings.boot_id = Some("a third".into());
    assert_eq!(place.state().await, State::Stopped);
    let whole = fs::read(&table).unwrap();
    fs::write(&table, "").unwrap();
    assert!(matches!(place.state().await, State::Distrusted(_)));
    fs::write(&table, whole).unwrap();
    assert_eq!(place.state().await, State::Stopped);
    fs::remove_file(&proof).unwrap();
    let State::Distrusted(why) = place.state().await else {
        panic!("trusted without a proof");
    };
    assert!(why.contains("the host went down before"), "{why}");
    // `server stop` after that gives one, in the boot in which it ended.
    place.settings.boot_id = Some("another".into());
    let stopped = place.server().stop(PATIENCE).await.unwrap();
    assert!(stopped.majors.is_empty());
    place.settings.boot_id = Some("a third".into());
    assert_eq!(place.state().await, State::Stopped);
}

#[tokio::test]
async fn what_was_moved_aside_is_told_although_the_new_cluster_takes_too_long() {
    let mut place = Place::new();
    let first = place.start().await.unwrap();
    kill_hard(&first);
    place.settings.boot_id = Some("another".into());
    let bindir = place.server().status().await.unwrap().bindir.unwrap();
    let slow = place.top.path().join("bin");
    fs::create_dir(&slow).unwrap();
    for entry in fs::read_dir(&bindir).unwrap().flatten() {
        if entry.file_name() != "initdb" {
            std::os::unix::fs::symlink(entry.path(), slow.join(entry.file_name())).unwrap();
        }
    }
    fs::write(slow.join("initdb"), "#!/bin/sh\nexec sleep 60\n").unwrap();
    fs::set_permissions(slow.join("initdb"), fs::Permissions::from_mode(0o755)).unwrap();
    place.settings.bindir = Some(slow);
    let error = place.server().start(Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout, "{error:?}");
    let aside = moved(&first);
    let name = aside[0].to_str().unwrap();
    let told = error.details().join("\n");
    assert!(told.contains("the host went down") && told.contains(name), "{told}");

    // And by the next ones, whether they start the server or find it.
    place.settings.bindir = Some(bindir);
    for started in [true, false] {
        let next = place.start().await.unwrap();
        assert_eq!(next.started, started);
        assert!(next.notices.join("\n").contains(name), "{:?}", next.notices);
    }
    assert_eq!(moved(&first), aside);
}

#[tokio::test]
async fn a_stop_that_hangs_is_no_start() {
    let place = Place::new();
    let first = place.start().await.unwrap();
    let mut session = connect(&first.url).await;
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut session).await.unwrap();
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    let stop = place.server().stop(Duration::from_secs(3)).await;
    let state = place.state().await;
    let start = place.server().start(Duration::from_millis(500)).await;
    kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
    let error = stop.unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout);
    assert!(error.hints()[0].contains("kill -QUIT"), "{error:?}");
    assert_eq!(state, State::Stopping);
    let error = start.unwrap_err();
    assert!(error.details()[0].contains("still shutting down"), "{error:?}");
    // A start that has the time waits for the end, and starts it again.
    let again = place.start().await.unwrap();
    assert!(again.started && again.pid != first.pid);
}

/// The programs of a Postgres, as files of their own that a test may replace, and their directory.
fn copied_binaries(bindir: &Path) -> (TempDir, PathBuf) {
    let top = tempfile::tempdir().unwrap();
    fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let bindir = bindir.canonicalize().unwrap();
    let copied = top.path().join("package/install/bin");
    fs::create_dir_all(&copied).unwrap();
    for name in ["postgres", "initdb", "pg_ctl"] {
        fs::copy(bindir.join(name), copied.join(name)).unwrap();
    }
    // Some builds find their libraries from there.
    let install = bindir.parent().unwrap();
    let wheel = install.parent().and_then(Path::parent).unwrap();
    let libs = fs::read_dir(wheel).unwrap().flatten().map(|e| e.path());
    let libs = libs.filter(|p| p.extension().is_some_and(|e| e == "libs"));
    let own = ["lib", "share"].map(|name| install.join(name));
    for (into, real) in libs
        .map(|lib| (top.path().to_owned(), lib))
        .chain(own.map(|folder| (copied.parent().unwrap().to_owned(), folder)))
    {
        if real.is_dir() {
            let link = into.join(real.file_name().unwrap());
            std::os::unix::fs::symlink(real, link).unwrap();
        }
    }
    (top, copied)
}

#[tokio::test]
async fn a_server_whose_binaries_were_replaced_is_restarted_when_nobody_is_connected() {
    let mut place = Place::new();
    let bindir = place.server().status().await.unwrap().bindir.unwrap();
    let (_kept, copied) = copied_binaries(&bindir);
    let program = copied.join("postgres");
    place.settings.bindir = Some(copied.clone());
    let first = place.start().await.unwrap();
    assert_eq!(place.start().await.unwrap().pid, first.pid);
    assert!(!place.server().status().await.unwrap().outdated);

    // As packages do: a new file takes the name.
    let replace = || {
        fs::copy(&program, copied.join("new")).unwrap();
        fs::rename(copied.join("new"), &program).unwrap();
    };
    replace();
    let session = connect(&first.url).await;
    let busy = place.start().await.unwrap();
    assert_eq!((busy.pid, busy.started), (first.pid, false));
    let told = busy.notices.join("\n");
    assert!(told.contains("were replaced") && told.contains("connected"), "{told}");
    assert!(place.server().status().await.unwrap().outdated);
    sqlx::Connection::close(session).await.unwrap();

    // pgstencil's own background processes are no reason to wait.
    let mut background =
        options(&first.url).application_name("pgstencil background").connect().await.unwrap();
    let ended = crate::support::eventually_async(PATIENCE, async || {
        let next = place.start().await.unwrap();
        next.started && next.pid != first.pid
    });
    assert!(ended.await);
    let lost = sqlx::raw_sql("select 1").execute(&mut background).await;
    assert!(lost.is_err());
    let running = place.start().await.unwrap();
    assert_eq!(running.notices, Vec::<String>::new());
    assert_eq!(running.url.reveal(), first.url.reveal());
}

#[tokio::test]
async fn clusters_are_listed_looked_into_and_removed() {
    let place = Place::new();
    assert!(place.server().clusters(PATIENCE).await.unwrap().is_empty());
    let first = place.start().await.unwrap();
    let home = first.data_dir.parent().unwrap().parent().unwrap().to_owned();
    let listed = place.server().clusters(PATIENCE).await.unwrap();
    let major = listed[0].major;
    assert!(listed.len() == 1 && listed[0].current && listed[0].bytes > 10_000_000);
    assert_eq!(listed[0].status.state, State::Running);

    place.server().stop_one(major, PATIENCE).await.unwrap();
    let opened = place.server().open(major, PATIENCE).await.unwrap();
    assert!(opened.started);
    // A start that waits while the clusters are removed makes a new one.
    let (removed, next) = tokio::join!(async { place.server().remove(&[major], PATIENCE).await }, async {
        while !place.clusters().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        place.start().await
    });
    removed.unwrap();
    let next = next.unwrap();
    assert!(next.started && next.url.password() != first.url.password());
    place.server().remove(&[major], PATIENCE).await.unwrap();
    assert!(!home.exists());
    assert!(processes_in(&[next.data_dir]).is_empty());
    let error = place.server().open(major, PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
    assert!(!home.exists());
}

#[tokio::test]
async fn half_made_clusters_are_replaced() {
    let place = Place::new();
    let first = place.start().await.unwrap();
    place.server().stop(PATIENCE).await.unwrap();
    let cluster = first.data_dir.parent().unwrap();
    let half = cluster.join("data.new-0123");
    fs::create_dir_all(half.join("base")).unwrap();
    fs::remove_dir_all(&first.data_dir).unwrap();
    let again = place.start().await.unwrap();
    assert!(!half.exists());
    assert_eq!(again.notices, Vec::<String>::new());
    place.server().stop(PATIENCE).await.unwrap();

    fs::remove_file(first.data_dir.join("global/pg_control")).unwrap();
    assert_eq!(place.state().await, State::NotInitialised);
    let third = place.start().await.unwrap();
    assert!(third.notices[0].contains("no complete cluster"), "{:?}", third.notices);
}

#[tokio::test]
async fn a_lost_or_wrong_password_is_replaced() {
    let place = Place::new();
    let first = place.start().await.unwrap();
    sql(&first.url, "create table kept as select 'still here' as what").await;
    let file = first.data_dir.parent().unwrap().join("password");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    fs::write(&file, "wrong").unwrap();
    assert!(matches!(place.state().await, State::Unresponsive(_)));
    let second = place.start().await.unwrap();
    assert!(second.started && second.notices[0].contains("password"), "{:?}", second.notices);
    assert_eq!(text(&second.url, "select what from kept").await, "still here");

    place.server().stop(PATIENCE).await.unwrap();
    fs::remove_file(&file).unwrap();
    let third = place.start().await.unwrap();
    assert_eq!(text(&third.url, "select what from kept").await, "still here");
    assert_eq!(third.url.port(), first.url.port());
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let log = fs::read_to_string(&third.log_file).unwrap();
    assert!(!log.contains(&third.url.password().unwrap()));
}

#[tokio::test]
async fn a_long_path_gets_its_socket_elsewhere_and_odd_letters_do_no_harm() {
    let odd = format!("it's a \"long\" $path, ü/{}", "x".repeat(100));
    let place = Place::below(&odd);
    let running = place.start().await.unwrap();
    let socket = running.socket_dir.unwrap();
    assert!(socket.starts_with("/tmp"), "{}", socket.display());
    assert_eq!(fs::metadata(&socket).unwrap().mode() & 0o777, 0o700);
    options(&running.url).socket(&socket).connect().await.unwrap();
    place.server().stop(PATIENCE).await.unwrap();
    assert_eq!(place.start().await.unwrap().socket_dir, Some(socket));
}

#[tokio::test]
async fn a_server_that_refuses_to_start_shows_its_log_and_keeps_its_data() {
    let place = Place::new();
    let first = place.start().await.unwrap();
    place.server().stop(PATIENCE).await.unwrap();
    let custom = first.data_dir.parent().unwrap().join("custom.conf");
    fs::write(&custom, "max_connections = many\n").unwrap();
    fs::set_permissions(&custom, fs::Permissions::from_mode(0o644)).unwrap();
    let error = place.start().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    let shown = error.details().join("\n");
    assert!(shown.contains("server.log") && shown.contains("max_connections"), "{error:?}");
    assert!(first.data_dir.join("PG_VERSION").exists());
    // The fault is not in the data.
    for faulty in [
        "max_connections = many\n",
        "no_such_setting = 1\n",
        "port\n'\n",
        "shared_preload_libraries = 'no_such_library'\n",
    ] {
        fs::write(&custom, faulty).unwrap();
        let error = place.start().await.unwrap_err();
        let hints = error.hints().join("\n");
        assert!(hints.contains(custom.to_str().unwrap()), "{error:?}");
        assert!(!hints.contains("remove"), "{error:?}");
    }

    fs::write(&custom, "max_connections = 33\n").unwrap();
    let running = place.start().await.unwrap();
    assert_eq!(text(&running.url, "select current_setting('max_connections')").await, "33");
}

#[tokio::test]
async fn missing_binaries_are_named() {
    let mut place = Place::new();
    let empty = place.top.path().join("empty");
    fs::create_dir(&empty).unwrap();
    place.settings.path = Some(empty.clone().into());
    place.settings.bindir = None;
    place.settings.directories = Vec::new();
    let error = place.start().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.hints()[0].contains("install"), "{error:?}");
    let check = private_server::no_postgres(&place.server().postgres().await.unwrap_err());
    assert_eq!(check.status, Status::Problem);
    assert!(check.words.contains("postgres, initdb, pg_ctl"), "{check:?}");
    assert!(check.hint.unwrap().contains("install"));
    assert_eq!(place.state().await, State::NotInitialised);

    place.settings.bindir = Some(empty.clone());
    let error = place.start().await.unwrap_err();
    assert!(error.message().contains(empty.to_str().unwrap()), "{error:?}");
    assert_eq!(error.details(), ["missing: postgres, initdb, pg_ctl"]);
    assert!(!place.settings.state_dir.exists() && !place.settings.system_dir.exists());
}

#[tokio::test]
async fn status_and_stop_of_nothing_write_nothing() {
    let place = Place::new();
    let status = place.server().status().await.unwrap();
    assert_eq!((status.state, status.pid, status.port), (State::NotInitialised, None, None));
    assert!(status.bindir.is_some() && status.data_dir.is_some());
    assert!(place.server().stop(PATIENCE).await.unwrap().majors.is_empty());
    assert_eq!(fs::read_dir(place.top.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn root_keeps_everything_but_the_data_to_itself() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let mut place = Place::new();
    // As in /root, where no other account can enter.
    fs::create_dir(&place.settings.state_dir).unwrap();
    let closed = fs::Permissions::from_mode(0o700);
    fs::set_permissions(&place.settings.state_dir, closed).unwrap();
    place.settings.run_as = Some("nobody".into());
    let running = place.start().await.unwrap();
    let server = place.settings.system_dir.join("server");
    assert!(running.data_dir.starts_with(&server), "{}", running.data_dir.display());
    assert_eq!(fs::read_dir(&place.settings.state_dir).unwrap().count(), 0);

    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap().uid.as_raw();
    let cluster = running.data_dir.parent().unwrap();
    for entry in fs::read_dir(cluster).unwrap().flatten() {
        let about = entry.metadata().unwrap();
        let name = entry.file_name().into_string().unwrap();
        let theirs = ["data", "socket", "server.log"].contains(&name.as_str());
        assert_eq!(about.uid(), if theirs { nobody } else { 0 }, "{name}");
        assert_eq!(about.mode() & 0o022, 0, "{name}");
    }
    assert_eq!(fs::metadata(cluster).unwrap().uid(), 0);
    let status = fs::read_to_string(format!("/proc/{}/status", running.pid)).unwrap();
    let line = |key: &str| status.lines().find(|l| l.starts_with(key)).unwrap().to_owned();
    assert!(line("Uid:").contains(&nobody.to_string()));
    assert_eq!(line("Groups:").trim_end(), "Groups:");

    // The cluster stays with its account, unless another is asked for.
    place.settings.run_as = None;
    assert_eq!(place.start().await.unwrap().pid, running.pid);
    place.settings.run_as = Some("root".into());
    assert_eq!(place.start().await.unwrap_err().kind(), Kind::Config);
    place.settings.run_as = Some("no such account".into());
    assert!(place.start().await.unwrap_err().message().contains("no such account"));
    place.settings.run_as = Some("daemon".into());
    let error = place.start().await.unwrap_err();
    assert!(error.message().contains("`nobody`"), "{error:?}");
}

/// Not a test: what the next one runs in a process of its own.
#[tokio::test]
#[ignore = "run by the test of the same name without `helper`"]
async fn nothing_of_the_caller_stays_open_helper() {
    let Some(state) = std::env::var_os("PGSTENCIL_TEST_STATE") else {
        return;
    };
    let mut settings = PrivateServerSettings::new(state);
    settings.path = std::env::var_os("PATH");
    settings.bindir = std::env::var_os("PGSTENCIL_TEST_BINDIR").map(PathBuf::from);
    PrivateServer::new(settings).start(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn nothing_of_the_caller_stays_open() {
    let place = Place::new();
    let shell = if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
    let many = if shell == "/bin/bash" { "exec 200>&1 11>&1;" } else { "" };
    let mut command = tokio::process::Command::new(shell);
    command
        .args(["-c", &format!("exec 3>&1 9>&1; {many} exec \"$@\""), "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "private_server::nothing_of_the_caller_stays_open_helper"])
        .args(["--ignored", "--nocapture"])
        .env("PGSTENCIL_TEST_STATE", &place.settings.state_dir)
        .env("BUILD_ID", "a mark that CI kills by");
    let output = tokio::time::timeout(PATIENCE, command.output())
        .await
        .expect("the server holds the caller's pipe")
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let status = place.server().status().await.unwrap();
    assert_eq!(status.state, State::Running);

    let pid = status.pid.unwrap();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session: i32 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert_ne!(session, nix::unistd::getsid(None).unwrap().as_raw());
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(!environment.contains("BUILD_ID") && !environment.contains("PGSTENCIL"));
}
