//! The same tests, by `#[sqlx::test]`.

#![allow(unused_braces)]

include!(concat!(env!("OUT_DIR"), "/theirs.rs"));
