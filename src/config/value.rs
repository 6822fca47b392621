//! Values of keys that are written as one string. Each type says what it takes and why not, how it is written,
//! and what the schema says of it, so a key of the type needs no code of its own.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use globset::GlobBuilder;
use regex::Regex;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{MAX_NAME, is_host};
use crate::error::Error;
use crate::quantity::setting;
use crate::url::ServerUrl;

/// Longer durations are meant as "never", and would overflow a clock somewhere.
const MAX_DURATION: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// Why a string is no value of its key. As text it has one line for the reason, which goes on after the key's name,
/// and one for each detail and hint: that is how it passes through the TOML reader.
#[derive(Debug, Default)]
pub struct Refusal {
    /// Of a list: which of its strings.
    index: Option<usize>,
    why: String,
    details: Vec<String>,
    hints: Vec<String>,
}

/// In front of a line that is a hint.
const HINT: &str = "hint: ";

impl Refusal {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Refusal { why: why.into(), ..Refusal::default() }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    pub(super) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.details.push(detail.into());
        self
    }

    /// Reads the text form; also gives the place in the list.
    pub(super) fn from_text(text: &str) -> (Option<usize>, Self) {
        let mut lines = text.lines();
        let why = lines.next().unwrap_or_default();
        let placed = why.strip_prefix('[').and_then(|rest| rest.split_once("] "));
        let (index, why) = match placed.and_then(|(index, why)| Some((index.parse().ok()?, why))) {
            Some((index, why)) => (Some(index), why),
            None => (None, why),
        };
        let mut refusal = Refusal::new(why);
        for line in lines {
            match line.strip_prefix(HINT) {
                Some(hint) => refusal.hints.push(hint.to_owned()),
                None => refusal.details.push(line.to_owned()),
            }
        }
        (index, refusal)
    }

    /// The error whose message begins with the place and the name of the key.
    pub(super) fn about(self, subject: impl fmt::Display) -> Error {
        let space = if self.why.starts_with(':') { "" } else { " " };
        let error = Error::config(format!("{subject}{space}{}", self.why));
        let error = self.details.into_iter().fold(error, Error::detail);
        self.hints.into_iter().fold(error, Error::hint)
    }
}

impl From<Error> for Refusal {
    /// An error of a parser that knows nothing of keys.
    fn from(error: Error) -> Self {
        Refusal {
            index: None,
            why: format!(": {error}"),
            details: error.details().to_vec(),
            hints: error.hints().to_vec(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(index) = self.index {
            write!(f, "[{index}] ")?;
        }
        f.write_str(&self.why)?;
        for line in &self.details {
            write!(f, "\n{line}")?;
        }
        self.hints.iter().try_for_each(|hint| write!(f, "\n{HINT}{hint}"))
    }
}

impl std::error::Error for Refusal {}

/// A value that is written as one string.
pub(super) trait Written: Sized {
    /// Values that are typical where a number alone means nothing.
    const EXAMPLES: &'static [&'static str] = &[];

    fn read(text: &str) -> Result<Self, Refusal>;

    fn write(&self) -> Cow<'_, str>;
}

/// Reads a list of such values: an error of the reader names the list, but not which value it is.
pub(super) fn list<'de, D: Deserializer<'de>, T: Written>(from: D) -> Result<Vec<T>, D::Error> {
    let read = |(index, text): (usize, &String)| {
        T::read(text).map_err(|why| de::Error::custom(Refusal { index: Some(index), ..why }))
    };
    Vec::<String>::deserialize(from)?.iter().enumerate().map(read).collect()
}

/// What follows from [`Written`].
macro_rules! written {
    ($($name:ident),* $(,)?) => {$(
        impl FromStr for $name {
            type Err = Refusal;

            fn from_str(text: &str) -> Result<Self, Refusal> {
                <$name as Written>::read(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                <$name as Written>::read(&text).map_err(de::Error::custom)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&Written::write(self))
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                match <$name as Written>::EXAMPLES {
                    [] => json_schema!({ "type": "string" }),
                    examples => json_schema!({ "type": "string", "examples": examples }),
                }
            }
        }

    )*};
}

/// The way to what a type holds.
macro_rules! holds {
    ($($name:ident => $target:ty),* $(,)?) => {$(
        impl Deref for $name {
            type Target = $target;

            fn deref(&self) -> &$target {
                &self.0
            }
        }
    )*};
}

/// A string that is kept as it was written, once its check has passed.
macro_rules! checked {
    ($($(#[$doc:meta])* $name:ident: $check:expr;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
            pub struct $name(String);

            impl $name {
                /// A value that is right.
                #[allow(dead_code, reason = "not every type has a default")]
                pub(super) fn known(text: &'static str) -> Self {
                    $name(text.to_owned())
                }
            }

            impl Written for $name {
                fn read(text: &str) -> Result<Self, Refusal> {
                    let check: fn(&str) -> Result<(), Refusal> = $check;
                    check(text).map(|()| $name(text.to_owned()))
                }

                fn write(&self) -> Cow<'_, str> {
                    self.0.as_str().into()
                }
            }

            #[cfg(test)]
            impl From<&str> for $name {
                /// Without the check: what relies on it has checks of its own.
                fn from(text: &str) -> Self {
                    $name(text.to_owned())
                }
            }

            impl PartialEq<str> for $name {
                fn eq(&self, other: &str) -> bool {
                    self.0 == other
                }
            }

            impl PartialEq<&str> for $name {
                fn eq(&self, other: &&str) -> bool {
                    self.0 == *other
                }
            }

            impl fmt::Display for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str(&self.0)
                }
            }
        )*
        written! { $($name),* }
        holds! { $($name => str),* }
    };
}

checked! {
    /// The name of one database of a set.
    Alias: |text| check_name(text, "a database");
    /// A glob from the root; `!` in front excludes.
    Glob: check_glob;
    /// The path of a file from the root.
    RootedPath: check_rooted;
    /// A regular expression.
    Pattern: check_pattern;
    /// The name of an environment variable.
    Variable: check_variable;
    /// A column: `table.column` or `schema.table.column`; `*` stands for every column.
    Column: check_column;
    /// The name of a database on the server.
    DatabaseName: check_database;
    /// The name of the registry database.
    RegistryName: check_registry;
    /// A host name, an address, or the directory of a socket.
    Host: |text| match is_host(text) {
        true => Ok(()),
        false => Err(Refusal::new(format!("is `{text}`, not a host"))
            .hint("write a host name, an address or a socket directory; the port goes to `client_port`")),
    };
    /// The URL of a store of templates, or `env:NAME` for the variable that holds it.
    StoreUrl: check_store;
    /// A public key, or `env:NAME` for the variable that holds one or several.
    TrustedKey: |text| check_key(text, "ed25519:", "a public key");
    /// The source of a signing key: `env:NAME`, or a file.
    SigningKey: |text| match text.starts_with("ed25519-secret:") {
        true => Err(Refusal::new("is a signing key, which must stay secret")
            .hint("write `env:NAME` for the variable that holds it, or the path of the file")),
        false => check_key(text, "", "the source of a signing key"),
    };
    /// The name of an operating system account.
    Account: |text| match text.trim() {
        "" => Err(Refusal::new("is empty").hint("leave the key out to let pgstencil find one")),
        _ => Ok(()),
    };
}

/// A duration that ends: `90s`, `30m`, `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(Duration);

/// A duration, or `never`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOrNever(Option<Duration>);

/// A number of bytes, such as `20GB`, or `unlimited`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(Option<u64>);

/// A command for `sh -c`; empty for none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OptionalCommand(Option<String>);

/// A normal form of file contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The tokens of Python source, without comments, docstrings and meaningless layout.
    Python,
}

/// A duration, which may be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gain(Duration);

impl Gain {
    pub(super) const fn of_seconds(seconds: u64) -> Self {
        Gain(Duration::from_secs(seconds))
    }
}

impl Written for Gain {
    const EXAMPLES: &'static [&'static str] = &["0s", "1s", "10s"];

    fn read(text: &str) -> Result<Self, Refusal> {
        match humantime::parse_duration(text) {
            Ok(Duration::ZERO) => Ok(Gain(Duration::ZERO)),
            _ => duration(text).map(Gain).map_err(|why| why.hint("write it like `0s`, `1s` or `10s`")),
        }
    }

    fn write(&self) -> Cow<'_, str> {
        setting(self.0).into()
    }
}

written! { Time, Gain, TimeOrNever, Size, OptionalCommand, Form, UrlSetting }
holds! {
    Time => Duration,
    Gain => Duration,
    TimeOrNever => Option<Duration>,
    Size => Option<u64>,
    OptionalCommand => Option<String>,
}

#[cfg(test)]
mod literals {
    macro_rules! from_literal {
        ($($name:ident),*) => {$(
            impl From<&str> for super::$name {
                fn from(text: &str) -> Self {
                    text.parse().unwrap()
                }
            }
        )*};
    }

    from_literal! { Time, TimeOrNever, Size, OptionalCommand }
}

impl Time {
    pub(super) const fn of_seconds(seconds: u64) -> Self {
        Time(Duration::from_secs(seconds))
    }

    pub(super) const fn of_minutes(minutes: u64) -> Self {
        Time(Duration::from_secs(minutes * 60))
    }
}

impl TimeOrNever {
    pub(super) const NEVER: Self = TimeOrNever(None);

    pub(super) const fn of_hours(hours: u64) -> Self {
        TimeOrNever(Some(Duration::from_secs(hours * 60 * 60)))
    }
}

impl Size {
    pub(super) const fn of_gigabytes(gigabytes: u64) -> Self {
        Size(Some(gigabytes * 1_000_000_000))
    }
}

impl Written for Form {
    const EXAMPLES: &'static [&'static str] = &["python"];

    fn read(text: &str) -> Result<Self, Refusal> {
        if text == "python" {
            return Ok(Form::Python);
        }
        let refusal =
            Refusal::new(format!("is `{text}`, which is not one of its values")).detail("values: python");
        Err(match text.to_ascii_lowercase().contains("sql") {
            true => NO_SQL.into_iter().fold(refusal, Refusal::detail),
            false => refusal,
        })
    }

    fn write(&self) -> Cow<'_, str> {
        match self {
            Form::Python => "python".into(),
        }
    }
}

/// Why SQL files have no normal form.
pub(super) const NO_SQL: [&str; 2] = [
    "comments of SQL migrations are commands (`-- migrate:down`, `-- +goose Up`)",
    "sqlx, Flyway and Prisma refuse to run if the bytes of an applied migration changed",
];

impl Written for Time {
    const EXAMPLES: &'static [&'static str] = &["90s", "30m", "12h", "14d", "1h 30m"];

    fn read(text: &str) -> Result<Self, Refusal> {
        duration(text).map(Time).map_err(|why| why.hint("write it like `90s`, `30m`, `12h`, `14d`, `1h 30m`"))
    }

    fn write(&self) -> Cow<'_, str> {
        setting(self.0).into()
    }
}

impl Written for TimeOrNever {
    const EXAMPLES: &'static [&'static str] = &["90s", "30m", "12h", "14d", "1h 30m", "never"];

    fn read(text: &str) -> Result<Self, Refusal> {
        if text == "never" {
            return Ok(TimeOrNever(None));
        }
        let hint = "write it like `90s`, `30m`, `12h`, `14d`, `1h 30m`, or `never`";
        duration(text).map(|time| TimeOrNever(Some(time))).map_err(|why| why.hint(hint))
    }

    fn write(&self) -> Cow<'_, str> {
        self.0.map_or("never".into(), |time| setting(time).into())
    }
}

fn duration(text: &str) -> Result<Duration, Refusal> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err(Refusal::new(format!("is `{text}`, but must be longer than zero"))),
        Ok(duration) if duration > MAX_DURATION => {
            Err(Refusal::new(format!("is `{text}`, which is more than ten years")))
        }
        Ok(duration) => Ok(duration),
        Err(_) if text == "never" => Err(Refusal::new("is `never`, which is not allowed here")),
        Err(e) => Err(Refusal::new(format!("is `{text}`, which is not a duration: {e}"))),
    }
}

impl Written for Size {
    const EXAMPLES: &'static [&'static str] = &["500MB", "20GB", "1.5TB", "8GiB", "unlimited"];

    fn read(text: &str) -> Result<Self, Refusal> {
        if text == "unlimited" {
            return Ok(Size(None));
        }
        let why = match text.parse::<ByteSize>() {
            _ if text.trim().bytes().all(|b| b.is_ascii_digit()) => "which has no unit",
            Ok(size) if size.as_u64() > 0 => return Ok(Size(Some(size.as_u64()))),
            Ok(_) => "but must be greater than zero",
            // The parser's own words name its types.
            Err(_) => "which is not a size",
        };
        Err(Refusal::new(format!("is `{text}`, {why}"))
            .hint("write it like `500MB`, `20GB`, `1.5TB`, `8GiB`, or `unlimited`"))
    }

    /// In the largest decimal unit that leaves no fraction.
    fn write(&self) -> Cow<'_, str> {
        const UNITS: [(&str, u64); 4] =
            [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
        let Some(bytes) = self.0 else {
            return "unlimited".into();
        };
        match UNITS.iter().find(|(_, unit)| bytes.is_multiple_of(*unit)) {
            Some((name, unit)) => format!("{}{name}", bytes / unit).into(),
            None => format!("{bytes}B").into(),
        }
    }
}

impl Written for OptionalCommand {
    fn read(text: &str) -> Result<Self, Refusal> {
        Ok(OptionalCommand(Some(text.to_owned()).filter(|command| !command.trim().is_empty())))
    }

    fn write(&self) -> Cow<'_, str> {
        self.0.as_deref().unwrap_or_default().into()
    }
}

/// Where a server's URL is.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum UrlSetting {
    /// In the file.
    Literal(ServerUrl),
    /// In the variable of this name: `env:NAME`.
    Variable(Variable),
}

impl Written for UrlSetting {
    fn read(text: &str) -> Result<Self, Refusal> {
        Ok(match text.strip_prefix("env:") {
            None if text.is_empty() => {
                return Err(Refusal::new("is empty").hint("leave the key out for the private local server"));
            }
            None => UrlSetting::Literal(ServerUrl::parse(text)?),
            Some(name) => UrlSetting::Variable(name.parse().map_err(|_| {
                Refusal::new(format!("names `{name}`, which is not the name of a variable"))
                    .hint("write `env:DATABASE_URL`, without `$` and braces")
            })?),
        })
    }

    /// Hides the password.
    fn write(&self) -> Cow<'_, str> {
        match self {
            UrlSetting::Literal(url) => url.to_string().into(),
            UrlSetting::Variable(name) => format!("env:{name}").into(),
        }
    }
}

/// Checks the name of a definition or a database, which becomes part of database names and of variables.
pub(super) fn check_name(name: &str, of: &str) -> Result<(), Refusal> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() {
        return Err(Refusal::new(format!("is an empty name of {of}")));
    }
    if !name.chars().all(plain) {
        return Err(Refusal::new(format!("is not a name for {of}: `{name}`"))
            .hint("use ASCII letters, digits, `_` and `-`"));
    }
    match name.len() > MAX_NAME {
        false => Ok(()),
        true => Err(Refusal::new(format!(
            "is too long a name for {of}: {} characters; at most {MAX_NAME} fit",
            name.len()
        ))),
    }
}

fn check_glob(text: &str) -> Result<(), Refusal> {
    let glob = text.strip_prefix('!').unwrap_or(text);
    check_rooted(glob)?;
    if let Some(directory) = glob.strip_suffix('/') {
        return Err(Refusal::new(format!("is the directory `{glob}`, but files are wanted"))
            .hint(format!("write `{directory}/**`")));
    }
    match GlobBuilder::new(glob).literal_separator(true).build() {
        Ok(_) => Ok(()),
        Err(e) => Err(Refusal::new(format!("is `{text}`, which is not a glob: {}", e.kind())).hint(
            "`*` is any part of a name, `**` any directories, `?` one character, `[ab]` and `{a,b}` choices, `!` in front excludes",
        )),
    }
}

/// Paths and globs are written from the root, so that they mean the same on every machine.
fn check_rooted(text: &str) -> Result<(), Refusal> {
    if text.trim().is_empty() {
        return Err(Refusal::new("is empty"));
    }
    if text.starts_with('/') || text.starts_with("~/") {
        return Err(Refusal::new(format!("is `{text}`, but paths start from the root"))
            .hint("leave out what is above the root; `root` at the top of the file can move it up"));
    }
    if text.split('/').any(|part| part == "..") {
        return Err(Refusal::new(format!("is `{text}`, which leaves the root"))
            .hint("`root = \"..\"` at the top of the file moves the root up"));
    }
    match text.strip_prefix("./") {
        None => Ok(()),
        Some(rest) => Err(Refusal::new(format!("is `{text}`, but paths start from the root anyway"))
            .hint(format!("write `{rest}`"))),
    }
}

fn check_pattern(text: &str) -> Result<(), Refusal> {
    let Err(e) = Regex::new(text) else {
        return Ok(());
    };
    // The last line of the message is the reason; those before draw the place.
    let text = e.to_string();
    let why = text.lines().last().unwrap_or_default();
    let why = why.trim_start_matches("error: ");
    Err(Refusal::new(format!("is not a regular expression: {why}"))
        .hint("in single quotes TOML leaves backslashes alone: `match = '^v\\d'`"))
}

pub(super) fn check_variable(name: &str) -> Result<(), Refusal> {
    let named = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    match named {
        true => Ok(()),
        false => Err(Refusal::new(format!("is not the name of a variable: `{name}`"))
            .hint("letters, digits and `_`, not a digit first, and no `$`")),
    }
}

fn check_column(text: &str) -> Result<(), Refusal> {
    let parts: Vec<&str> = text.split('.').collect();
    match parts.len() < 2 || parts.iter().any(|part| part.trim().is_empty()) {
        false => Ok(()),
        true => Err(Refusal::new(format!("is `{text}`, which names no column"))
            .hint("write `table.column` or `schema.table.column`; `table.*` is every column")),
    }
}

/// Schemes of stores. All but `file` need the cargo feature `remote`.
const SCHEMES: [&str; 6] = ["file", "s3", "gs", "az", "https", "http"];

fn check_store(text: &str) -> Result<(), Refusal> {
    if let Some(name) = text.strip_prefix("env:") {
        return check_variable(name);
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(Refusal::new(format!("is `{text}`, which is not a URL"))
            .hint("write it like `file:///mnt/templates` or `s3://bucket/path`"));
    };
    if !SCHEMES.contains(&scheme) {
        return Err(Refusal::new(format!("has the unknown scheme `{scheme}`"))
            .hint("use `file`, `s3`, `gs`, `az` or `https`"));
    }
    if scheme == "file" && !rest.starts_with('/') {
        return Err(Refusal::new(format!("is `{text}`, without an absolute path"))
            .hint("write three slashes: `file:///mnt/templates`"));
    }
    if scheme != "file" && rest.split('/').next().is_some_and(|host| host.contains('@')) {
        return Err(Refusal::new("contains a user or a password")
            .hint("leave them out: the provider's own variables and files hold the credentials"));
    }
    match rest.trim_matches('/').is_empty() {
        true => Err(Refusal::new(format!("is `{text}`, which names no place"))),
        false => Ok(()),
    }
}

fn check_key(text: &str, prefix: &str, what: &str) -> Result<(), Refusal> {
    if let Some(name) = text.strip_prefix("env:") {
        return check_variable(name);
    }
    match text.trim().is_empty() || !text.starts_with(prefix) {
        true => Err(Refusal::new(format!("is not {what}"))
            .hint("`pgstencil cache new-key FILE` makes a signing key and prints its public key")),
        false => Ok(()),
    }
}

fn check_length(name: &str) -> Result<(), Refusal> {
    match name.len() {
        1..=63 => Ok(()),
        bytes => Err(Refusal::new(format!("has {bytes} bytes; a database name has 1 to 63"))),
    }
}

fn check_database(name: &str) -> Result<(), Refusal> {
    check_length(name).map_err(|why| {
        why.hint("name a database of the server, such as `template1`; `template0` is an empty one")
    })
}

fn check_registry(name: &str) -> Result<(), Refusal> {
    check_length(name)?;
    match matches!(name, "postgres" | "template0" | "template1") {
        false => Ok(()),
        true => Err(Refusal::new(format!("is `{name}`, which belongs to the server"))
            .hint("pgstencil creates a database of its own: choose a name that is not taken")),
    }
}
