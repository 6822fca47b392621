use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::time::Instant;

use nix::sys::signal::kill;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::foreground::{Place, ignored_signals, run};
use super::lines::Lines;
use super::*;
use crate::Kind;

/// Runs a script in `/` and returns its lines.
async fn capture(job: &Job, limit: Option<Duration>) -> (Finished, Vec<String>) {
    let mut lines = Vec::new();
    let mut on_line = |line: &str| lines.push(line.to_owned());
    let finished = run_captured(job, limit, &CancellationToken::new(), &mut on_line).await.unwrap();
    (finished, lines)
}

async fn sh(script: &str) -> (Finished, Vec<String>) {
    capture(&Job::shell(script, "/"), None).await
}

fn read_pid(path: &Path) -> Option<Pid> {
    fs::read_to_string(path).ok()?.strip_suffix('\n')?.parse().ok().map(Pid::from_raw)
}

/// Returns whether a process is running. A zombie is not.
fn runs(pid: Pid) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'),
        Err(_) => !Path::new("/proc/self/stat").exists() && kill(pid, None).is_ok(),
    }
}

/// Returns whether a watchdog of this process exists: watchdogs are its children.
fn watchdogs() -> usize {
    let Ok(processes) = fs::read_dir("/proc") else {
        return 0;
    };
    let ours = format!("PPid:\t{}\n", std::process::id());
    processes
        .flatten()
        .filter(|p| {
            let text = |name: &str| fs::read(p.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&text("cmdline")).contains("pgstencil-watchdog")
                && String::from_utf8_lossy(&text("status")).contains(&ours)
        })
        .count()
}

/// Time after which a test gives up; no bound on how long anything should take, since other programs have the
/// processors, too.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `done`; false if it has not happened after [`PATIENCE`].
async fn soon(mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if done() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    done()
}

// --- Captured ---

#[tokio::test]
async fn output_comes_in_order_and_the_tail_is_kept() {
    let (finished, lines) =
        sh("for i in $(seq 1 60); do echo out$i; echo err$i >&2; done; printf end; exit 3").await;
    assert_eq!(finished.status, Status::Exited(3));
    assert_eq!(finished.ended, Ended::ByItself);
    assert_eq!(lines.len(), 121);
    assert_eq!(lines[..4], ["out1", "err1", "out2", "err2"]);
    assert_eq!(finished.tail, lines[81..]);
    assert_eq!(finished.tail.last().unwrap(), "end");
}

#[tokio::test]
async fn lines_come_while_the_command_runs() {
    let dir = TempDir::new().unwrap();
    let mut lines = Vec::new();
    // The command ends only when its first line was seen.
    let mut on_line = |line: &str| {
        lines.push(line.to_owned());
        fs::write(dir.path().join("seen"), "").unwrap();
    };
    let job =
        Job::shell("echo now; while ! [ -e seen ]; do sleep 0.05; done; sleep 1; echo later", dir.path());
    let finished = run_captured(&job, Some(PATIENCE), &CancellationToken::new(), &mut on_line).await.unwrap();
    assert_eq!(finished.ended, Ended::ByItself);
    assert!(finished.elapsed >= Duration::from_secs(1));
    assert_eq!(lines, ["now", "later"]);
}

#[tokio::test]
async fn ten_megabytes_block_nobody() {
    let (finished, lines) =
        sh("head -c 10000000 /dev/zero | tr '\\0' x; head -c 10000000 /dev/zero | tr '\\0' '\\n'; echo end")
            .await;
    assert!(finished.status.success());
    assert_eq!(lines.len(), 10_000_001);
    assert_eq!(lines[0].chars().count(), 4097);
    assert_eq!(finished.tail.last().unwrap(), "end");
}

#[test]
fn lines_are_split_for_people() {
    let split = |parts: &[&[u8]]| {
        let (mut lines, mut got) = (Lines::default(), Vec::new());
        for part in parts {
            lines.push(part, &mut |line| got.push(line.to_owned()));
        }
        lines.finish(&mut |line| got.push(line.to_owned()));
        got
    };
    assert_eq!(split(&[b"a\n\nb\r\n\r\nc"]), ["a", "", "b", "", "c"]);
    assert_eq!(split(&[b"10%\r20%\r\r", b"done\n"]), ["10%", "20%", "done"]);
    assert_eq!(split(&[b"a\r", b"\nb", b"", b"c\n"]), ["a", "bc"]);
    assert_eq!(split(&[b"caf\xc3", b"\xa9 \xff\n"]), ["café \u{fffd}"]);
    let long = vec![b'x'; 5000];
    assert_eq!(split(&[&long, &long, b"\nnext"]), [format!("{}…", "x".repeat(4096)), "next".into()]);
    assert_eq!(split(&[&long[..4096], b"\n"]), ["x".repeat(4096)]);
    assert!(split(&[]).is_empty());
}

#[test]
fn lines_lose_their_colours() {
    assert_eq!(plain("\x1b[1;31merror\x1b[0m: \x1b[38:5:1mx\x1b[K"), "error: x");
    assert_eq!(plain("a\x1b[ qb\x1b[?25lc\x1b["), "abc");
    assert_eq!(plain("\x1b]0;title\x07 [31m"), "\x1b]0;title\x07 [31m");
}

#[tokio::test]
async fn a_tail_has_no_colours_and_a_line_has() {
    let (finished, lines) = sh("printf '\\033[31mred\\033[0m\\n'").await;
    assert_eq!(lines, ["\x1b[31mred\x1b[0m"]);
    assert_eq!(finished.tail, ["red"]);
}

#[tokio::test]
async fn no_input_own_directory_and_variables() {
    let dir = TempDir::new().unwrap();
    let cwd = dir.path().canonicalize().unwrap();
    let mut job = Job::shell(r#"cat; pwd; echo "$A|${HOME-unset}|${PATH:+path}|$B""#, &cwd);
    job.env = vec![("A".into(), "x y".into()), ("B".into(), "again".into())];
    job.cleared = vec!["HOME".into(), "B".into()];
    let (_, lines) = capture(&job, None).await;
    assert_eq!(lines, [cwd.display().to_string(), "x y|unset|path|again".into()]);
    assert!(!format!("{job:?}").contains("x y"));
}

#[tokio::test]
async fn arguments_arrive_as_they_are() {
    let argv = ["printf", "[%s]", "a b", "", "$HOME", "'", "-n", "*"];
    let (_, lines) = capture(&Job::new(argv.iter().map(OsString::from).collect(), "/"), None).await;
    assert_eq!(lines, ["[a b][][$HOME]['][-n][*]"]);
}

#[tokio::test]
async fn a_signal_is_128_and_its_number() {
    let (finished, _) = sh("kill -KILL $$").await;
    assert_eq!(finished.status, Status::Signaled(9));
    assert_eq!(finished.status.code(), 137);
    assert_eq!(finished.status.to_string(), "signal 9, SIGKILL");
    assert_eq!(finished.ended, Ended::ByItself);
    let (finished, _) = sh("no-such-program").await;
    assert_eq!(finished.status.code(), 127);
    assert!(finished.tail[0].contains("no-such-program"), "{finished:?}");
}

#[tokio::test]
async fn no_such_directory() {
    let job = Job::shell("true", "/no/such");
    let error = run_captured(&job, None, &CancellationToken::new(), &mut |_| {}).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    assert!(error.message().contains("`/no/such`"), "{error:?}");
}

/// Runs a script with a longer limit each time, until it prints this line before it is ended: on a busy machine a
/// short limit is over before the shell gets there.
async fn timed_out(job: &Job, line: &str) -> (Finished, Vec<String>) {
    for millis in [300, 2_000, 10_000, 60_000] {
        let (finished, lines) = capture(job, Some(Duration::from_millis(millis))).await;
        assert_eq!(finished.ended, Ended::TimedOut);
        if lines.iter().any(|seen| seen == line) {
            return (finished, lines);
        }
    }
    panic!("no {line:?} within a minute");
}

#[tokio::test]
async fn a_timeout_ends_the_whole_group() {
    let dir = TempDir::new().unwrap();
    let script = "sleep 300 & echo $! > pid; echo started; wait; sleep 300";
    let (finished, lines) = timed_out(&Job::shell(script, dir.path()), "started").await;
    assert_eq!(finished.status, Status::Signaled(15));
    assert_eq!(lines, ["started"]);
    assert!(!runs(read_pid(&dir.path().join("pid")).unwrap()));
}

#[tokio::test]
async fn who_ignores_term_is_killed() {
    let script = "trap '' TERM; echo deaf; while :; do sleep 0.1; done";
    let (finished, _) = timed_out(&Job::shell(script, "/"), "deaf").await;
    assert_eq!(finished.status, Status::Signaled(9));
    assert!(finished.elapsed > GRACE, "{:?}", finished.elapsed);
}

#[tokio::test]
async fn who_is_stopped_is_ended_too() {
    let (finished, _) = capture(&Job::shell("kill -STOP $$", "/"), Some(Duration::from_millis(300))).await;
    assert_eq!(finished.status, Status::Signaled(15));
}

#[tokio::test]
async fn cancel_ends_it() {
    let cancel = CancellationToken::new();
    let mut on_line = |_: &str| cancel.cancel();
    let job = Job::shell("trap 'echo bye; exit 7' TERM; echo go; while :; do sleep 0.05; done", "/");
    let finished = run_captured(&job, None, &cancel, &mut on_line).await.unwrap();
    assert_eq!((finished.ended, finished.status), (Ended::Cancelled, Status::Exited(7)));
    // In between, some shells print how their child ended.
    assert_eq!((&*finished.tail[0], finished.tail.last().unwrap().as_str()), ("go", "bye"));
}

#[tokio::test]
async fn what_is_left_behind_is_ended() {
    let dir = TempDir::new().unwrap();
    // One child holds the pipe and ends on TERM, the other ignores TERM and prints nothing.
    let script = "sleep 300 & echo $! > polite
        sh -c 'trap \"\" TERM; echo $$ > deaf; exec >/dev/null 2>&1; while :; do sleep 0.1; done' &
        while ! [ -s deaf ]; do sleep 0.05; done; echo done";
    let (finished, lines) = capture(&Job::shell(script, dir.path()), None).await;
    assert!(finished.status.success());
    assert_eq!(lines, ["done"]);
    for name in ["polite", "deaf"] {
        let pid = read_pid(&dir.path().join(name)).unwrap();
        assert!(soon(|| !runs(pid)).await, "{name}");
    }
}

#[tokio::test]
async fn a_chatty_daemon_outside_the_group_keeps_nobody() {
    let dir = TempDir::new().unwrap();
    let script = "setsid sh -c 'echo $$ > pid; while :; do echo tick; sleep 0.05; done' &
        while ! [ -s pid ]; do sleep 0.05; done";
    let job = Job::shell(script, dir.path());
    let (finished, _) = tokio::time::timeout(PATIENCE, capture(&job, None)).await.unwrap();
    assert!(finished.status.success());
    let daemon = read_pid(&dir.path().join("pid")).unwrap();
    let _ = kill(daemon, Signal::SIGKILL);
}

/// Runs on a terminal made by `script`, if that is installed.
#[tokio::test]
async fn who_asks_on_the_terminal_fails_at_once() {
    const TEST: &str = "process::tests::who_asks_on_the_terminal_fails_at_once";
    if std::env::var_os(VICTIM).is_none() {
        let test = std::env::current_exe().unwrap();
        let status = std::process::Command::new("script")
            .args(["-qec", &format!("{} --exact {TEST}", test.display()), "/dev/null"])
            .env(VICTIM, "/")
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status();
        if cfg!(target_os = "linux") {
            assert!(status.map_or(true, |s| s.success()));
        }
        return;
    }
    let job = Job::shell("exec 3</dev/tty || exit 9; stty -echo <&3; read x <&3; echo read $?", "/");
    let (finished, lines) = capture(&job, Some(PATIENCE)).await;
    assert_eq!(finished.ended, Ended::ByItself);
    assert_ne!(finished.status, Status::Exited(9), "no terminal");
    assert_ne!(lines.last().unwrap(), "read 0");
}

// --- The watchdog ---

/// Set in the victim: the directory for its files.
const VICTIM: &str = "PGSTENCIL_TEST_VICTIM";

/// Starts this test again in another process, which will be killed.
fn victim(test: &str, dir: &Path) -> std::process::Child {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("process::tests::{test}"), "--nocapture"])
        .env(VICTIM, dir)
        .stdout(std::process::Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn the_command_ends_when_we_are_killed() {
    // `child` ignores TERM, so KILL must follow.
    let script = "echo $$ > leader.tmp
        sh -c 'trap \"\" TERM; echo $$ > child.tmp; mv child.tmp child; while :; do sleep 0.1; done' &
        mv leader.tmp leader; sleep 300; echo survived > survived; sleep 300";
    if let Some(dir) = std::env::var_os(VICTIM) {
        sh_in(script, Path::new(&dir)).await;
        return;
    }
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut victim = victim("the_command_ends_when_we_are_killed", dir.path());
    assert!(soon(|| read_pid(&at("leader")).and(read_pid(&at("child"))).is_some()).await);
    let (leader, child) = (read_pid(&at("leader")).unwrap(), read_pid(&at("child")).unwrap());
    assert!(runs(leader) && runs(child));
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(soon(|| !runs(leader)).await, "the leader goes on");
    assert!(soon(|| !runs(child)).await, "the child goes on");
    assert!(!at("survived").exists());
}

async fn sh_in(script: &str, dir: &Path) -> Finished {
    capture(&Job::shell(script, dir), None).await.0
}

/// Starts many victims and kills each at another moment of its start: in the end none may have left a
/// process.
#[tokio::test]
async fn there_is_no_moment_without_watchdog() {
    let script = "echo $$ > $$.pid; sleep 300";
    if let Some(dir) = std::env::var_os(VICTIM) {
        sh_in(script, Path::new(&dir)).await;
        return;
    }
    let dir = TempDir::new().unwrap();
    for pause in 0..30 {
        let mut victim = victim("there_is_no_moment_without_watchdog", dir.path());
        tokio::time::sleep(Duration::from_micros(500 * pause)).await;
        victim.kill().unwrap();
        victim.wait().unwrap();
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let here = dir.path().canonicalize().unwrap();
    let left = || {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        processes.filter(|p| fs::read_link(p.path().join("cwd")).is_ok_and(|cwd| cwd == here)).count()
    };
    assert!(soon(|| left() == 0).await, "{} processes are left", left());
}

#[tokio::test]
async fn the_watchdog_is_gone_after_a_normal_end() {
    if std::env::var_os(VICTIM).is_none() {
        // Runs in a separate process, since other tests have watchdogs too.
        let mut alone = victim("the_watchdog_is_gone_after_a_normal_end", Path::new("/"));
        assert!(alone.wait().unwrap().success());
        return;
    }
    let mut during = 0;
    let mut on_line = |_: &str| during = watchdogs();
    let job = Job::shell("echo x; sleep 0.2", "/");
    run_captured(&job, None, &CancellationToken::new(), &mut on_line).await.unwrap();
    if Path::new("/proc/self").exists() {
        assert_eq!(during, 1);
    }
    assert_eq!(watchdogs(), 0);

    // None is left after a dropped future either: the watchdog has ended the command first.
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("pid");
    tokio::select! {
        _ = sh_in("echo $$ > pid; sleep 300", dir.path()) => panic!("it has ended"),
        there = soon(|| read_pid(&file).is_some()) => assert!(there),
    }
    let pid = read_pid(&file).unwrap();
    assert!(soon(|| !runs(pid)).await);
    assert!(soon(|| watchdogs() == 0).await);
}

// --- Foreground ---

/// The signals of a process reach all of its tests, so each of these tests runs in its own process.
async fn in_own_process(test: &str) -> bool {
    if std::env::var_os(VICTIM).is_some() {
        return false;
    }
    // A background job of a script ignores INT, a job of nohup HUP, and so would the new process. It does not
    // inherit handlers.
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        if ignored_signals() & (1 << (signal as i32 - 1)) != 0 {
            drop(tokio::signal::unix::signal((signal as i32).into()).unwrap());
        }
    }
    let mut alone = victim(test, Path::new("/"));
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        if let Some(status) = alone.try_wait().unwrap() {
            assert!(status.success(), "{test}: {status}");
            return true;
        }
        assert!(Instant::now() < deadline, "{test} hangs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn raise_later(signals: &[(u64, Signal)]) {
    for &(millis, signal) in signals {
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            kill(Pid::this(), signal).unwrap();
        });
    }
}

#[tokio::test]
async fn foreground_passes_status_and_signals_on() {
    if in_own_process("foreground_passes_status_and_signals_on").await {
        return;
    }
    let mut signals = Signals::subscribe().unwrap();
    let status = |script: &str| Job::shell(script, "/");
    let run_own =
        async |job: &Job, signals: &mut Signals| run(job, signals, Place::OwnGroup, drop).await.unwrap();

    assert_eq!(run_own(&status("exit 5"), &mut signals).await, Status::Exited(5));
    assert_eq!(run_own(&status("kill -TERM $$"), &mut signals).await.code(), 143);

    // To the group: the shell waits for its child, which must get the signal too.
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        raise_later(&[(200, signal)]);
        assert_eq!(run_own(&status("sleep 20; exit 0"), &mut signals).await.code(), code);
    }

    // A signal that arrived before the start is kept.
    kill(Pid::this(), Signal::SIGTERM).unwrap();
    assert_eq!(run_own(&status("sleep 20"), &mut signals).await.code(), 143);

    // One command takes the first INT as a request, the other ignores all signals.
    for (traps, ended) in [("trap 'echo >heard' INT", 15), ("trap '' INT TERM; echo >heard", 9)] {
        let dir = TempDir::new().unwrap();
        let script = format!("{traps}; echo >ready; while :; do sleep 0.1; done");
        let heard = [dir.path().join("ready"), dir.path().join("heard")];
        let raising = tokio::spawn(async move {
            for file in heard {
                assert!(soon(|| file.exists()).await);
                kill(Pid::this(), Signal::SIGINT).unwrap();
                // Two that come at once count as one.
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        });
        let status = run_own(&Job::shell(&script, dir.path()), &mut signals).await;
        assert_eq!(status, Status::Signaled(ended));
        raising.await.unwrap();
    }
}

#[tokio::test]
async fn on_a_terminal_the_command_hears_ctrl_c_by_itself() {
    if in_own_process("on_a_terminal_the_command_hears_ctrl_c_by_itself").await {
        return;
    }
    let mut signals = Signals::subscribe().unwrap();
    let group = nix::unistd::getpgrp();
    let dir = TempDir::new().unwrap();
    let mut job = Job::shell("ps -o pgid= -p $$ > pgid 2>/dev/null; sleep 1; exit 4", dir.path());
    // To pgstencil alone, twice: neither forwarded nor taken as a request to end the command.
    raise_later(&[(100, Signal::SIGINT), (300, Signal::SIGINT)]);
    assert_eq!(run(&job, &mut signals, Place::OurGroup, drop).await.unwrap(), Status::Exited(4));
    let pgid = fs::read_to_string(dir.path().join("pgid")).unwrap();
    if !pgid.is_empty() {
        assert_eq!(pgid.trim(), group.to_string());
    }

    job.argv = ["sleep", "20"].map(OsString::from).to_vec();
    raise_later(&[(100, Signal::SIGTERM)]);
    assert_eq!(run(&job, &mut signals, Place::OurGroup, drop).await.unwrap().code(), 143);
    // Three in quick succession; more, since those that come at once count as one.
    raise_later(&[1, 2, 3, 4, 5, 6, 7, 8].map(|n| (200 * n, Signal::SIGINT)));
    assert_eq!(run(&job, &mut signals, Place::OurGroup, drop).await.unwrap(), Status::Signaled(15));
}

#[tokio::test]
async fn what_was_ignored_stays_ignored() {
    if std::env::var_os(VICTIM).is_none() {
        if !Path::new("/proc/self/status").exists() {
            return;
        }
        let status = std::process::Command::new("/bin/sh")
            .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "process::tests::what_was_ignored_stays_ignored"])
            .env(VICTIM, "/")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let mut signals = Signals::subscribe().unwrap();
    kill(Pid::this(), Signal::SIGHUP).unwrap();
    let job = Job::shell("kill -HUP $$; exit 6", "/");
    assert_eq!(run(&job, &mut signals, Place::OwnGroup, drop).await.unwrap(), Status::Exited(6));
}

#[tokio::test]
async fn foreground_leaves_background_children_alone() {
    let dir = TempDir::new().unwrap();
    let mut signals = Signals::subscribe().unwrap();
    let job = Job::shell("sleep 60 >/dev/null 2>&1 & echo $! > pid", dir.path());
    assert!(run(&job, &mut signals, Place::OwnGroup, drop).await.unwrap().success());
    let pid = read_pid(&dir.path().join("pid")).unwrap();
    assert!(runs(pid));
    kill(pid, Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn programs_that_cannot_be_started() {
    let dir = TempDir::new().unwrap();
    let plain = dir.path().join("plain");
    let script = dir.path().join("script");
    fs::write(&plain, "").unwrap();
    fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut signals = Signals::subscribe().unwrap();
    let mut error = async |program: &Path, cwd: &Path| {
        let job = Job::new(vec![program.into()], cwd);
        run_foreground(&job, &mut signals, drop).await.unwrap_err()
    };
    for (program, part) in [
        (Path::new("no-such-program"), "no program `no-such-program` found"),
        (&plain, "plain` cannot be executed"),
        (&script, "script`"),
    ] {
        let error = error(program, dir.path()).await;
        assert_eq!(error.kind(), Kind::Usage, "{error:?}");
        assert!(error.message().contains(part), "{error:?}");
        assert_eq!(error.hints().len(), 1);
    }
    let error = error(Path::new("true"), Path::new("/no/such")).await;
    assert_eq!((error.kind(), error.message().contains("no such directory")), (Kind::Failed, true));
}
