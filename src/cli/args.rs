//! What a person types: clap's types, nothing else.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::value::Host;
use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

const ABOUT: &str = "Keeps migrated Postgres template databases and hands out clones of them";

/// The version, with commit and date where they are known.
const VERSION: &str = env!("PGSTENCIL_VERSION");

const AFTER: &str = "\
Examples:
  pgstencil run -- pytest --reuse-db     a database of its own, dropped afterwards
  url=$(pgstencil clone)                 a clone that stays; see `release`
  pgstencil run --clones 4 -- ./shards   four databases: PGSTENCIL_URL_0 to _3

Exit codes:
  0 ok                      1 failed, or \"no\" for a check
  2 usage or config         3 server not reachable, or a right is missing
  4 a build command failed  5 timed out
  6 no such template/clone  7 name taken
  70 a bug in pgstencil     130 interrupted
  `run` passes the exit code of its command through (128+n for signal n).

`--help` shows the options that all commands share; `pgstencil help COMMAND` has more.";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "pgstencil", version = VERSION, about = ABOUT, after_help = AFTER, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) shared: Shared,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Shared options")]
// With `-h` a command shows its own; `--help` has these below them.
pub(crate) struct Shared {
    /// The config file, whoever owns it [env: PGSTENCIL_CONFIG] [default: pgstencil.toml here or in a
    /// directory above, if it belongs to you, to root or to the owner of the current directory]
    #[arg(long, global = true, hide_short_help = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The server [env: PGSTENCIL_SERVER_URL] [default: `[server] url`, else the private server]
    #[arg(long, global = true, hide_short_help = true, value_name = "URL", hide_env_values = true)]
    pub(crate) server_url: Option<String>,
    /// Host that hooks, CMD and printed URLs get in place of the server's own, as containers need it
    /// [env: PGSTENCIL_CLIENT_HOST] [default: `[server] client_host`]
    #[arg(long, global = true, hide_short_help = true, value_name = "HOST", value_parser = client_host)]
    pub(crate) client_host: Option<Host>,
    /// Port that they get [env: PGSTENCIL_CLIENT_PORT] [default: `[server] client_port`]
    #[arg(long, global = true, hide_short_help = true, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) client_port: Option<u16>,
    /// Bounds all waits together, such as `90s` or `5m` [default: as long as it takes]
    #[arg(long, global = true, hide_short_help = true, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) wait: Option<Duration>,
    /// Print one JSON object instead of words
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) json: bool,
    /// Say less: no status; twice: no warnings
    #[arg(short, long, global = true, hide_short_help = true, action = clap::ArgAction::Count, conflicts_with = "verbose")]
    pub(crate) quiet: u8,
    /// Say more: the output of build commands as it comes
    #[arg(short, long, global = true, hide_short_help = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// When to use colour: auto (on a terminal, unless NO_COLOR is set), always, never
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        value_name = "WHEN",
        default_value = "auto",
        hide_possible_values = true
    )]
    pub(crate) color: Color,
}

fn client_host(text: &str) -> Result<Host, &'static str> {
    text.parse().map_err(|_| "not a host name, address or socket directory; the port goes to --client-port")
}

/// `--color`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Also into files and pipes
    Always,
    /// Never
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command against a clone of its own, and give the clone back afterwards
    ///
    /// The command gets the clone in DATABASE_URL, the PG variables, PGSTENCIL_URL and what `[template.X.env]`
    /// maps. Its exit code is passed through. Ctrl-C goes to the command: on a terminal, three within two
    /// seconds end it (TERM, then KILL); without a terminal, the second one does.
    #[command(
        after_help = "Examples:\n  pgstencil run ./run-tests                        a database for this command\n  pgstencil run --clones 4 -- pytest -n 4          one for each worker: PGSTENCIL_URL_0 to _3\n  pgstencil run --keep-on-failure -- cargo test    leave it for a look if a test fails"
    )]
    Run(Run),
    /// Hand out a clone that outlives this command, and print its URL
    #[command(
        after_help = "Examples:\n  url=$(pgstencil clone)                  a database for 12 hours\n  pgstencil clone --name dev_{branch}     one for each branch; the same one again the next time\n  pgstencil clone --name dev --fresh      start over with it"
    )]
    Clone(CloneArgs),
    /// Build the template if it is missing; hand out nothing
    #[command(
        after_help = "Examples:\n  pgstencil ensure              build it before the tests are started\n  pgstencil ensure --rebuild    build it from nothing if it was extended"
    )]
    Ensure(Ensure),
    /// Say what decides the template, what changed since the nearest one, and what a command would do
    #[command(
        after_help = "Examples:\n  pgstencil explain                  why the next command builds, and what it costs\n  pgstencil explain -v -t app        with all files\n  pgstencil explain --against be81   compared with one template"
    )]
    Explain(Explain),
    /// Build from nothing beside the template, and compare; exit 1 if they differ
    #[command(
        after_help = "Examples:\n  pgstencil verify              the template of the present files\n  pgstencil verify --all        of all definitions, as a nightly job"
    )]
    Verify(Verify),
    /// Give clones back
    #[command(
        after_help = "Examples:\n  pgstencil release dev_main\n  pgstencil release --take ci_7   also if it belongs to another checkout"
    )]
    Release(Release),
    /// Show templates and clones
    #[command(
        after_help = "Examples:\n  pgstencil list\n  pgstencil list -v --clones            each warm clone in a line of its own\n  pgstencil list --json --state ready"
    )]
    List(List),
    /// Drop templates that the limits do not allow, or that are named; and clean up
    #[command(
        after_help = "Examples:\n  pgstencil evict --dry-run                     what is over the limits\n  pgstencil evict be819a32ef1e                  one template\n  pgstencil evict --all --project shop --yes    all that project shop has"
    )]
    Evict(Evict),
    /// Protect templates from eviction
    #[command(
        after_help = "Examples:\n  pgstencil pin                 the template of the present files\n  pgstencil pin be819a32ef1e    another one"
    )]
    Pin(Pin),
    /// Let eviction have templates again
    #[command(after_help = "Example:\n  pgstencil unpin be819a32ef1e")]
    Unpin(Pin),
    /// Release the clones of this repository whose branch or worktree is gone
    #[command(after_help = "Examples:\n  git branch -d done && pgstencil prune\n  pgstencil prune --dry-run")]
    Prune(Prune),
    /// Count hits, extensions and builds, and the time that they took and saved
    #[command(after_help = "Examples:\n  pgstencil stats --last 7d\n  pgstencil stats -t app --json")]
    Stats(Stats),
    /// Measure what copies of a template cost on this server, and have `auto` go by that
    #[command(after_help = "Example:\n  pgstencil bench --rounds 15")]
    Bench(Bench),
    /// Check the server, role, disk and registry for problems, with hints; exit 1 on a problem
    #[command(after_help = "Examples:\n  pgstencil doctor\n  pgstencil doctor --fix")]
    Doctor(Doctor),
    /// The private local Postgres
    #[command(
        subcommand,
        after_help = "Examples:\n  pgstencil server start\n  psql \"$(pgstencil server url)\"\n  pgstencil server remove --major 15"
    )]
    Server(Server),
    /// Show it all on a small project in a temporary directory
    #[command(after_help = "Example:\n  pgstencil demo")]
    Demo(Demo),
    /// The effective config; its JSON schema for editors
    #[command(
        subcommand,
        after_help = "Examples:\n  pgstencil config show\n  pgstencil config schema > pgstencil.schema.json"
    )]
    Config(Config),
    /// Print where config, state, logs, server and registry are
    #[command(
        after_help = "Examples:\n  pgstencil paths\n  tail -f \"$(pgstencil paths --json | jq -r .logs[0])\""
    )]
    Paths,
    /// Print completions for a shell
    #[command(
        after_help = "Example:\n  pgstencil completions bash > ~/.local/share/bash-completion/completions/pgstencil"
    )]
    Completions(Completions),
    /// Drop what nobody needs, off everybody's path; started by the other commands
    #[command(hide = true)]
    Background,
}

impl Command {
    /// Whether a database is to be named by the branch.
    pub(crate) fn names_branch(&self) -> bool {
        let making = match self {
            Command::Run(run) => &run.making,
            Command::Clone(clone) => &clone.making,
            _ => return false,
        };
        making.name.as_ref().is_some_and(|name| name.contains("{branch}"))
    }
}

/// Which definition.
#[derive(Args, Clone, Debug)]
pub(crate) struct Which {
    /// The `[template.NAME]` that is meant; not needed when the file has only one
    #[arg(short = 't', long = "template", value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// Leave the half-built database of a failed build for inspection, for a day
    #[arg(long)]
    pub(crate) keep_failed_build: bool,
}

/// How clones are made.
#[derive(Args, Clone, Debug)]
pub(crate) struct Making {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Make N clones; variables and names are numbered from 0
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=500))]
    pub(crate) clones: u16,
    /// Names of the databases, with these words in braces: id (unique), alias, n (0, 1 ...), shard,
    /// branch, worktree, project [default: `{project}_{alias}_{id}`]
    ///
    /// Without an n in the pattern, further clones get _1, _2 ... behind it. A value that is no plain name,
    /// or too long, is folded or cut, and ends in a short hash of the whole.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) name: Option<String>,
    /// If the template is missing, build it from nothing instead of extending an older one; also if that
    /// failed before
    #[arg(long)]
    pub(crate) full_build: bool,
    /// Part I of N (from 1): {shard}, PGSTENCIL_SHARD and PGSTENCIL_SHARDS
    #[arg(long, value_name = "I/N", value_parser = shard)]
    pub(crate) shard: Option<(u32, u32)>,
    /// Write the JSON object of `clone --json` to FILE, which only you can read then
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
}

/// `run`
#[derive(Args, Debug)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) making: Making,
    /// Leave the clone, and print its URL
    #[arg(long)]
    pub(crate) keep: bool,
    /// Leave the clone if the command fails, and print its URL
    #[arg(long, conflicts_with = "keep")]
    pub(crate) keep_on_failure: bool,
    /// The command with its arguments: from the first word that is no option on, or after `--`
    /// [default: your shell]
    #[arg(trailing_var_arg = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// `clone`
#[derive(Args, Debug)]
pub(crate) struct CloneArgs {
    #[command(flatten)]
    pub(crate) making: Making,
    /// Make the clone anew if there is one of this name
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Take a clone of this name over from its owner, with its data; with `--fresh` without its data and
    /// sessions
    #[arg(long)]
    pub(crate) take: bool,
    /// How long it is kept, such as `2h`, or `never` to keep it until it is released
    /// [default: as before; for a new one `[clone] ttl`, or `[clone] branch_ttl` if it is named by a local
    /// branch or a worktree]
    #[arg(long, value_name = "DURATION")]
    pub(crate) ttl: Option<String>,
}

/// `ensure`
#[derive(Args, Debug)]
pub(crate) struct Ensure {
    #[command(flatten)]
    pub(crate) which: Which,
    /// If the template is missing, build it from nothing instead of extending an older one; also if that
    /// failed before
    #[arg(long)]
    pub(crate) full_build: bool,
    /// If the template was extended, build it from nothing now, and wait until that has taken its
    /// place
    #[arg(long)]
    pub(crate) rebuild: bool,
}

/// `explain`
#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// Explain only `[template.NAME]` [default: all of the file]
    #[arg(short = 't', long = "template", value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// Compare with this template, by the first digits of its fingerprint [default: the nearest one]
    #[arg(long, value_name = "FINGERPRINT")]
    pub(crate) against: Option<String>,
}

/// `verify`
#[derive(Args, Debug)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Verify the templates of all definitions
    #[arg(long, conflicts_with = "template")]
    pub(crate) all: bool,
    /// Compare what the rows say, too, and which ids they have
    #[arg(long)]
    pub(crate) rows: bool,
    /// Keep what was built from nothing, in the place of the template
    #[arg(long)]
    pub(crate) replace: bool,
}

/// `release`
#[derive(Args, Debug)]
pub(crate) struct Release {
    /// Names or ids of clones
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Also those of other owners: of another role, machine or checkout
    #[arg(long)]
    pub(crate) take: bool,
}

/// `--state` of templates.
pub(crate) const TEMPLATE_STATES: [&str; 3] = ["building", "ready", "broken"];
/// `--state` of clones.
pub(crate) const CLONE_STATES: [&str; 5] = ["creating", "warm", "leased", "released", "orphaned"];

/// `list`
#[derive(Args, Debug)]
pub(crate) struct List {
    /// Only of definitions of this name
    #[arg(short = 't', long = "template", value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// Only of this project, of those that share the registry
    #[arg(long, value_name = "NAME")]
    pub(crate) project: Option<String>,
    /// Only in this state; the first three are those of templates, the others of clones
    #[arg(long, value_name = "STATE", value_parser = PossibleValuesParser::new(
        TEMPLATE_STATES.into_iter().chain(CLONE_STATES)
    ))]
    pub(crate) state: Option<String>,
    /// Only templates
    #[arg(long, conflicts_with = "clones")]
    pub(crate) templates: bool,
    /// Only clones
    #[arg(long)]
    pub(crate) clones: bool,
    /// By what: templates have all of these, clones name, age and size [default: by name, clones by age]
    #[arg(long, value_name = "KEY")]
    pub(crate) sort: Option<Sort>,
}

/// `--sort`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    /// Project, definition, fingerprint
    Name,
    /// Youngest first
    Age,
    /// Last used first
    Used,
    /// Largest first
    Size,
    /// Most hits first
    Hits,
}

/// `evict`
#[derive(Args, Debug)]
pub(crate) struct Evict {
    /// Fingerprints, or their first digits [default: the templates over the limits of their projects]
    #[arg(value_name = "FINGERPRINT", conflicts_with = "all", value_parser = digits)]
    pub(crate) templates: Vec<String>,
    /// All templates of this project that are not pinned; asks on a terminal
    #[arg(long)]
    pub(crate) all: bool,
    /// With `--all`: of this project, of those that share the registry [default: that of the config]
    #[arg(long, value_name = "NAME", requires = "all")]
    pub(crate) project: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Show what would go, and change nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
}

/// `prune`
#[derive(Args, Debug)]
pub(crate) struct Prune {
    /// Show what would be released, and change nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
}

/// `pin` and `unpin`
#[derive(Args, Debug)]
pub(crate) struct Pin {
    /// Fingerprints, or their first digits [default: the template of the current files]
    #[arg(value_name = "FINGERPRINT", value_parser = digits)]
    pub(crate) templates: Vec<String>,
    /// The definition whose present files are meant; not needed when the file has only one
    #[arg(short = 't', long = "template", value_name = "NAME", conflicts_with = "templates")]
    pub(crate) template: Option<String>,
}

/// `bench`
#[derive(Args, Debug)]
pub(crate) struct Bench {
    /// The `[template.NAME]` that is meant; not needed when the file has only one
    #[arg(short = 't', long = "template", value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// How often each strategy is measured
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) rounds: u8,
}

/// `doctor`
#[derive(Args, Debug)]
pub(crate) struct Doctor {
    /// Apply the safe fixes: clean up, discard templates that cannot be copied or were opened, and restore
    /// IS_TEMPLATE where it is missing
    #[arg(long)]
    pub(crate) fix: bool,
}

/// `stats`
#[derive(Args, Debug)]
pub(crate) struct Stats {
    /// Only of definitions of this name; of any project that shares the registry
    #[arg(short = 't', long = "template", value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// Only of the last `7d`, say, and `1000y` at most [default: as far back as the registry knows]
    #[arg(long, value_name = "DURATION", value_parser = last)]
    pub(crate) last: Option<Duration>,
}

/// `server`
#[derive(Debug, Subcommand)]
pub(crate) enum Server {
    /// Start it if it does not run, and print its URL
    #[command(after_help = "Example:\n  pgstencil server start")]
    Start,
    /// Stop it; its data stays
    ///
    /// The disk is synced then, so that a power loss takes nothing away. If another pgstencil command is
    /// at work on it, such as `run`, nothing is stopped, and the exit code is 1.
    #[command(after_help = "Example:\n  pgstencil server stop")]
    Stop(ServerStop),
    /// Say how it is; exit 1 if it does not run
    #[command(after_help = "Example:\n  pgstencil server status --json")]
    Status,
    /// Print its URL; exit 1 if it does not run
    #[command(after_help = "Example:\n  psql \"$(pgstencil server url)\"")]
    Url,
    /// Show the clusters of all PostgreSQL versions, and old data that was moved aside
    #[command(after_help = "Example:\n  pgstencil server list")]
    List,
    /// Remove clusters, with all that is in them; asks on a terminal
    ///
    /// Without options all clusters are removed. Nothing is removed while a clone is leased, a template is
    /// pinned, a client is connected, or a database is there that pgstencil did not make. A stopped server
    /// is started for that look.
    #[command(
        after_help = "Examples:\n  pgstencil server remove --major 15\n  pgstencil server remove --moved --yes"
    )]
    Remove(ServerRemove),
}

/// `server stop`
#[derive(Args, Debug)]
pub(crate) struct ServerStop {
    /// Stop it although another pgstencil command is at work on it
    #[arg(long)]
    pub(crate) force: bool,
}

/// `server remove`
#[derive(Args, Debug)]
pub(crate) struct ServerRemove {
    /// Only the cluster of this PostgreSQL version [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) major: Option<u32>,
    /// Only old data that was moved aside
    #[arg(long)]
    pub(crate) moved: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Also remove what is leased or pinned, databases that pgstencil did not make, and clusters that cannot
    /// be started for a look
    #[arg(long)]
    pub(crate) force: bool,
}

/// `demo`
#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// Leave the directory and its server
    #[arg(long)]
    pub(crate) keep: bool,
}

/// `config`
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Print the effective config, defaults included, without passwords
    #[command(after_help = "Example:\n  pgstencil config show")]
    Show,
    /// Print the JSON schema of pgstencil.toml
    #[command(after_help = "Example:\n  pgstencil config schema > pgstencil.schema.json")]
    Schema,
}

/// `completions`
#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// Which shell
    pub(crate) shell: clap_complete::Shell,
}

fn digits(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("give the first digits of a fingerprint; `pgstencil list` shows them".into()),
        digits => Ok(digits.to_owned()),
    }
}

fn last(text: &str) -> Result<Duration, String> {
    // The server's calendar ends some thousand years ago.
    let longest = humantime::parse_duration("1000y").map_err(|e| e.to_string())?;
    match humantime::parse_duration(text) {
        Ok(time) if time > longest => Err("that is more than `1000y`, the longest there is".into()),
        Ok(time) => Ok(time),
        Err(e) => Err(e.to_string()),
    }
}

fn shard(text: &str) -> Result<(u32, u32), String> {
    let wrong = || "write it as I/N, such as 1/3".to_owned();
    let (index, count) = text.split_once('/').ok_or_else(wrong)?;
    let index: u32 = index.parse().map_err(|_| wrong())?;
    let count: u32 = count.parse().map_err(|_| wrong())?;
    if index == 0 || index > count {
        return Err(format!("there is no part {index} of {count}: parts are counted from 1"));
    }
    Ok((index, count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn clap_finds_no_fault() {
        Arguments::command().debug_assert();
    }

    /// Every command and subcommand that people see, by the words that call it.
    fn commands() -> Vec<(String, clap::Command)> {
        let mut all = Vec::new();
        let mut top = Arguments::command();
        top.build();
        let mut next: Vec<_> = top.get_subcommands().map(|c| (String::new(), c.clone())).collect();
        while let Some((above, command)) = next.pop() {
            if command.is_hide_set() || command.get_name() == "help" {
                continue;
            }
            let name = format!("{above} {}", command.get_name());
            let below = command.get_subcommands().cloned();
            next.extend(below.map(|c| (name.clone(), c)));
            all.push((name, command));
        }
        all
    }

    #[test]
    fn every_help_has_an_example_and_keeps_the_shared_options_apart() {
        for (name, mut command) in commands() {
            let help = command.render_long_help().to_string();
            let (own, shared) = help.split_once("\nShared options:\n").expect(&name);
            for option in ["--config", "--server-url", "--wait", "--json", "--color"] {
                let line = format!("{option} <");
                let json = format!("{option}\n");
                assert!(shared.contains(&line) || shared.contains(&json), "{name}: {option}");
                assert!(!own.contains(&line), "{name}: {option} among its own");
            }
            let (_, examples) = shared.split_once("\nExample").expect(&name);
            let called = examples.lines().filter(|l| l.contains("pgstencil"));
            assert!(called.clone().count() > 0, "{name}");
            for line in called {
                assert!(line.contains(&format!("pgstencil{name}")), "{name}: {line}");
            }
            let short = command.render_help().to_string();
            assert!(!short.contains("Shared options"), "{short}");
        }
    }

    #[test]
    fn what_the_examples_say_can_be_typed() {
        let mut typed = 0;
        for (_, command) in commands() {
            let examples = command.get_after_help().map(ToString::to_string);
            for line in examples.unwrap_or_default().lines().skip(1) {
                let start = line.rfind("pgstencil ").unwrap_or_default();
                let start = match line.find("$(pgstencil").or(line.find("&& pgstencil")) {
                    Some(at) => at + line[at..].find("pgstencil").unwrap_or_default(),
                    None => start.min(line.find("pgstencil").unwrap_or(start)),
                };
                let line = line[start..].split("  ").next().unwrap_or_default();
                let line = line.split([')', '|', '>']).next().unwrap_or_default();
                let parsed = Arguments::try_parse_from(line.split_whitespace());
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
                typed += 1;
            }
        }
        assert!(typed > 25, "{typed}");
    }

    #[test]
    fn shards_are_counted_from_one() {
        assert_eq!(shard("2/3"), Ok((2, 3)));
        for bad in ["0/3", "4/3", "1", "a/b", "1/0"] {
            assert!(shard(bad).is_err(), "{bad}");
        }
    }
}
