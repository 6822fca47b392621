//! Checks whether processes of others are still running.
//!
//! A process that has ended but was not reaped yet counts as gone: in a container whose first process reaps
//! no children it remains indefinitely.

use nix::errno::Errno;
use nix::sys::signal::{kill, killpg};
use nix::unistd::Pid;

/// Returns whether a process with this number is running here.
pub(crate) fn is_alive(pid: u32) -> bool {
    let Ok(number) = i32::try_from(pid) else {
        return false;
    };
    // EPERM: the process exists, and belongs to another user.
    kill(Pid::from_raw(number), None) != Err(Errno::ESRCH)
        && stat(&number.to_string()).is_none_or(|stat| stat.runs)
}

/// Returns whether a process of this group is running here.
pub(crate) fn is_group_alive(group: u32) -> bool {
    let Ok(number) = i32::try_from(group) else {
        return false;
    };
    match killpg(Pid::from_raw(number), None) {
        Err(Errno::ESRCH) => false,
        // All processes of the group belong to another user, and may be hidden.
        Err(_) => true,
        Ok(()) => some_run(number),
    }
}

/// Returns whether any member of a group that exists is still running; true if the system does not show its
/// members.
fn some_run(group: i32) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return true;
    };
    let mut seen = false;
    for process in processes.flatten() {
        let name = process.file_name();
        let number = name.to_str().filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
        if let Some(stat) = number.and_then(stat).filter(|stat| stat.group == group) {
            seen = true;
            if stat.runs {
                return true;
            }
        }
    }
    !seen
}

/// Returns number and name of the processes of a group that are still running; if the system does not show
/// them, the number of the group.
pub(super) fn members(group: u32) -> Vec<String> {
    let mut found = Vec::new();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let name = process.file_name();
        let Some(pid) = name.to_str() else {
            continue;
        };
        let ours = |stat: &Stat| i64::from(stat.group) == i64::from(group) && stat.runs;
        if stat(pid).filter(ours).is_some() {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.push(format!("pid {pid} ({})", name.trim_end()));
        }
    }
    if found.is_empty() {
        found.push(format!("process group {group}"));
    }
    found
}

struct Stat {
    runs: bool,
    group: i32,
}

/// Reads what Linux shows of a process: `PID (name) STATE PARENT GROUP …`; the name may contain anything.
fn stat(pid: &str) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = text.rsplit_once(')')?.1.split_whitespace();
    let state = words.next()?;
    Some(Stat { runs: !state.starts_with(['Z', 'X']), group: words.nth(1)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn what_has_ended_is_gone_before_it_is_waited_for() {
        let mut child = Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        let pid = child.id();
        assert!(is_alive(pid) && is_group_alive(pid));
        child.kill().unwrap();
        // It is a zombie now or soon.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while (is_alive(pid) || is_group_alive(pid)) && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(cfg!(not(target_os = "linux")) || !(is_alive(pid) || is_group_alive(pid)));
        child.wait().unwrap();
        assert!(!is_alive(pid) && !is_group_alive(pid));
    }

    #[test]
    fn a_group_lives_as_long_as_one_of_it() {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 60 & echo $!"])
            .process_group(0)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        child.wait().unwrap();
        assert!(!is_alive(child.id()));
        assert!(is_group_alive(child.id()));
        let left = Pid::from_raw(line.trim().parse().unwrap());
        kill(left, nix::sys::signal::Signal::SIGKILL).unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while is_group_alive(child.id()) && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(cfg!(not(target_os = "linux")) || !is_group_alive(child.id()));
    }
}
