//! A TOML text that remembers where everything stands, and the check of its shape: which keys there
//! are, and of which type.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize as _;
use serde_json::Value;
use toml::Spanned;
use toml::de::ValueDeserializer;
use toml::de::{DeTable, DeValue};

use super::model::File;
use super::nearest::nearest;
use super::schema::{DEFAULTS, SCHEMA, TEMPLATE, homes};
use super::value::Refusal;
use crate::error::{Error, Result};

/// The way to a value: `template.app.migrations[2]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct KeyPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Key(String),
    Index(usize),
}

impl Step {
    /// What it leads to.
    fn of<'v, 'a>(&self, value: &'v Spanned<DeValue<'a>>) -> Option<&'v Spanned<DeValue<'a>>> {
        match self {
            Step::Key(key) => value.get_ref().get(key.as_str()),
            Step::Index(index) => value.get_ref().get(*index),
        }
    }
}

impl KeyPath {
    pub(super) fn key(&self, key: &str) -> Self {
        let mut path = self.clone();
        path.0.push(Step::Key(key.to_owned()));
        path
    }

    pub(super) fn index(&self, index: usize) -> Self {
        let mut path = self.clone();
        path.0.push(Step::Index(index));
        path
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                    let dot = if i == 0 { "" } else { "." };
                    match !key.is_empty() && key.chars().all(bare) {
                        true => write!(f, "{dot}{key}")?,
                        false => write!(f, "{dot}{key:?}")?,
                    }
                }
            }
        }
        Ok(())
    }
}

/// A parsed TOML text.
pub(super) struct Document<'a> {
    file: &'a Path,
    text: &'a str,
    table: Spanned<DeValue<'a>>,
}

/// The key of a line whose value is words without quotes, and that value as it should be written: with it the
/// fault that was found is gone.
fn unquoted(text: &str, at: usize) -> Option<(&str, String)> {
    let start = text.get(..at)?.rfind('\n').map_or(0, |end| end + 1);
    let line = text[start..].lines().next()?;
    let (key, quoted) = quoted(line, at - start)?;
    let before = &text[..start];
    let after = &text[start + line.len()..];
    let line = format!("{key} = {quoted}");
    let end = before.len() + line.len();
    let fixed = match DeTable::parse(&format!("{before}{line}{after}")) {
        Ok(_) => true,
        Err(e) => e.span().is_some_and(|span| span.start > end),
    };
    fixed.then_some((key, quoted))
}

/// Key and value of a line, the words of the value in quotes. `at`: where a fault was found.
fn quoted(line: &str, at: usize) -> Option<(&str, String)> {
    let (key, value) = line.split_once('=')?;
    let value_start = key.len() + 1;
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '"');
    let key = key.trim();
    if key.is_empty() || !key.chars().all(bare) || at < value_start {
        return None;
    }
    // A comment begins behind a space.
    let value = value.split(" #").next().unwrap_or_default().trim();
    let quote = |word: &str| toml::Value::from(word.trim()).to_string();
    let is_word = |text: &str| {
        let text = text.trim();
        !text.is_empty() && !text.contains(['"', '\'', '[', ']', '{', '}', '='])
    };
    match value.strip_prefix('[') {
        // Whatever follows, a value that begins so is no other value of TOML.
        None => value
            .starts_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '/' | '_' | '~' | '$'))
            .then(|| (key, quote(value))),
        Some(list) => {
            let items: Vec<&str> = list.strip_suffix(']')?.split(',').collect();
            let quoted = |item: &&str| match is_word(item) {
                true => quote(item),
                false => item.trim().to_owned(),
            };
            let plain = |item: &str| item.contains(['[', ']', '{', '}', '=']);
            if items.iter().copied().any(plain) || !items.iter().copied().any(is_word) {
                return None;
            }
            let all: Vec<String> = items.iter().map(quoted).collect();
            Some((key, format!("[{}]", all.join(", "))))
        }
    }
}

impl<'a> Document<'a> {
    pub(super) fn parse(file: &'a Path, text: &'a str) -> Result<Self> {
        match DeTable::parse(text) {
            Ok(table) => Ok(Document {
                file,
                text,
                table: Spanned::new(table.span(), DeValue::Table(table.into_inner())),
            }),
            Err(e) => {
                let place = place(file, text, e.span());
                match e.span().and_then(|span| unquoted(text, span.start)) {
                    None => Err(Error::config(format!("{place}: not TOML: {}", e.message()))),
                    Some((key, quoted)) => Err(Error::config(format!(
                        "{place}: not TOML: the value of `{key}` is not in quotes"
                    ))
                    .hint(format!("put strings in quotes: `{key} = {quoted}`"))),
                }
            }
        }
    }

    /// Checks keys and types, then reads the values, with the keys of `[defaults]` in each definition that lacks
    /// them.
    pub(super) fn read(&self) -> Result<File> {
        self.check(&KeyPath::default(), &self.table, &SCHEMA)?;
        let mut table = self.table.clone();
        share(&mut table);
        File::deserialize(ValueDeserializer::from(table)).map_err(|e| {
            let (index, refusal) = Refusal::from_text(e.message());
            match e.span().and_then(|span| path_to(&self.table, KeyPath::default(), &span)) {
                Some(path) => self.refused(&index.map_or(path.clone(), |index| path.index(index)), refusal),
                // Not reached as long as the check knows all that the schema can say.
                None => refusal.about(format!("{}:", place(self.file, self.text, e.span()))),
            }
        })
    }

    /// Whether a value was written, in a definition or in `[defaults]`.
    pub(super) fn has(&self, path: &KeyPath) -> bool {
        let path = self.written(path);
        self.depth(&path) == path.0.len()
    }

    /// Where a value was written: for one of a definition that `[defaults]` has and the definition lacks,
    /// there.
    fn written(&self, path: &KeyPath) -> KeyPath {
        let [Step::Key(table), Step::Key(_), keys @ ..] = path.0.as_slice() else {
            return path.clone();
        };
        if table != TEMPLATE {
            return path.clone();
        }
        let mut default = KeyPath::default().key(DEFAULTS);
        default.0.extend_from_slice(keys);
        match self.depth(&default) > self.depth(path).saturating_sub(1) {
            true => default,
            false => path.clone(),
        }
    }

    /// How many steps of a path there are.
    fn depth(&self, path: &KeyPath) -> usize {
        let mut here = Some(&self.table);
        let there = |step: &&Step| {
            here = here.and_then(|value| step.of(value));
            here.is_some()
        };
        path.0.iter().take_while(there).count()
    }

    /// An error about the value at a path, or about its table if it is not there.
    pub(super) fn error(&self, path: &KeyPath, why: impl fmt::Display) -> Error {
        let path = &self.written(path);
        Error::config(format!("{}: `{path}` {why}", self.place(path)))
    }

    /// The error for a value at a path that its type does not take.
    pub(super) fn refused(&self, path: &KeyPath, refusal: Refusal) -> Error {
        let path = &self.written(path);
        refusal.about(format!("{}: `{path}`", self.place(path)))
    }

    /// An error from elsewhere, with the place in the file in front.
    pub(super) fn at(&self, path: &KeyPath, error: Error) -> Error {
        let path = &self.written(path);
        let mut placed = Error::config(format!("{}: `{path}`: {error}", self.place(path)));
        for line in error.details() {
            placed = placed.detail(line);
        }
        for hint in error.hints() {
            placed = placed.hint(hint);
        }
        placed
    }

    /// An error about the file as a whole.
    pub(super) fn whole(&self, why: impl fmt::Display) -> Error {
        Error::config(format!("{}: {why}", self.file.display()))
    }

    /// Like [`Document::place`], of the value that counts for the path: it may be in `[defaults]`.
    pub(super) fn place_of(&self, path: &KeyPath) -> String {
        self.place(&self.written(path))
    }

    /// `file:line:column` of the value at a path, or of the nearest table around it.
    fn place(&self, path: &KeyPath) -> String {
        let mut here = &self.table;
        let mut span = None;
        for step in &path.0 {
            match step.of(here) {
                Some(next) => here = next,
                None => break,
            }
            span = Some(here.span());
        }
        place(self.file, self.text, span)
    }

    fn check(&self, path: &KeyPath, value: &Spanned<DeValue<'_>>, schema: &Value) -> Result<()> {
        let wanted = schema["type"].as_str();
        let found = value.get_ref();
        let fits = match found {
            DeValue::String(_) => wanted == Some("string") || choices(schema).is_some(),
            DeValue::Integer(_) => wanted == Some("integer"),
            DeValue::Boolean(_) => wanted == Some("boolean"),
            DeValue::Array(_) => wanted == Some("array"),
            DeValue::Table(_) => wanted == Some("object"),
            DeValue::Float(_) | DeValue::Datetime(_) => false,
        };
        if !fits {
            return Err(self.wrong_type(path, found, schema));
        }
        match found {
            DeValue::String(text) => self.check_text(path, text, schema),
            DeValue::Integer(number) => {
                let limit = |key: &str| schema[key].as_i64();
                let (min, max) = (limit("minimum"), limit("maximum"));
                let parsed = i64::from_str_radix(number.as_str(), number.radix()).ok();
                let inside =
                    parsed.is_some_and(|n| min.is_none_or(|min| n >= min) && max.is_none_or(|max| n <= max));
                match (inside, min, max) {
                    (true, _, _) => Ok(()),
                    (false, Some(min), Some(max)) => {
                        Err(self
                            .error(path, format!("is {}, not a number from {min} to {max}", number.as_str())))
                    }
                    _ => Err(self.error(path, "is a number out of range")),
                }
            }
            DeValue::Array(items) => items
                .iter()
                .enumerate()
                .try_for_each(|(i, item)| self.check(&path.index(i), item, &schema["items"])),
            DeValue::Table(table) => self.check_table(path, table, schema),
            _ => Ok(()),
        }
    }

    fn check_text(&self, path: &KeyPath, text: &str, schema: &Value) -> Result<()> {
        if text.contains('\0') {
            return Err(self.error(path, "has a zero byte"));
        }
        let Some(choices) = choices(schema) else {
            return Ok(());
        };
        if choices.contains(&text) {
            return Ok(());
        }
        let error = self
            .error(path, format!("is `{text}`, which is not one of its values"))
            .detail(format!("values: {}", choices.join(", ")));
        Err(did_you_mean(error, nearest(text, choices)))
    }

    fn check_table(&self, path: &KeyPath, table: &DeTable<'_>, schema: &Value) -> Result<()> {
        let known = keys(schema);
        for (key, value) in table.iter() {
            let path = path.key(key.get_ref());
            match schema["properties"].get(key.get_ref().as_ref()) {
                Some(schema) => self.check(&path, value, schema)?,
                // A table with names of the user's own, such as `[template]` and `env`.
                None if schema["additionalProperties"].is_object() => {
                    self.check(&path, value, &schema["additionalProperties"])?;
                }
                None => return Err(self.unknown_key(&path, key, &known)),
            }
        }
        for key in schema["required"].as_array().into_iter().flatten() {
            let key = key.as_str().unwrap_or_default();
            if !table.contains_key(key) {
                let about = schema["properties"][key]["description"].as_str();
                return Err(self
                    .error(&path.key(key), "is missing")
                    .detail(format!("{key}: {}", one_line(about.unwrap_or_default()))));
            }
        }
        Ok(())
    }

    fn unknown_key(&self, path: &KeyPath, key: &Spanned<impl AsRef<str>>, known: &[&str]) -> Error {
        let place = place(self.file, self.text, Some(key.span()));
        let key = key.get_ref().as_ref();
        let error = Error::config(format!("{place}: unknown key `{path}`"))
            .detail(format!("keys known here: {}", known.join(", ")));
        if let Some(meant) = nearest(key, known.iter().copied()) {
            return did_you_mean(error, Some(meant));
        }
        match homes(key).as_slice() {
            [] => error,
            homes => error.hint(format!("`{key}` is a key of {}", homes.join(" and "))),
        }
    }

    fn wrong_type(&self, path: &KeyPath, found: &DeValue<'_>, schema: &Value) -> Error {
        let wanted = match schema["type"].as_str() {
            Some("array") if schema["items"]["type"] == "object" => "a list of tables",
            Some("array") => "a list of strings",
            Some("object") => "a table",
            Some("integer") => "a whole number",
            Some("boolean") => "`true` or `false`",
            _ => "a string",
        };
        let what = match found {
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "`true` or `false`",
            DeValue::Datetime(_) => "a date",
            DeValue::String(_) => "a string",
        };
        let error = self.error(path, format!("must be {wanted}, but is {what}"));
        let key = match path.0.last() {
            Some(Step::Key(key)) => key.as_str(),
            _ => return error,
        };
        let examples: Vec<String> =
            schema["examples"].as_array().into_iter().flatten().map(Value::to_string).collect();
        match (wanted, found) {
            ("a list of strings", DeValue::String(_)) => {
                error.hint(format!("put it in brackets: `{key} = [\"…\"]`"))
            }
            ("a string", DeValue::Integer(_)) if !examples.is_empty() => {
                let examples: Vec<String> = examples.iter().take(4).map(|e| format!("`{e}`")).collect();
                error.hint(format!("write it with its unit, in quotes: {}", examples.join(", ")))
            }
            ("a string", DeValue::Integer(_) | DeValue::Boolean(_) | DeValue::Float(_)) => {
                error.hint("put it in quotes")
            }
            ("a whole number", DeValue::String(_)) => error.hint("leave out the quotes"),
            ("a table", _) if path.0.len() == 2 && path.0[0] == Step::Key("template".into()) => {
                error.hint("give the definition a name: write `[template.app]` above its keys")
            }
            _ => error,
        }
    }
}

/// The way to the value that was written at a place of the text.
fn path_to(value: &Spanned<DeValue<'_>>, path: KeyPath, span: &Range<usize>) -> Option<KeyPath> {
    if value.span() == *span {
        return Some(path);
    }
    match value.get_ref() {
        DeValue::Table(table) => {
            table.iter().find_map(|(key, value)| path_to(value, path.key(key.get_ref()), span))
        }
        DeValue::Array(items) => {
            items.iter().enumerate().find_map(|(i, item)| path_to(item, path.index(i), span))
        }
        _ => None,
    }
}

/// Moves what `[defaults]` says into each definition.
fn share(file: &mut Spanned<DeValue<'_>>) {
    let DeValue::Table(file) = file.get_mut() else {
        return;
    };
    let Some(defaults) = file.remove(DEFAULTS) else {
        return;
    };
    let definitions = file.iter_mut().filter(|(name, _)| name.get_ref() == TEMPLATE);
    for (_, definitions) in definitions {
        if let DeValue::Table(definitions) = definitions.get_mut() {
            definitions.iter_mut().for_each(|(_, definition)| fill(definition, &defaults));
        }
    }
}

/// Puts into a table what it lacks. Tables in it, such as `env`, are put together.
fn fill<'a>(own: &mut Spanned<DeValue<'a>>, shared: &Spanned<DeValue<'a>>) {
    let (DeValue::Table(own), DeValue::Table(shared)) = (own.get_mut(), shared.get_ref()) else {
        return;
    };
    for (key, value) in shared {
        match own.get_mut(key.get_ref().as_ref()) {
            Some(there) => fill(there, value),
            None => drop(own.insert(key.clone(), value.clone())),
        }
    }
}

fn did_you_mean(error: Error, meant: Option<&str>) -> Error {
    match meant {
        Some(meant) => error.hint(format!("did you mean `{meant}`?")),
        None => error,
    }
}

/// The values that a string may have, if they are listed.
fn choices(schema: &Value) -> Option<Vec<&str>> {
    let listed = schema["enum"].as_array().or(schema["oneOf"].as_array())?;
    Some(listed.iter().filter_map(|v| v.as_str().or_else(|| v["const"].as_str())).collect())
}

/// The keys of a table.
fn keys(schema: &Value) -> Vec<&str> {
    let properties = schema["properties"].as_object();
    properties.map_or_else(Vec::new, |p| p.keys().map(String::as_str).collect())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `file:line:column`, both counted from 1 and columns in characters; without a span only the file.
fn place(file: &Path, text: &str, span: Option<Range<usize>>) -> String {
    let before = span.and_then(|span| text.get(..span.start));
    match before {
        None => file.display().to_string(),
        Some(before) => {
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
            format!("{}:{line}:{column}", file.display())
        }
    }
}
