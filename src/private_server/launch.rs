//! Starts the server of a cluster so that it outlives pgstencil and inherits nothing from it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::account::{run, tail};
use super::binaries::Binaries;
use super::cluster::{Cluster, Record};
use super::directory::{self, unusable};
use super::log::{explain, tells_damage, trim_log};
use super::synced::WATCH;
use crate::error::{Error, Kind, Result};
use crate::private_file;

/// Result of an attempt to start.
enum Launched {
    Up,
    PortTaken,
}

/// Closes inherited descriptors (otherwise a pipe of the caller would never end, and a lock of the caller
/// never be free), keeps the file of `alive` open, starts the watcher, and becomes pg_ctl. Some shells, such
/// as dash, support only one-digit numbers.
///
/// The watcher reads a pipe that every process of the server holds open. It also holds `alive`, so that the
/// next start and the end of a stop wait for its work. If a pipe cannot be created, there is no watcher.
const LAUNCH: &str = r#"
if (eval 'exec 99>&-') 2>/dev/null; then many=1; else many=; fi
for fd in /dev/fd/*; do
  fd=${fd##*/}
  case $fd in
    [012]) ;;
    [3-9]) eval "exec $fd>&-" ;;
    [0-9]*) if [ "$many" ]; then eval "exec $fd>&-"; fi ;;
  esac
done
exec 9<&0 </dev/null
watch=$1 pipe=data/pgstencil.pipe
shift
rm -f "$pipe"
if mkfifo -m 600 "$pipe" 2>/dev/null && command exec 8<>"$pipe" && command exec 7<"$pipe"; then
  sh -c "$watch" pgstencil <&7 7<&- 8>&- >/dev/null 2>&1 &
  exec 7<&-
fi
rm -f "$pipe"
exec "$@"
"#;

impl Cluster {
    /// Starts the server on its previous port, or else on a free one. The record has the current boot before
    /// the server can write anything. Adds to `notices` if the port changes.
    pub(super) async fn start(
        &self,
        binaries: &Binaries,
        mut record: Record,
        alive: &File,
        deadline: Instant,
        notices: &mut Vec<String>,
    ) -> Result<()> {
        let socket = directory::socket(&self.directory, record.socket_dir.as_deref(), &self.account)?;
        record.socket_dir = Some(socket.clone());
        let before = record.port;
        // Only a server that holds a port knows that it was free.
        for _ in 0..20 {
            let port = match record.port {
                Some(port) if is_free(port) => port,
                _ => pick_port()?,
            };
            record.port = Some(port);
            self.configure(&record, port, &socket)?;
            self.tidy()?;
            clear_sockets(&socket);
            match self.launch(binaries, alive, deadline).await? {
                Launched::Up => {
                    if let Some(before) = before.filter(|before| *before != port) {
                        notices.push(format!(
                            "another program uses port {before}, so the private server moved to port {port}"
                        ));
                    }
                    return Ok(());
                }
                Launched::PortTaken => record.port = None,
            }
        }
        Err(Error::failed("no free port found for the private server"))
    }

    async fn launch(&self, binaries: &Binaries, alive: &File, deadline: Instant) -> Result<Launched> {
        let log = self.log();
        trim_log(&log);
        drop(private_file::open_file(&log).map_err(|e| unusable(&log, e))?);
        self.account.give(&log)?;
        let begin = fs::metadata(&log).map_or(0, |m| m.len());

        let shell = ["/bin/bash", "/usr/bin/bash"]
            .into_iter()
            .find(|shell| Path::new(shell).exists())
            .unwrap_or("/bin/sh");
        let patience = deadline.saturating_duration_since(Instant::now());
        let alive = alive.try_clone().map_err(|e| unusable(&self.directory, e))?;
        let mut command = self.account.command(shell);
        command
            .current_dir(&self.directory)
            .args(["-c", LAUNCH, "sh", WATCH])
            .arg(binaries.program("pg_ctl"))
            // pg_ctl passes the rest to a shell, so all paths in it are relative.
            .args(["start", "-w", "-s", "-D", "data", "-l", "server.log"])
            .args(["-o", "-c config_file=postgresql.conf"])
            .args(["-t", &patience.as_secs().max(1).to_string()])
            .stdin(Stdio::from(alive));
        self.forget_proofs();
        let output = run(command, None, patience + Duration::from_secs(5)).await;
        let output = match output {
            Ok(output) if output.status.success() => return Ok(Launched::Up),
            Ok(output) => tail(&[output.stdout, output.stderr].concat(), 4),
            Err(e) => vec![format!("pg_ctl: {e}")],
        };
        let said = self.log_since(begin);
        if said.contains("could not create any TCP/IP sockets") && said.contains("in use") {
            return Ok(Launched::PortTaken);
        }
        if self.postmaster().is_some() {
            // The server is still running, just not ready; the next start waits for it.
            return Err(
                self.with_log(Error::new(Kind::Timeout, "the private server did not start in time"), begin)
            );
        }
        let error = Error::failed("the private server failed to start");
        let error = match said.trim() {
            "" => explain(error, output),
            _ => self.with_log(error, begin),
        };
        if !error.hints().is_empty() {
            return Err(error);
        }
        let custom = self.directory.join("custom.conf");
        Err(if tells_damage(&said) {
            error.hint(format!(
                "if the data is damaged, delete it with `pgstencil server remove --major {} --force`; templates can be rebuilt, the contents of clones cannot",
                self.major
            ))
        } else if custom.exists() {
            error.hint(format!("if a setting is the cause, correct {}, or move it away", custom.display()))
        } else {
            error
        })
    }
}

/// Removes the socket files of a killed server; the directory belongs to this cluster alone.
pub(super) fn clear_sockets(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(".s.PGSQL.") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Checks a port in advance; only the server's start decides.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Returns a port that is free now, below the range that systems use for outgoing connections, so that it is
/// likely to be free at the next start too.
fn pick_port() -> Result<u16> {
    for _ in 0..50 {
        let random = u16::from_str_radix(&directory::random_hex::<2>()?, 16).unwrap_or(0);
        let port = 16_384 + random % 16_384;
        if is_free(port) {
            return Ok(port);
        }
    }
    Err(Error::failed("no free port found for the private server"))
}
