//! The lease of `run` without a session of its own: another process of the same user holds the clone's advisory lock.
//!
//! The two are connected by a socket, which the kernel closes if either of them is killed. If the command ends without a
//! word, the other process releases the lock, and the cleanup takes the clone as if a session had ended. If the other
//! process ends, so do its session and the lock: the command notices at once, opens a session of its own, and takes
//! the lock again; the cleanup waits `orphan_grace` for that.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

/// Asks the other process to release the clones.
pub(crate) const RELEASE: u8 = b'3';

/// Time for a release. A server that has many clones to drop takes a while.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connection to the process that holds the locks of some clones. They are not released by dropping it, but left to
/// the cleanup.
#[derive(Debug)]
pub(crate) struct Custody(UnixStream);

impl Custody {
    /// Takes over a connection to a process that holds the locks already.
    ///
    /// # Errors
    /// Those of the socket.
    pub(crate) fn new(stream: StdStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Custody(UnixStream::from_std(stream)?))
    }

    /// Returns whether the other process is gone. It says nothing until it is asked.
    pub(crate) fn is_lost(&self) -> bool {
        !matches!(self.0.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Waits until the other process is gone, or may be: see [`Custody::is_lost`].
    ///
    /// Cancel safety: nothing is lost.
    pub(crate) async fn news(&self) {
        // An error of the wait itself is news, too.
        let _ = self.0.readable().await;
    }

    /// Has the clones released, and returns the answer; `None` if the other process is gone or does not answer: then
    /// they may be released or not.
    pub(crate) async fn release(mut self) -> Option<String> {
        let released = async {
            self.0.write_all(&[RELEASE]).await.ok()?;
            let mut line = String::new();
            BufReader::new(self.0).read_line(&mut line).await.ok()?;
            line.ends_with('\n').then_some(line)
        };
        tokio::time::timeout(PATIENCE, released).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    fn pair() -> (Custody, StdStream) {
        let (ours, theirs) = StdStream::pair().unwrap();
        (Custody::new(ours).unwrap(), theirs)
    }

    #[tokio::test]
    async fn it_is_lost_when_the_other_process_is_gone() {
        let (custody, other) = pair();
        assert!(!custody.is_lost());
        drop(other);
        custody.news().await;
        assert!(custody.is_lost());
        assert_eq!(custody.release().await, None);
    }

    #[tokio::test]
    async fn a_release_returns_the_whole_answer() {
        let answers = [(&b"[]\n"[..], Some("[]\n")), (b"[", None), (b"", None)];
        for (answer, expected) in answers {
            let (custody, mut other) = pair();
            let thread = std::thread::spawn(move || {
                let mut asked = [0];
                other.read_exact(&mut asked).unwrap();
                other.write_all(answer).unwrap();
                asked
            });
            assert_eq!(custody.release().await.as_deref(), expected);
            assert_eq!(thread.join().unwrap(), [RELEASE]);
        }
    }
}
