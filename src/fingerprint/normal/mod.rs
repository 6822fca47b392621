//! Normal forms: content of a file without what has no effect, for the files that `normalize` names.
//!
//! A hash over the normal form does not change with a comment or the layout, so a cosmetic edit of an old
//! migration causes no build. The direction of a doubt is fixed: two files with different effects must never
//! have the same normal form, while two files with the same effect may well have different ones. So a file
//! whose form is in doubt has none, and counts by its bytes.
//!
//! SQL has no normal form: its comments are commands (`-- migrate:down`, `-- +goose Up`), and sqlx, Flyway and
//! Prisma refuse to run if the bytes of an applied migration changed.

mod python;
#[cfg(test)]
mod tests;

use crate::config::Form;

/// Name and version of a normal form, as recipes contain it. Raise the version with each change of the code that
/// can give a file another normal form: the tree then has a new fingerprint.
pub(super) fn version(form: Form) -> &'static str {
    match form {
        Form::Python => "python 1",
    }
}

/// Returns the normal form of a content; `None` if it has none, and counts by its bytes.
pub(super) fn of(form: Form, content: &[u8]) -> Option<Vec<u8>> {
    match form {
        Form::Python => python::normal(content),
    }
}
