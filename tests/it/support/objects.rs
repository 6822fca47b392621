//! A small HTTP server with objects: it speaks just enough S3, of the XML API of Google Cloud Storage
//! (<https://cloud.google.com/storage/docs/xml-api/reference-headers>), or of WebDAV, and can fail and lie.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// The key ID, secret and session token that requests are signed with.
pub(crate) const ID: &str = "AKIATESTER0000000000";
pub(crate) const SECRET: &str = "hush-secret-hush-secret-hush-secret-4711";
pub(crate) const SESSION: &str = "hush-session-token-4711";
/// Authorization of a server that is no S3, as the client gets and sends it.
pub(crate) const TOKEN: &str = "ann:hush-hush-4711";
const BASIC: &str = "Basic YW5uOmh1c2gtaHVzaC00NzEx";
/// An OAuth token, as Google's client gets and sends it.
pub(crate) const BEARER: &str = "hush-hush-bearer-4711";

/// How requests are answered.
#[derive(Default)]
pub(crate) struct Ways {
    /// Answer to requests with these methods, all or so many: status and code.
    pub(crate) refused: Option<Refusal>,
    /// Requests are not answered at all.
    pub(crate) hangs: bool,
    /// Conditions of a PUT are ignored.
    pub(crate) ignores_conditions: bool,
    /// Conditions of a PUT are refused as unknown.
    pub(crate) knows_no_conditions: bool,
    /// Objects whose keys contain this cannot be read.
    pub(crate) lost: Option<&'static str>,
    /// Objects as they are read, whatever was written since.
    pub(crate) old: Option<Objects>,
    /// It cannot list: no PROPFIND.
    pub(crate) lists_nothing: bool,
    /// It lists no tree at once: no PROPFIND with the depth infinity.
    pub(crate) lists_no_trees: bool,
    /// Time by which its clock is late.
    pub(crate) late: Duration,
}

pub(crate) struct Refusal {
    pub(crate) methods: &'static [&'static str],
    pub(crate) status: &'static str,
    pub(crate) code: &'static str,
    /// Requests that are refused; then all are answered.
    pub(crate) times: usize,
}

type Objects = BTreeMap<String, (Vec<u8>, SystemTime)>;

#[derive(Default)]
struct State {
    objects: Mutex<Objects>,
    ways: Mutex<Ways>,
    /// Method and key of each request.
    log: Mutex<Vec<String>>,
}

/// A store with one bucket, `bucket`.
pub(crate) struct ObjectServer {
    pub(crate) port: u16,
    state: Arc<State>,
}

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl ObjectServer {
    /// Starts the server, until the end of the program.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let of_thread = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&of_thread);
                std::thread::spawn(move || answer(&state, stream));
            }
        });
        ObjectServer { port, state }
    }

    /// Changes how requests are answered.
    pub(crate) fn ways(&self, change: impl FnOnce(&mut Ways)) {
        change(&mut self.state.ways.lock().unwrap());
    }

    pub(crate) fn refuse(
        &self,
        methods: &'static [&'static str],
        status: &'static str,
        code: &'static str,
        times: usize,
    ) {
        self.ways(|ways| ways.refused = Some(Refusal { methods, status, code, times }));
    }

    /// All is well again.
    pub(crate) fn heal(&self) {
        self.ways(|ways| *ways = Ways::default());
    }

    /// Keys of the objects that contain a text.
    pub(crate) fn keys(&self, text: &str) -> Vec<String> {
        let objects = self.state.objects.lock().unwrap();
        objects.keys().filter(|key| key.contains(text)).cloned().collect()
    }

    pub(crate) fn objects(&self) -> Objects {
        self.state.objects.lock().unwrap().clone()
    }

    pub(crate) fn remove(&self, text: &str) {
        self.state.objects.lock().unwrap().retain(|key, _| !key.contains(text));
    }

    /// Number of requests with a method and a text in the key since the last call.
    pub(crate) fn requests(&self, method: &str, text: &str) -> usize {
        let log = std::mem::take(&mut *self.state.log.lock().unwrap());
        log.iter().filter(|line| line.starts_with(method) && line.contains(text)).count()
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_owned()),
            None => break,
        };
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let query = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = query.map(|(name, value)| (name.to_owned(), decoded(value))).collect();
    Some(Request { method, path: decoded(path.trim_matches('/')), query, headers, body })
}

fn answer(state: &State, mut stream: TcpStream) {
    let Some(request) = read(&stream) else {
        return;
    };
    state.log.lock().unwrap().push(format!("{} {}", request.method, request.path));
    let (hangs, refused) = {
        let mut ways = state.ways.lock().unwrap();
        let refused = ways.refused.as_mut().filter(|refusal| refusal.methods.contains(&&*request.method));
        let refused = refused.filter(|refusal| refusal.times > 0).map(|refusal| {
            refusal.times -= 1;
            (refusal.status, refusal.code)
        });
        (ways.hangs, refused)
    };
    if hangs {
        // Until the other side has enough.
        let _ = stream.read(&mut [0]);
        return;
    }
    let (status, headers, body) = match refused {
        Some((status, code)) => error(status, code),
        None if !is_signed(&request) => error("403 Forbidden", "AccessDenied"),
        None => act(state, &request),
    };
    let length = match request.method.as_str() {
        "HEAD" => 0,
        _ => body.len(),
    };
    let mut head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}");
    if request.method != "HEAD" {
        write!(head, "Content-Length: {length}\r\n").unwrap();
    }
    let _ = stream.write_all(format!("{head}\r\n").as_bytes());
    let _ = stream.write_all(&body[..length]);
}

fn is_signed(request: &Request) -> bool {
    let given = request.headers.get("authorization").map(String::as_str).unwrap_or_default();
    let s3 = given.starts_with(&format!("AWS4-HMAC-SHA256 Credential={ID}/"));
    // What is signed never holds the secret.
    assert!(!given.contains(SECRET));
    s3 && request.headers.get("x-amz-security-token").is_some_and(|token| token == SESSION)
        || given == BASIC
        || given == format!("Bearer {BEARER}")
}

type Answer = (String, String, Vec<u8>);

fn error(status: &str, code: &str) -> Answer {
    // As the real one, it tells the request's own words again.
    let body = format!(
        "<Error><Code>{code}</Code><Message>no</Message><AWSAccessKeyId>{ID}</AWSAccessKeyId></Error>"
    );
    (status.into(), "Content-Type: application/xml\r\n".into(), body.into_bytes())
}

fn found(bytes: Vec<u8>) -> Answer {
    let hash = blake3::hash(&bytes).to_hex();
    let headers = format!(
        "ETag: \"{}\"\r\nx-goog-generation: 1\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n",
        &hash[..32]
    );
    ("200 OK".into(), headers, bytes)
}

fn act(state: &State, request: &Request) -> Answer {
    let ways = state.ways.lock().unwrap();
    let mut objects = state.objects.lock().unwrap();
    let (bucket, key) = request.path.split_once('/').unwrap_or((&request.path, ""));
    if bucket != "bucket" {
        return error("404 Not Found", "NoSuchBucket");
    }
    let readable = |key: &str| {
        let read = ways.old.as_ref().unwrap_or(&objects);
        read.get(key)
            .filter(|_| ways.lost.is_none_or(|lost| !key.contains(lost)))
            .map(|(bytes, _)| bytes.clone())
    };
    match request.method.as_str() {
        "GET" if key.is_empty() => {
            let prefix = &request.query["prefix"];
            let mut body =
                format!("<ListBucketResult><Prefix>{prefix}</Prefix><IsTruncated>false</IsTruncated>");
            for (key, (bytes, time)) in objects.iter().filter(|(key, _)| key.starts_with(prefix)) {
                let time = humantime::format_rfc3339_millis(*time);
                let size = bytes.len();
                write!(
                    body,
                    "<Contents><Key>{key}</Key><LastModified>{time}</LastModified><ETag>\"0\"</ETag><Size>{size}</Size></Contents>"
                )
                .unwrap();
            }
            body += "</ListBucketResult>";
            ("200 OK".into(), "Content-Type: application/xml\r\n".into(), body.into_bytes())
        }
        "GET" => readable(key).map_or_else(|| error("404 Not Found", "NoSuchKey"), found),
        "HEAD" => match readable(key) {
            Some(bytes) => {
                let (status, headers, body) = found(bytes);
                (status, format!("{headers}Content-Length: {}\r\n", body.len()), body)
            }
            None => error("404 Not Found", "NoSuchKey"),
        },
        "PUT" => {
            // S3 asks for "no such object" by a star, Google's storage by the generation 0.
            let google = request.headers.get("x-goog-if-generation-match");
            assert!(google.is_none_or(|generation| generation == "0"));
            let conditional = google.is_some() || request.headers.contains_key("if-none-match");
            if conditional && ways.knows_no_conditions {
                return error("501 Not Implemented", "NotImplemented");
            }
            if conditional && !ways.ignores_conditions && objects.contains_key(key) {
                return error("412 Precondition Failed", "PreconditionFailed");
            }
            objects.insert(key.to_owned(), (request.body.clone(), SystemTime::now() - ways.late));
            ("200 OK".into(), "ETag: \"0\"\r\n".into(), Vec::new())
        }
        "DELETE" => {
            objects.remove(key);
            ("204 No Content".into(), String::new(), Vec::new())
        }
        "PROPFIND" if ways.lists_nothing => error("405 Method Not Allowed", "MethodNotAllowed"),
        "PROPFIND" => {
            let infinite = request.headers["depth"] == "infinity";
            if infinite && ways.lists_no_trees {
                return error("403 Forbidden", "PropfindFiniteDepth");
            }
            let above = format!("{key}/");
            let below: Vec<_> = objects.iter().filter(|(key, _)| key.starts_with(&above)).collect();
            if below.is_empty() {
                return error("404 Not Found", "NoSuchKey");
            }
            let mut body = String::from("<D:multistatus xmlns:D=\"DAV:\">");
            let mut entry = |href: &str, kind: &str, size: usize| {
                write!(
                    body,
                    "<D:response><D:href>/bucket/{href}</D:href><D:propstat><D:prop>\
                     <D:getlastmodified>Thu, 01 Jan 2026 00:00:00 GMT</D:getlastmodified>\
                     <D:getcontentlength>{size}</D:getcontentlength><D:resourcetype>{kind}</D:resourcetype>\
                     </D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
                )
                .unwrap();
            };
            let mut directories = BTreeSet::from([key.to_owned()]);
            for (key, (bytes, _)) in below {
                let rest = &key[above.len()..];
                match rest.split_once('/') {
                    Some((directory, _)) if !infinite => {
                        directories.insert(format!("{above}{directory}"));
                    }
                    _ => entry(key, "", bytes.len()),
                }
            }
            directories.iter().for_each(|directory| entry(directory, "<D:collection/>", 0));
            body += "</D:multistatus>";
            ("207 Multi-Status".into(), "Content-Type: application/xml\r\n".into(), body.into_bytes())
        }
        _ => error("405 Method Not Allowed", "MethodNotAllowed"),
    }
}
