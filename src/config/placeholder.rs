//! Placeholders such as `{url}` and `{ALIAS.name}` in values of `[template.X.env]`, `build_env` and `run_env`
//! and in `after_clone_sql`.
//!
//! Two kinds of text, two types: an [`EnvTemplate`] is plain text, in which `{{` and `}}` stand for
//! braces. A [`SqlTemplate`] knows where in the SQL a placeholder stands, and escapes its value for
//! that place or refuses it.

use std::fmt;

use super::nearest::nearest;
use crate::error::{Error, Result};

/// What a placeholder asks of a database, or of the project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Field {
    /// The whole URL.
    Url,
    /// The database's name.
    Name,
    /// The host, as commands reach it.
    Host,
    /// The port, as commands reach it.
    Port,
    /// The user.
    User,
    /// The password; empty if there is none.
    Password,
    /// The absolute directory that globs and commands start from, whatever the database.
    Root,
}

impl Field {
    /// All fields, in the order of the documentation.
    pub const ALL: [Field; 7] =
        [Field::Url, Field::Name, Field::Host, Field::Port, Field::User, Field::Password, Field::Root];

    /// The word within the braces.
    pub fn as_str(self) -> &'static str {
        match self {
            Field::Url => "url",
            Field::Name => "name",
            Field::Host => "host",
            Field::Port => "port",
            Field::User => "user",
            Field::Password => "password",
            Field::Root => "root",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Field::ALL.into_iter().find(|f| f.as_str() == word)
    }

    /// Whether its value differs from database to database, so that an alias may stand in front.
    fn is_of_database(self) -> bool {
        self != Field::Root
    }
}

/// What stands behind the field, after a colon.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// Nothing: the value as it is.
    Plain,
    /// `{url:SCHEME}`: the URL with this scheme.
    Scheme(String),
    /// `{password:url}`: as it stands in a URL.
    Encoded,
}

/// One placeholder: a field of the database of an alias.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Placeholder {
    /// The alias; `None` means the definition's first.
    pub alias: Option<String>,
    /// What of it.
    pub field: Field,
    /// In which form.
    pub form: Form,
}

impl Placeholder {
    fn parse(inner: &str, aliases: &[String]) -> Result<Self> {
        let (path, form) = match inner.split_once(':') {
            Some((path, form)) => (path, Some(form)),
            None => (inner, None),
        };
        let (alias, field) = match path.rsplit_once('.') {
            Some((alias, field)) => (Some(alias), field),
            None => (None, path),
        };
        let known = Field::parse(field)
            .filter(|field| alias.is_none() || field.is_of_database())
            .filter(|_| alias.is_none_or(|alias| aliases.iter().any(|r| r == alias)));
        let Some(field) = known else {
            return Err(unknown(inner, path, aliases));
        };
        let form = match (field, form) {
            (_, None) => Form::Plain,
            (Field::Url, Some(scheme)) => Form::Scheme(checked_scheme(inner, scheme)?),
            (Field::Name | Field::Host | Field::User | Field::Password, Some("url")) => Form::Encoded,
            (_, Some(form)) => {
                return Err(Error::config(format!("unknown form `:{form}` of placeholder `{{{path}}}`"))
                    .detail("forms: {url:SCHEME}, and :url after name, host, user and password"));
            }
        };
        Ok(Placeholder { alias: alias.map(str::to_owned), field, form })
    }
}

fn checked_scheme(inner: &str, scheme: &str) -> Result<String> {
    let fits = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-._".contains(c));
    if fits {
        return Ok(scheme.to_owned());
    }
    let error = Error::config(format!("`{scheme}` in `{{{inner}}}` is not the scheme of a URL"))
        .hint("write the scheme without `://`, as in `{url:postgresql+psycopg2}`");
    // JDBC takes user and password as parameters only.
    Err(match scheme.starts_with("jdbc:") {
        true => error.hint(
            "for JDBC: `jdbc:postgresql://{host}:{port}/{name}?user={user:url}&password={password:url}`",
        ),
        false => error,
    })
}

/// `path`: what stands in front of the form.
fn unknown(inner: &str, path: &str, aliases: &[String]) -> Error {
    let of_database = || Field::ALL.into_iter().filter(|f| f.is_of_database());
    let mut known: Vec<String> = Field::ALL.map(|f| f.as_str().to_owned()).to_vec();
    for alias in aliases {
        known.extend(of_database().map(|f| format!("{alias}.{}", f.as_str())));
    }
    let fields = Field::ALL.map(|f| format!("{{{}}}", f.as_str())).join(" ");
    let error = Error::config(format!("unknown placeholder `{{{inner}}}`"))
        .detail(format!("known: {fields} {{url:SCHEME}} {{password:url}}"))
        .detail(format!("and {{ALIAS.FIELD}} with the aliases {}", aliases.join(", ")));
    let meant = match aliases.iter().any(|r| r == path) {
        true => Some(format!("{path}.url")),
        false => nearest(path, known.iter().map(String::as_str)).map(str::to_owned),
    };
    match meant {
        Some(meant) => error.hint(format!("did you mean `{{{meant}}}`?")),
        None => error,
    }
}

impl fmt::Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        if let Some(alias) = &self.alias {
            write!(f, "{alias}.")?;
        }
        f.write_str(self.field.as_str())?;
        match &self.form {
            Form::Plain => {}
            Form::Scheme(scheme) => write!(f, ":{scheme}")?,
            Form::Encoded => f.write_str(":url")?,
        }
        f.write_str("}")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part<C> {
    Text(String),
    Value(Placeholder, C),
}

/// A value of `[template.X.env]`, `build_env` or `run_env`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvTemplate(Vec<Part<()>>);

impl EnvTemplate {
    /// Takes a value apart.
    ///
    /// # Errors
    /// An unknown placeholder, and a brace without its partner; braces that are meant as such are
    /// written twice.
    pub fn parse(text: &str, aliases: &[String]) -> Result<Self> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain += &rest[..at];
            let brace = &rest[at..at + 1];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                plain += brace;
                rest = after;
                continue;
            }
            let Some(end) = rest.find(['{', '}']).filter(|&end| brace == "{" && rest[end..].starts_with('}'))
            else {
                return Err(Error::config(format!("a single `{brace}`"))
                    .hint("write `{{` and `}}` for literal braces"));
            };
            let placeholder = Placeholder::parse(&rest[..end], aliases)
                .map_err(|e| e.hint("write `{{` and `}}` for literal braces"))?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Value(placeholder, ()));
            rest = &rest[end + 1..];
        }
        plain += rest;
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(EnvTemplate(parts))
    }

    /// The text with every placeholder replaced by what `lookup` says.
    pub fn render(&self, mut lookup: impl FnMut(&Placeholder) -> String) -> String {
        self.0
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.clone(),
                Part::Value(placeholder, ()) => lookup(placeholder),
            })
            .collect()
    }
}

/// Where in the SQL a placeholder stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Outside of all quotes.
    Bare,
    /// Within `'…'`.
    Literal,
    /// Within `E'…'`, where a backslash makes even a quote ordinary.
    Escapes,
    /// Within `U&'…'` or `U&"…"`, where a backslash is special, but not before a quote.
    Unicode(char),
    /// Within `"…"`.
    Identifier,
    /// Within `$$…$$` or `$tag$…$tag$`.
    Dollar,
}

/// Statements of `after_clone_sql`, taken apart.
///
/// Only `{word}` and `{alias.word}` count as placeholders; every other brace stays as it is, so that
/// array literals (`'{1,2}'`) and JSON need no escaping, and so does everything within comments.
/// Where a placeholder stands decides what happens to its value:
///
/// | place | value |
/// |---|---|
/// | `'…'` | quotes are doubled; in `E'…'` and `U&'…'` backslashes too |
/// | `"…"` | double quotes are doubled |
/// | outside of quotes | must be a number, or an identifier that means the same without quotes |
/// | `$$…$$` | must be free of quotes, backslashes, dollars and control characters |
///
/// Values that do not fit are an error of [`SqlTemplate::render`], never SQL that means something
/// else. The session must have `standard_conforming_strings` on, which is Postgres' default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlTemplate(Vec<Part<Place>>);

impl SqlTemplate {
    /// Takes statements apart.
    ///
    /// # Errors
    /// An unknown placeholder, and a quote or comment without an end.
    pub fn parse(text: &str, aliases: &[String]) -> Result<Self> {
        let mut scan = Scan { rest: text, aliases, plain: String::new(), parts: Vec::new() };
        scan.statements()?;
        let Scan { plain, mut parts, .. } = scan;
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(SqlTemplate(parts))
    }

    /// The SQL with every placeholder replaced by what `lookup` says, escaped for its place.
    ///
    /// # Errors
    /// A value that cannot stand where its placeholder does. The message names the placeholder, not
    /// the value, which may be a password.
    pub fn render(&self, mut lookup: impl FnMut(&Placeholder) -> String) -> Result<String> {
        let mut sql = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => sql += text,
                Part::Value(placeholder, place) => {
                    sql += &escape(placeholder, *place, lookup(placeholder))?;
                }
            }
        }
        Ok(sql)
    }
}

fn escape(placeholder: &Placeholder, place: Place, value: String) -> Result<String> {
    let refuse = |why: &str| {
        Err(Error::config(format!("the value of `{placeholder}` {why}")).hint(format!(
            "put it in quotes: `'{placeholder}'` for a text, `\"{placeholder}\"` for an identifier; `format('%L', …)` builds statements in a `DO` block"
        )))
    };
    if value.contains('\0') {
        return refuse("has a zero byte");
    }
    match place {
        Place::Literal => Ok(value.replace('\'', "''")),
        Place::Identifier => Ok(value.replace('"', "\"\"")),
        Place::Escapes => Ok(value.replace('\\', "\\\\").replace('\'', "''")),
        Place::Unicode(quote) => Ok(value.replace('\\', "\\\\").replace(quote, &format!("{quote}{quote}"))),
        Place::Bare => {
            let number = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
            let identifier = value.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
                && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            match number || identifier {
                true => Ok(value),
                false => refuse("must be within quotes in SQL"),
            }
        }
        Place::Dollar => {
            let unsafe_char = |c: char| matches!(c, '$' | '\'' | '"' | '\\') || c.is_control();
            match value.contains(unsafe_char) {
                true => refuse("has characters that cannot be escaped within `$$…$$`"),
                false => Ok(value),
            }
        }
    }
}

/// Reads SQL from left to right, as far as is needed to know where quotes begin and end.
struct Scan<'a> {
    rest: &'a str,
    aliases: &'a [String],
    plain: String,
    parts: Vec<Part<Place>>,
}

impl<'a> Scan<'a> {
    fn statements(&mut self) -> Result<()> {
        // The identifier before the current character: decides about E'…' and `a$b$`.
        let mut word = String::new();
        while let Some(c) = self.rest.chars().next() {
            let before = std::mem::take(&mut word);
            match c {
                '\'' | '"' => {
                    let place = match (before.to_ascii_lowercase().as_str(), c) {
                        ("e", '\'') => Place::Escapes,
                        ("u&", quote) => Place::Unicode(quote),
                        (_, '\'') => Place::Literal,
                        _ => Place::Identifier,
                    };
                    self.take(1);
                    self.quoted(c, place)?;
                }
                '-' if self.rest.starts_with("--") => {
                    let end = self.rest.find('\n').unwrap_or(self.rest.len());
                    self.take(end);
                }
                '/' if self.rest.starts_with("/*") => self.block_comment()?,
                '$' if before.is_empty() => match dollar_tag(self.rest) {
                    Some(tag) => self.dollar_quoted(tag)?,
                    None => self.take(1),
                },
                '{' => self.brace(Place::Bare)?,
                c => {
                    if c.is_alphanumeric() || c == '_' || c == '$' {
                        word = before + c.encode_utf8(&mut [0; 4]);
                    } else if c == '&' && before.eq_ignore_ascii_case("u") {
                        word = before + "&";
                    }
                    self.take(c.len_utf8());
                }
            }
        }
        Ok(())
    }

    fn quoted(&mut self, quote: char, place: Place) -> Result<()> {
        while let Some(c) = self.rest.chars().next() {
            if c == quote {
                self.take(1);
                if !self.rest.starts_with(quote) {
                    return Ok(());
                }
                self.take(1);
            } else if c == '\\' && place == Place::Escapes {
                self.take(1);
                // What is escaped may be the quote; a brace after it is text.
                let next = self.rest.chars().next().map_or(0, char::len_utf8);
                self.take(next);
            } else if c == '{' {
                self.brace(place)?;
            } else {
                self.take(c.len_utf8());
            }
        }
        Err(Error::config(format!("a quote `{quote}` without an end")))
    }

    fn dollar_quoted(&mut self, tag: &str) -> Result<()> {
        self.take(tag.len());
        while let Some(c) = self.rest.chars().next() {
            if self.rest.starts_with(tag) {
                self.take(tag.len());
                return Ok(());
            } else if c == '{' {
                self.brace(Place::Dollar)?;
            } else {
                self.take(c.len_utf8());
            }
        }
        Err(Error::config(format!("a quote `{tag}` without an end")))
    }

    fn block_comment(&mut self) -> Result<()> {
        let mut depth = 0usize;
        loop {
            if self.rest.starts_with("/*") {
                depth += 1;
                self.take(2);
            } else if self.rest.starts_with("*/") {
                depth -= 1;
                self.take(2);
                if depth == 0 {
                    return Ok(());
                }
            } else if let Some(c) = self.rest.chars().next() {
                self.take(c.len_utf8());
            } else {
                return Err(Error::config("a comment `/*` without an end"));
            }
        }
    }

    fn brace(&mut self, place: Place) -> Result<()> {
        let inner = self.rest[1..].split_once('}').map_or("", |(inner, _)| inner);
        if !looks_like_placeholder(inner) {
            self.take(1);
            return Ok(());
        }
        let placeholder = Placeholder::parse(inner, self.aliases).map_err(|e| {
            e.hint(format!("braces that are not a placeholder: put a space after the first, `{{ {inner}}}`"))
        })?;
        if !self.plain.is_empty() {
            self.parts.push(Part::Text(std::mem::take(&mut self.plain)));
        }
        self.parts.push(Part::Value(placeholder, place));
        self.rest = &self.rest[inner.len() + 2..];
        Ok(())
    }

    fn take(&mut self, bytes: usize) {
        let (text, rest) = self.rest.split_at(bytes);
        self.plain += text;
        self.rest = rest;
    }
}

/// `word` or `alias.word`, where a word starts with a letter; an alias may start with a digit. A form stands only
/// behind a field, since `{a:b}` is common in SQL.
fn looks_like_placeholder(inner: &str) -> bool {
    if let Some((path, _)) = inner.split_once(':') {
        let field = path.rsplit_once('.').map_or(path, |(_, field)| field);
        return Field::parse(field).is_some() && looks_like_placeholder(path);
    }
    let (alias, word) = match inner.rsplit_once('.') {
        Some((alias, word)) => (Some(alias), word),
        None => (None, inner),
    };
    let name =
        |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    name(word) && word.starts_with(|c: char| c.is_ascii_alphabetic()) && alias.is_none_or(name)
}

/// `$$` or `$tag$` at the start of the text.
fn dollar_tag(text: &str) -> Option<&str> {
    let end = text[1..].find('$')? + 1;
    let tag = &text[1..end];
    let ok = tag.chars().all(|c| c.is_alphanumeric() || c == '_')
        && !tag.starts_with(|c: char| c.is_ascii_digit());
    ok.then(|| &text[..=end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aliases() -> Vec<String> {
        ["default", "proxy-1", "2"].map(str::to_owned).to_vec()
    }

    /// Shows which placeholder was asked for.
    fn show(p: &Placeholder) -> String {
        format!("<{p}>")
    }

    fn env(text: &str) -> String {
        EnvTemplate::parse(text, &aliases()).unwrap().render(show)
    }

    fn env_error(text: &str) -> Error {
        EnvTemplate::parse(text, &aliases()).expect_err(text)
    }

    fn sql(text: &str, value: &str) -> Result<String> {
        SqlTemplate::parse(text, &aliases())?.render(|_| value.to_owned())
    }

    #[test]
    fn env_values() {
        assert_eq!(env(""), "");
        assert_eq!(env("plain"), "plain");
        assert_eq!(env("{url}"), "<{url}>");
        assert_eq!(env("a{host}:{port}b"), "a<{host}>:<{port}>b");
        assert_eq!(env("{proxy-1.name}{2.user}"), "<{proxy-1.name}><{2.user}>");
        assert_eq!(env("{{}} {{name}} {{{name}}}"), "{} {name} {<{name}>}");
        assert_eq!(env("{root}/data"), "<{root}>/data");
        for form in
            ["{url:postgresql+psycopg2}", "{proxy-1.url:ecto}", "{url:a.b}", "{password:url}", "{2.user:url}"]
        {
            assert_eq!(env(form), format!("<{form}>"));
        }
    }

    #[test]
    fn forms_that_make_no_sense_say_which_there_are() {
        for (text, message) in [
            ("{url:}", "`` in `{url:}` is not the scheme of a URL"),
            ("{url:a://}", "`a://` in `{url:a://}` is not the scheme of a URL"),
            ("{port:url}", "unknown form `:url` of placeholder `{port}`"),
            ("{password:sql}", "unknown form `:sql` of placeholder `{password}`"),
            ("{root:url}", "unknown form `:url` of placeholder `{root}`"),
            ("{default.root}", "unknown placeholder `{default.root}`"),
            ("{ulr:ecto}", "unknown placeholder `{ulr:ecto}`"),
        ] {
            assert_eq!(env_error(text).message(), message);
        }
        assert!(env_error("{url:jdbc:postgresql}").hints()[1].starts_with("for JDBC: "));
    }

    #[test]
    fn env_errors() {
        let e = env_error("{ulr}");
        assert_eq!(e.message(), "unknown placeholder `{ulr}`");
        assert_eq!(
            e.details()[0],
            "known: {url} {name} {host} {port} {user} {password} {root} {url:SCHEME} {password:url}"
        );
        assert_eq!(e.details()[1], "and {ALIAS.FIELD} with the aliases default, proxy-1, 2");
        assert_eq!(e.hints()[0], "did you mean `{url}`?");
        assert_eq!(e.hints()[1], "write `{{` and `}}` for literal braces");
        assert_eq!(env_error("{default}").hints()[0], "did you mean `{default.url}`?");
        assert_eq!(env_error("{defualt.name}").hints()[0], "did you mean `{default.name}`?");
        assert_eq!(env_error("{}").message(), "unknown placeholder `{}`");
        for single in ["{", "x{url", "{a{b}", "{url{"] {
            assert_eq!(env_error(single).message(), "a single `{`", "{single}");
        }
        for single in ["}", "{url}}"] {
            assert_eq!(env_error(single).message(), "a single `}`", "{single}");
        }
    }

    #[test]
    fn sql_escapes_for_the_place() {
        let v = r#"a'b"c\d"#;
        assert_eq!(sql("x = '{name}'", v).unwrap(), r#"x = 'a''b"c\d'"#);
        assert_eq!(sql("x = E'{name}'", v).unwrap(), r#"x = E'a''b"c\\d'"#);
        assert_eq!(sql("x = U&'{name}'", v).unwrap(), r#"x = U&'a''b"c\\d'"#);
        assert_eq!(sql("u&\"{name}\"", v).unwrap(), r#"u&"a'b""c\\d""#);
        assert_eq!(sql("\"{name}\"", v).unwrap(), r#""a'b""c\d""#);
        // Not a prefix, but the end of a word or an operator.
        assert_eq!(sql("like'{name}'", "\\").unwrap(), "like'\\'");
        assert_eq!(sql("x&'{name}'", "\\").unwrap(), "x&'\\'");
    }

    #[test]
    fn sql_follows_quotes_to_their_end() {
        assert_eq!(sql("'it''s {name}'", "'").unwrap(), "'it''s '''");
        assert_eq!(sql(r"E'\'{name}'", "'").unwrap(), r"E'\''''");
        assert_eq!(sql(r"E'\\' || {name}", "a").unwrap(), r"E'\\' || a");
        assert_eq!(sql(r"E'a''{name}'", r"\").unwrap(), r"E'a''\\'");
        assert_eq!(sql(r"U&'\' || {name}", "a").unwrap(), r"U&'\' || a");
        // A backslash is an ordinary character in '…'.
        assert_eq!(sql(r"'\' || {name}", "a").unwrap(), r"'\' || a");
        assert_eq!(sql("\"a'b\" {name}", "a").unwrap(), "\"a'b\" a");
        assert_eq!(sql("'é' {port}", "5432").unwrap(), "'é' 5432");
    }

    #[test]
    fn bare_values_are_numbers_or_plain_identifiers() {
        for ok in ["5432", "shop_x_1", "_a"] {
            assert_eq!(sql("{name};", ok).unwrap(), format!("{ok};"));
        }
        for bad in ["", "My", "a-b", "1a", "a.b", "a b", "a;", "'", "é", "--"] {
            let e = sql("{name};", bad).expect_err(bad);
            assert_eq!(e.message(), "the value of `{name}` must be within quotes in SQL");
            assert!(e.hints()[0].starts_with("put it in quotes: `'{name}'`"), "{e:?}");
        }
    }

    #[test]
    fn dollar_quoted_values_must_be_harmless() {
        let body = "do $do$ begin perform f('{host}'); end $do$; {name}";
        assert_eq!(sql(body, "db_1").unwrap(), "do $do$ begin perform f('db_1'); end $do$; db_1");
        assert_eq!(sql("$$ {host} $$", "db-1.x:5/é").unwrap(), "$$ db-1.x:5/é $$");
        for bad in ["$", "$do$", "'", "\"", "\\", "a\nb"] {
            let e = sql("$$ {host} $$", bad).expect_err(bad);
            assert_eq!(
                e.message(),
                "the value of `{host}` has characters that cannot be escaped within `$$…$$`"
            );
        }
        // Not dollar quotes: parameters and identifiers.
        assert_eq!(sql("$1 {name} $1", "a").unwrap(), "$1 a $1");
        assert_eq!(sql("a$b$ '{name}'", "'").unwrap(), "a$b$ ''''");
        // The other tag does not end it.
        assert!(sql("$a$ $$ {name} $a$", "a-b").is_ok());
    }

    #[test]
    fn zero_bytes_are_refused_everywhere() {
        for text in ["'{name}'", "\"{name}\"", "{name}", "$$ {name} $$"] {
            let e = sql(text, "a\0").expect_err(text);
            assert_eq!(e.message(), "the value of `{name}` has a zero byte");
        }
    }

    #[test]
    fn values_appear_in_no_error() {
        for text in ["{password}", "$$ {password} $$"] {
            let e = sql(text, "s3cret-'").expect_err(text);
            assert!(!format!("{e:?}").contains("s3cret"));
        }
    }

    #[test]
    fn other_braces_stay() {
        for text in [
            "'{1,2}'",
            "'{}'",
            "'{1}'",
            "'{{1,2},{3,4}}'",
            r#"'{"a": {"b": [1]}}'"#,
            "'{ a }'",
            "{",
            "}",
            "'{a,b}'",
            "'{1.5}'",
            "'{a:b}'",
            "'{10:20}'",
        ] {
            assert_eq!(sql(text, "X").unwrap(), text);
        }
    }

    #[test]
    fn comments_stay() {
        for text in ["-- it's {unknown} {name}\n", "/* it's {x} /* \" */ {name} */", "--"] {
            assert_eq!(sql(text, "X").unwrap(), text);
        }
        assert_eq!(sql("-- '\n{name}", "a").unwrap(), "-- '\na");
        assert_eq!(sql("/* ' */'{name}'", "'").unwrap(), "/* ' */''''");
    }

    #[test]
    fn sql_errors() {
        let e = sql("'{nmae}'", "").expect_err("unknown");
        assert_eq!(e.message(), "unknown placeholder `{nmae}`");
        assert_eq!(e.hints()[0], "did you mean `{name}`?");
        assert_eq!(e.hints()[1], "braces that are not a placeholder: put a space after the first, `{ nmae}`");
        assert!(sql("'{other.name}'", "").is_err());
        for (text, message) in [
            ("'a", "a quote `'` without an end"),
            ("'a''", "a quote `'` without an end"),
            (r"E'a\'", "a quote `'` without an end"),
            ("\"a", "a quote `\"` without an end"),
            ("$a$ $$", "a quote `$a$` without an end"),
            ("/* /* */", "a comment `/*` without an end"),
        ] {
            assert_eq!(sql(text, "").expect_err(text).message(), message);
        }
    }
}
