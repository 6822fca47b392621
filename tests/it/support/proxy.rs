//! A relay in front of a server that counts how often a client waits for an answer, and may break off there.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::TestServer;

/// The connections, in the order in which they were opened.
#[derive(Default)]
struct Connections {
    /// How many there ever were; each has the number of those before it.
    opened: usize,
    /// Those since the last reset.
    all: Vec<Connection>,
}

struct Connection {
    number: usize,
    /// It is one of a process that goes on when its command has ended.
    background: bool,
    /// Messages of the query protocol that the client sent after the server had spoken.
    round_trips: usize,
}

impl Connections {
    fn open(&mut self) -> usize {
        let number = self.opened;
        self.opened += 1;
        self.all.push(Connection { number, background: false, round_trips: 0 });
        number
    }

    fn get(&mut self, number: usize) -> Option<&mut Connection> {
        self.all.iter_mut().find(|one| one.number == number)
    }
}

type Counts = Arc<Mutex<Connections>>;

/// What the relay does at a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// From here on it swallows everything, in every connection.
    Silent,
    /// It ends the connection before the server hears the question.
    CutBefore,
    /// It ends the connection when the server has answered the question, and keeps the answer.
    CutAfter,
}

/// Which question meets which fault.
#[derive(Default)]
struct Faults {
    asked: AtomicUsize,
    silent: AtomicBool,
    /// The connections with a lower number swallow everything, for good.
    stalled: AtomicUsize,
    planned: Mutex<Option<(usize, Fault)>>,
}

impl Faults {
    /// The fault that the next question meets.
    fn next(&self) -> Option<Fault> {
        let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let planned = *self.planned.lock().unwrap();
        let (at, fault) = planned?;
        if fault == Fault::Silent && number >= at {
            self.silent.store(true, Ordering::SeqCst);
        }
        (number == at).then_some(fault)
    }
}

/// The relay; it ends with the test process.
pub(crate) struct Proxy {
    port: u16,
    counts: Counts,
    faults: Arc<Faults>,
}

impl Proxy {
    pub(crate) fn new(server: &TestServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let counts = Counts::default();
        let to = (server.host(), server.port());
        let all = Arc::clone(&counts);
        let faults = Arc::<Faults>::default();
        let of_all = Arc::clone(&faults);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let server = TcpStream::connect((to.0.as_str(), to.1)).unwrap();
                let number = all.lock().unwrap().open();
                relay(client, server, Arc::clone(&all), number, Arc::clone(&of_all));
            }
        });
        Proxy { port, counts, faults }
    }

    /// Plans a fault for the `at`-th question from now on, counted over all connections.
    pub(crate) fn plan(&self, at: usize, fault: Fault) {
        *self.faults.planned.lock().unwrap() = Some((at, fault));
        self.faults.asked.store(0, Ordering::SeqCst);
    }

    /// Each connection that there is now falls silent in both directions, and its ends hear nothing of each
    /// other any more. Later connections are not touched.
    pub(crate) fn stall(&self) {
        let opened = self.counts.lock().unwrap().opened;
        self.faults.stalled.store(opened, Ordering::SeqCst);
    }

    /// How many questions there were since the last plan. Ends all faults.
    pub(crate) fn heal(&self) -> usize {
        *self.faults.planned.lock().unwrap() = None;
        self.faults.silent.store(false, Ordering::SeqCst);
        self.faults.asked.swap(0, Ordering::SeqCst)
    }

    /// The same URL by way of the relay.
    pub(crate) fn url(&self, server: &TestServer) -> String {
        self.relayed(server, &server.url("postgres"))
    }

    /// A URL of the server, such as that of a role, by way of the relay.
    pub(crate) fn relayed(&self, server: &TestServer, url: &str) -> String {
        let direct = format!("{}:{}", server.host(), server.port());
        assert!(url.contains(&direct), "{url}");
        url.replace(&direct, &format!("127.0.0.1:{}", self.port))
    }

    /// Forgets the connections so far.
    pub(crate) fn reset(&self) {
        self.counts.lock().unwrap().all.clear();
    }

    /// Round trips of each connection since then, without those of processes in the background.
    pub(crate) fn round_trips(&self) -> Vec<usize> {
        let connections = self.counts.lock().unwrap();
        let commands = connections.all.iter().filter(|one| !one.background);
        commands.map(|one| one.round_trips).collect()
    }
}

fn relay(client: TcpStream, server: TcpStream, counts: Counts, number: usize, faults: Arc<Faults>) {
    // Without this the two ends wait for each other's acknowledgements.
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let answered = Arc::new(AtomicBool::new(true));
    let cut_at_answer = Arc::new(AtomicBool::new(false));
    let (seen, cut) = (Arc::clone(&answered), Arc::clone(&cut_at_answer));
    let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let of_questions = Arc::clone(&faults);
    std::thread::spawn(move || {
        let stalled = || of_questions.stalled(number);
        pump(from, to, stalled, |bytes| {
            // The message that starts a session: after its length comes the version of the protocol, 3.0.
            let name = b"pgstencil background";
            if bytes.get(4..8) == Some(&[0, 3, 0, 0])
                && bytes.windows(name.len()).any(|part| part == name)
                && let Some(connection) = counts.lock().unwrap().get(number)
            {
                connection.background = true;
            }
            // Query, Parse, Bind: what asks. Not what starts a session, proves who one is, or ends it.
            let asks = matches!(bytes[0], b'Q' | b'P' | b'B');
            if seen.swap(false, Ordering::SeqCst) && asks {
                if let Some(connection) = counts.lock().unwrap().get(number) {
                    connection.round_trips += 1;
                }
                match of_questions.next() {
                    Some(Fault::CutBefore) => return Pass::Cut,
                    Some(Fault::CutAfter) => cut.store(true, Ordering::SeqCst),
                    Some(Fault::Silent) | None => {}
                }
            }
            of_questions.pass(number)
        });
    });
    std::thread::spawn(move || {
        let stalled = || faults.stalled(number);
        pump(server, client, stalled, |_| {
            answered.store(true, Ordering::SeqCst);
            match cut_at_answer.load(Ordering::SeqCst) {
                true => Pass::Cut,
                false => faults.pass(number),
            }
        });
    });
}

/// What becomes of some bytes.
enum Pass {
    On,
    Swallowed,
    Cut,
}

impl Faults {
    fn stalled(&self, connection: usize) -> bool {
        connection < self.stalled.load(Ordering::SeqCst)
    }

    fn pass(&self, connection: usize) -> Pass {
        match self.stalled(connection) || self.silent.load(Ordering::SeqCst) {
            true => Pass::Swallowed,
            false => Pass::On,
        }
    }
}

/// Copies until one side ends, then ends the other, unless the connection is stalled.
fn pump(
    mut from: TcpStream,
    mut to: TcpStream,
    stalled: impl Fn() -> bool,
    mut look: impl FnMut(&[u8]) -> Pass,
) {
    let mut buffer = [0; 65_536];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 {
            break;
        }
        match look(&buffer[..count]) {
            Pass::On => {}
            Pass::Swallowed => continue,
            Pass::Cut => {
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    if !stalled() {
        let _ = to.shutdown(Shutdown::Write);
    }
}
