//! JSON answer of `doctor`.

use serde::Serialize;

use super::VERSION;
use crate::doctor::{Check, Status};

/// Answer of `doctor`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct DoctorAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// Number of remaining problems.
    pub problems: usize,
    /// Number of remaining warnings.
    pub warnings: usize,
    /// All checks.
    pub checks: Vec<CheckAnswer>,
}

/// A check.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CheckAnswer {
    /// Name of the check; the same in each run.
    pub name: &'static str,
    /// `ok`, `warning` or `problem`.
    pub status: &'static str,
    /// The finding.
    pub words: String,
    /// Advice for the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Statements for the fix, which pgstencil does not run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub statements: Vec<String>,
    /// The fix that was applied.
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
