//! `pg_dump` and `pg_restore` of the server's own machine, run by `COPY ... PROGRAM`: for servers that this machine has
//! no programs for, such as a service container. Only for users who asked for it.
//!
//! Dumps pass through the connection as lines of base64, and through pipes on the server's machine: no file is made
//! there. Each program names its session after a random tag, by which a command that gives up ends it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio_util::sync::CancellationToken;

use super::tools::{Run, version_in};
use crate::error::{Error, Kind, Result, shell_word};
use crate::names::random_text;
use crate::pg::session::OpenError;
use crate::pg::{Deadline, Doing as _, Endpoint, Session, copy, sql};
use crate::private_file::NewFile;

/// Length of a line. Four rows fit on a page, and none is compressed.
const LINE: usize = 1900;
/// Bytes that become a line.
const BYTES: usize = LINE / 4 * 3;
/// Number of lines that are sent at once.
const LINES: usize = 512;
/// Longest end of the errors of a program that is kept.
const ERRORS: usize = 2000;
/// Time in which programs end.
const END: Duration = Duration::from_secs(10);
/// Time without a trace of a program after which it is given up.
const LOST: Duration = Duration::from_secs(60);
/// Time for the programs to print their versions.
const PROBE: Duration = Duration::from_secs(60);

/// The programs of a server's machine, and how they reach the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerPrograms {
    /// Database of the sessions that start them.
    registry: String,
    /// Directory of the server's programs; empty if it is not known.
    directory: String,
    host: String,
    port: String,
    /// Their major version.
    pub(super) major: u32,
}

const RIGHT: &str = "SELECT pg_has_role(current_user, 'pg_execute_server_program', 'USAGE')";
const FACTS: &str = "SELECT CASE WHEN pg_has_role('pg_read_all_settings', 'USAGE') \
         THEN current_setting('unix_socket_directories') END, current_setting('port'), \
     has_function_privilege('pg_catalog.pg_config()', 'EXECUTE'), current_user::text";
const BINDIR: &str = "SELECT setting FROM pg_config() WHERE name = 'BINDIR'";
const SESSIONS: &str = "SELECT application_name FROM pg_stat_activity WHERE application_name = ANY($1)";
const PID: &str = "SELECT pg_backend_pid()";

/// Result of a program.
struct Finished {
    code: i32,
    errors: String,
}

impl ServerPrograms {
    /// Finds out where the programs should be, if the role may run them. `registry` is pgstencil's own database, in which
    /// the sessions are that start them. Writes nothing.
    ///
    /// # Errors
    /// [`Kind::Permission`] if the role may not run programs on the server.
    pub(crate) async fn find(session: &mut Session, registry: &str) -> Result<Self> {
        let doing = || "find the programs of the server".to_owned();
        let may: bool = session.scalar(sql::text(RIGHT)).await.doing(doing)?;
        let (sockets, port, readable, role): (Option<String>, String, bool, String) =
            session.one(sql::text(FACTS)).await.doing(doing)?;
        if !may {
            return Err(no_right(&role));
        }
        let directory = match readable {
            true => session.scalar::<String>(sql::text(BINDIR)).await.doing(doing)?,
            false => String::new(),
        };
        let major = session.facts().major();
        let host = match sockets {
            // Not visible to this role: the script finds it.
            None => String::new(),
            Some(sockets) => {
                let host = sockets.split(',').map(|s| s.trim().trim_matches('"')).find(|s| !s.is_empty());
                host.unwrap_or("127.0.0.1").to_owned()
            }
        };
        Ok(ServerPrograms { registry: registry.to_owned(), directory, host, port, major })
    }

    /// Returns them with their version, once they have reached the server.
    ///
    /// # Errors
    /// `Failed` if the programs are missing, or cannot connect.
    pub(crate) async fn probe(self, endpoint: &Endpoint, deadline: &Deadline) -> Result<Self> {
        let to = word(&format!("--dbname={}", connection_string(&self.registry)));
        let command = format!(
            "pg_dump --version && pg_restore --version && psql --version && psql -XAtqw {to} -c 'SELECT 1'"
        );
        let run = Run { endpoint, deadline, timeout: PROBE, kill: CancellationToken::new() };
        let mut said = Vec::new();
        let finished = self.output(&run, &command, &mut said).await?;
        let said = String::from_utf8_lossy(&said);
        let versions: Vec<u32> = said.lines().filter_map(version_in).collect();
        let details =
            |error| finished.errors.lines().fold(error, |e: Error, line| e.detail(endpoint.redact(line)));
        let &[dump, restore, _] = versions.as_slice() else {
            let error = details(Error::failed("the server's machine has no pg_dump, pg_restore and psql"));
            return Err(
                error.hint("use an image that has them, such as `postgres:16` or `postgres:16-alpine`")
            );
        };
        if finished.code != 0 {
            let error = Error::failed("programs on the server's machine cannot connect to the server");
            return Err(details(error).hint(
                "let them connect without a password: `local all all trust` in pg_hba.conf, as in the official images",
            ));
        }
        // A newer program may begin with a setting that the server does not know.
        let found = dump.min(restore);
        if found < self.major || (dump.max(restore) > self.major && dump.max(restore) >= 17) {
            return Err(Error::failed(format!(
                "the server's machine has pg_dump {dump} and pg_restore {restore}, and the server is PostgreSQL {}",
                self.major
            )));
        }
        Ok(ServerPrograms { major: found, ..self })
    }

    /// Dumps a database into a new file of this machine, uncompressed.
    ///
    /// # Errors
    /// `Failed` with the program's errors; timeout and cancellation.
    pub(super) async fn dump(&self, run: &Run<'_>, database: &str, file: &Path) -> Result<()> {
        let options = "--format=custom --compress=0 --no-sync";
        self.pg_dump(run, options, database, file).await
    }

    /// Prints the statements of a database without its data into a file, as for another owner.
    ///
    /// # Errors
    /// As [`ServerPrograms::dump`].
    pub(super) async fn statements(&self, run: &Run<'_>, database: &str, file: &Path) -> Result<()> {
        self.pg_dump(run, "--no-owner --schema-only", database, file).await
    }

    async fn pg_dump(&self, run: &Run<'_>, options: &str, database: &str, file: &Path) -> Result<()> {
        let unwritable = |e| Error::failed(format!("cannot write {}", file.display())).caused_by(e);
        let to = word(&format!("--dbname={}", connection_string(database)));
        let mut new = NewFile::beside(file).map_err(unwritable)?;
        let finished = self.output(run, &format!("pg_dump {options} --no-password {to}"), new.file()).await?;
        match finished.code {
            0 => new.keep().map_err(unwritable),
            code => Err(failed("pg_dump", Kind::Failed, code, &finished.errors, run.endpoint)),
        }
    }

    /// Restores a file of this machine into an empty database. `owners`: objects get the owners that they had.
    ///
    /// # Errors
    /// [`Kind::Build`] with the program's errors; timeout and cancellation.
    pub(super) async fn restore(
        &self,
        run: &Run<'_>,
        database: &str,
        file: &Path,
        owners: bool,
    ) -> Result<()> {
        let unreadable = |e| Error::failed(format!("cannot read {}", file.display())).caused_by(e);
        let mut from = File::open(file).map_err(unreadable)?;
        let tag = tag();
        let to = word(&format!("--dbname={}", connection_string(database)));
        let owner = if owners { "" } else { " --no-owner" };
        let (mut session, pid) = self.session(run).await?;
        let ours = word(&format!("--dbname={}", connection_string(&self.registry)));
        // Both end with the session that starts the programs.
        let until_gone = format!(
            "DO $$ BEGIN LOOP PERFORM pg_stat_clear_snapshot(); \
             EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid}); PERFORM pg_sleep(0.1); \
             END LOOP; END $$"
        );
        let watch = word(&format!(
            "{until_gone}; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{tag}'"
        ));
        let stay = word(&until_gone);
        // The server does not wait for the programs: meanwhile it could neither be cancelled nor take part in the drop of
        // another database. A session whose name ends in the result tells of their end. The database is dropped after
        // an error, and the table of its text with it.
        let body = format!(
            "exec 3<&0; \
             PGAPPNAME='{tag} watch' psql -XAtqw {ours} -c {watch} </dev/null 3<&- >/dev/null 2>&1 & \
             {{ e=$(base64 -d <&3 | {{ pg_restore --exit-on-error --no-password{owner} {to} 2>&1; c=$?; \
             cat >/dev/null; exit $c; }}); c=$?; exec 3<&-; n=ok; \
             [ $c = 0 ] || {{ n=failed; printf '%s\n' \"$e\" >&2; \
             printf '%s' \"CREATE TABLE public.pgstencil_errors AS SELECT :'e'::text AS line;\" | \
             psql -Xqw {to} -v \"e=$(printf %s \"$e\" | tail -c {ERRORS})\"; }}; \
             PGAPPNAME=\"{tag} $n\" psql -XAtqw {ours} -c {stay} >/dev/null 2>&1; }} </dev/null >/dev/null &"
        );
        let script = self.script(run.endpoint, &tag, &body);
        let mut lines = || -> io::Result<Option<Vec<u8>>> {
            let mut bytes = vec![0; BYTES * LINES];
            let mut filled = 0;
            while filled < bytes.len() {
                match from.read(&mut bytes[filled..])? {
                    0 => break,
                    read => filled += read,
                }
            }
            let lines = bytes[..filled].chunks(BYTES).flat_map(|chunk| {
                let mut line = STANDARD.encode(chunk).into_bytes();
                line.push(b'\n');
                line
            });
            Ok((filled > 0).then(|| lines.collect()))
        };
        let work = async {
            session.write_lines(&mut lines).await.doing(|| "send a dump to the server".into())?;
            session
                .lines_to_program(&script)
                .await
                .doing(|| "run pg_restore on the server's machine".into())?;
            ended(&mut session, &tag).await
        };
        let done = self.guarded(run, &tag, pid, work).await;
        session.close().await;
        match done? {
            true => Ok(()),
            false => {
                let text = self.errors(run, database).await;
                let text = text.unwrap_or_else(|| "the server's log has its messages".into());
                let error = Error::new(Kind::Build, "pg_restore failed on the server's machine");
                Err(with_lines(error, &text, run.endpoint))
            }
        }
    }

    /// Returns what a program wrote into a database before it failed.
    async fn errors(&self, run: &Run<'_>, database: &str) -> Option<String> {
        let mut session = Session::open(run.endpoint, database, run.deadline).await.ok()?;
        let query = sql::text("SELECT line FROM public.pgstencil_errors");
        let read: Result<Option<String>, _> = session.first_scalar(query).await;
        session.close().await;
        read.ok()?
    }

    /// Runs a shell command on the server's machine, and writes its output.
    async fn output(&self, run: &Run<'_>, command: &str, to: &mut impl io::Write) -> Result<Finished> {
        let tag = tag();
        // The status of a pipe is that of its last command, so the status of the first one comes behind its output.
        let body = format!(
            "w=; base64 -w {LINE} </dev/null >/dev/null 2>&1 && w='-w {LINE}'; \
             {{ {{ e=$({{ {command}; }} 2>&1 1>&3 3>&-); c=$?; }} 3>&1; \
             printf '\\n\\n%s %s %s' {tag} \"$c\" \"$(printf %s \"$e\" | tail -c {ERRORS})\"; }} | base64 $w"
        );
        let script = self.script(run.endpoint, &tag, &body);
        let (mut session, pid) = self.session(run).await?;
        let mut decoder = Decoder { to, line: Vec::new(), end: Vec::new() };
        let work = async {
            session
                .lines_from_program(&script)
                .await
                .doing(|| "run a program on the server's machine".into())?;
            session
                .read_lines(|piece| decoder.take(piece))
                .await
                .doing(|| "read what a program on the server's machine printed".into())
        };
        let done = self.guarded(run, &tag, pid, work).await;
        session.close().await;
        done?;
        decoder.finish(&tag)
    }

    /// Returns a session with a table for lines, and its process on the server.
    async fn session(&self, run: &Run<'_>) -> Result<(Session, i32)> {
        let mut session = open(run.endpoint, &self.registry, run.deadline).await?;
        // From here on `guarded` bounds it: the programs must end, too.
        session.set_deadline(&Deadline::default());
        let doing = || "prepare a session for programs".to_owned();
        session.take_time().await.doing(doing)?;
        session.make_lines().await.doing(doing)?;
        let pid = session.scalar(sql::text(PID)).await.doing(doing)?;
        Ok((session, pid))
    }

    /// Awaits the work. If it takes too long, or is cancelled, ends the sessions of its programs first, since the server
    /// waits for them.
    async fn guarded<T>(
        &self,
        run: &Run<'_>,
        tag: &str,
        pid: i32,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let timeout = run.deadline.left().map_or(run.timeout, |left| left.min(run.timeout));
        tokio::pin!(work);
        let error = tokio::select! {
            done = &mut work => return done,
            () = run.kill.cancelled() => Error::new(Kind::Interrupted, "a program was ended"),
            () = run.deadline.cancel.cancelled() => Error::new(Kind::Interrupted, "a program was interrupted"),
            () = tokio::time::sleep(timeout) => {
                Error::new(Kind::Timeout, "a program on the server's machine did not end in time")
            }
        };
        let soon = Deadline::new(Some(END), CancellationToken::new());
        if let Ok(mut session) = Session::open(run.endpoint, &self.registry, &soon).await {
            // Otherwise they end when they find out that this session is gone.
            let _ = session.run(copy::end_programs(tag, pid)).await;
            session.close().await;
        }
        let _ = tokio::time::timeout(END, work).await;
        Err(error)
    }

    /// Returns a script for `sh`. Every value in it is quoted.
    fn script(&self, endpoint: &Endpoint, tag: &str, body: &str) -> String {
        let ServerPrograms { directory, host, port, .. } = self;
        let directory = match directory.as_str() {
            // The shell's parent is the server.
            "" => "d=$(readlink /proc/$PPID/exe); d=${d%/*}".to_owned(),
            known => format!("d={}", word(known)),
        };
        let host = match host.as_str() {
            // The server's directory is that of the shell; the fifth line names a socket directory.
            "" => "PGHOST=$(sed -n 5p postmaster.pid); PGHOST=${PGHOST:-127.0.0.1}".to_owned(),
            host if host.starts_with(['/', '@']) || host == "127.0.0.1" => format!("PGHOST={}", word(host)),
            relative => format!("PGHOST=\"$PWD\"/{}", word(relative)),
        };
        let options = match endpoint.session_options() {
            Some(options) => format!("PGOPTIONS={}; export PGOPTIONS", word(&options)),
            None => "unset PGOPTIONS".to_owned(),
        };
        format!(
            "unset PGHOSTADDR PGSERVICE PGSERVICEFILE PGDATABASE PGCLIENTENCODING PGSSLMODE PGTARGETSESSIONATTRS; \
             {directory}; PATH=\"$d:${{PATH:-/usr/local/bin:/usr/bin:/bin}}\"; {host}; {options}; PGPORT={}; \
             PGUSER={}; PGAPPNAME={tag}; LC_ALL=C; export PATH PGHOST PGPORT PGUSER PGAPPNAME LC_ALL; {body}",
            word(port),
            word(endpoint.user()),
        )
    }
}

/// Lines of base64 on their way to a file. The end is held back, since it is not part of the output.
struct Decoder<'a, W> {
    to: &'a mut W,
    line: Vec<u8>,
    end: Vec<u8>,
}

/// More than the end can have.
const KEPT: usize = ERRORS + 200;

impl<W: io::Write> Decoder<'_, W> {
    fn take(&mut self, piece: &[u8]) -> io::Result<()> {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend(part.strip_suffix(b"\n").unwrap_or(part));
            if part.ends_with(b"\n") {
                let decoded = STANDARD
                    .decode(&self.line)
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
                self.line.clear();
                self.end.extend(decoded);
            }
        }
        if self.end.len() > 64 * KEPT {
            let over = self.end.len() - KEPT;
            self.to.write_all(&self.end[..over])?;
            self.end.drain(..over);
        }
        Ok(())
    }

    fn finish(self, tag: &str) -> Result<Finished> {
        let incomplete = || Error::failed("the output of a program on the server's machine is incomplete");
        let mark = format!("\n\n{tag} ");
        let at = self.end.windows(mark.len()).rposition(|w| w == mark.as_bytes()).ok_or_else(incomplete)?;
        let said = String::from_utf8_lossy(&self.end[at + mark.len()..]).into_owned();
        let (code, errors) = said.split_once(' ').ok_or_else(incomplete)?;
        let code = code.parse().map_err(|_| incomplete())?;
        let written = self.to.write_all(&self.end[..at]).and_then(|()| self.to.flush());
        written.map_err(|e| Error::failed("cannot write a dump").caused_by(e))?;
        Ok(Finished { code, errors: errors.to_owned() })
    }
}

/// Waits for the end of a restore. Returns whether it succeeded.
async fn ended(session: &mut Session, tag: &str) -> Result<bool> {
    let (ok, failed) = (format!("{tag} ok"), format!("{tag} failed"));
    let mut seen = Instant::now();
    let mut pause = Duration::from_millis(10);
    loop {
        let found: Vec<(String,)> = session
            .rows(sql::fill(SESSIONS, &[&vec![tag.to_owned(), ok.clone(), failed.clone()]]))
            .await
            .doing(|| "wait for pg_restore on the server's machine".into())?;
        if found.iter().any(|(name,)| *name == ok || *name == failed) {
            return Ok(found.iter().any(|(name,)| *name == ok));
        }
        match found.is_empty() {
            true if seen.elapsed() > LOST => {
                return Err(Error::failed("pg_restore disappeared from the server's machine"));
            }
            true => {}
            false => seen = Instant::now(),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

async fn open(endpoint: &Endpoint, database: &str, deadline: &Deadline) -> Result<Session> {
    Session::open(endpoint, database, deadline).await.map_err(|e| match e {
        OpenError::Missing => Error::failed(format!("database `{database}` disappeared")),
        OpenError::Other(e) => e,
    })
}

fn no_right(role: &str) -> Error {
    Error::new(Kind::Permission, format!("role `{role}` may not run programs on the server"))
        .detail("`--through-server` dumps and restores by `COPY ... PROGRAM`, and starts pg_dump and pg_restore so")
        .hint("connect as a superuser, such as the POSTGRES_USER of a service container")
        .hint(format!("or permit it: GRANT pg_execute_server_program TO {};", sql::quote_ident(role)))
}

fn tag() -> String {
    format!("pgstencil_{}", random_text(16))
}

fn word(text: &str) -> String {
    shell_word(text)
}

/// Returns a connection string that names a database, whatever its name looks like.
fn connection_string(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn failed(program: &str, kind: Kind, code: i32, text: &str, endpoint: &Endpoint) -> Error {
    let error = Error::new(kind, format!("{program} failed on the server's machine (exit code {code})"));
    with_lines(error, text, endpoint)
}

fn with_lines(error: Error, text: &str, endpoint: &Endpoint) -> Error {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let shown = lines.iter().skip(lines.len().saturating_sub(6));
    shown.fold(error, |e, line| e.detail(endpoint.redact(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_leave_neither_the_connection_string_nor_the_word() {
        let odd = r#"a'b\c "d" $(e) `f` host=x"#;
        assert_eq!(connection_string(odd), r#"dbname='a\'b\\c "d" $(e) `f` host=x'"#);
        let printed = std::process::Command::new("sh")
            .args(["-c", &format!("printf %s {}", word(&connection_string(odd)))])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(printed.stdout).unwrap(), connection_string(odd));
    }

    #[test]
    fn the_end_of_an_output_is_no_part_of_it() {
        for length in [0, 1, 100, KEPT, 64 * KEPT + 7, 200_000] {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
            let whole = [&bytes[..], b"\n\ntag 3 it\nfailed"].concat();
            let mut text = Vec::new();
            for chunk in whole.chunks(57) {
                text.extend(STANDARD.encode(chunk).into_bytes());
                text.push(b'\n');
            }
            let mut out = Vec::new();
            let mut decoder = Decoder { to: &mut out, line: Vec::new(), end: Vec::new() };
            text.chunks(1001).for_each(|piece| decoder.take(piece).unwrap());
            let finished = decoder.finish("tag").unwrap();
            assert_eq!((finished.code, finished.errors.as_str()), (3, "it\nfailed"));
            assert!(out == bytes, "{length}");
        }
        let mut out = Vec::new();
        let mut decoder = Decoder { to: &mut out, line: Vec::new(), end: Vec::new() };
        decoder.take(format!("{}\n", STANDARD.encode("half a dump")).as_bytes()).unwrap();
        assert!(decoder.finish("tag").is_err());
        let mut decoder = Decoder { to: &mut out, line: Vec::new(), end: Vec::new() };
        assert!(decoder.take(b"no base64!\n").is_err());
    }
}
