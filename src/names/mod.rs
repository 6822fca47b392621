//! Values that name things: fingerprints, and the names of our databases. They are made and parsed
//! here and nowhere else.

mod pattern;

use std::fmt;
use std::str::FromStr;

pub use self::pattern::{NameParts, NamePattern};

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
    #[expect(clippy::expect_used, reason = "without randomness no name of ours would be ours")]
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes.iter().map(|b| char::from(ALPHABET[usize::from(b % 32)])).collect()
}

/// A fresh clone id: 40 random bits, short enough to type.
pub fn clone_id() -> String {
    random_text(8)
}

/// The database of every server that holds nothing, and that nobody can put anything into.
pub const EMPTY_DATABASE: &str = "template0";

/// Whether a template's database that was built from this database may be marked IS_TEMPLATE: that lets every
/// role with CREATEDB copy it, and those two may be copied anyway.
pub fn is_public_source(name: &str) -> bool {
    matches!(name, EMPTY_DATABASE | "template1")
}

/// The name under which a database is created: 80 random bits, so that a database of this name was
/// made by whoever wrote it into the registry.
pub fn private_name() -> String {
    format!("pgstencil_{}", random_text(16))
}

/// The name of a sealed template's database, for a person in `psql -l`. The random end keeps a
/// template apart from the one it replaces.
pub fn template_name(project: &str, definition: &str, alias: &str, fingerprint: &Fingerprint) -> String {
    let tail = format!("_{}_{}", fingerprint.short(), random_text(4));
    let mut room = MAX_NAME_BYTES;
    loop {
        let [project, definition, alias] = [project, definition, alias].map(|field| folded(field, room));
        let name = format!("tpl_{project}_{definition}_{alias}{tail}");
        // Three of the smallest fit.
        if name.len() <= MAX_NAME_BYTES || room <= SMALLEST {
            return name;
        }
        room -= 1;
    }
}

/// Hex digits of the hash that stands for what a name cannot show.
const HASH_DIGITS: usize = 6;

/// The least room that [`folded`] needs: one character, `_` and the hash.
pub const SMALLEST: usize = 1 + 1 + HASH_DIGITS;

/// A text as part of a database's name, in at most `room` bytes (at least [`SMALLEST`]).
///
/// Small letters, digits, `-` and `_` stay; large letters become small, and anything else `_`. Where that or
/// the length loses something, the name ends in six hex digits of a hash of the whole text: two texts that
/// fold to one name, or differ only in what was cut, get two. The same text always gets the same name.
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

/// The longest beginning of `text` that has at most `bytes` bytes.
pub fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
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
        Mark { nonce: random_text(20) }
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
