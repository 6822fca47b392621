//! The command line's top level: shared options, options that several commands have, and the help text. Each
//! command has its own options next to its code.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, ValueEnum};

use super::commands::Command;
use crate::config::value::Host;

const ABOUT: &str = "Keeps migrated Postgres template databases and creates clones of them";

/// The version, with commit and date where they are known.
pub(crate) const VERSION: &str = env!("PGSTENCIL_VERSION");

const AFTER: &str = "\
Examples:
  pgstencil run -- pytest --reuse-db     a database of its own, dropped afterwards
  url=$(pgstencil clone)                 a clone that is kept; see `release`
  pgstencil run --clones 4 -- ./shards   four databases: PGSTENCIL_URL_0 to _3

Environment:
  PGSTENCIL_CONFIG, PGSTENCIL_SERVER_URL,
  PGSTENCIL_CLIENT_HOST, PGSTENCIL_CLIENT_PORT  as the options of these names
  PGSTENCIL_OWNER      owner of clones, instead of machine and checkout
  PGSTENCIL_STATE_DIR  directory of the private server and its log
  PGSTENCIL_FETCH_URL  where `server fetch` gets Postgres from
  PGHOST, PGPORT, PGUSER, PGPASSWORD, PGPASSFILE, PGSSLMODE ...
                       complete the server URL; alone they select no server
  XDG_CACHE_HOME       directory of the cache of file hashes and of copies of trees
  PGSTENCIL_PUSH=1     push to the remote store from outside CI
  PGSTENCIL_UNTRUSTED=1
                       for jobs of forks: use templates, build only in own clones
  PGSTENCIL_BACKGROUND=off
                       nothing in the background, as `[clone] background`
  NO_COLOR             no colours
  CI                   no live status line; PGPASSWORD also goes to a server
                       that another user's config names

Exit codes:
  0 ok                      1 failed, or \"no\" for a check
  2 usage or config         3 server not reachable, or a privilege is missing
  4 a build failed          5 timed out
  6 no such template/clone  7 name taken
  70 a bug in pgstencil     130 interrupted
  `run` exits with the exit code of its command (128+n for signal n).

`pgstencil help COMMAND` describes a command.
Configuration reference: `pgstencil config schema`, and config/pgstencil.toml in the source.";

/// The commands in the order and under the headings of `pgstencil --help`.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Databases", &["run", "clone", "release", "prune", "serve"]),
    ("Templates", &["ensure", "explain", "verify", "evict", "pin", "unpin", "push", "pull", "remote"]),
    ("Inspect", &["list", "stats", "doctor", "bench", "paths"]),
    ("Set up", &["init", "server", "cache", "ci", "config", "demo", "completions", "man", "help"]),
];

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "pgstencil", version = VERSION, about = ABOUT, after_help = AFTER)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) shared: Shared,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    /// Parses the words of a command line, the program's name first.
    ///
    /// # Errors
    /// Clap's; also for `--help` and `--version`.
    pub(crate) fn parse_words<I, T>(words: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString>,
    {
        let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
        match Arguments::try_parse_from(&words) {
            // Only help needs its final form, and to make that costs more than to parse.
            Err(error) if is_help(&error) => {
                Err(command().try_get_matches_from(&words).err().unwrap_or(error))
            }
            parsed => parsed,
        }
    }
}

fn is_help(error: &clap::Error) -> bool {
    matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand)
}

/// The command line as clap knows it, with the help in its final form: commands in groups, and of the shared
/// options only the names where a command describes its own.
pub(crate) fn command() -> clap::Command {
    let mut top = Arguments::command();
    // The shared options reach the commands when they are built.
    top.build();
    let mut groups = String::new();
    for (heading, names) in GROUPS {
        let _ = writeln!(groups, "{heading}:");
        for name in names {
            let about = top.find_subcommand(name).and_then(clap::Command::get_about);
            let _ = writeln!(groups, "  {name:<12} {}", about.map(ToString::to_string).unwrap_or_default());
        }
        groups.push('\n');
    }
    let groups =
        groups.replace("Print this message or the help of the given subcommand(s)", "Describe a command");
    let template =
        format!("{{about}}\n\n{{usage-heading}} {{usage}}\n\n{groups}Options:\n{{options}}{{after-help}}\n");
    let shared: Vec<String> =
        shared_options().filter_map(|option| Some(format!("--{}", option.get_long()?))).collect();
    let line = format!("Shared options: {}\n  `pgstencil --help` describes them.", shared.join(", "));
    let names: Vec<clap::Id> = shared_options().map(|option| option.get_id().clone()).collect();
    top.mut_subcommands(|command| with_shared_in_a_line(command, &names, &line)).help_template(template)
}

/// The options of [`Shared`].
fn shared_options() -> impl Iterator<Item = clap::Arg> {
    let shared = Shared::augment_args(clap::Command::new("shared"));
    shared.get_arguments().cloned().collect::<Vec<_>>().into_iter()
}

fn with_shared_in_a_line(command: clap::Command, names: &[clap::Id], line: &str) -> clap::Command {
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let command = command.mut_args(|option| match names.contains(option.get_id()) {
        true => option.hide(true),
        false => option,
    });
    let after = format!("{examples}\n\n{line}");
    command.after_help(after).mut_subcommands(|below| with_shared_in_a_line(below, names, line))
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Shared options")]
// A command's own help only names these; see `command()`.
pub(crate) struct Shared {
    /// Config file, of any owner [env: PGSTENCIL_CONFIG] [default: pgstencil.toml here or in a directory
    /// above, if it belongs to you, to root or to the owner of the current directory]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Server [env: PGSTENCIL_SERVER_URL] [default: `[server] url`, else the private server]
    #[arg(long, global = true, value_name = "URL", hide_env_values = true)]
    pub(crate) server_url: Option<String>,
    /// Host of the server for hooks, CMD and printed URLs, such as in containers
    /// [env: PGSTENCIL_CLIENT_HOST] [default: `[server] client_host`]
    #[arg(long, global = true, value_name = "HOST", value_parser = client_host)]
    pub(crate) client_host: Option<Host>,
    /// Port of the server for hooks, CMD and printed URLs [env: PGSTENCIL_CLIENT_PORT] [default: `[server] client_port`]
    #[arg(long, global = true, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) client_port: Option<u16>,
    /// Give up if waiting and building take longer than DURATION in total, such as `5m` [default: no limit]
    #[arg(long, global = true, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) wait: Option<Duration>,
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print no status messages; twice: no warnings either
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "verbose")]
    pub(crate) quiet: u8,
    /// Print more, such as the output of build commands
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// When to use colour: auto (on a terminal, unless NO_COLOR is set), always, never
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
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

// Doc comments of these two structs would become the help of the command that has them.
#[derive(Args, Clone, Debug)]
pub(crate) struct Which {
    /// Template definition to use [default: the only one]
    #[arg(short = 't', long = "template", value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// Keep the database of a failed build for a day
    #[arg(long)]
    pub(crate) keep_failed_build: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Making {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Create N clones; variables and names are numbered from 0
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=500))]
    pub(crate) clones: u16,
    /// Name pattern, such as `test_{branch}`; fields in braces: id (unique), alias, n (0, 1 ...), n1 (1, 2 ...),
    /// shard, branch, worktree, project [default: `{project}_{alias}_{id}`]
    ///
    /// `x{-n}` names the first clone x and the others x-0, x-1 ...; `x{-n1}` x, x-1, x-2 ...; `_` and `.` may stand
    /// for the hyphen. Without n in the pattern, further clones get the suffix _1, _2 ... A value that is not a plain name, or too
    /// long, is folded or cut, and ends in a short hash of the whole value.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) name: Option<String>,
    /// If the template is missing, run a full build instead of an incremental one
    #[arg(long)]
    pub(crate) full_build: bool,
    /// Part I of N (from 1): {shard}, PGSTENCIL_SHARD and PGSTENCIL_SHARDS
    #[arg(long, value_name = "I/N", value_parser = shard)]
    pub(crate) shard: Option<(u32, u32)>,
    /// Write the JSON object of `clone --json` to FILE, readable only by you
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
}

/// A fingerprint, or its first digits.
///
/// # Errors
/// A text without digits.
pub(crate) fn digits(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("give the first digits of a fingerprint; `pgstencil list` shows them".into()),
        digits => Ok(digits.to_owned()),
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

    #[test]
    fn clap_finds_no_fault() {
        Arguments::command().debug_assert();
        command().debug_assert();
    }

    /// Every command and subcommand that people see, by the words that call it.
    fn commands() -> Vec<(String, clap::Command)> {
        let mut all = Vec::new();
        let top = command();
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

    const SHARED: [&str; 9] = [
        "--config",
        "--server-url",
        "--client-host",
        "--client-port",
        "--wait",
        "--json",
        "--quiet",
        "--verbose",
        "--color",
    ];

    #[test]
    fn every_help_has_an_example_and_the_shared_options_in_a_line() {
        for (name, mut command) in commands() {
            let help = command.render_long_help().to_string();
            let (own, rest) = help.split_once("\nExample").expect(&name);
            let (examples, shared) = rest.split_once("\nShared options: ").expect(&name);
            let words = shared.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(words.starts_with(&SHARED.join(", ")), "{name}: {shared}");
            for option in SHARED {
                let described = |line: &str| line.trim_start().trim_start_matches("-q, ").starts_with(option);
                assert!(!own.lines().any(described), "{name}: {option} among its own");
            }
            let called = examples.lines().filter(|l| l.contains("pgstencil"));
            assert!(called.clone().count() > 0, "{name}");
            for line in called {
                assert!(line.contains(&format!("pgstencil{name}")), "{name}: {line}");
            }
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(about.len() < 60 && !about.contains(';'), "{name}: {about}");
        }
    }

    #[test]
    fn the_top_level_has_every_command_once_and_describes_the_shared_options() {
        let help = command().render_long_help().to_string();
        for (name, _) in commands().iter().filter(|(name, _)| name.matches(' ').count() == 1) {
            let line = format!("\n {name} ");
            assert_eq!(help.matches(&line).count(), 1, "{name}:\n{help}");
        }
        for option in SHARED {
            assert!(help.contains(option), "{option}");
        }
        for heading in ["Databases:", "Templates:", "Inspect:", "Set up:", "Environment:", "Exit codes:"] {
            assert!(help.contains(heading), "{heading}");
        }
        assert!(!help.contains("\n  background"), "{help}");
    }

    #[test]
    fn the_shared_options_may_stand_behind_a_command() {
        let parsed = Arguments::parse_words(["pgstencil", "list", "--json", "--wait", "5s", "-q"]).unwrap();
        assert!(parsed.shared.json && parsed.shared.quiet == 1 && parsed.shared.wait.is_some());
        let parsed = Arguments::parse_words(["pgstencil", "--json", "server", "list"]).unwrap();
        assert!(parsed.shared.json);
    }

    #[test]
    fn what_the_examples_say_can_be_typed() {
        let mut typed = 0;
        for (_, command) in commands() {
            let examples = command.get_after_help().map(ToString::to_string);
            let examples = examples.unwrap_or_default();
            for line in examples.lines().skip(1).take_while(|line| !line.is_empty()) {
                let start = line.rfind("pgstencil ").unwrap_or_default();
                let start = match line.find("$(pgstencil").or(line.find("&& pgstencil")) {
                    Some(at) => at + line[at..].find("pgstencil").unwrap_or_default(),
                    None => start.min(line.find("pgstencil").unwrap_or(start)),
                };
                let line = line[start..].split("  ").next().unwrap_or_default();
                let line = line.split([')', '|', '>']).next().unwrap_or_default();
                let parsed = Arguments::parse_words(line.split_whitespace());
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
