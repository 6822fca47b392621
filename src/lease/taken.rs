//! Errors for names that are taken: by which owner, where, since when, and what to do about it.

use crate::error::{Error, Kind, Result};
use crate::names::words;
use crate::pg::{catalog, sql};
use crate::registry::database::Owner;
use crate::registry::owner::Asker;
use crate::registry::{CloneRow, CloneState, LeaseKind, Registry};

/// Fails if the name is taken; the error names the owner.
///
/// # Errors
/// [`Kind::NameTaken`], and the driver's.
pub(crate) async fn check_name(registry: &mut Registry, asker: &Asker<'_>, name: &str) -> Result<()> {
    while let Some(found) = catalog::database(registry.session(), name).await? {
        let error = taken(registry, asker, name).await;
        // A drop that ended between the two checks has removed the owner of the database, and freed the name.
        let now = catalog::database(registry.session(), name).await?;
        if now.is_some_and(|now| now.oid == found.oid) {
            return Err(error);
        }
    }
    Ok(())
}

/// Advice about a database that a command created under the name of its clone.
pub(crate) fn drop_unneeded(name: &str) -> String {
    format!("if its contents are not needed: {}", sql::drop_database(name).text())
}

/// Advice that keeps tools from dropping the database that they get.
pub(crate) const KEEP: &str = "let the test runner reuse its database. Django: run the tests with --keepdb (pytest: --reuse-db). Rails: build with `db:schema:load`, and run the tests without `db:test:prepare` and with `maintain_test_schema = false`. Ecto: leave `ecto.drop` and `ecto.create` out of the alias `test`. Prisma: `migrate deploy` instead of `migrate reset`. sqlx and Diesel: leave `database reset` out";

/// Returns the error for a name that a database has already.
pub(crate) async fn taken(registry: &mut Registry, asker: &Asker<'_>, name: &str) -> Error {
    let error = || Error::new(Kind::NameTaken, format!("there is a database `{name}` already"));
    match registry.clone_by_name(name).await {
        Ok(Some(row)) if row.state == CloneState::Creating => error()
            .detail(format!("it is being created by {}", row.holder.0.describe()))
            .hint("try again when that process has created it"),
        Ok(Some(row)) if row.state != CloneState::Leased => {
            let owner = Owner::Clone(row.id.clone());
            let stay = registry.estranged(&owner).await.unwrap_or_default();
            let stay = stay.iter().filter(|(_, why)| why.is_there());
            let error = stay.fold(error(), |error, (row, why)| error.detail(why.kept(&row.name)));
            error.detail("it belongs to a released clone that is about to be dropped").hint("try again")
        }
        Ok(Some(row)) if row.lease == LeaseKind::Session => error()
            .detail(format!(
                "it is clone {} of definition `{}`, in use by {}",
                row.id,
                row.definition,
                row.holder.0.describe()
            ))
            .detail(owner_of(&row))
            .hint("wait until that command ends, or choose another `--name`"),
        Ok(Some(row)) if asker.has_clone(&row) => error()
            .detail(format!(
                "it is your clone {} of definition `{}` in project `{}`",
                row.id, row.definition, row.project
            ))
            .hint(format!("release it: `pgstencil release {}`", words([name])))
            .hint("choose another `--name`"),
        Ok(Some(row)) => of_another(&row, asker),
        _ => {
            let replaced = registry.replaced().await.unwrap_or_default();
            match replaced.into_iter().find(|row| row.name == name) {
                Some(row) => error()
                    .detail(format!(
                        "a command dropped its clone of this name and created this database instead (noticed at {})",
                        row.at
                    ))
                    .detail("pgstencil does not drop it")
                    .hint(drop_unneeded(name))
                    .hint(KEEP),
                None => error()
                    .detail("it is not a clone of this registry, so pgstencil does not drop it")
                    .hint("choose another `--name`"),
            }
        }
    }
}

/// Returns the error for a clone that belongs to another owner.
pub(crate) fn of_another(row: &CloneRow, asker: &Asker<'_>) -> Error {
    let name = &row.name;
    let word = words([name.as_str()]);
    let kept = match &row.expires_at {
        Some(until) => format!("it is kept until {until}"),
        None if row.lease == LeaseKind::Session => "it is kept until the command that holds it ends".into(),
        None => "it is kept until it is released".into(),
    };
    let error = Error::new(Kind::NameTaken, format!("clone `{name}` belongs to another owner"))
        .detail(owner_of(row))
        .detail(format!("last used at {}; {kept}", row.seen_at))
        .detail(format!("you are {}", asker.holder.describe_checkout()));
    let error = match &*asker.holder.checkout.owner {
        "" => error,
        own => error.detail(format!("with PGSTENCIL_OWNER `{own}`")),
    };
    // Includes runners whose host name changes, and containers, which are machines of their own.
    let moved = row.owner.name.is_empty()
        && row.owner.top == asker.holder.checkout.top
        && row.owner.machine != asker.holder.checkout.machine;
    let error = match moved {
        true => {
            error.hint("if both are the same machine and its host name changes, set PGSTENCIL_OWNER there to a fixed name")
        }
        false => error,
    };
    let error = error
        .hint("choose another `--name`")
        .hint(format!("take it over with its data: `pgstencil clone --name {word} --take` (add `--fresh` to end its sessions and reset it)"))
        .hint(format!("release it for its owner: `pgstencil release {word} --take`"));
    match row.project == asker.project && !(row.owner.shared && asker.shares) {
        true => error.hint(format!(
            "share named clones among all checkouts of project `{}`: `[clone] named = \"project\"`",
            row.project
        )),
        false => error,
    }
}

fn owner_of(row: &CloneRow) -> String {
    format!("owner: {}, since {}", row.owner.describe(&row.holder.0), row.owner.since)
}
