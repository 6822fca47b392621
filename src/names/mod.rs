//! Values that identify things: fingerprints, names of databases, ownership tags. They are made and parsed
//! only here.

mod pattern;

use std::fmt;
use std::str::FromStr;

pub(crate) use self::pattern::{NameParts, NamePattern};

use crate::error::{Error, Result};

/// blake3 over everything that decides the result of a build.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Wraps a finished hash.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Fingerprint(bytes)
    }

    /// Returns the first 12 hex digits, which are enough for a person.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }

    /// Returns a number from 0 up to but not including 1, which is as good as random but the same on each machine.
    pub(crate) fn draw(&self) -> f64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        // As many bits as an f64 holds exactly.
        (u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 11) as f64 / (1_u64 << 53) as f64
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

/// Maximum length of an identifier. Postgres silently truncates longer ones (NAMEDATALEN - 1), and two
/// truncated names may be equal.
pub(crate) const MAX_NAME_BYTES: usize = 63;

/// Digits and letters without those that look alike; 32 characters, five bits each.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Returns random lower-case letters and digits, five bits each, from the operating system.
///
/// # Panics
/// If the operating system provides no randomness.
pub(crate) fn random_text(length: usize) -> String {
    let mut bytes = vec![0; length];
    #[expect(
        clippy::expect_used,
        reason = "without randomness another user could choose the names of pgstencil's databases"
    )]
    getrandom::fill(&mut bytes).expect("the operating system provides random bytes");
    bytes.iter().map(|b| char::from(ALPHABET[usize::from(b % 32)])).collect()
}

/// Returns a new clone id: 40 random bits, short enough to type.
pub(crate) fn clone_id() -> String {
    random_text(8)
}

/// A database that every server has, that is empty, and to which no one can connect.
pub(crate) const EMPTY_DATABASE: &str = "template0";

/// Returns whether a template built from this database may be marked IS_TEMPLATE. The mark lets every
/// Postgres role with CREATEDB copy a database, and the two databases here may be copied by all of them
/// anyway.
pub(crate) fn is_public_source(name: &str) -> bool {
    matches!(name, EMPTY_DATABASE | "template1")
}

/// Returns the name under which a database is created: 80 random bits, so that a database of this name was
/// certainly made by the process that wrote the name into the registry.
pub(crate) fn private_name() -> String {
    format!("pgstencil_{}", random_text(16))
}

/// Returns the name of a sealed template's database, as shown by `psql -l`. The random end distinguishes a
/// template from the one that it replaces.
pub(crate) fn template_name(
    project: &str,
    definition: &str,
    alias: &str,
    fingerprint: &Fingerprint,
) -> String {
    let tail = format!("_{}_{}", fingerprint.short(), random_text(4));
    let mut room = MAX_NAME_BYTES;
    loop {
        let [project, definition, alias] = [project, definition, alias].map(|field| folded(field, room));
        let name = format!("tpl_{project}_{definition}_{alias}{tail}");
        // Three parts of the minimum size fit.
        if name.len() <= MAX_NAME_BYTES || room <= SMALLEST {
            return name;
        }
        room -= 1;
    }
}

/// Number of hex digits of the hash that replaces the part of a text that a name cannot show.
const HASH_DIGITS: usize = 6;

/// Minimum size of the result of [`folded`]: one character, `_` and the hash.
pub(crate) const SMALLEST: usize = 1 + 1 + HASH_DIGITS;

/// Converts a text to a part of a database's name, in at most `room` bytes (at least `SMALLEST`).
///
/// Small letters, digits, `-` and `_` are kept; capital letters become small, and anything else becomes `_`.
/// If the conversion or the length loses something, the name ends in six hex digits of a hash of the whole
/// text: two texts that fold to one name, or that differ only in the part that was cut, get different names.
/// The same text always gets the same name.
pub fn folded(text: &str, room: usize) -> String {
    let fold = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '-' | '_') => c,
        _ => '_',
    };
    let plain: String = text.chars().map(fold).collect();
    if plain == text && text.len() <= room {
        return plain;
    }
    let hash = &blake3::hash(text.as_bytes()).to_hex()[..HASH_DIGITS];
    let ends = |c| c == '_' || c == '-';
    let head = match plain == text {
        true => &plain,
        false => plain.trim_matches(ends),
    };
    match cut(head, room.max(SMALLEST) - HASH_DIGITS - 1) {
        "" => hash.to_owned(),
        head => format!("{head}_{hash}"),
    }
}

/// Returns the longest beginning of `text` that has at most `bytes` bytes.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The ownership tag in the comment of each database: a text for people, and a nonce that proves that the
/// database is the one in the registry. The builder's own comment comes before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// A random text, which is also in the registry row.
    pub nonce: String,
}

/// The beginning of every ownership tag.
const MARK: &str = "[pgstencil ";

impl Mark {
    /// Returns the tag of a new database.
    pub(crate) fn random() -> Self {
        Mark { nonce: random_text(20) }
    }

    /// Returns the whole comment.
    pub(crate) fn comment(&self, words: &str, builders: Option<&str>) -> String {
        match builders {
            Some(own) => format!("{own}\n{words} {MARK}{}]", self.nonce),
            None => format!("{words} {MARK}{}]", self.nonce),
        }
    }

    /// Returns the end of a comment with this tag.
    pub(crate) fn ending(&self) -> String {
        format!("{MARK}{}]", self.nonce)
    }

    /// Returns whether a comment has this tag.
    pub(crate) fn is_in(&self, comment: Option<&str>) -> bool {
        comment.is_some_and(|c| c.ends_with(&self.ending()))
    }

    /// Returns the builder's own part of a comment that may have this tag.
    pub(crate) fn builders<'a>(&self, comment: Option<&'a str>) -> Option<&'a str> {
        if !self.is_in(comment) {
            return comment;
        }
        // pgstencil's text is one line, and the last one.
        Some(comment?.rsplit_once('\n')?.0)
    }

    /// Returns whether a comment has the tag of any pgstencil.
    pub(crate) fn any_in(comment: Option<&str>) -> bool {
        comment.is_some_and(|c| c.contains(MARK))
    }
}

/// Returns names as words of a shell command, for hints that a person pastes: `dev 'Ann B'`.
pub(crate) fn words<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    // A name of Postgres contains no NUL, which is the only character that cannot be quoted.
    let quoted = names.into_iter().map(|name| shlex::try_quote(name).map_or(name.into(), |word| word));
    quoted.collect::<Vec<std::borrow::Cow<'_, str>>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_can_be_pasted_into_a_shell() {
        assert_eq!(words(["dev_main", "Dev Ann", "it's", "$HOME"]), r#"dev_main 'Dev Ann' "it's" '$HOME'"#);
    }

    const FP: Fingerprint = Fingerprint([0xab; 32]);

    #[test]
    fn fingerprints_round_trip() {
        assert_eq!(FP.to_string().parse::<Fingerprint>().unwrap(), FP);
        assert_eq!(FP.short(), "abababababab");
        assert!("abc".parse::<Fingerprint>().is_err());
        assert!("ä".repeat(32).parse::<Fingerprint>().is_err());
    }

    fn hashed(head: &str, text: &str) -> String {
        let hash = &blake3::hash(text.as_bytes()).to_hex()[..6];
        match head {
            "" => hash.to_owned(),
            _ => format!("{head}_{hash}"),
        }
    }

    #[test]
    fn what_folding_loses_is_in_a_hash() {
        for kept in ["feat-a_b", "x", "0-1", "-", "_x_", "a_123456"] {
            assert_eq!(folded(kept, 63), kept);
        }
        for (text, head) in [
            ("feat/a-b", "feat_a-b"),
            ("feat-a/b", "feat-a_b"),
            ("Feat-a_b", "feat-a_b"),
            ("feat/Ü-1", "feat__-1"),
            ("v1.2", "v1_2"),
            ("/é/x/", "x"),
            ("データ", ""),
            ("", ""),
        ] {
            match text {
                "" => assert_eq!(folded(text, 63), ""),
                _ => assert_eq!(folded(text, 63), hashed(head, text), "{text}"),
            }
        }
    }

    #[test]
    fn what_cutting_loses_is_in_a_hash() {
        let (one, other) = (format!("{}-1", "a".repeat(70)), format!("{}-2", "a".repeat(70)));
        assert_eq!(folded(&one, 63), hashed(&"a".repeat(56), &one));
        assert_ne!(folded(&one, 63), folded(&other, 63));
        assert_eq!(folded("abcdefgh", 8), "abcdefgh");
        assert_eq!(folded("abcdefghi", 8), hashed("a", "abcdefghi"));
        assert_eq!(folded("abcdefghi", 0), hashed("a", "abcdefghi"));
        for room in SMALLEST..=64 {
            for text in [&one, &"é".repeat(60), "x/", "ABCDEFGHIJK"] {
                assert!(folded(text, room).len() <= room, "{text} in {room}");
            }
        }
    }

    #[test]
    fn templates_have_names_that_fit() {
        let long = "é".repeat(60);
        let name = template_name(&long, &long, &long, &FP);
        assert!(name.len() <= 63, "{name}");
        let long = "a".repeat(32);
        let name = template_name(&long, &long, &long, &FP);
        assert!(name.len() <= 63 && name.contains("_abababababab_"), "{name}");
        let name = template_name("my-shop", "app", "App", &FP);
        assert!(name.starts_with("tpl_my-shop_app_app_"), "{name}");
        assert!(private_name().len() <= 63);
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
