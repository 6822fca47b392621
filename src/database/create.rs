//! `CREATE DATABASE`, bounded by the caller's limit; several at the same time for a template with several
//! databases.

use std::time::{Duration, Instant};

use sqlx::postgres::types::Oid;

use crate::context::Context;
use crate::error::{Error, Fault, Kind, Result};
use crate::events::{Event, Warning};
use crate::pg::lock::LockKey;
use crate::pg::sql::CopyStrategy;
use crate::pg::{
    self, Deadline, Doing as _, Session, SqlState, catalog, cause, is_connection_loss, sql, sqlstate,
};
use crate::registry::Registry;

/// Values of one CREATE.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    /// Private name of the new database.
    pub(crate) target: String,
    /// Name of the database to copy.
    pub(crate) source: String,
    /// Its oid, to find the sessions in it; `None` for template0.
    pub(crate) source_oid: Option<Oid>,
    /// Strategy of the copy.
    pub(crate) strategy: CopyStrategy,
    /// Whether the new database accepts connections immediately.
    pub(crate) open: bool,
}

/// Creates the database. `statement_timeout` ends a CREATE that exceeds the caller's limit, and the server cleans
/// up. If our process dies in the meantime, the server notices within half a second (14 and later) or finishes, and
/// a cleanup finds the database by its private name.
///
/// # Errors
/// The driver's; [`Kind::Permission`] with the privilege's name; [`Kind::Timeout`].
pub(crate) async fn create(session: &mut Session, copy: &Copy, context: &Context<'_>) -> Result<()> {
    let deadline = context.deadline;
    deadline.check("a database to be copied")?;
    if copy.strategy == CopyStrategy::Reflink {
        session.run(sql::set_file_copy_method(true)).await.doing(|| "set file_copy_method".into())?;
    }
    session.take_time().await.doing(|| "set the time limit of a statement".into())?;
    let mut tries = 0;
    let mut told = false;
    let created = loop {
        let statement = sql::create_database(&copy.target, &copy.source, copy.strategy, copy.open);
        let creating = session.run(statement);
        let created = match copy.source_oid {
            // The server itself waits up to five seconds for the sessions in the source.
            Some(oid) if !told => {
                tokio::pin!(creating);
                tokio::select! {
                    created = &mut creating => created,
                    () = tell_who_is_in(copy, oid, context) => {
                        told = true;
                        creating.await
                    }
                }
            }
            _ => creating.await,
        };
        let created = created.doing(|| format!("create database `{}` from `{}`", copy.target, copy.source));
        match created {
            // A session is in the template, although it is closed: a worker that overrides that, or a superuser's
            // tool that opened it.
            Err(e) if e.has_fault(Fault::InUse) && tries < 3 => {
                tries += 1;
                let Some(oid) = copy.source_oid else {
                    break Err(e);
                };
                let left = catalog::wait_until_empty(session, oid, Duration::from_secs(5), deadline).await?;
                if !left.is_empty() {
                    let mut e = e;
                    for visitor in &left {
                        e = e.detail(format!("in `{}`: {}", copy.source, visitor.describe()));
                    }
                    break Err(e);
                }
            }
            other => break other,
        }
    };
    session.hurry();
    // A lost session needs no reset, and the caller should receive the error of the loss.
    if copy.strategy == CopyStrategy::Reflink && !created.as_ref().is_err_and(is_connection_loss) {
        // The next copy of this session may use another strategy.
        session.run(sql::set_file_copy_method(false)).await.doing(|| "set file_copy_method".into())?;
    }
    match created {
        Err(e) if e.kind() == Kind::Permission => {
            // Names the missing privilege, and how to grant it.
            catalog::require_createdb(session).await?;
            Err(blamed(e))
        }
        Err(e) if e.kind() == Kind::Timeout => {
            deadline.check("a database to be copied")?;
            Err(Error::new(Kind::Failed, e.message()).caused_by(e))
        }
        Err(e) if sqlstate(&e) == Some(SqlState::INTERNAL_ERROR) => {
            Err(blamed(unless_full(session, e).await))
        }
        other => other.map_err(blamed),
    }
}

/// Reports the sessions that a copy waits for, after a while.
async fn tell_who_is_in(copy: &Copy, oid: Oid, context: &Context<'_>) {
    const SILENCE: Duration = Duration::from_millis(1500);
    tokio::time::sleep(SILENCE).await;
    let deadline = Deadline::new(Some(SILENCE), context.deadline.cancel.clone());
    let mut visitors = Vec::new();
    for database in context.endpoint.maintenance() {
        // Without this check it only waits in silence.
        if let Ok(mut session) = Session::open(context.endpoint, database, &deadline).await {
            visitors = catalog::visitors(&mut session, oid).await.unwrap_or_default();
            session.close().await;
            break;
        }
    }
    for visitor in visitors {
        let end = match visitor.is_prepared() {
            true => "finish or roll back that transaction".to_owned(),
            false => format!("end that session: SELECT pg_terminate_backend({});", visitor.pid),
        };
        let what = format!(
            "waiting, since a session is connected to database `{}`, which is to be copied",
            copy.source
        );
        context.tell(Event::Warning(&Warning::new(what).detail(visitor.describe()).hint(end)));
    }
}

/// Copies all databases of one template at the same time, each in its own session that shares `keys`: the lock of
/// the template, and a lock that keeps a cleanup from forgetting a database whose CREATE outlives our process.
/// Drops of other processes give way during this.
///
/// # Errors
/// As [`create`]. All copies have ended when it returns.
pub(crate) async fn create_all(
    registry: &mut Registry,
    context: &Context<'_>,
    copies: &[Copy],
    keys: &[LockKey],
) -> Result<()> {
    // Without this lock the copy can still be made.
    let hurry = registry.try_share(LockKey::hurry()).await?;
    let done = create_in_lanes(registry, context, copies, keys).await;
    match hurry {
        Some(hurry) => done.and(hurry.release(registry).await),
        None => done,
    }
}

async fn create_in_lanes(
    registry: &mut Registry,
    context: &Context<'_>,
    copies: &[Copy],
    keys: &[LockKey],
) -> Result<()> {
    let [first, others @ ..] = copies else {
        return Ok(());
    };
    if others.is_empty() {
        return create(registry.session(), first, context).await;
    }
    // More than eight at the same time bring nothing, and sessions are scarce.
    let lanes = others.len().min(7);
    let mut sessions = Vec::new();
    for _ in 0..lanes {
        let mut another = match registry.another(context.deadline).await {
            Ok(another) => another,
            // Fewer lanes are only slower.
            Err(e) if !sessions.is_empty() || e.kind() == Kind::Connect => break,
            Err(e) => return Err(e),
        };
        let mut locked = true;
        for key in keys.iter().copied() {
            match another.try_share(key).await? {
                Some(lock) => lock.keep(),
                None => locked = false,
            }
        }
        if !locked {
            break;
        }
        sessions.push(another);
    }
    let mut lanes: Vec<Vec<&Copy>> = vec![Vec::new(); sessions.len() + 1];
    let count = lanes.len();
    for (i, copy) in copies.iter().enumerate() {
        lanes[i % count].push(copy);
    }
    let mut lanes = lanes.into_iter();
    let own = lanes.next().unwrap_or_default();
    let mut work = Vec::new();
    for (mut another, lane) in sessions.into_iter().zip(lanes) {
        work.push(async move {
            let mut result = Ok(());
            for copy in lane {
                result = result.and(create(another.session(), copy, context).await);
            }
            another.close().await;
            result
        });
    }
    let own = async {
        for copy in own {
            create(registry.session(), copy, context).await?;
        }
        Ok(())
    };
    // All copies run to their end: a database that is still being copied cannot be dropped.
    let (own, others) = tokio::join!(own, futures_util::future::join_all(work));
    own.and(others.into_iter().collect())
}

/// Waits while a process waits for a copy, but not indefinitely: a server that is always busy must not fill up. For
/// copies and drops that no process waits for.
///
/// # Errors
/// The driver's.
pub(crate) async fn give_way(registry: &mut Registry) -> Result<()> {
    give_way_until(registry, Instant::now() + PATIENCE).await
}

/// As [`give_way`], until this time at most.
///
/// # Errors
/// The driver's.
pub(crate) async fn give_way_until(registry: &mut Registry, until: Instant) -> Result<()> {
    while Instant::now() < until && registry.somebody_hurries().await? {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Time for which copies and drops that no process waits for give way.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// Marks the failure of a copy that is caused by its source or its strategy, rather than by the server, the role,
/// the name or the caller's time limit.
fn blamed(error: Error) -> Error {
    let fault = match sqlstate(&error) {
        // It is gone, half dropped or of another collation version, or its files are damaged.
        Some(
            SqlState::INVALID_CATALOG_NAME
            | SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE
            | SqlState::UNDEFINED_FILE
            | SqlState::DATA_CORRUPTED
            | SqlState::INDEX_CORRUPTED,
        ) => Fault::SourceLost,
        // It is in use, or another role's, or the server may not read its files; a missing CREATEDB was checked
        // before, and is another error.
        Some(
            SqlState::INSUFFICIENT_PRIVILEGE
            | SqlState::OBJECT_IN_USE
            | SqlState::IO_ERROR
            | SqlState::INTERNAL_ERROR,
        ) => Fault::SourceUnusable,
        Some(SqlState::FEATURE_NOT_SUPPORTED | SqlState::INVALID_PARAMETER_VALUE) => Fault::Unsupported,
        _ => return error,
    };
    error.fault(fault)
}

/// On a full disk a copy through the WAL, and after it every checkpoint and with it every other copy, fails with an
/// internal error that hides the cause. Then the template is not to blame, and a rebuild would make things worse:
/// so this tests whether the server can write at all.
async fn unless_full(session: &mut Session, error: Error) -> Error {
    match catalog::try_to_write(session).await {
        Err(full) if full.has_fault(Fault::DiskFull) => Error::new(Kind::Failed, error.message())
            .fault(Fault::DiskStuck)
            .detail(format!("error of the copy: {}", cause(&error)))
            .detail(pg::DISK_STUCK)
            .hint(pg::FREE_DISK)
            .caused_by(full),
        _ => error,
    }
}
