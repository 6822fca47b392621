//! Whole commands beside each other: the table of the README.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, PgConnection};

use crate::place::{Place, close, tell};
use crate::project::{WARM, markdown};
use crate::samples::{Samples, ms, times};
use crate::subject::{Config, Subject, database};
use crate::support::{block_on, random_id};

const RAW: &str = "`CREATE DATABASE ... TEMPLATE` over an open connection";
const RAW_FILES: &str = "the same with `STRATEGY FILE_COPY`";
const CREATEDB: &str = "`createdb -T`";
const DROPDB: &str = "`dropdb`";
const RESTORE: &str = "`createdb` and `pg_restore` of a `pg_dump -Fc`";
const COLD: &str = "`pgstencil clone`, cold";
const CLONE: &str = "`pgstencil clone`, warm";
const RUN: &str = "`pgstencil run -- true`, warm";
const PSQL: &str = "`psql -Xc 'select 1'`";
const RAW_8: &str = "8 `CREATE DATABASE` at once over 8 open connections";
const CLONE_8: &str = "8 `pgstencil clone` at once, warm";

const THINGS: [&str; 11] =
    [RAW, RAW_FILES, CREATEDB, DROPDB, RESTORE, COLD, CLONE, RUN, PSQL, RAW_8, CLONE_8];

/// What is compared with what.
const RATIOS: [(&str, &[&str], &[&str]); 6] = [
    ("warm `clone` ÷ `psql`", &[CLONE], &[PSQL]),
    ("cold `clone` ÷ `createdb -T`", &[COLD], &[CREATEDB]),
    ("`run -- true` ÷ (`createdb -T` + `dropdb`)", &[RUN], &[CREATEDB, DROPDB]),
    ("`pg_restore` ÷ warm `clone`", &[RESTORE], &[CLONE]),
    ("8 `clone` at once ÷ 8 raw at once", &[CLONE_8], &[RAW_8]),
    ("cold `clone` ÷ raw SQL", &[COLD], &[RAW]),
];

/// Measures the projects, one after the other, and prints one table.
pub(crate) fn measure(place: &Place, projects: &[(String, PathBuf)], rounds: usize) {
    let mut columns = Vec::new();
    for (what, folder) in projects {
        tell(&format!("{what}: {rounds} rounds"));
        let subject = Subject::new(place, folder);
        let samples = rounds_of(&subject, rounds);
        columns.push((what, subject.bytes, subject.first_run, samples));
        if !subject.fills() {
            println!("\n**{what}: no warm clones came; what is called warm below is cold.**");
        }
    }
    let mut head = vec!["medians in ms".to_owned()];
    head.extend(columns.iter().map(|(what, bytes, ..)| format!("{what}, {:.0} MB", bytes / 1e6)));
    let mut rows = Vec::new();
    let row = |what: &str, value: &dyn Fn(&Samples) -> String| {
        let mut row = vec![what.to_owned()];
        row.extend(columns.iter().map(|(_, _, _, samples)| value(samples)));
        row
    };
    for thing in THINGS {
        rows.push(row(thing, &|samples| ms(samples.median(thing))));
    }
    let mut first = vec!["the first `run` of all, which builds the template".to_owned()];
    first.extend(columns.iter().map(|c| ms(Some(c.2.as_secs_f64() * 1e3))));
    rows.push(first);
    println!("\n## Commands ({rounds} rounds)\n{}", markdown(&head, &rows));
    head[0] = "medians of ratios within rounds".into();
    let rows: Vec<_> = RATIOS
        .iter()
        .map(|(what, over, under)| row(what, &|samples| times(samples.ratio(over, under))))
        .collect();
    println!("{}", markdown(&head, &rows));
}

fn rounds_of(subject: &Subject<'_>, rounds: usize) -> Samples {
    let bench = Bench::new(subject);
    let mut steps: Vec<fn(&Bench<'_, '_>, &mut Samples)> = vec![
        |b, s| s.add(RAW, b.raw("")),
        |b, s| b.createdb(s),
        |b, s| s.add(COLD, b.clone(Config::Cold)),
        |b, s| s.add(CLONE, b.clone(Config::Warm)),
        |b, s| s.add(RUN, b.run()),
        |b, s| s.add(PSQL, b.subject.client("psql", &["-Xc", "select 1"])),
        |b, s| s.add(RAW_8, b.raw_at_once()),
        |b, s| s.add(CLONE_8, b.clone_at_once()),
    ];
    if can_dump(subject.place) {
        bench.dump();
        steps.push(|b, s| s.add(RESTORE, b.restore()));
    }
    if subject.place.server.version_major() >= 15 {
        steps.insert(1, |b, s| s.add(RAW_FILES, b.raw(" strategy file_copy")));
    }
    let mut samples = Samples::default();
    // The first one warms up.
    for round in 0..=rounds {
        let mut unused = Samples::default();
        for i in 0..steps.len() {
            subject.settle();
            let into = if round == 0 { &mut unused } else { &mut samples };
            steps[(i + round) % steps.len()](&bench, into);
        }
    }
    subject.settle();
    samples
}

/// An older `pg_dump` refuses a newer server.
fn can_dump(place: &Place) -> bool {
    let mut version = std::process::Command::new(place.client("pg_dump"));
    let said = version.arg("--version").output().unwrap().stdout;
    let said = String::from_utf8(said).unwrap();
    let major = said.split([' ', '.']).find_map(|word| word.parse::<u32>().ok());
    let can = major.is_some_and(|major| major >= place.server.version_major());
    if !can {
        tell("no dump and no restore: this pg_dump is older than the server");
    }
    can
}

struct Bench<'s, 'p> {
    subject: &'s Subject<'p>,
    dump: tempfile::TempPath,
}

impl<'s, 'p> Bench<'s, 'p> {
    fn new(subject: &'s Subject<'p>) -> Self {
        let dump = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        Bench { subject, dump }
    }

    /// Makes the dump, of a copy, since the template is closed.
    fn dump(&self) {
        let copy = name();
        let client = |program, args: &[&str]| self.subject.client(program, args);
        client("createdb", &["-T", &self.subject.template, &copy]);
        client("pg_dump", &["-Fc", "-f", self.dump.to_str().unwrap(), &copy]);
        self.drop(&[copy]);
    }

    fn create(&self, name: &str, strategy: &str) -> String {
        format!("create database {name} template \"{}\"{strategy}", self.subject.template)
    }

    fn drop(&self, names: &[String]) {
        for name in names {
            let drop = format!("drop database {name}");
            self.subject.place.server.psql("postgres", &drop);
        }
    }

    fn raw(&self, strategy: &str) -> Duration {
        let name = name();
        let create = self.create(&name, strategy);
        let took = self.at_once(vec![create]);
        self.drop(&[name]);
        took
    }

    fn raw_at_once(&self) -> Duration {
        let names: Vec<_> = (0..WARM).map(|_| name()).collect();
        let took = self.at_once(names.iter().map(|n| self.create(n, "")).collect());
        self.drop(&names);
        took
    }

    /// Each statement in a session of its own, all at once, from the first's start to the last's end.
    fn at_once(&self, statements: Vec<String>) -> Duration {
        let server = &self.subject.place.server;
        block_on(async {
            let mut sessions = Vec::new();
            for statement in statements {
                sessions.push((server.admin().await, statement));
            }
            let started = Instant::now();
            let work = sessions.into_iter().map(|(mut session, statement)| async move {
                execute(&mut session, statement).await;
                session
            });
            let sessions = futures_util::future::join_all(work).await;
            let took = started.elapsed();
            for session in sessions {
                close(session).await;
            }
            took
        })
    }

    fn createdb(&self, samples: &mut Samples) {
        let (name, template) = (name(), &self.subject.template);
        samples.add(CREATEDB, self.subject.client("createdb", &["-T", template, &name]));
        samples.add(DROPDB, self.subject.client("dropdb", &[&name]));
    }

    fn restore(&self) -> Duration {
        let name = name();
        let dump = self.dump.to_str().unwrap();
        let took = self.subject.client("createdb", &["-T", "template0", &name])
            + self.subject.client("pg_restore", &["-d", &name, dump]);
        self.drop(&[name]);
        took
    }

    fn clone(&self, config: Config) -> Duration {
        let (took, url) = self.subject.pgstencil(config, &["clone", "-q"]);
        self.subject.release(&[database(&url)]);
        took
    }

    fn run(&self) -> Duration {
        let args = ["run", "-q", "--", "true"];
        self.subject.pgstencil(Config::Warm, &args).0
    }

    fn clone_at_once(&self) -> Duration {
        let started = Instant::now();
        let all: Vec<_> = (0..WARM).map(|_| self.subject.start_clone(Config::Warm)).collect();
        let outputs: Vec<_> = all.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
        let took = started.elapsed();
        let names: Vec<String> = outputs
            .iter()
            .map(|output| {
                assert!(output.status.success(), "{output:?}");
                database(std::str::from_utf8(&output.stdout).unwrap())
            })
            .collect();
        let different: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(different.len(), WARM, "handed out twice: {names:?}");
        self.subject.release(&names);
        took
    }
}

/// Runs one statement.
pub(crate) async fn execute(session: &mut PgConnection, statement: String) {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(session).await.unwrap();
}

/// A new database's.
pub(crate) fn name() -> String {
    format!("bench_{}", random_id())
}
