//! Errors for names that are taken: by which owner, where, since when, and what to do about it.

use crate::error::{Error, Kind, Result};
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

/// Advice that keeps tools from dropping the database that they get.
pub(crate) const KEEP: &str = "Django: run the tests with --keepdb (pytest: --reuse-db). Rails: build with `db:schema:load`, and run the tests without `db:test:prepare` and with `maintain_test_schema = false`. Ecto: leave `ecto.drop` and `ecto.create` out of the alias `test`. Prisma: `migrate deploy` instead of `migrate reset`. sqlx and Diesel: leave `database reset` out";

/// Returns the error for a name that a database has already.
pub(crate) async fn taken(registry: &mut Registry, asker: &Asker<'_>, name: &str) -> Error {
    let error = || Error::new(Kind::NameTaken, format!("there is a database `{name}` already"));
    match registry.clone_by_name(name).await {
        Ok(Some(row)) if row.state == CloneState::Creating => error()
            .detail(format!("it is being made by {}", row.holder.0.describe()))
            .hint("try again when that has ended"),
        Ok(Some(row)) if row.state != CloneState::Leased => {
            let owner = Owner::Clone(row.id.clone());
            let stay = registry.estranged(&owner).await.unwrap_or_default();
            let stay = stay.iter().filter(|(_, why)| why.is_there());
            let error = stay.fold(error(), |error, (row, why)| {
                error.detail(format!("database `{}` stays: {why}", row.name))
            });
            error.hint("it was released and is about to be dropped: try again")
        }
        Ok(Some(row)) if row.lease == LeaseKind::Session => error()
            .detail(format!(
                "it is clone {} of definition `{}`, held by {}",
                row.id,
                row.definition,
                row.holder.0.describe()
            ))
            .detail(owner_of(&row))
            .hint("wait for that command to end, or choose another `--name`"),
        Ok(Some(row)) if asker.has_clone(&row) => error()
            .detail(format!(
                "it is your clone {} of definition `{}` in project `{}`",
                row.id, row.definition, row.project
            ))
            .hint(format!("give it back: `pgstencil release {name}`"))
            .hint("or choose another `--name`"),
        Ok(Some(row)) => of_another(&row, asker),
        _ => {
            let replaced = registry.replaced().await.unwrap_or_default();
            match replaced.into_iter().find(|row| row.name == name) {
                Some(row) => error()
                    .detail(format!(
                        "a command dropped its clone of this name and created this database in its place, which was noticed at {}; pgstencil leaves it alone",
                        row.at
                    ))
                    .hint(format!(
                        "if nobody needs what is in it: {}",
                        sql::drop_database(name).text()
                    ))
                    .hint(format!("let the command keep the database that it gets. {KEEP}")),
                None => error()
                    .detail("it is not a clone of this registry, so pgstencil leaves it alone")
                    .hint("choose another `--name`"),
            }
        }
    }
}

/// Returns the error for a clone that belongs to another owner.
pub(crate) fn of_another(row: &CloneRow, asker: &Asker<'_>) -> Error {
    let name = &row.name;
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
            error.hint("if this is one place whose host name changes, set PGSTENCIL_OWNER to one name there")
        }
        false => error,
    };
    let error = error
        .hint("choose another `--name`")
        .hint(format!("make it yours, data included: `pgstencil clone --name {name} --take`; `--fresh` also ends its sessions and resets it"))
        .hint(format!("give it back for its owner: `pgstencil release {name} --take`"));
    match row.project == asker.project && !(row.owner.shared && asker.shares) {
        true => error.hint(format!(
            "or share such clones among all checkouts of project `{}`: `[clone] named = \"project\"`",
            row.project
        )),
        false => error,
    }
}

fn owner_of(row: &CloneRow) -> String {
    format!("owner: {}, since {}", row.owner.describe(&row.holder.0), row.owner.since)
}
