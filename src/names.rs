//! Values that name things: fingerprints, and the names of our databases. They are made and parsed
//! here and nowhere else.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// blake3 over everything that decides what a build yields.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Wraps a finished hash.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Fingerprint(bytes)
    }

    /// The first 12 hex digits: enough for a person.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::internal(format!("`{text}` is not a fingerprint"));
        if text.len() != 64 || !text.is_ascii() {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| bad())?;
        }
        Ok(Fingerprint(bytes))
    }
}

/// Postgres cuts longer identifiers silently (NAMEDATALEN - 1), and two cut names may collide.
pub const MAX_NAME_BYTES: usize = 63;

/// Digits and letters without those that look alike; 32 of them, five bits each.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Random lower-case letters and digits, five bits each, from the operating system.
///
/// # Panics
/// If the operating system has no randomness to give.
pub fn random_text(length: usize) -> String {
    let mut bytes = vec![0; length];
    #[expect(
        clippy::expect_used,
        reason = "without randomness no name of ours would be ours"
    )]
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
        .iter()
        .map(|b| char::from(ALPHABET[usize::from(b % 32)]))
        .collect()
}

/// A fresh clone id: 40 random bits, short enough to type.
pub fn clone_id() -> String {
    random_text(8)
}

/// The name under which a database is created: 80 random bits, so that a database of this name was
/// made by whoever wrote it into the registry.
pub fn private_name() -> String {
    format!("pgstencil_{}", random_text(16))
}

/// The name of a sealed template's database, for a person in `psql -l`. The random end keeps a
/// template apart from the one it replaces.
pub fn template_name(
    project: &str,
    definition: &str,
    role: &str,
    fingerprint: &Fingerprint,
) -> String {
    let tail = format!("_{}_{}", fingerprint.short(), random_text(4));
    let head = format!(
        "tpl_{}_{}_{}",
        plain(project),
        plain(definition),
        plain(role)
    );
    format!("{}{tail}", cut(&head, MAX_NAME_BYTES - tail.len()))
}

/// Lower-case letters, digits and `_` only.
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|c| match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => c,
            _ => '_',
        })
        .collect()
}

/// The longest beginning of `text` that has at most `bytes` bytes.
pub fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// What `--name` holds: a pattern with `{id}`, `{role}`, `{n}`, `{shard}`, `{branch}`, `{project}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Id,
    Role,
    Index,
    /// Nothing for the first, `_1`, `_2` … for the others, as Django names its copies.
    Following,
    Shard,
    Branch,
    Project,
}

/// What a [`NamePattern`] is filled with.
#[derive(Clone, Copy, Debug)]
pub struct NameParts<'a> {
    /// `{id}`: one for all clones that are asked for together.
    pub id: &'a str,
    /// `{role}`
    pub role: &'a str,
    /// `{n}`
    pub index: usize,
    /// `{shard}`, if the caller has one.
    pub shard: Option<u32>,
    /// `{branch}`, if there is one.
    pub branch: Option<&'a str>,
    /// `{project}`
    pub project: &'a str,
}

impl Default for NamePattern {
    fn default() -> Self {
        use Part::{Field as F, Text as T};
        NamePattern(vec![
            F(Field::Project),
            T("_".into()),
            F(Field::Role),
            T("_".into()),
            F(Field::Id),
            F(Field::Following),
        ])
    }
}

impl NamePattern {
    /// Whether every clone gets a name of its own.
    pub fn is_unique(&self) -> bool {
        self.0.contains(&Part::Field(Field::Id))
    }

    /// Fills the pattern. Project, role and branch are cut as far as needed to fit 63 bytes.
    ///
    /// # Errors
    /// A field that has no value here, or a name that is too long all the same.
    pub fn render(&self, parts: &NameParts<'_>) -> Result<String> {
        // The longest of these gives way first; eight characters stay of each.
        for room in (8..=MAX_NAME_BYTES).rev() {
            let name = self.render_within(parts, room)?;
            if name.len() <= MAX_NAME_BYTES {
                return Ok(name);
            }
        }
        Err(Error::usage(format!(
            "the name pattern gives names of more than {MAX_NAME_BYTES} bytes"
        ))
        .detail(format!("such as `{}`", self.render_within(parts, 8)?))
        .hint("Postgres would cut them, and two of them might become one: use a shorter `--name`"))
    }

    fn render_within(&self, parts: &NameParts<'_>, room: usize) -> Result<String> {
        let mut name = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => name += text,
                Part::Field(Field::Id) => name += parts.id,
                Part::Field(Field::Index) => name += &parts.index.to_string(),
                Part::Field(Field::Following) if parts.index == 0 => {}
                Part::Field(Field::Following) => name += &format!("_{}", parts.index),
                Part::Field(Field::Role) => name += cut(parts.role, room),
                Part::Field(Field::Project) => name += cut(&plain(parts.project), room),
                Part::Field(Field::Shard) => match parts.shard {
                    Some(shard) => name += &shard.to_string(),
                    None => {
                        return Err(Error::usage(
                            "the name pattern has `{shard}`, but there is no shard",
                        )
                        .hint("add `--shard I/N`"));
                    }
                },
                Part::Field(Field::Branch) => match parts.branch {
                    Some(branch) => name += cut(&plain(branch), room),
                    None => {
                        return Err(Error::usage(
                            "the name pattern has `{branch}`, but no branch is checked out here",
                        )
                        .hint("run it in a git worktree with a branch, or leave `{branch}` out"));
                    }
                },
            }
        }
        Ok(name)
    }
}

impl FromStr for NamePattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::usage("the name pattern is empty"));
        }
        if let Some(bad) = text.chars().find(|c| c.is_control()) {
            return Err(Error::usage(format!(
                "the name pattern holds the control character {bad:?}"
            )));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            if open > 0 {
                parts.push(Part::Text(rest[..open].to_owned()));
            }
            let Some(close) = rest[open..].find('}') else {
                return Err(Error::usage(format!(
                    "the name pattern `{text}` has a `{{` without a `}}`"
                )));
            };
            parts.push(Part::Field(match &rest[open + 1..open + close] {
                "id" => Field::Id,
                "role" => Field::Role,
                "n" => Field::Index,
                "shard" => Field::Shard,
                "branch" => Field::Branch,
                "project" => Field::Project,
                other => {
                    return Err(Error::usage(format!(
                        "the name pattern has the unknown field `{{{other}}}`"
                    ))
                    .hint("the fields are {id} {role} {n} {shard} {branch} {project}"));
                }
            }));
            rest = &rest[open + close + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        if !parts.contains(&Part::Field(Field::Index)) {
            parts.push(Part::Field(Field::Following));
        }
        Ok(NamePattern(parts))
    }
}

/// The comment on each of our databases: words for a person, and a nonce that proves to us that the
/// database is the one in the registry. The builder's own comment goes on in front of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Random; also in the registry row.
    pub nonce: String,
}

/// How every mark begins.
const MARK: &str = "[pgstencil ";

impl Mark {
    /// A mark for a new database.
    pub fn random() -> Self {
        Mark {
            nonce: random_text(20),
        }
    }

    /// The whole comment.
    pub fn comment(&self, words: &str, builders: Option<&str>) -> String {
        match builders {
            Some(own) => format!("{own}\n{words} {MARK}{}]", self.nonce),
            None => format!("{words} {MARK}{}]", self.nonce),
        }
    }

    /// How a comment with this mark ends.
    pub fn ending(&self) -> String {
        format!("{MARK}{}]", self.nonce)
    }

    /// Whether a comment carries this very mark.
    pub fn is_in(&self, comment: Option<&str>) -> bool {
        comment.is_some_and(|c| c.ends_with(&self.ending()))
    }

    /// The builder's own part of a comment that may carry this mark.
    pub fn builders<'a>(&self, comment: Option<&'a str>) -> Option<&'a str> {
        if !self.is_in(comment) {
            return comment;
        }
        // Our words are one line, and the last one.
        Some(comment?.rsplit_once('\n')?.0)
    }

    /// Whether a comment carries anybody's mark.
    pub fn any_in(comment: Option<&str>) -> bool {
        comment.is_some_and(|c| c.contains(MARK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FP: Fingerprint = Fingerprint([0xab; 32]);

    fn parts<'a>(project: &'a str, role: &'a str) -> NameParts<'a> {
        NameParts {
            id: "k3f9x2ab",
            role,
            index: 3,
            shard: Some(2),
            branch: Some("feat/Ü-1"),
            project,
        }
    }

    #[test]
    fn fingerprints_round_trip() {
        assert_eq!(FP.to_string().parse::<Fingerprint>().unwrap(), FP);
        assert_eq!(FP.short(), "abababababab");
        assert!("abc".parse::<Fingerprint>().is_err());
        assert!("ä".repeat(32).parse::<Fingerprint>().is_err());
    }

    #[test]
    fn patterns_give_the_names_that_test_runners_insist_on() {
        let name = |p: &str| {
            p.parse::<NamePattern>()
                .unwrap()
                .render(&parts("Shop", "app"))
                .unwrap()
        };
        assert_eq!(name("test_x_gw{n}"), "test_x_gw3");
        assert_eq!(name("x-{n}"), "x-3");
        assert_eq!(name("{branch}_{shard}"), "feat___1_2_3");
        let default = |index| {
            let parts = NameParts {
                index,
                ..parts("Shop", "app")
            };
            NamePattern::default().render(&parts).unwrap()
        };
        assert_eq!(default(0), "shop_app_k3f9x2ab");
        assert_eq!(default(2), "shop_app_k3f9x2ab_2");
    }

    #[test]
    fn names_fit_63_bytes_by_construction() {
        let long = "é".repeat(60);
        let name = NamePattern::default().render(&parts(&long, &long)).unwrap();
        assert!(name.len() <= 63 && name.ends_with("_k3f9x2ab_3"), "{name}");
        assert!(template_name(&long, &long, &long, &FP).len() <= 63);
        assert!(private_name().len() <= 63);
        let pattern: NamePattern = "x".repeat(64).parse().unwrap();
        assert!(pattern.render(&parts("a", "b")).is_err());
    }

    #[test]
    fn bad_patterns_are_refused() {
        for bad in ["", "{nope}", "{id", "a\0b", "a\nb"] {
            assert!(bad.parse::<NamePattern>().is_err(), "{bad:?}");
        }
        let pattern: NamePattern = "{branch}".parse().unwrap();
        assert!(
            pattern
                .render(&NameParts {
                    branch: None,
                    ..parts("a", "b")
                })
                .is_err()
        );
    }

    #[test]
    fn a_mark_is_recognised_only_by_its_nonce_at_the_end() {
        let mark = Mark::random();
        let comment = mark.comment("clone of shop", Some("the builder's"));
        assert!(mark.is_in(Some(&comment)));
        assert!(!Mark::random().is_in(Some(&comment)));
        assert!(Mark::any_in(Some(&comment)));
        assert!(!mark.is_in(None));
        assert!(!mark.is_in(Some(&format!("{comment} copied"))));
    }
}
