//! Other people's tools on the same server and, but for Django's, with the same schema of 100 tables,
//! beside `pgstencil clone` in the same rounds.

mod django;
mod dslr;
mod pytest_postgresql;
mod sqlx_test;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::place::{Place, tell};
use crate::project::{Generated, markdown};
use crate::samples::{Samples, ms, times};
use crate::subject::{Config, Subject, database};

/// A tool that is installed.
struct Peer<'s> {
    /// What is measured.
    what: &'static str,
    /// Measures it once.
    step: Box<dyn Fn() -> Duration + 's>,
    /// Removes what it leaves on the server.
    end: Box<dyn Fn() + 's>,
}

/// A peer, or what is needed for it.
type Found<'s> = Result<Peer<'s>, &'static str>;

const CLONE: &str = "`pgstencil clone`, warm";
const RUN: &str = "`pgstencil run -- psql -Xqc 'select 1'`, warm";

/// Prints a table of the peers that are there, and how to get the others.
pub(crate) fn measure(place: &Place, projects: &[PathBuf], rounds: usize) {
    println!("\n## Peers ({rounds} rounds)");
    let project = Generated::tables(100);
    let folder = project.folder();
    let found: [fn() -> bool; 3] = [dslr::there, pytest_postgresql::there, sqlx_test::there];
    if found.iter().any(|there| there()) {
        let subject = Subject::new(place, &folder);
        beside_clones(&subject, rounds);
    } else {
        for missing in [dslr::MISSING, pytest_postgresql::MISSING, sqlx_test::MISSING] {
            println!("\nSkipped: {missing}.");
        }
    }
    django::measure(place, projects, rounds);
}

fn beside_clones(subject: &Subject<'_>, rounds: usize) {
    let mut peers = Vec::new();
    for found in [dslr::find(subject), pytest_postgresql::find(subject), sqlx_test::find(subject)] {
        match found {
            Ok(peer) => peers.push(peer),
            Err(missing) => println!("\nSkipped: {missing}."),
        }
    }
    let mut samples = Samples::default();
    for round in 0..rounds {
        tell(&format!("peers: {}/{rounds}", round + 1));
        for i in 0..peers.len() + 2 {
            subject.settle();
            match (i + round) % (peers.len() + 2) {
                0 => {
                    let (took, url) = subject.pgstencil(Config::Warm, &["clone", "-q"]);
                    samples.add(CLONE, took);
                    subject.release(&[database(&url)]);
                }
                1 => {
                    let run = ["run", "-q", "--", "psql", "-Xqc", "select 1"];
                    samples.add(RUN, subject.pgstencil(Config::Warm, &run).0);
                }
                i => samples.add(peers[i - 2].what, (peers[i - 2].step)()),
            }
        }
    }
    let whats = [CLONE, RUN].into_iter().chain(peers.iter().map(|p| p.what));
    let rows: Vec<_> = whats
        .map(|what| {
            vec![
                what.into(),
                ms(samples.median(what)),
                times(samples.ratio(&[what], &[CLONE])),
                times(samples.ratio(&[what], &[RUN])),
            ]
        })
        .collect();
    for peer in &peers {
        (peer.end)();
    }
    let head = ["100 tables", "median ms", "÷ `clone`", "÷ `run -- psql`"];
    println!("{}", markdown(&head.map(str::to_owned), &rows));
    println!(
        "`clone` leaves the connection to its user and the drop to the background; a test connects, \
         and waits for its drop."
    );
    if !subject.fills() {
        println!("\n**No warm clones came: what is called warm is cold.**");
    }
}

/// Runs a command, which must succeed, and says what it took.
fn timed(command: &mut Command) -> Duration {
    let started = Instant::now();
    let output = command.output().unwrap();
    let took = started.elapsed();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    took
}

/// A program of the peers' Python environment.
fn python_tool(program: &str) -> Option<PathBuf> {
    let venv = std::env::var_os("PEERS_VENV")?;
    let tool = Path::new(&venv).canonicalize().ok()?.join("bin").join(program);
    tool.is_file().then_some(tool)
}

/// Whether that environment has these modules.
fn python_imports(modules: &str) -> bool {
    let Some(python) = python_tool("python") else {
        return false;
    };
    let import = format!("import {modules}");
    let output = Command::new(python).args(["-c", &import]).output();
    output.is_ok_and(|output| output.status.success())
}

/// Name and text of the migrations of a generated project, in order.
fn migrations(project: &Path) -> Vec<(String, String)> {
    let files = std::fs::read_dir(project.join("migrations")).unwrap();
    let mut files: Vec<_> = files.map(|f| f.unwrap().path()).collect();
    files.sort();
    let name = |file: &Path| file.file_stem().unwrap().to_str().unwrap().to_owned();
    files.iter().map(|file| (name(file), std::fs::read_to_string(file).unwrap())).collect()
}
