//! Restores dumps into the empty databases of a build.

use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::pg::{Doing as _, replay, sql};
use crate::registry::{DatabaseRow, Registry};
use crate::remote::Pulled;
use crate::remote::tools::{Run, Tools};

/// Restores the dumps of an entry as the role that runs builds, then sets what a dump does not contain.
///
/// # Errors
/// [`Kind::Build`] if a restore fails, or the role may not set something; errors of the driver.
pub(super) async fn restore(
    registry: &mut Registry,
    context: &Context<'_>,
    rows: &[DatabaseRow],
    entry: &Pulled,
) -> Result<()> {
    let major = registry.facts().major();
    let tools = context.tools.find(major).await?;
    for (row, database) in rows.iter().zip(&entry.databases) {
        one(registry, context, &tools, &row.private_name, &database.file, entry.owners).await?;
        let words = format!("pgstencil restores {} of {} here", context.definition.name, context.project);
        let comment = row.mark().comment(&words, database.replay.comment.as_deref());
        registry
            .session()
            .run(sql::comment_database(&row.private_name, &comment))
            .await
            .doing(|| format!("tag database `{}`", row.private_name))?;
        let refused = replay::apply(registry.session(), &row.private_name, &database.replay).await?;
        if !refused.is_empty() {
            let error = Error::new(Kind::Build, "properties of the databases cannot be set here");
            return Err(refused.into_iter().fold(error, Error::detail));
        }
    }
    Ok(())
}

/// Restores a dump. If the session that holds the right to build is lost, the program is killed: another process may
/// build by then.
pub(in crate::template) async fn one(
    registry: &mut Registry,
    context: &Context<'_>,
    tools: &Tools,
    database: &str,
    file: &Path,
    owners: bool,
) -> Result<()> {
    let major = registry.facts().major();
    let run = run(context);
    let kill = run.kill.clone();
    let restoring = tools.restore(&run, major, database, file, owners);
    watched(registry, kill, restoring).await
}

/// Dumps a database, in the same way.
pub(in crate::template) async fn dump(
    registry: &mut Registry,
    context: &Context<'_>,
    tools: &Tools,
    database: &str,
    file: &Path,
) -> Result<()> {
    let run = run(context);
    let kill = run.kill.clone();
    let dumping = tools.dump(&run, database, file);
    watched(registry, kill, dumping).await
}

/// Returns the limits of a run.
pub(in crate::template) fn run<'a>(context: &'a Context<'_>) -> Run<'a> {
    Run {
        endpoint: context.endpoint,
        deadline: context.deadline,
        timeout: *context.definition.build_timeout,
        kill: CancellationToken::new(),
    }
}

async fn watched(
    registry: &mut Registry,
    kill: CancellationToken,
    work: impl Future<Output = Result<()>>,
) -> Result<()> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                if let Err(error) = registry.ping().await {
                    kill.cancel();
                    let _ = work.await;
                    return Err(error);
                }
            }
        }
    }
}
