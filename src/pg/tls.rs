//! Whether a server offers TLS, as a client sees it.
//!
//! The driver does not tell whether a session is encrypted, and the server's own view
//! (`pg_stat_ssl`) is not that of a client if a proxy in between ends TLS. So this asks as libpq does: with the
//! message [SSLRequest](https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL), which the
//! server answers with one byte before anything else.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Length of the message, and the code that stands in place of a version.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// The answer of a server without TLS.
const NO: u8 = b'N';
/// Time for the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Returns whether the server says that it has no TLS; `None` if it does not answer.
pub(super) async fn is_refused(host: &str, port: u16) -> Option<bool> {
    let ask = async {
        let mut stream = TcpStream::connect((host, port)).await.ok()?;
        stream.write_all(&SSL_REQUEST).await.ok()?;
        let mut answer = [0];
        stream.read_exact(&mut answer).await.ok()?;
        Some(answer == [NO])
    };
    tokio::time::timeout(PATIENCE, ask).await.ok()?
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// What a server that gives this answer is said to do.
    async fn of(answer: &'static [u8]) -> Option<bool> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 8];
            stream.read_exact(&mut asked).await.unwrap();
            assert_eq!(asked, SSL_REQUEST);
            stream.write_all(answer).await.unwrap();
        };
        tokio::join!(is_refused("127.0.0.1", port), server).0
    }

    #[tokio::test]
    async fn the_answer_of_the_server_decides() {
        assert_eq!(of(b"N").await, Some(true));
        assert_eq!(of(b"S").await, Some(false));
        // An error message, from a server before 7.0 or one without a free slot.
        assert_eq!(of(b"E").await, Some(false));
        assert_eq!(of(b"").await, None);
        assert_eq!(is_refused("127.0.0.1", 1).await, None);
    }
}
