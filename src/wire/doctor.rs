//! What `doctor` answers.

use serde::Serialize;

use super::VERSION;
use crate::doctor::{Check, Status};

/// What `doctor` answers.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct DoctorAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// How many problems are left.
    pub problems: usize,
    /// How many warnings are left.
    pub warnings: usize,
    /// All that was looked at.
    pub checks: Vec<CheckAnswer>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CheckAnswer {
    /// What it was; the same at each check-up.
    pub name: &'static str,
    /// `ok`, `warning` or `problem`.
    pub status: &'static str,
    /// What was found.
    pub words: String,
    /// What a person can do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Statements for that, which pgstencil does not run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub statements: Vec<String>,
    /// What was done about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed: Option<String>,
}

impl From<&[Check]> for DoctorAnswer {
    fn from(checks: &[Check]) -> Self {
        let left = |status| {
            let of = |c: &&Check| c.status == status && c.fixed.is_none();
            checks.iter().filter(of).count()
        };
        DoctorAnswer {
            version: VERSION,
            problems: left(Status::Problem),
            warnings: left(Status::Warning),
            checks: checks
                .iter()
                .map(|c| CheckAnswer {
                    name: c.name,
                    status: c.status.as_str(),
                    words: c.words.clone(),
                    hint: c.hint.clone(),
                    statements: c.statements.clone(),
                    fixed: c.fixed.clone(),
                })
                .collect(),
        }
    }
}
