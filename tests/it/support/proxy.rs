//! A relay in front of a server that counts how often a client waits for an answer.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::TestServer;

/// Round trips of each connection, in the order in which they were opened: messages of the query
/// protocol that the client sent after the server had spoken.
type Counts = Arc<Mutex<Vec<usize>>>;

/// The relay; it ends with the test process.
pub(crate) struct Proxy {
    port: u16,
    counts: Counts,
}

impl Proxy {
    pub(crate) fn new(server: &TestServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let counts = Counts::default();
        let to = (server.host(), server.port());
        let all = Arc::clone(&counts);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let server = TcpStream::connect((to.0.as_str(), to.1)).unwrap();
                let number = {
                    let mut all = all.lock().unwrap();
                    all.push(0);
                    all.len() - 1
                };
                relay(client, server, Arc::clone(&all), number);
            }
        });
        Proxy { port, counts }
    }

    /// The same URL by way of the relay.
    pub(crate) fn url(&self, server: &TestServer) -> String {
        let direct = format!("{}:{}", server.host(), server.port());
        let url = server.url("postgres");
        assert!(url.contains(&direct), "{url}");
        url.replace(&direct, &format!("127.0.0.1:{}", self.port))
    }

    /// Forgets the connections so far.
    pub(crate) fn reset(&self) {
        self.counts.lock().unwrap().clear();
    }

    /// Round trips of each connection since then.
    pub(crate) fn round_trips(&self) -> Vec<usize> {
        self.counts.lock().unwrap().clone()
    }
}

fn relay(client: TcpStream, server: TcpStream, counts: Counts, number: usize) {
    // Without this the two ends wait for each other's acknowledgements.
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let answered = Arc::new(AtomicBool::new(true));
    let seen = Arc::clone(&answered);
    let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || {
        pump(from, to, |bytes| {
            // Query, Parse, Bind: what asks. Not what starts a session, proves who one is, or ends it.
            let asks = matches!(bytes[0], b'Q' | b'P' | b'B');
            if seen.swap(false, Ordering::SeqCst)
                && asks
                && let Some(count) = counts.lock().unwrap().get_mut(number)
            {
                *count += 1;
            }
        });
    });
    std::thread::spawn(move || pump(server, client, |_| answered.store(true, Ordering::SeqCst)));
}

/// Copies until one side ends, then ends the other.
fn pump(mut from: TcpStream, mut to: TcpStream, mut look: impl FnMut(&[u8])) {
    let mut buffer = [0; 65_536];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 {
            break;
        }
        look(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
