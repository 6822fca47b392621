//! The fallback: the build command runs straight on databases that become a clone.

use super::create::create_empty;
use super::inspect::{adopt, oid_of};
use super::{private_set, vacate};
use crate::context::Context;
use crate::error::Result;
use crate::names::Fingerprint;
use crate::pg::replay;
use crate::registry::{DatabaseRow, Registry};
use crate::template::source;
use crate::template::source::overtaken::{Overtaken, Watch};
use crate::template::source::progress::Progress;
use crate::variables::Outcome;

/// Runs the build command directly on databases that become a clone, when no template can be copied. The rows
/// are those of the clone, and `fingerprint` that of its inputs. Returns the builder's own comments.
pub(crate) async fn build_in_place(
    registry: &mut Registry,
    context: &Context<'_>,
    rows: &mut [DatabaseRow],
    fingerprint: &Fingerprint,
) -> Result<std::result::Result<Vec<Option<String>>, Box<Overtaken>>> {
    let traits = registry.facts().traits.clone();
    let (created, watch, inputs) =
        tokio::join!(create_empty(registry, context, rows), Watch::begin(context), context.inputs());
    created?;
    let (watch, recipe) = (watch?, inputs?.with_server(traits));
    if recipe.fingerprint() != *fingerprint {
        let overtaken = Overtaken::new(&recipe.clone(), recipe, &[], &[]);
        return Ok(Err(Box::new(overtaken)));
    }
    let set = private_set(rows);
    let progress = Progress::of(&recipe);
    source::fill(registry, context, &context.definition.build, &set, Outcome::Fallback, None, progress)
        .await?;
    adopt(registry, context, rows).await?;
    let mut comments = Vec::new();
    for row in rows.iter() {
        let oid = oid_of(row)?;
        // A database in use cannot get its name.
        vacate::close(registry, context, row, oid).await?;
        let replay = replay::read(registry.session(), oid, &row.mark()).await?;
        comments.push(replay.comment);
    }
    match watch.end(context, &recipe).await? {
        None => Ok(Ok(comments)),
        Some(overtaken) => Ok(Err(Box::new(overtaken))),
    }
}
