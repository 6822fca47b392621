//! Check of the owner of a registry, made before the server plans any statement on it.
//!
//! Every role with CREATEDB can create a database with the registry's name first, with a view or a trigger under
//! the name of one of its tables: their functions would run with our privileges. So each message to a registry that
//! is not known yet begins with a guard, which reads the system catalogs only. If the guard fails, the server plans
//! nothing that comes after it.
//!
//! A registry is trusted if its database, its schema and everything in that belong to roles that we trust, and it
//! holds only tables without triggers, rules and row security. Defaults, checks, indexes and generated columns are
//! the work of a table's owner. We trust
//!
//! - the role that the session logged in as. A setting `role` of the database or the role counts for nothing,
//!   since the owner of a database can set it;
//! - the roles that it is a member of, directly or not: with SET or INHERIT, since on 16 and later a role's
//!   creator is a member of it with neither;
//! - for a superuser, other superusers. `pg_has_role()` does not help there: it is always true for superusers.

use crate::error::{Error, Kind};
use crate::pg::connect::Guard;
use crate::pg::session::OpenError;
use crate::pg::sql::{self, Part, Statement, quote_ident};
use crate::pg::{Deadline, Endpoint, Session};

/// The cheap guard passes in the usual cases; the exact one runs if it fails, and takes some milliseconds.
pub(super) const GUARDS: [Guard; 2] = [cheap, exact];

/// Role that the session began as, and that the user's own sessions act as: it must be able to use what the owner
/// owns. A session that began as `pg_database_owner` would have begun as the role's own setting specifies.
fn began_as(as_owner: bool) -> Part {
    Part(match as_owner {
        false => "current_user::text",
        true => {
            "coalesce((SELECT substr(c, 6) FROM pg_catalog.pg_db_role_setting s \
             CROSS JOIN LATERAL unnest(s.setconfig) c WHERE s.setdatabase = 0 \
             AND s.setrole = to_regrole(quote_ident(session_user)) AND c LIKE 'role=%' \
             AND to_regrole(quote_ident(substr(c, 6))) IS NOT NULL), session_user::text)"
        }
    })
}

/// Guard: the owner is the role that logged in, or one that it can become, and owns everything in the schema.
/// Superusers can become every role: a role with the privileges of `pg_execute_server_program` may be one.
fn cheap(major: u32, as_owner: bool) -> Statement {
    let becomes = match major {
        ..=15 => "MEMBER",
        _ => "SET",
    };
    sql::fill(include_str!("queries/guard.sql"), &[&becomes, &began_as(as_owner)])
}

/// Query for all faults of a registry, as `faults (place, what)`: place 1 is that the database belongs to another
/// role.
fn faults(major: u32, as_owner: bool) -> Statement {
    let option = Part(match major {
        ..=15 => "",
        _ => "AND (m.set_option OR m.inherit_option)",
    });
    sql::fill(include_str!("queries/guard_faults.sql"), &[&option, &began_as(as_owner)])
}

fn exact(major: u32, as_owner: bool) -> Statement {
    sql::fill(
        "$1SELECT 1 / CASE WHEN EXISTS (SELECT FROM faults) THEN 0 ELSE 1 END AS trusted, $2 AS began_as, \
         set_config('role', pg_get_userbyid(d.datdba)::text, false) AS role \
         FROM pg_catalog.pg_database d WHERE d.datname = current_database()",
        &[&faults(major, as_owner), &began_as(as_owner)],
    )
}

/// Facts about another role's registry: its owner; the role that logged in, and whether that is a superuser; the
/// faults.
type Seen = (String, String, bool, Vec<String>);

fn look(major: u32, as_owner: bool) -> Statement {
    sql::fill(
        "$1SELECT pg_get_userbyid(d.datdba)::text, session_user::text, l.rolsuper, \
         coalesce((SELECT array_agg(f.what ORDER BY f.place, f.what) FROM (SELECT * FROM faults \
           ORDER BY place, what LIMIT 8) f WHERE NOT EXISTS (SELECT FROM faults WHERE place = 1)), '{}') \
         FROM pg_catalog.pg_database d, login l WHERE d.datname = current_database()",
        &[&faults(major, as_owner)],
    )
}

/// Returns the reason why a registry is not used, as far as the system catalogs show it.
pub(super) async fn explain(session: &mut Session, name: &str) -> Error {
    let as_owner = session.facts().role == "pg_database_owner";
    let major = session.facts().major();
    let seen: std::result::Result<Seen, _> = session.one(look(major, as_owner)).await;
    match seen {
        Ok((owner, us, superuser, faults)) if faults.is_empty() => {
            foreign(name, Some(&owner), &us, superuser)
        }
        Ok((.., faults)) => {
            let error = Error::new(
                Kind::Permission,
                format!("registry database `{name}` is not used: another role could run code in it"),
            );
            let error = faults.into_iter().fold(error, Error::detail);
            error
                .hint("drop these objects, which pgstencil does not need")
                .hint("to keep them, give this role a registry of its own: `[server] registry = \"…\"` in pgstencil.toml")
        }
        Err(e) => Error::new(Kind::Permission, format!("registry database `{name}` belongs to another role"))
            .caused_by(e),
    }
}

/// Returns the error for a registry of a role that is not trusted.
pub(super) fn foreign(name: &str, owner: Option<&str>, us: &str, superuser: bool) -> Error {
    let error = Error::new(
        Kind::Permission,
        match owner {
            Some(owner) => format!("registry database `{name}` belongs to role `{owner}`"),
            None => format!("registry database `{name}` belongs to another role"),
        },
    )
    .hint("give this role a registry of its own: `[server] registry = \"…\"` in pgstencil.toml");
    let Some(owner) = owner else {
        return error;
    };
    let (owner, us) = (quote_ident(owner), quote_ident(us));
    let grant = format!("if you trust that role, share its registry: GRANT {owner} TO {us};");
    error.hint(match superuser {
        true => grant,
        // So the objects that the user's own commands create also belong to the owner.
        false => format!("{grant} ALTER ROLE {us} SET role = {owner};"),
    })
}

const OWNER: &str = "SELECT pg_get_userbyid(datdba)::text FROM pg_catalog.pg_database \
     WHERE datname::text = $1";

/// Adds the owner to the error of a refused connection: another role created the registry. Any other database can
/// show which role.
pub(super) async fn owned_by_another(
    error: Error,
    endpoint: &Endpoint,
    name: &str,
    deadline: &Deadline,
) -> Error {
    if error.kind() != Kind::Permission {
        return error;
    }
    let mut owner = None;
    for database in endpoint.maintenance().iter().filter(|d| *d != name) {
        match Session::open(endpoint, database, deadline).await {
            Ok(mut session) => {
                owner = session.first_scalar::<String>(sql::fill(OWNER, &[&name])).await.unwrap_or_default();
                session.close().await;
                break;
            }
            Err(OpenError::Missing | OpenError::Other(_)) => {}
        }
    }
    foreign(name, owner.as_deref(), endpoint.user(), false).caused_by(error)
}
