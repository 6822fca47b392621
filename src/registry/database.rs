//! Rows of `pgstencil.database`: one per physical database, from before its CREATE to after its DROP.

use std::collections::HashSet;
use std::fmt;

use sqlx::FromRow;
use sqlx::postgres::types::Oid;
use sqlx::types::Json;

use crate::error::{Error, Result};
use crate::names::{self, Mark};
use crate::pg::obstacle::{self, Obstacle};
use crate::pg::replay::Replay;
use crate::pg::sql::Statement;
use crate::pg::{Doing as _, Session, catalog, sql};

use super::clone::{self, Release};
use super::{DatabaseState, Registry};

/// Template or clone that a database belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// A template, by id.
    Template(i64),
    /// A clone, by id.
    Clone(String),
}

/// Row of one of pgstencil's databases.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct DatabaseRow {
    /// Number of the row.
    pub(crate) id: i64,
    /// Alias of the database in its template or clone.
    pub(crate) alias: String,
    /// Name under which it was created.
    pub(crate) private_name: String,
    /// Name that it has once it is present.
    pub(crate) name: String,
    /// Nonce of its ownership tag.
    pub(crate) nonce: String,
    /// Its oid, known once it is created.
    pub(crate) oid: Option<Oid>,
    /// State of the database.
    pub(crate) state: DatabaseState,
    /// Size in bytes when its template was sealed.
    pub(crate) bytes: Option<i64>,
    /// Approximate number of files when its template was sealed.
    pub(crate) files: Option<i64>,
    /// Settings that CREATE does not copy.
    pub(crate) replay: Json<Replay>,
}

const COLUMNS_OF: &str = "SELECT id, role AS alias, private_name, name, nonce, oid, state, bytes, files, replay \
     FROM pgstencil.database WHERE template_id IS NOT DISTINCT FROM $1 AND clone_id IS NOT DISTINCT FROM $2 \
     ORDER BY ordinal";
const INSERT: &str = "INSERT INTO pgstencil.database \
     (template_id, clone_id, role, ordinal, private_name, name, nonce, state) VALUES ";
const NEW: &str = "($1, $2, $3, $4, $5, $6, $7, 'creating')";
const RETURNING: &str =
    " RETURNING id, role AS alias, private_name, name, nonce, oid, state, bytes, files, replay";
const CREATED: &str = "UPDATE pgstencil.database SET oid = $2 WHERE id = $1 AND state = 'creating'";
const BESIDE: &str = "SELECT d.datname::text FROM pg_database d WHERE d.oid > $2 \
     AND (d.datname::text = 'test_' || $1 OR starts_with(d.datname::text, $1 || '_')) \
     AND NOT EXISTS (SELECT FROM pgstencil.database o WHERE o.name = d.datname::text) ORDER BY 1";
const STUCK: &str = "SELECT DISTINCT d.template_id, d.clone_id FROM pgstencil.database d \
     LEFT JOIN pg_database p ON p.oid = d.oid \
     WHERE d.state = 'dropping' OR NOT pg_has_role(p.datdba, 'MEMBER')";
const DROPPING: &str = "UPDATE pgstencil.database SET state = 'dropping', oid = $2 WHERE id = $1";
const PRESENT: &str = "UPDATE pgstencil.database SET state = 'present', bytes = $2, files = $3, replay = $4 \
     WHERE id = $1";
const SHAPE: &str = "UPDATE pgstencil.database SET shape = $2 WHERE id = $1";
const UNNAMED: &str = "UPDATE pgstencil.database SET name = private_name WHERE id = $1";
const GONE: &str = "DELETE FROM pgstencil.database WHERE id = $1";

impl DatabaseRow {
    /// Returns the ownership tag that its comment must carry.
    pub(crate) fn mark(&self) -> Mark {
        Mark { nonce: self.nonce.clone() }
    }

    /// Returns whether `found` is this very database, and its owner is pgstencil's role: name, oid and ownership
    /// tag must match. While it is being created, the private name (80 random bits) is enough if the database
    /// carries no other tag: a crash may have come between CREATE and registration, and a build may have dropped
    /// and recreated it. A database that a user renamed is that user's, and so is a warm clone that was opened.
    pub(crate) fn is(&self, found: &catalog::Database) -> bool {
        found.ours && self.fits(found)
    }

    fn fits(&self, found: &catalog::Database) -> bool {
        let marked = self.mark().is_in(found.comment.as_deref());
        let private = found.name == self.private_name;
        let same = self.oid == Some(found.oid);
        if self.state == DatabaseState::Present {
            let named = private || found.name == self.name;
            return same && marked && named && !(self.is_warm() && found.open);
        }
        if same {
            return private || (marked && found.name == self.name);
        }
        // A database that is being dropped existed before, so its oid counts, if it is known.
        let unknown = self.state == DatabaseState::Creating || self.oid.is_none();
        unknown && private && (marked || !Mark::any_in(found.comment.as_deref()))
    }

    /// Returns whether it belongs to a clone that has never been used.
    fn is_warm(&self) -> bool {
        self.state == DatabaseState::Present && self.name == self.private_name
    }

    /// Returns why a drop would leave this database alone, if it would. `found`: all databases with its oid or one
    /// of its names.
    pub(crate) fn estranged(&self, found: &[catalog::Database]) -> Option<Estranged> {
        if found.iter().any(|d| self.is(d)) {
            return None;
        }
        if let Some(d) = found.iter().find(|d| self.fits(d)) {
            return Some(Estranged::Owner(d.owner.clone()));
        }
        Some(match found.iter().find(|d| self.oid == Some(d.oid)) {
            Some(d) if d.name != self.name => Estranged::Renamed(d.name.clone()),
            Some(d) if self.is_warm() && d.open => Estranged::Opened,
            Some(_) => Estranged::Unmarked,
            None if found.iter().any(|d| d.name == self.name) => Estranged::Replaced,
            None => Estranged::Gone,
        })
    }
}

/// Reason why a drop leaves a registered database alone: another role or process changed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Estranged {
    /// It does not exist.
    Gone,
    /// It does not exist, and another database has its name.
    Replaced,
    /// It has this name now.
    Renamed(String),
    /// Its comment lacks the ownership tag.
    Unmarked,
    /// It was a warm clone, which refuses connections, and accepts them now.
    Opened,
    /// Only the privilege is missing: it belongs to this role.
    Owner(String),
}

impl Estranged {
    /// Returns whether a database exists that a drop would leave in place.
    pub(crate) fn is_there(&self) -> bool {
        !matches!(self, Estranged::Gone | Estranged::Replaced)
    }

    /// Reports that the database with this name is not dropped.
    pub(crate) fn kept(&self, name: &str) -> String {
        not_dropped(name, self)
    }
}

/// Reports that a database is not dropped, and the reason.
pub(crate) fn not_dropped(name: &str, why: impl fmt::Display) -> String {
    format!("database `{name}` is not dropped: {why}")
}

impl fmt::Display for Estranged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Estranged::Gone => f.write_str("it no longer exists"),
            Estranged::Replaced => f.write_str("it no longer exists, and another database has its name"),
            Estranged::Renamed(name) => {
                write!(f, "it was renamed to `{name}`, so it no longer belongs to pgstencil")
            }
            Estranged::Unmarked => f.write_str(
                "its comment no longer has pgstencil's ownership tag, so it no longer belongs to pgstencil",
            ),
            Estranged::Opened => {
                f.write_str("connections were enabled while it was an unused warm clone, so it no longer belongs to pgstencil")
            }
            Estranged::Owner(role) => {
                write!(f, "it belongs to role `{role}` now, and a cleanup drops it once pgstencil has the privilege")
            }
        }
    }
}

impl Owner {
    fn ids(&self) -> (Option<i64>, Option<&str>) {
        match self {
            Owner::Template(id) => (Some(*id), None),
            Owner::Clone(id) => (None, Some(id)),
        }
    }
}

/// Databases that remain of a clone after its command has ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remains {
    /// Registry rows of its databases.
    pub(crate) rows: Vec<DatabaseRow>,
    /// Databases that the server has under their names and oids.
    pub(crate) found: Vec<catalog::Database>,
    /// For each database, the newer databases named after it that are not pgstencil's: a command created them for
    /// itself. (Oids grow; after they wrapped around, some may be missing.)
    pub(crate) beside: Vec<Vec<String>>,
    /// Obstacles that keep the databases from being dropped.
    pub(crate) obstacles: Vec<Obstacle>,
    /// Result of the release in the same message, if there was one.
    pub(crate) released: Option<Release>,
}

/// Database that is about to be created.
#[derive(Clone, Debug)]
pub(crate) struct NewDatabase {
    /// Alias of the database in its template or clone.
    pub(crate) alias: String,
    /// Name under which it is created.
    pub(crate) private_name: String,
    /// Name that it gets when it is ready.
    pub(crate) name: String,
}

impl NewDatabase {
    /// Returns a database that keeps its private name, since it is never handed out.
    pub(crate) fn private(alias: &str) -> Self {
        let private_name = names::private_name();
        NewDatabase { alias: alias.to_owned(), name: private_name.clone(), private_name }
    }
}

/// Query for the [`DatabaseRow`]s of a template or a clone, in the order of the definition.
pub(super) fn of(owner: &Owner) -> Statement {
    let (template, clone) = owner.ids();
    sql::fill(COLUMNS_OF, &[&template, &clone])
}

/// Statement that writes the intent to create databases, and returns their [`DatabaseRow`]s in that order.
pub(super) fn insert(owner: &Owner, databases: &[NewDatabase]) -> Statement {
    let (template, clone) = owner.ids();
    let rows: Vec<Statement> = databases
        .iter()
        .enumerate()
        .map(|(ordinal, database)| {
            sql::fill(
                NEW,
                &[
                    &template,
                    &clone,
                    &database.alias,
                    &ordinal,
                    &database.private_name,
                    &database.name,
                    &Mark::random().nonce,
                ],
            )
        })
        .collect();
    sql::insert_rows(INSERT, &rows, RETURNING)
}

/// Statement that writes the intent to drop a database.
pub(crate) fn dropping(row: &DatabaseRow, oid: Oid) -> Statement {
    sql::fill(DROPPING, &[&row.id, &oid])
}

/// Statement that deletes the row of a database that is gone.
pub(crate) fn gone(row: &DatabaseRow) -> Statement {
    sql::fill(GONE, &[&row.id])
}

impl Registry {
    /// Returns the databases of a template or a clone, in the order of the definition.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn databases_of(&mut self, owner: &Owner) -> Result<Vec<DatabaseRow>> {
        self.session().rows(of(owner)).await.doing(|| "read the registry's databases".into())
    }

    /// Returns the databases of a template or a clone that a drop would leave alone, with the reasons.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn estranged(&mut self, owner: &Owner) -> Result<Vec<(DatabaseRow, Estranged)>> {
        let rows = self.databases_of(owner).await?;
        let names: Vec<String> =
            rows.iter().flat_map(|row| [row.private_name.clone(), row.name.clone()]).collect();
        let oids: Vec<Oid> = rows.iter().filter_map(|row| row.oid).collect();
        let found = catalog::databases(self.session(), &names, &oids).await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| {
                let why = row.estranged(&found)?;
                Some((row, why))
            })
            .collect())
    }

    /// Writes the intent to create databases. Committed when this returns: call it before CREATE.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn insert_databases(
        &mut self,
        owner: &Owner,
        databases: &[NewDatabase],
    ) -> Result<Vec<DatabaseRow>> {
        self.session()
            .rows(insert(owner, databases))
            .await
            .doing(|| "write the intent to create a database".into())
    }

    /// Finds a database that was just created by its private name, adds its ownership tag and records its oid.
    /// `builders`: the builder's own comment, which is kept before the tag.
    ///
    /// # Errors
    /// The driver's, or that the database is not there.
    pub(crate) async fn mark_created(
        &mut self,
        row: &mut DatabaseRow,
        words: &str,
        builders: Option<&str>,
    ) -> Result<()> {
        let Some(found) = catalog::database(self.session(), &row.private_name).await? else {
            return Err(Error::failed(format!(
                "database `{}` disappeared right after it was created",
                row.private_name
            )));
        };
        let comment = row.mark().comment(words, builders);
        self.session()
            .run(sql::comment_database(&row.private_name, &comment))
            .await
            .doing(|| format!("mark database `{}`", row.private_name))?;
        self.session()
            .execute(sql::fill(CREATED, &[&row.id, &found.oid]))
            .await
            .doing(|| "record a database's OID".into())?;
        row.oid = Some(found.oid);
        Ok(())
    }

    /// Returns the remains of a clone that has these databases, by names and oids, in one round trip. `release`: also
    /// releases the clone, as [`Registry::release_clone`] does.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn remains(
        &mut self,
        id: &str,
        names: &[String],
        oids: &[Oid],
        release: bool,
    ) -> Result<Remains> {
        let doing = || format!("check which databases of clone {id} remain");
        let major = self.facts().major();
        let mut statements = vec![
            of(&Owner::Clone(id.to_owned())),
            catalog::databases_named(major, names, oids),
            obstacle::obstacles(oids),
        ];
        let each = names.iter().zip(oids);
        statements.extend(each.map(|(name, oid)| sql::planned("pgstencil_beside", BESIDE, &[name, oid])));
        if release {
            statements.extend(clone::release(id));
        }
        let mut answers = self.session().send_all(&statements).await.doing(doing)?;
        let mut remains = Remains::default();
        if release {
            let of_release = answers.split_off(answers.len().saturating_sub(clone::RELEASE_ANSWERS));
            remains.released = Some(Release::read(&of_release).doing(doing)?);
        }
        let mut answers = answers.iter();
        if let Some(rows) = answers.next() {
            remains.rows = rows.read().doing(doing)?;
        }
        if let Some(found) = answers.next() {
            remains.found = found.read().doing(doing)?;
        }
        if let Some(obstacles) = answers.next() {
            remains.obstacles = obstacles.read().doing(doing)?;
        }
        for answer in answers {
            let names: Vec<(String,)> = answer.read().doing(doing)?;
            remains.beside.push(names.into_iter().map(|(name,)| name).collect());
        }
        Ok(remains)
    }

    /// Returns the owners of databases whose drop did not finish before, or lacks a privilege.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn stuck(&mut self) -> Result<HashSet<Owner>> {
        let rows: Vec<(Option<i64>, Option<String>)> = self
            .session()
            .rows(sql::fill(STUCK, &[]))
            .await
            .doing(|| "read the databases that could not be dropped".into())?;
        Ok(rows
            .into_iter()
            .filter_map(|(template, clone)| {
                let clone = clone.map(Owner::Clone);
                template.map(Owner::Template).or(clone)
            })
            .collect())
    }

    /// Writes the intent to drop the database with this oid, which matches the row by [`DatabaseRow::is`]: a build
    /// may have recreated it. Committed when this returns: call it before DROP.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn mark_dropping(&mut self, row: &DatabaseRow, oid: Oid) -> Result<()> {
        self.session()
            .execute(dropping(row, oid))
            .await
            .doing(|| "write the intent to drop a database".into())?;
        Ok(())
    }

    /// Deletes the row of a database that is gone.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn forget_database(&mut self, row: &DatabaseRow) -> Result<()> {
        self.session().execute(gone(row)).await.doing(|| "update a database's row in the registry".into())?;
        Ok(())
    }
}

/// Sets the row of a template's database to present under its final name, with its size in bytes and files, within
/// the caller's transaction.
///
/// # Errors
/// The driver's.
pub(crate) async fn set_present(
    session: &mut Session,
    id: i64,
    (bytes, files): (i64, i64),
    replay: &Replay,
) -> std::result::Result<(), sqlx::Error> {
    session.execute(sql::fill(PRESENT, &[&id, &bytes, &files, &Json(replay)])).await?;
    Ok(())
}

/// Records the shape of a template's database, within the caller's transaction.
///
/// # Errors
/// The driver's.
pub(crate) async fn set_shape(
    session: &mut Session,
    id: i64,
    shape: &str,
) -> std::result::Result<(), sqlx::Error> {
    session.execute(sql::fill(SHAPE, &[&id, &shape])).await?;
    Ok(())
}

/// Makes a database keep its private name permanently, within the caller's transaction.
///
/// # Errors
/// The driver's.
pub(crate) async fn keep_private_name(
    session: &mut Session,
    id: i64,
) -> std::result::Result<(), sqlx::Error> {
    session.execute(sql::fill(UNNAMED, &[&id])).await?;
    Ok(())
}

/// Records the oid of the database that now has a row's private name.
///
/// # Errors
/// The driver's.
pub(crate) async fn adopt(session: &mut Session, id: i64, oid: Oid) -> Result<()> {
    session
        .execute(sql::fill("UPDATE pgstencil.database SET oid = $2 WHERE id = $1", &[&id, &oid]))
        .await
        .doing(|| "adopt the database that the build recreated".into())?;
    Ok(())
}
