//! What `verify` answers.

use serde::Serialize;

use super::{ExtendsAnswer, Ordered, VERSION, millis};
use crate::pg::inventory::{Class, Difference};
use crate::template::Verdict;

/// What `verify` answers.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct VerifyAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// The templates that were compared.
    pub verified: Vec<VerdictAnswer>,
}

/// One template that was compared with a build from nothing.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct VerdictAnswer {
    /// Name of the definition.
    pub template: String,
    /// 64 hex digits.
    pub fingerprint: String,
    /// Whether nothing differs of what was compared.
    pub equal: bool,
    /// In what they differ: `schema`, `grants`, `settings`, `row_counts`, `row_contents`, `ids`, `sequences`.
    pub differs: Vec<Class>,
    /// What was compared, in the same words.
    pub compared: Vec<Class>,
    /// What was not: row contents (but for those of large objects) and ids, without `--rows`.
    pub not_compared: Vec<Class>,
    /// Columns of rows that differ, left out since they hold the time of the build: `schema.table.column`.
    pub left_out: Vec<String>,
    /// What the role could not read, so that it was not compared, and why.
    pub unread: Vec<String>,
    /// What it was extended from, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extends: Option<ExtendsAnswer>,
    /// `kept`, `replaced` or `broken`.
    pub fate: &'static str,
    /// By alias; roles that are equal are left out.
    pub differences: Ordered<Difference>,
    /// Milliseconds of the build from nothing.
    pub build_ms: f64,
}

impl Default for VerifyAnswer {
    fn default() -> Self {
        VerifyAnswer { version: VERSION, verified: Vec::new() }
    }
}

impl VerifyAnswer {
    /// Adds what was found of one template.
    pub(crate) fn add(&mut self, verdict: &Verdict) {
        self.verified.push(VerdictAnswer {
            template: verdict.definition.clone(),
            fingerprint: verdict.fingerprint.to_string(),
            equal: verdict.is_equal(),
            differs: verdict.classes(),
            compared: verdict.compared(true),
            not_compared: verdict.compared(false),
            left_out: verdict.left_out.clone(),
            unread: verdict.unread.clone(),
            extends: verdict.extends.as_ref().map(Into::into),
            fate: verdict.fate.as_str(),
            differences: Ordered(verdict.differences.clone()),
            build_ms: millis(verdict.build_time),
        });
    }

    /// Whether nothing differs anywhere.
    pub(crate) fn is_equal(&self) -> bool {
        self.verified.iter().all(|v| v.equal)
    }
}
