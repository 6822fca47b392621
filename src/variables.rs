//! The variables that a command of the user gets: a build, `after_clone`, the command of `run`, and
//! `before_release`.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::placeholder::{EnvTemplate, Field, Form, Placeholder, SqlTemplate};
use crate::config::{Definition, alias_suffix};
use crate::error::Result;
use crate::pg::Endpoint;
use crate::url;

/// The kind of command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The build command.
    Build,
    /// `after_clone`
    AfterClone,
    /// The command of `run`.
    Run,
    /// `before_release`
    BeforeRelease,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Phase::Build => "build",
            Phase::AfterClone => "after_clone",
            Phase::Run => "run",
            Phase::BeforeRelease => "before_release",
        }
    }
}

/// How a template or a clone was obtained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// The template existed.
    Hit,
    /// A full build made the template.
    Miss,
    /// An incremental build made the template, on a copy of the nearest older one.
    Extended,
    /// The template was pulled from the remote store.
    Pulled,
    /// The template was built, but the build command did nothing for the new migrations, so it was not
    /// sealed.
    Unsealed,
    /// No template could be cloned: the build command ran directly on the clone.
    Fallback,
    /// An existing clone with the wanted name was returned.
    Reused,
}

impl Outcome {
    /// Returns the word used in JSON and in `PGSTENCIL_OUTCOME`.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Hit => "hit",
            Outcome::Miss => "miss",
            Outcome::Extended => "extended",
            Outcome::Pulled => "pulled",
            Outcome::Unsealed => "unsealed",
            Outcome::Fallback => "fallback",
            Outcome::Reused => "reused",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A part of a sharded test run: `I/N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shard {
    /// Index, counted from 1.
    pub index: u32,
    /// Number of shards.
    pub count: u32,
}

/// One database of a clone, under the name that the user sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NamedDatabase {
    /// Alias of the database.
    // The registry contains stored hooks that were written when the field had this name.
    #[serde(alias = "role")]
    pub alias: String,
    /// Its name on the server.
    pub name: String,
}

/// The databases of each clone, for `--clones N`.
pub(crate) type Sets<'a> = &'a [Vec<NamedDatabase>];

/// Variables that are removed because they would lead a command to another database than its clone.
pub(crate) const CLEARED: [&str; 5] = ["PGHOSTADDR", "PGSERVICE", "PGSERVICEFILE", "PGOPTIONS", "PGPASSFILE"];

/// Returns the variables for a command. Later ones override earlier ones, so those of the definition come
/// last.
///
/// # Errors
/// A placeholder without a value.
pub(crate) fn variables(
    endpoint: &Endpoint,
    root: &Path,
    definition: &Definition,
    phase: Phase,
    outcome: Outcome,
    sets: Sets<'_>,
    shard: Option<Shard>,
) -> Result<Vec<(OsString, OsString)>> {
    let endpoint = &match phase {
        Phase::Build => endpoint.for_builds(),
        _ => endpoint.clone(),
    };
    let mut variables: Vec<(String, String)> = vec![
        ("PGSTENCIL_PHASE".into(), phase.as_str().into()),
        ("PGSTENCIL_OUTCOME".into(), outcome.as_str().into()),
        ("PGSTENCIL_SERVER_URL".into(), endpoint.server_url().reveal()),
        ("PGHOST".into(), endpoint.client_host().into()),
        ("PGPORT".into(), endpoint.client_port().to_string()),
        ("PGUSER".into(), endpoint.user().into()),
        ("PGPASSWORD".into(), endpoint.password().unwrap_or_default().into()),
    ];
    // Otherwise the caller's own value would be used, which may be meant for another server.
    if let Some(mode) = endpoint.ssl_mode_for_commands() {
        variables.push(("PGSSLMODE".into(), mode.into()));
    }
    if let Some(options) = endpoint.session_options() {
        variables.push(("PGOPTIONS".into(), options));
    }
    if let Some(shard) = shard {
        variables.push(("PGSTENCIL_SHARD".into(), shard.index.to_string()));
        variables.push(("PGSTENCIL_SHARDS".into(), shard.count.to_string()));
    }
    let url = |name: &str| endpoint.client_url(name).reveal();
    if let Some(first) = sets.first().and_then(|set| set.first()) {
        variables.push(("DATABASE_URL".into(), url(&first.name)));
        variables.push(("PGDATABASE".into(), first.name.clone()));
    }
    for (index, set) in sets.iter().enumerate() {
        // The names for a single clone have no numbers; for several, the first one is also available without.
        let endings = match (sets.len(), index) {
            (1, _) => vec![String::new()],
            (_, 0) => vec![String::new(), "_0".into()],
            (_, n) => vec![format!("_{n}")],
        };
        for ending in endings {
            for (i, database) in set.iter().enumerate() {
                let alias = alias_suffix(&database.alias);
                variables.push((format!("PGSTENCIL_NAME_{alias}{ending}"), database.name.clone()));
                variables.push((format!("PGSTENCIL_URL_{alias}{ending}"), url(&database.name)));
                if i == 0 {
                    variables.push((format!("PGSTENCIL_NAME{ending}"), database.name.clone()));
                    variables.push((format!("PGSTENCIL_URL{ending}"), url(&database.name)));
                }
            }
        }
    }
    if let Some(set) = sets.first() {
        let of_phase = match phase {
            Phase::Build => &definition.build_env,
            _ => &definition.run_env,
        };
        for (name, text) in definition.env.iter().chain(of_phase) {
            variables.push((name.clone(), fill(text, endpoint, root, set)?));
        }
    }
    Ok(variables.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
}

/// Fills in the placeholders of a value of `[template.X.env]`, `build_env` or `run_env`.
fn fill(text: &str, endpoint: &Endpoint, root: &Path, set: &[NamedDatabase]) -> Result<String> {
    let aliases: Vec<String> = set.iter().map(|d| d.alias.clone()).collect();
    Ok(EnvTemplate::parse(text, &aliases)?.render(|p| value(p, endpoint, root, set)))
}

/// Fills in the placeholders of `after_clone_sql`.
///
/// # Errors
/// A value that is not allowed at the position of its placeholder.
pub(crate) fn fill_sql(
    text: &str,
    endpoint: &Endpoint,
    root: &Path,
    set: &[NamedDatabase],
) -> Result<String> {
    let aliases: Vec<String> = set.iter().map(|d| d.alias.clone()).collect();
    SqlTemplate::parse(text, &aliases)?.render(|p| value(p, endpoint, root, set))
}

fn value(placeholder: &Placeholder, endpoint: &Endpoint, root: &Path, set: &[NamedDatabase]) -> String {
    // The aliases were checked when the text was parsed.
    let name = match &placeholder.alias {
        None => set.first(),
        Some(alias) => set.iter().find(|d| d.alias == *alias),
    }
    .map_or("", |d| d.name.as_str());
    let plain = match placeholder.field {
        Field::Url => {
            let url = endpoint.client_url(name);
            return match &placeholder.form {
                Form::Scheme(scheme) => url.with_scheme(scheme).reveal(),
                Form::Plain | Form::Encoded => url.reveal(),
            };
        }
        Field::Name => name.to_owned(),
        Field::Host => endpoint.client_host().to_owned(),
        Field::Port => endpoint.client_port().to_string(),
        Field::User => endpoint.user().to_owned(),
        Field::Password => endpoint.password().unwrap_or_default().to_owned(),
        Field::Root => root.to_string_lossy().into_owned(),
    };
    match placeholder.form {
        Form::Encoded => url::encode(&plain),
        Form::Plain | Form::Scheme(_) => plain,
    }
}
