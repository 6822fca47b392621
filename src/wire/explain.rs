//! JSON answer of `explain`.

use serde::Serialize;

use super::{RebuildAnswer, VERSION, millis};
use crate::config::Order;
use crate::fingerprint::{Difference, FileInput, Group, Inputs, LinesInput, RelPath, ServerTraits, groups};
use crate::remote::{Shown, ShownEntry};
use crate::stencil::{Explanation, Now, OnServer};
use crate::template::waypoint::Stop;

/// Answer of `explain`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ExplainAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// Name of the definition.
    pub template: String,
    /// Fingerprint of the current inputs; null if the server is not running, since it decides, too.
    pub fingerprint: Option<String>,
    /// The inputs that decide the fingerprint.
    pub inputs: InputsAnswer,
    /// Files that the globs match, but a .gitignore hides.
    pub ignored: Vec<String>,
    /// The next steps of a command; null if the server is not running.
    pub now: Option<NowAnswer>,
    /// Reason why the ready template of these inputs is not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unusable: Option<String>,
    /// What the remote store has; absent without a store, and if a template is ready or being built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<StoreAnswer>,
    /// Milliseconds by past times; null where there are none.
    pub costs_ms: CostsAnswer,
    /// The compared template, and the differences; null if there is none, or nothing to compare.
    pub against: Option<AgainstAnswer>,
}

/// The inputs that decide the fingerprint, without the values of variables.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct InputsAnswer {
    /// Files of `migrations`.
    pub migrations: Vec<FileInput>,
    /// Files of `rerun_inputs`.
    pub rerun_inputs: Vec<FileInput>,
    /// Files of `inputs`, and those of `named`.
    pub inputs: Vec<FileInput>,
    /// Files of `companions`.
    pub companions: Vec<FileInput>,
    /// `order`
    pub order: Order,
    /// The migrations that are compared with each other, in their order.
    pub groups: Vec<Group>,
    /// Files that count as inputs since the build command names them.
    pub named: Vec<RelPath>,
    /// Lines of `input_lines`.
    pub lines: Vec<LinesInput>,
    /// Variables of `env_inputs`: names, and whether they are set.
    pub env: Vec<VariableAnswer>,
    /// Names of `[template.X.env]`.
    pub mapping: Vec<String>,
    /// Names of `[template.X.build_env]`.
    pub build_env: Vec<String>,
    /// The build command.
    pub build: String,
    /// The key under which a program fills the databases, in place of files and build command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Aliases of the databases.
    pub databases: Vec<String>,
    /// The database that builds start from.
    pub from: String,
    /// Inputs that the server adds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerTraits>,
}

/// A variable of `env_inputs`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct VariableAnswer {
    /// Its name.
    pub name: String,
    /// Whether it is set.
    pub set: bool,
}

/// The next steps of a command.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
#[non_exhaustive]
pub enum NowAnswer {
    /// Use the existing template.
    Hit {
        /// Whether a full build is to replace it.
        provisional: bool,
        /// Reason why the last rebuild failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        rebuild_failure: Option<String>,
        /// Plan for that full build, and the evidence, if the template was built incrementally.
        #[serde(skip_serializing_if = "Option::is_none")]
        rebuild: Option<RebuildAnswer>,
        /// Files that count as equal by their normal form, and whose bytes differ from those that it was built with.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        cosmetic: Vec<RelPath>,
    },
    /// Wait for another process that builds it.
    Wait {
        /// The builder.
        builder: String,
        /// Whether that is another template, and the two builds must not run at the same time.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        serial: bool,
        /// Milliseconds since the build began.
        elapsed_ms: f64,
        /// The last lines that the build printed.
        tail: String,
    },
    /// Build it on a copy of an older one.
    Extend {
        /// Fingerprint of the base.
        base: String,
        /// The migrations that are new, in order.
        added: Vec<RelPath>,
        /// Files of `rerun_inputs` that differ.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        rerun_inputs: Vec<String>,
        /// Companions that are new.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        companions: Vec<String>,
    },
    /// Run a full build.
    Build {
        /// Reason why there is no base.
        why: String,
        /// The change that would allow an incremental build, if any.
        #[serde(skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
        /// The first step, if it runs in two.
        #[serde(skip_serializing_if = "Option::is_none")]
        waypoint: Option<WaypointAnswer>,
        /// Reason why no waypoint is built: one failed, and none is built until `build`, `build_until` or `waypoints`
        /// changes; or the tree is too large to copy.
        #[serde(skip_serializing_if = "Option::is_none")]
        no_waypoints: Option<String>,
    },
}

/// First step of a full build, which is kept as a base.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct WaypointAnswer {
    /// `{version}` of `build_until`; absent if the build command runs in a copy of the tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether it is built in a copy of the tree without the later migrations; absent if not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub copy: bool,
    /// Number of its migrations.
    pub migrations: usize,
    /// Number of the migrations of both steps.
    pub of: usize,
}

/// Milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct CostsAnswer {
    /// Time to find a ready template.
    pub hit: Option<f64>,
    /// Time of an incremental build.
    pub extend: Option<f64>,
    /// Time of a full build.
    pub build: Option<f64>,
}

/// What the remote store has for the current inputs.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StoreAnswer {
    /// URL of the store.
    pub store: String,
    /// Whether a command would pull the template or its base.
    pub pull: bool,
    /// Reason why it would not.
    pub why: Option<String>,
    /// The entry of these inputs.
    pub exact: Option<StoredAnswer>,
    /// The largest base, if there is no such entry.
    pub base: Option<StoredAnswer>,
    /// Reason why a command would push nothing; null if it would.
    pub why_no_push: Option<String>,
}

/// An entry of a store, and what it costs.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StoredAnswer {
    /// 64 hex digits.
    pub fingerprint: String,
    /// Size of its dumps.
    pub bytes: u64,
    /// Expected milliseconds of a restore.
    pub restore_ms: f64,
    /// Milliseconds of a full build, else of its own build, where it was built.
    pub build_ms: f64,
    /// Whether a full build is to replace it.
    pub provisional: bool,
    /// Migrations that a base lacks, in order.
    pub added: Vec<RelPath>,
}

impl From<&ShownEntry> for StoredAnswer {
    fn from(entry: &ShownEntry) -> Self {
        StoredAnswer {
            fingerprint: entry.fingerprint.clone(),
            bytes: entry.bytes,
            restore_ms: millis(entry.restore),
            build_ms: millis(entry.build),
            provisional: entry.provisional,
            added: entry.added.clone(),
        }
    }
}

impl From<&Shown> for StoreAnswer {
    fn from(shown: &Shown) -> Self {
        StoreAnswer {
            store: shown.place.clone(),
            pull: shown.why.is_none(),
            why: shown.why.clone(),
            exact: shown.exact.as_ref().map(StoredAnswer::from),
            base: shown.base.as_ref().map(StoredAnswer::from),
            why_no_push: shown.why_no_push.clone(),
        }
    }
}

/// Another template, and the differences.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct AgainstAnswer {
    /// 64 hex digits.
    pub fingerprint: String,
    /// Time of its last use; RFC 3339.
    pub last_used_at: String,
    /// Differences from it to the current inputs.
    pub difference: Difference,
}

/// Answer of `explain` for several definitions.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ExplainAllAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// Answers in the order of the config.
    pub templates: Vec<ExplainAnswer>,
}

impl From<Vec<ExplainAnswer>> for ExplainAllAnswer {
    fn from(templates: Vec<ExplainAnswer>) -> Self {
        ExplainAllAnswer { version: VERSION, templates }
    }
}

impl From<&Explanation> for ExplainAnswer {
    fn from(explanation: &Explanation) -> Self {
        let server = explanation.server.as_ref();
        ExplainAnswer {
            version: VERSION,
            template: explanation.definition.clone(),
            fingerprint: server.map(|s| s.recipe.fingerprint().to_string()),
            inputs: inputs(&explanation.inputs, server),
            ignored: explanation.ignored.clone(),
            now: server.map(|s| now(&s.now)),
            unusable: server.and_then(|s| s.unusable.as_ref()).map(ToString::to_string),
            remote: server.and_then(|s| s.remote.as_ref()).map(StoreAnswer::from),
            costs_ms: server.map_or_else(CostsAnswer::default, |s| CostsAnswer {
                hit: s.costs.hit.map(millis),
                extend: s.costs.extension.map(millis),
                build: s.costs.full.map(millis),
            }),
            against: server.and_then(|s| s.nearest.as_ref()).map(|nearest| AgainstAnswer {
                fingerprint: nearest.fingerprint.to_string(),
                last_used_at: nearest.last_used_at.clone(),
                difference: nearest.difference.clone(),
            }),
        }
    }
}

fn inputs(inputs: &Inputs, server: Option<&OnServer>) -> InputsAnswer {
    InputsAnswer {
        migrations: inputs.migrations.clone(),
        rerun_inputs: inputs.rerun_inputs.clone(),
        inputs: inputs.inputs.clone(),
        companions: inputs.companions.clone(),
        order: inputs.order,
        groups: groups(&inputs.migrations, inputs.order),
        named: inputs.named.clone(),
        lines: inputs.lines.clone(),
        env: inputs
            .env
            .iter()
            .map(|variable| VariableAnswer { name: variable.name.clone(), set: variable.hash.is_some() })
            .collect(),
        mapping: inputs.mapping.iter().map(|v| v.name.clone()).collect(),
        build_env: inputs.build_env.iter().map(|v| v.name.clone()).collect(),
        build: inputs.build.clone(),
        key: inputs.key.clone(),
        databases: inputs.databases.clone(),
        from: inputs.from.clone(),
        server: server.map(|s| s.recipe.server.clone()),
    }
}

fn now(now: &Now) -> NowAnswer {
    match now {
        Now::Hit { provisional, failure, outlook, cosmetic } => NowAnswer::Hit {
            cosmetic: cosmetic.clone(),
            provisional: *provisional,
            rebuild_failure: failure.clone(),
            rebuild: outlook.as_ref().map(RebuildAnswer::from),
        },
        Now::Wait { builder, serial, elapsed, tail } => NowAnswer::Wait {
            builder: builder.clone(),
            serial: *serial,
            elapsed_ms: millis(*elapsed),
            tail: tail.clone(),
        },
        Now::Extend { base, added, rerun_inputs, companions } => NowAnswer::Extend {
            rerun_inputs: rerun_inputs.clone(),
            companions: companions.clone(),
            base: base.to_string(),
            added: added.clone(),
        },
        Now::Build { why, hint, waypoint, no_waypoints } => NowAnswer::Build {
            why: why.clone(),
            hint: hint.clone(),
            waypoint: waypoint.as_ref().map(|waypoint| WaypointAnswer {
                version: match &waypoint.stop {
                    Stop::At(version) => Some(version.clone()),
                    Stop::Copy => None,
                },
                copy: waypoint.stop == Stop::Copy,
                migrations: waypoint.prefix.migrations,
                of: waypoint.of,
            }),
            no_waypoints: no_waypoints.as_ref().map(|no| no.why().to_owned()),
        },
    }
}
