//! Rows of `pgstencil.database`: one per physical database, from before its CREATE to after its DROP.

use std::collections::HashSet;
use std::fmt;

use sqlx::FromRow;
use sqlx::postgres::types::Oid;
use sqlx::types::Json;

use crate::error::{Error, Result};
use crate::names::Mark;
use crate::pg::obstacle::{self, Obstacle};
use crate::pg::replay::Replay;
use crate::pg::sql::Statement;
use crate::pg::{Doing as _, Session, catalog, sql};

use super::{DatabaseState, Registry};

/// What a database belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// A template, by id.
    Template(i64),
    /// A clone, by id.
    Clone(String),
}

/// One database of ours.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct DatabaseRow {
    /// Number of the row.
    pub(crate) id: i64,
    /// Role within its set.
    pub(crate) alias: String,
    /// The name under which it was created.
    pub(crate) private_name: String,
    /// The name that it has once it is present.
    pub(crate) name: String,
    /// Half of its mark.
    pub(crate) nonce: String,
    /// Known once it was created.
    pub(crate) oid: Option<Oid>,
    /// How far it is.
    pub(crate) state: DatabaseState,
    /// Size when its template was sealed.
    pub(crate) bytes: Option<i64>,
    /// Number of files when its template was sealed, about.
    pub(crate) files: Option<i64>,
    /// What CREATE will not copy.
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
    /// The mark that its comment must carry.
    pub(crate) fn mark(&self) -> Mark {
        Mark { nonce: self.nonce.clone() }
    }

    /// Whether what the server shows is this very database, and of our role: name, oid and mark. As
    /// long as it is being made, the private name (80 random bits) on a database that nobody else has
    /// marked will do: a crash may have come between CREATE and registration, and a build may have
    /// dropped it and created it again. One that somebody renamed is theirs now, and so is a warm clone
    /// that somebody opened.
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
        // What is being dropped was there before, so its oid counts, if it is known.
        let unknown = self.state == DatabaseState::Creating || self.oid.is_none();
        unknown && private && (marked || !Mark::any_in(found.comment.as_deref()))
    }

    /// Whether it is of a clone that nobody has had yet.
    fn is_warm(&self) -> bool {
        self.state == DatabaseState::Present && self.name == self.private_name
    }

    /// Why a drop would leave this database alone, if it would; `found`: all databases of its oid or
    /// one of its names.
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

/// Why a database that has a row is left alone: somebody else was at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Estranged {
    /// It is not there.
    Gone,
    /// It is not there, and another one has its name.
    Replaced,
    /// It has this name now.
    Renamed(String),
    /// Its comment lacks the mark.
    Unmarked,
    /// It was a warm clone, which lets nobody in, and lets people in now.
    Opened,
    /// Only the right is missing: it belongs to this role.
    Owner(String),
}

impl Estranged {
    /// Whether there is something that stays.
    pub(crate) fn is_there(&self) -> bool {
        !matches!(self, Estranged::Gone | Estranged::Replaced)
    }
}

impl fmt::Display for Estranged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Estranged::Gone => f.write_str("it is gone"),
            Estranged::Replaced => f.write_str("it is gone, and another one has its name"),
            Estranged::Renamed(name) => {
                write!(f, "it was renamed to `{name}`, so it is not pgstencil's any more")
            }
            Estranged::Unmarked => f.write_str(
                "its comment, which held pgstencil's mark, was changed, so it is not pgstencil's any more",
            ),
            Estranged::Opened => {
                f.write_str("it was opened while it was nobody's, so it is not pgstencil's any more")
            }
            Estranged::Owner(role) => {
                write!(f, "it belongs to role `{role}` now; a cleanup drops it once it has the right to")
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

/// What is left of a clone when its command has ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remains {
    /// What the registry knows of its databases.
    pub(crate) rows: Vec<DatabaseRow>,
    /// What the server has under their names and oids.
    pub(crate) found: Vec<catalog::Database>,
    /// For each database, those that are not ours, younger, and named after it: what a command made for
    /// itself. (Oids grow; after they wrapped around, some may be missing.)
    pub(crate) beside: Vec<Vec<String>>,
    /// What keeps them from being dropped.
    pub(crate) obstacles: Vec<Obstacle>,
}

/// A database about to be created.
#[derive(Clone, Debug)]
pub(crate) struct NewDatabase {
    /// Role within its set.
    pub(crate) alias: String,
    /// The name under which it is created.
    pub(crate) private_name: String,
    /// The name that it gets.
    pub(crate) name: String,
}

/// A query for the [`DatabaseRow`]s of a template or a clone, in the order of the definition.
pub(super) fn of(owner: &Owner) -> Statement {
    let (template, clone) = owner.ids();
    sql::fill(COLUMNS_OF, &[&template, &clone])
}

/// Writes the intent to create databases, and returns their [`DatabaseRow`]s in that order.
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

impl Registry {
    /// The databases of a template or a clone, in the order of the definition.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn databases_of(&mut self, owner: &Owner) -> Result<Vec<DatabaseRow>> {
        self.session().rows(of(owner)).await.doing(|| "read the registry's databases".into())
    }

    /// Those databases of a template or a clone that a drop would leave alone, and why.
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

    /// Finds a database just created by its private name, marks it and notes its oid. `builders`: the
    /// builder's own comment, which stays in front.
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
            .doing(|| "note a database's oid".into())?;
        row.oid = Some(found.oid);
        Ok(())
    }

    /// What is left of a clone that has these databases, by names and oids, in one round trip.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn remains(&mut self, id: &str, names: &[String], oids: &[Oid]) -> Result<Remains> {
        let doing = || format!("see what is left of clone {id}");
        let major = self.facts().major();
        let mut statements = vec![
            of(&Owner::Clone(id.to_owned())),
            catalog::databases_named(major, names, oids),
            obstacle::obstacles(oids),
        ];
        let beside = names.iter().zip(oids);
        statements.extend(beside.map(|(name, oid)| sql::fill(BESIDE, &[name, oid])));
        let answers = self.session().send_all(&statements).await.doing(doing)?;
        let mut remains = Remains::default();
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

    /// What a drop did not come to its end with before, or has no right to.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn stuck(&mut self) -> Result<HashSet<Owner>> {
        let rows: Vec<(Option<i64>, Option<String>)> = self
            .session()
            .rows(sql::fill(STUCK, &[]))
            .await
            .doing(|| "look for what could not be dropped".into())?;
        Ok(rows
            .into_iter()
            .filter_map(|(template, clone)| {
                let clone = clone.map(Owner::Clone);
                template.map(Owner::Template).or(clone)
            })
            .collect())
    }

    /// Writes the intent to drop the database of this oid, which [`DatabaseRow::is`] the row's: a build
    /// may have made it anew. Committed when this returns: call it before DROP.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn mark_dropping(&mut self, row: &DatabaseRow, oid: Oid) -> Result<()> {
        self.session()
            .execute(sql::fill(DROPPING, &[&row.id, &oid]))
            .await
            .doing(|| "write the intent to drop a database".into())?;
        Ok(())
    }

    /// Forgets a database that is gone.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn forget_database(&mut self, row: &DatabaseRow) -> Result<()> {
        self.by_id(GONE, row.id).await
    }

    async fn by_id(&mut self, query: &'static str, id: i64) -> Result<()> {
        self.session()
            .execute(sql::fill(query, &[&id]))
            .await
            .doing(|| "update a database's row in the registry".into())?;
        Ok(())
    }
}

/// Sets a template's row present under its final name, with its size in bytes and files, within the caller's
/// transaction.
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

/// Notes the shape of a template's database, within the caller's transaction.
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

/// Has a database keep its private name for good, within the caller's transaction.
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

/// Notes the oid of the database that now stands under a row's private name.
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
