//! JSON answer of `verify`.

use serde::Serialize;

use super::{ExtendsAnswer, Ordered, VERSION, millis};
use crate::pg::inventory::{Class, Difference};
use crate::template::Verdict;

/// Answer of `verify`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct VerifyAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// The templates that were compared.
    pub verified: Vec<VerdictAnswer>,
}

/// One template that was compared with a full build.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct VerdictAnswer {
    /// Name of the definition.
    pub template: String,
    /// 64 hex digits.
    pub fingerprint: String,
    /// Whether nothing that was compared differs.
    pub equal: bool,
    /// Classes that differ: `schema`, `grants`, `settings`, `row_counts`, `row_contents`, `ids`, `sequences`.
    pub differs: Vec<Class>,
    /// Classes that were compared, in the same words.
    pub compared: Vec<Class>,
    /// Classes that were not compared: row contents (except for large objects) and ids, without `--rows`.
    pub not_compared: Vec<Class>,
    /// Columns of differing rows, left out since they contain the time of the build: `schema.table.column`.
    pub left_out: Vec<String>,
    /// Objects that the role could not read, so that they were not compared, and the reason.
    pub unread: Vec<String>,
    /// Origin of its incremental build, if it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extends: Option<ExtendsAnswer>,
    /// `kept`, `replaced` or `broken`.
    pub fate: &'static str,
    /// Differences by alias; equal aliases are left out.
    pub differences: Ordered<Difference>,
    /// Milliseconds of the full build.
    pub build_ms: f64,
}

impl Default for VerifyAnswer {
    fn default() -> Self {
        VerifyAnswer { version: VERSION, verified: Vec::new() }
    }
}

impl VerifyAnswer {
    /// Adds the result for one template.
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

    /// Returns whether nothing differs anywhere.
    pub(crate) fn is_equal(&self) -> bool {
        self.verified.iter().all(|v| v.equal)
    }
}
