//! Templates for the remote store: a ready template is copied, since no session may enter it, and the copy is dumped.
//!
//! The copies are registered as databases of a build of the same inputs, under the right to build in addition to the
//! template, so that the cleanup finds them after a crash.

use std::fmt;
use std::time::Duration;

use super::build;
use super::permit::{Asked, Permit as _, RebuildPermit};
use super::pull::never_shared;
use crate::context::Context;
use crate::database::drop;
use crate::error::{Error, Result};
use crate::fingerprint::Recipe;
use crate::pg::session::OpenError;
use crate::pg::{Doing as _, Session, sql};
use crate::registry::database::{NewDatabase, Owner};
use crate::registry::{DatabaseRow, Registry, TemplateState};
use crate::remote::entry::{Dump, Manifest};
use crate::remote::tools::Tools;
use crate::remote::{Remote, now_s};

/// Result of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It was uploaded; the number of bytes.
    Done(u64),
    /// The store has it already.
    There,
    /// Nothing was pushed, for this reason.
    Not(NotPushed),
}

/// Reason why a template is not pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotPushed {
    /// Another process works on it at the moment.
    Busy,
    /// Another reason, in words.
    Because(String),
}

impl From<String> for NotPushed {
    fn from(why: String) -> Self {
        NotPushed::Because(why)
    }
}

impl fmt::Display for NotPushed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotPushed::Busy => "another process builds it at the moment",
            NotPushed::Because(why) => why,
        })
    }
}

/// Pushes the ready template of a recipe.
///
/// # Errors
/// [`crate::Kind::NotFound`] if there is no such template; errors of the driver and of `pg_dump`. A failure of the store is
/// no error.
pub(crate) async fn push(
    registry: &mut Registry,
    context: &Context<'_>,
    remote: &Remote,
    recipe: &Recipe,
) -> Result<Pushed> {
    let (scope, origin) = match remote.write_scope() {
        Ok(scope) => scope,
        Err(why) => return Ok(Pushed::Not(why.into())),
    };
    if let Some(why) = never_shared(context.definition) {
        return Ok(Pushed::Not(why.into()));
    }
    let name = &context.definition.name;
    let fingerprint = recipe.fingerprint();
    let row = registry.find_template(context.project, name, &fingerprint, TemplateState::Ready).await?;
    if row.as_ref().is_some_and(|row| row.waypoint) {
        return Ok(Pushed::Not("it is a waypoint".to_owned().into()));
    }
    let tools = match context.tools.find(registry.facts().major()).await {
        Ok(tools) => tools,
        Err(error) => return Ok(Pushed::Not(error.message().to_owned().into())),
    };
    let permit = match RebuildPermit::ask(registry, context, recipe).await? {
        Some(Asked::Granted(permit)) => permit,
        Some(Asked::Busy(_) | Asked::Serial(_)) | None => {
            return Ok(Pushed::Not(NotPushed::Busy));
        }
    };
    let scratch = match remote.scratch() {
        Ok(scratch) => scratch,
        Err(why) => {
            permit.release(registry).await;
            return Ok(Pushed::Not(why.into()));
        }
    };
    let dumped = dump(registry, context, &permit, &tools, &scratch.path).await;
    permit.release(registry).await;
    let (dumps, facts) = dumped?;
    let Some(row) = row else {
        return Err(Error::internal("the template has no row"));
    };
    let full = registry.costs(context.project, name).await?.full;
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let manifest = Manifest {
        project: context.project.to_owned(),
        definition: name.clone(),
        scope: scope.to_owned(),
        fingerprint: fingerprint.to_string(),
        core: recipe.core(),
        migrations: recipe.migrations.clone(),
        companions: recipe.companions.clone(),
        rerun_inputs: recipe.rerun_inputs.clone(),
        major: registry.facts().major(),
        server_version: registry.facts().version,
        dumped_by: tools.major,
        built_as: registry.facts().role.clone(),
        names_builder: facts.names_builder,
        other_owners: facts.other_owners,
        roles: facts.roles,
        extensions: row.built_with.extensions.clone(),
        build_ms: row.build_ms.map(|ms| millis(ms.duration())).unwrap_or_default(),
        full_ms: full.map(millis),
        base: row.base_fingerprint.map(|base| base.to_string()),
        added: row.added.0.clone(),
        chain: row.chain,
        provisional: row.provisional,
        contents_s: row.contents_s.duration().as_secs(),
        pushed_s: now_s(),
        origin,
        pgstencil: env!("CARGO_PKG_VERSION").to_owned(),
        databases: dumps.iter().map(|(dump, _)| dump.clone()).collect(),
    };
    let files = dumps.into_iter().map(|(_, file)| file).collect();
    let uploaded = remote.upload(manifest, recipe, files).await;
    remote.withdraw(name, &fingerprint.to_string()).await;
    Ok(match uploaded {
        Ok(Some(bytes)) => Pushed::Done(bytes),
        Ok(None) => Pushed::There,
        Err(why) => Pushed::Not(why.into()),
    })
}

/// What a restore of the dumps needs.
#[derive(Default)]
struct Needs {
    roles: Vec<String>,
    names_builder: bool,
    other_owners: bool,
}

async fn dump(
    registry: &mut Registry,
    context: &Context<'_>,
    permit: &RebuildPermit,
    tools: &Tools,
    scratch: &std::path::Path,
) -> Result<(Vec<(Dump, std::path::PathBuf)>, Needs)> {
    let definition = context.definition;
    let template = permit.template();
    let (project, extend) = (context.project, definition.extend);
    let id = registry
        .insert_template(project, &definition.name, permit.recipe(), context.holder, extend, None)
        .await?;
    let done = async {
        let new: Vec<NewDatabase> =
            template.databases().iter().map(|d| NewDatabase::private(&d.alias)).collect();
        let mut rows = registry.insert_databases(&Owner::Template(id), &new).await?;
        let words = format!("pgstencil dumps {} of {} here", definition.name, context.project);
        build::copy_base(registry, context, id, &mut rows, template, &words).await?;
        let shapes = registry.shapes_of(template.id()).await?;
        let mut dumps = Vec::new();
        let mut needs = Needs::default();
        for (index, (row, from)) in rows.iter().zip(template.databases()).enumerate() {
            let file = scratch.join(format!("{index}.dump"));
            build::dump(registry, context, tools, &row.private_name, &file).await?;
            look(registry, context, tools, row, &file, &mut needs).await?;
            let replay = from.replay.clone();
            needs.roles.extend(replay.settings.iter().filter_map(|setting| setting.role.clone()));
            needs.roles.extend(replay.grants.iter().flatten().filter_map(|grant| grant.grantee.clone()));
            needs.roles.extend(replay.owner.clone());
            let shape = shapes.iter().find(|(alias, _)| *alias == from.alias).and_then(|(_, s)| s.clone());
            let dump = Dump {
                alias: from.alias.clone(),
                blake3: String::new(),
                bytes: 0,
                raw_bytes: 0,
                files: from.files,
                shape,
                replay,
            };
            dumps.push((dump, file));
        }
        needs.roles.sort();
        needs.roles.dedup();
        Ok((dumps, needs))
    }
    .await;
    // Also after a failure.
    registry.break_template(id, "it was copied for a dump", false).await?;
    drop::drop_databases_of(registry, &Owner::Template(id)).await?;
    registry.forget_template(id).await?;
    done
}

/// Roles that objects of a database refer to, except for the bootstrap superuser, and whether they own some.
const ROLES: &str = "SELECT r.rolname::text, bool_or(s.deptype = 'o') FROM pg_shdepend s \
     JOIN pg_roles r ON r.oid = s.refobjid \
     WHERE s.refclassid = 'pg_authid'::regclass \
     AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) GROUP BY 1 ORDER BY 1";
/// Whether the bootstrap superuser owns something, which the server does not record.
const BOOTSTRAP: &str = "SELECT EXISTS (SELECT FROM pg_class WHERE relowner = 10 AND oid >= 16384) \
     OR EXISTS (SELECT FROM pg_proc WHERE proowner = 10 AND oid >= 16384) \
     OR EXISTS (SELECT FROM pg_namespace WHERE nspowner = 10 AND oid >= 16384)";

/// Finds the roles that a dump needs.
async fn look(
    registry: &mut Registry,
    context: &Context<'_>,
    tools: &Tools,
    row: &DatabaseRow,
    archive: &std::path::Path,
    needs: &mut Needs,
) -> Result<()> {
    let us = registry.facts().role.clone();
    let mut session =
        Session::open(context.endpoint, &row.private_name, context.deadline).await.map_err(|e| match e {
            OpenError::Missing => Error::failed(format!("database `{}` disappeared", row.private_name)),
            OpenError::Other(e) => e,
        })?;
    let read = async {
        let doing = || "read the roles of a template".to_owned();
        let roles: Vec<(String, bool)> = session.rows(sql::fill(ROLES, &[])).await.doing(doing)?;
        let bootstrap: bool = session.scalar(sql::fill(BOOTSTRAP, &[])).await.doing(doing)?;
        let first: bool = session
            .scalar(sql::fill("SELECT oid = 10 FROM pg_roles WHERE rolname = current_user", &[]))
            .await
            .doing(doing)?;
        Ok((roles, bootstrap && !first))
    }
    .await;
    session.close().await;
    let (roles, bootstrap): (Vec<(String, bool)>, bool) = read?;
    needs.other_owners |= bootstrap || roles.iter().any(|(name, owns)| *owns && *name != us);
    needs.roles.extend(roles.into_iter().map(|(name, _)| name).filter(|name| *name != us));
    if !needs.names_builder {
        let statements = archive.with_extension("sql");
        tools.statements(&build::tool_run(context), &row.private_name, archive, &statements).await?;
        let text = std::fs::read(&statements)
            .map_err(|e| Error::failed("cannot read what pg_restore wrote").caused_by(e))?;
        needs.names_builder = names_role(&String::from_utf8_lossy(&text), &us);
        let _ = std::fs::remove_file(&statements);
    }
    Ok(())
}

/// Returns whether statements about privileges name a role.
fn names_role(statements: &str, role: &str) -> bool {
    const KINDS: [&str; 7] = [
        "GRANT ",
        "REVOKE ",
        "ALTER DEFAULT PRIVILEGES ",
        "CREATE POLICY ",
        "CREATE USER MAPPING ",
        "SET SESSION AUTHORIZATION ",
        "SET ROLE ",
    ];
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii();
    let lines = statements.lines().filter(|line| KINDS.iter().any(|kind| line.starts_with(kind)));
    lines.flat_map(|line| line.match_indices(role).map(move |(at, found)| (line, at, found))).any(
        |(line, at, found)| !line[..at].ends_with(is_word) && !line[at + found.len()..].starts_with(is_word),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_found_in_statements_about_privileges_only() {
        let of = |text| names_role(text, "ci");
        assert!(of("GRANT SELECT ON TABLE public.t TO ci;"));
        assert!(of("x\nALTER DEFAULT PRIVILEGES FOR ROLE ci IN SCHEMA public GRANT SELECT ON TABLES TO a;"));
        assert!(of("GRANT SELECT ON TABLE public.t TO \"ci\";"));
        assert!(!of("GRANT SELECT ON TABLE public.cities TO cicada;"));
        assert!(!of("CREATE TABLE ci (id int);"));
    }
}
