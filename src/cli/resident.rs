//! A background process that is still running gets the work of later commands, too.
//!
//! The start of a process, its connection, and statements that the server plans for the first time cost more than most
//! background work itself. So a background process stays: with its session for a moment, and without one as long as
//! there are warm clones that it may have to drop. A command of the same user, checkout and server hands its work over
//! instead of starting another one.
//!
//! It also answers questions of commands that only need a session with the registry: see [`super::hand_out`].
//!
//! They meet at a socket in Linux' abstract namespace (<https://man7.org/linux/man-pages/man7/unix.7.html>): it has no
//! file, so nothing is left behind by a process that was killed. Any process may listen at such an address, so the
//! listener must run under the user's own account. Elsewhere each command starts a process of its own.

use std::time::Duration;

use crate::Stencil;
use tokio::sync::mpsc::{Sender, UnboundedSender};

/// Time for which an idle process keeps its sessions, and for which one without warm clones stays.
pub(super) const STAY: Duration = Duration::from_secs(2);

/// Time for the handover. An idle process answers within less than a millisecond.
#[cfg(target_os = "linux")]
const PATIENCE: Duration = Duration::from_millis(50);

/// Answer to a line that will be worked on.
#[cfg(target_os = "linux")]
const TAKEN: u8 = b'1';

/// Begins a line that is a question.
#[cfg(target_os = "linux")]
const QUESTION: char = '?';

/// Answer of a process that a command has heard, and of the command that all is done.
pub(super) const HEARD: u8 = b'2';

/// Time for an answer, and for the end of what follows it. The command does the work by itself after that.
#[cfg(target_os = "linux")]
const ANSWER: Duration = Duration::from_millis(500);

/// Time in which a question has to be dealt with, so that nothing is done for a command that no longer waits.
pub(super) const WORK: Duration = Duration::from_millis(400);

/// Longest line that is read.
#[cfg(target_os = "linux")]
const LONGEST: u64 = 64 * 1024;

/// Returns the address at which the commands of this checkout and server meet; `None` if there is none.
///
/// It depends on everything that the process must have in common with the command: the program, the account, the
/// namespaces in which paths and process ids mean the same, the config and the server. It is visible to all accounts of
/// the machine, so the password is not part of it.
#[cfg(target_os = "linux")]
pub(super) fn address(stencil: &Stencil, trust: &[(&str, std::ffi::OsString)]) -> Option<String> {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::MetadataExt as _;

    let (config, endpoint) = (stencil.config(), stencil.endpoint());
    // Each that stays has a session.
    if endpoint.is_scarce() {
        return None;
    }
    let program = std::fs::metadata("/proc/self/exe").ok()?;
    let mounts = std::fs::read_link("/proc/self/ns/mnt").ok()?;
    let file = std::fs::canonicalize(&config.file).ok()?;
    let facts = serde_json::to_vec(&(
        (program.dev(), program.ino(), program.mtime(), program.mtime_nsec()),
        (
            rustix::process::geteuid().as_raw(),
            mounts,
            &stencil.holder().machine,
            stencil.holder().checkout.clone(),
        ),
        (file.as_os_str().as_bytes(), config.origin, config.server.registry.to_string()),
        (endpoint.server_url().to_string(), endpoint.socket(), endpoint.door(), endpoint.ssl_mode()),
        (&config.server.client_host, config.server.client_port, config.clone.orphan_grace),
    ))
    .ok()?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&facts);
    for (name, value) in trust {
        hasher.update(name.as_bytes()).update(value.as_bytes());
    }
    Some(format!("pgstencil/{}", hasher.finalize().to_hex()))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn address(_: &Stencil, _: &[(&str, std::ffi::OsString)]) -> Option<String> {
    None
}

/// Hands a line over to the process at an address. `false`: there is none, or it did not answer, so the line has to go
/// to a new one.
#[cfg(target_os = "linux")]
pub(super) fn give(address: &str, line: &str) -> bool {
    let give = || -> std::io::Result<bool> {
        use std::io::{Read as _, Write as _};

        let Some(mut stream) = connect(address)? else {
            return Ok(false);
        };
        stream.write_all(format!("{line}\n").as_bytes())?;
        let mut answer = [0];
        stream.read_exact(&mut answer)?;
        Ok(answer == [TAKEN])
    };
    give().unwrap_or(false)
}

/// Answer to a question. The process that answers waits for [`Answer::heard`]; if it never comes, the process undoes
/// what it did for the question.
pub(super) struct Answer {
    /// The line that came.
    pub(super) line: String,
    #[cfg(target_os = "linux")]
    stream: std::io::BufReader<std::os::unix::net::UnixStream>,
}

impl Answer {
    /// Says that the answer has reached its reader. Returns whether the other process finished its work then.
    #[cfg(target_os = "linux")]
    pub(super) fn heard(mut self) -> bool {
        use std::io::{Read as _, Write as _};

        let mut done = [0];
        self.stream.get_mut().write_all(&[HEARD]).is_ok()
            && self.stream.read_exact(&mut done).is_ok()
            && done == [HEARD]
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn heard(self) -> bool {
        false
    }

    /// Says that the answer has reached its reader, and returns the connection. `None`: the other process is gone, or
    /// has said more than its answer.
    #[cfg(target_os = "linux")]
    pub(super) fn into_stream(mut self) -> Option<std::os::unix::net::UnixStream> {
        use std::io::Write as _;

        self.stream.get_mut().write_all(&[HEARD]).ok()?;
        self.stream.buffer().is_empty().then(|| self.stream.into_inner())
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn into_stream(self) -> Option<std::os::unix::net::UnixStream> {
        None
    }
}

/// Asks the process at an address. `None`: there is none, or it cannot answer.
#[cfg(target_os = "linux")]
pub(super) fn ask(address: &str, question: &str) -> Option<Answer> {
    use std::io::{BufRead as _, BufReader, Write as _};

    let mut stream = connect(address).ok().flatten()?;
    stream.set_read_timeout(Some(ANSWER)).ok()?;
    stream.write_all(format!("{QUESTION}{question}\n").as_bytes()).ok()?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    line.ends_with('\n').then_some(Answer { line, stream })
}

#[cfg(not(target_os = "linux"))]
pub(super) fn ask(_: &str, _: &str) -> Option<Answer> {
    None
}

/// Connects to the process at an address; `None` if it belongs to another account.
#[cfg(target_os = "linux")]
fn connect(address: &str) -> std::io::Result<Option<std::os::unix::net::UnixStream>> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    use std::os::unix::net::UnixStream;

    // A process that was stopped accepts nothing, and once its queue is full, to connect would wait without a limit.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(address.as_bytes())?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    // What is written to it holds the server's password.
    let peer = rustix::net::sockopt::socket_peercred(&stream)?;
    if peer.uid != rustix::process::geteuid() {
        return Ok(None);
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(Some(stream))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn give(_: &str, _: &str) -> bool {
    false
}

/// Sends lines that other commands hand over at an address, until it is dropped.
pub(super) struct Listening(#[cfg(target_os = "linux")] tokio::task::JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        self.0.abort();
    }
}

/// Question of another command, which waits for the answer.
pub(super) struct Asked {
    /// The question.
    pub(super) line: String,
    #[cfg(target_os = "linux")]
    stream: tokio::net::UnixStream,
}

#[cfg(target_os = "linux")]
impl Asked {
    /// Answers. `false`: the command is gone.
    pub(super) async fn answer(&mut self, line: &str) -> bool {
        use tokio::io::AsyncWriteExt as _;

        self.stream.write_all(format!("{line}\n").as_bytes()).await.is_ok()
    }

    /// Waits until the answer has reached its reader. `false`: the command ended before.
    ///
    /// Cancel safety: nothing is lost.
    pub(super) async fn is_heard(&mut self) -> bool {
        self.word().await == Some(HEARD)
    }

    /// Waits for what the command says next; `None`: it ended, or closed the connection.
    ///
    /// Cancel safety: nothing is lost.
    pub(super) async fn word(&mut self) -> Option<u8> {
        use tokio::io::AsyncReadExt as _;

        let mut word = [0];
        self.stream.read(&mut word).await.ok().filter(|read| *read == 1).map(|_| word[0])
    }

    /// Says that all is done.
    pub(super) async fn done(mut self) {
        use tokio::io::AsyncWriteExt as _;

        // A command that is gone no longer needs to know.
        let _ = self.stream.write_all(&[HEARD]).await;
    }
}

#[cfg(not(target_os = "linux"))]
impl Asked {
    pub(super) async fn answer(&mut self, _: &str) -> bool {
        false
    }

    pub(super) async fn is_heard(&mut self) -> bool {
        false
    }

    pub(super) async fn word(&mut self) -> Option<u8> {
        None
    }

    pub(super) async fn done(self) {}
}

/// Listens at an address. `None`: another process does, or it is not possible here. A question that comes while an
/// earlier one waits in `questions` gets no answer.
#[cfg(target_os = "linux")]
pub(super) fn listen<T>(
    address: &str,
    lines: UnboundedSender<T>,
    questions: Sender<Asked>,
) -> Option<Listening>
where
    T: From<String> + Send + 'static,
{
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener};

    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(address).ok()?).ok()?;
    listener.set_nonblocking(true).ok()?;
    let listener = tokio::net::UnixListener::from_std(listener).ok()?;
    Some(Listening(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // One that says nothing must not keep the next ones waiting.
            let _ = tokio::time::timeout(PATIENCE, take(stream, &lines, &questions)).await;
        }
    })))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn listen<T>(_: &str, _: UnboundedSender<T>, _: Sender<Asked>) -> Option<Listening> {
    None
}

#[cfg(target_os = "linux")]
async fn take<T: From<String>>(
    mut stream: tokio::net::UnixStream,
    lines: &UnboundedSender<T>,
    questions: &Sender<Asked>,
) -> std::io::Result<()> {
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

    if stream.peer_cred()?.uid() != rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let mut line = String::new();
    BufReader::new((&mut stream).take(LONGEST)).read_line(&mut line).await?;
    // Without its end it was cut off.
    if !line.ends_with('\n') {
        return Ok(());
    }
    if let Some(question) = line.strip_prefix(QUESTION) {
        // If there is no room, the end of the connection is the answer.
        let _ = questions.try_send(Asked { line: question.to_owned(), stream });
    } else if lines.send(line.into()).is_ok() {
        stream.write_all(&[TAKEN]).await?;
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn unused(name: &str) -> String {
        format!("pgstencil/test/{name}/{}", std::process::id())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_line_reaches_the_process_that_listens() {
        let address = unused("listens");
        assert!(!give(&address, "early"));
        let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel::<String>();
        let (questions, _asked) = tokio::sync::mpsc::channel(1);
        let listening = listen(&address, sender.clone(), questions.clone()).unwrap();
        assert!(listen(&address, sender, questions).is_none());
        let (to, long) = (address.clone(), "x".repeat(20_000));
        let sent = long.clone();
        let given = tokio::task::spawn_blocking(move || give(&to, "one") && give(&to, &sent));
        assert!(given.await.unwrap());
        assert_eq!(lines.recv().await.unwrap(), "one\n");
        assert_eq!(lines.recv().await.unwrap().trim_end(), long);
        drop(listening);
        let gone = async {
            while tokio::task::spawn_blocking({
                let address = address.clone();
                move || give(&address, "late")
            })
            .await
            .unwrap()
            {}
        };
        tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
    }

    #[test]
    fn a_queue_that_is_full_keeps_no_command_waiting() {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

        let address = unused("full");
        let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new_abstract_name(address.as_bytes()).unwrap())
            .unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        let waiting: Vec<_> = std::iter::from_fn(|| connect(&address).ok()).take(100).collect();
        assert!((1..100).contains(&waiting.len()));
        let (done, given) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send((give(&address, "line"), ask(&address, "why?").is_some())));
        assert_eq!(given.recv_timeout(Duration::from_secs(20)), Ok((false, false)));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_line_that_was_cut_off_is_not_worked_on() {
        use std::io::Write as _;
        use std::os::linux::net::SocketAddrExt as _;
        let address = unused("cut");
        let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel::<String>();
        let _listening = listen(&address, sender, tokio::sync::mpsc::channel(1).0).unwrap();
        let name = std::os::unix::net::SocketAddr::from_abstract_name(&address).unwrap();
        let mut stream = std::os::unix::net::UnixStream::connect_addr(&name).unwrap();
        stream.write_all(b"half").unwrap();
        drop(stream);
        let to = address.clone();
        assert!(tokio::task::spawn_blocking(move || give(&to, "whole")).await.unwrap());
        assert_eq!(lines.recv().await.unwrap(), "whole\n");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_question_is_answered_until_its_asker_is_gone() {
        let address = unused("asks");
        let (questions, mut asked) = tokio::sync::mpsc::channel(1);
        let (lines, _lines) = tokio::sync::mpsc::unbounded_channel::<String>();
        let _listening = listen(&address, lines, questions).unwrap();
        let asker = |heard: bool| {
            let address = address.clone();
            tokio::task::spawn_blocking(move || {
                let answer = ask(&address, "how many?").unwrap();
                assert_eq!(answer.line, "three\n");
                heard && answer.heard()
            })
        };
        let listener = asker(true);
        let mut one = asked.recv().await.unwrap();
        assert_eq!(one.line, "how many?\n");
        assert!(one.answer("three").await && one.is_heard().await);
        one.done().await;
        assert!(listener.await.unwrap());
        // An asker that ends after the answer has not heard it.
        let deaf = asker(false);
        let mut two = asked.recv().await.unwrap();
        assert!(two.answer("three").await);
        assert!(!two.is_heard().await);
        assert!(!deaf.await.unwrap());
        // A question that is put aside gets no answer.
        let unanswered = tokio::task::spawn_blocking({
            let address = address.clone();
            move || ask(&address, "why?").is_none()
        });
        drop(asked.recv().await.unwrap());
        assert!(unanswered.await.unwrap());
    }
}
