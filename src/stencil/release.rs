//! The end of a lease: clones that are kept, released, or found to be replaced.

use std::time::{Duration, Instant};

use sqlx::postgres::types::Oid;

use serde::{Deserialize, Serialize};

use super::owed::Hearer;
use super::{Deadline, Stencil, Term};
use crate::config::nearest::nearest;
use crate::error::{Error, Kind, Result};
use crate::events::Warning;
use crate::lease::{self, BOUND, ClonedSet, KEEP, drop_unneeded};
use crate::pg::is_connection_loss;
use crate::pg::obstacle::Obstacle;
use crate::registry::database::{Estranged, Owner, Remains};
use crate::registry::owner::Tenure;
use crate::registry::{CloneRow, CloneState, DatabaseRow, LeaseKind, Registry, Waiting};

impl Stencil {
    pub(super) async fn give_up_all(&self, registry: &mut Registry, clones: &[ClonedSet]) -> Result<()> {
        for clone in clones {
            registry.release_clone(&clone.id).await?;
        }
        Ok(())
    }

    /// Confirms leases, with a new session if the existing one is lost: see [`super::Leases::confirm`].
    pub(super) async fn confirm(
        &self,
        registry: Option<Registry>,
        ids: &[String],
    ) -> (Option<Registry>, Result<()>) {
        let gone = || Error::new(Kind::NotFound, "the clone no longer exists");
        let judge = |done: Result<usize>| match done? == ids.len() {
            true => Ok(()),
            false => Err(gone()),
        };
        if let Some(mut registry) = registry {
            let done = registry.confirm_clones(ids).await;
            if !done.as_ref().is_err_and(is_connection_loss) {
                return (Some(registry), judge(done));
            }
        }
        let deadline = Deadline::new(Some(Duration::from_secs(10)), Default::default());
        let name = &self.config.server.registry;
        loop {
            match Registry::open_existing(&self.endpoint, name, &deadline).await {
                Ok(Some(mut registry)) => {
                    let done = registry.confirm_clones(ids).await;
                    return (Some(registry), judge(done));
                }
                Ok(None) => return (None, Err(gone())),
                Err(error) if deadline.left().is_none_or(|left| left.is_zero()) => {
                    return (None, Err(error));
                }
                Err(_) => {
                    let paused = deadline.pause(Duration::from_millis(200), "the server").await;
                    if let Err(error) = paused {
                        return (None, Err(error));
                    }
                }
            }
        }
    }

    /// Returns the keeper's session if a check of the clones shows it connected, or a new one. `release`: releases the
    /// clones in the same messages.
    async fn again(
        &self,
        registry: Option<Registry>,
        clones: &[ClonedSet],
        release: bool,
    ) -> Result<(Registry, Vec<Remains>)> {
        const PATIENCE: Duration = Duration::from_secs(10);
        if let Some(mut registry) = registry.filter(Registry::is_driven) {
            let look = remains_of(&mut registry, clones, release);
            if let Ok(Ok(seen)) = tokio::time::timeout(PATIENCE, look).await {
                return Ok((registry, seen));
            }
        }
        let deadline = Deadline::new(Some(PATIENCE), Default::default());
        let name = &self.config.server.registry;
        let mut registry = Registry::open_existing(&self.endpoint, name, &deadline)
            .await?
            .ok_or_else(|| Error::failed("the registry database no longer exists"))?;
        let seen = remains_of(&mut registry, clones, release).await?;
        Ok((registry, seen))
    }

    /// Releases clones, and keeps the session for the next [`Stencil::acquire`]. A session that was opened on another
    /// runtime, which may have ended, is not used. See [`super::Leases::release`].
    pub(super) async fn give_back(
        &self,
        registry: Option<Registry>,
        clones: &[ClonedSet],
        deadline: &Deadline,
    ) -> Result<Vec<Warning>> {
        // `before_release` runs between the check and the release.
        let has_hooks = self.hooks().is_some();
        let (mut registry, remains) = self.again(registry, clones, !has_hooks).await?;
        let mut warnings = Vec::new();
        let mut waiting = 0;
        let started = Instant::now();
        for (clone, remains) in clones.iter().zip(&remains) {
            warnings.extend(replaced(clone, remains));
            // Commands not started in that time are left to the next command of the checkout.
            if has_hooks && started.elapsed() < BOUND {
                let warning = self.before_release(&mut registry, &clone.id, deadline, Hearer::Caller);
                warnings.extend(warning.await);
            }
            let release = match remains.released {
                Some(release) => release,
                None => registry.release_and_count(&clone.id).await?,
            };
            waiting = release.waiting;
            if !release.was_first && remains.rows.is_empty() {
                warnings.extend(forgotten(clone, remains));
            }
        }
        // They are released in any case.
        let relieved = match self.is_background_off() {
            true => self.clean_up_in(&mut registry).await,
            false => self.relieve(&mut registry, waiting).await,
        };
        match relieved {
            Ok(()) => self.idle.put(registry),
            Err(_) => registry.close().await,
        }
        self.background.drop_given_back();
        Ok(warnings)
    }

    /// Changes all leases to this term, and records their end in the clones: see [`super::Leases::prolong`].
    ///
    /// Cancel safety: after a future is dropped, each clone has either the old or the new lease; a lease of the
    /// session ends with the session.
    pub(super) async fn prolong(
        &self,
        registry: Option<Registry>,
        clones: &mut [ClonedSet],
        term: Term,
    ) -> Result<Registry> {
        let (mut registry, _) = self.again(registry, clones, false).await?;
        let (asker, settings) = (self.asker(), &self.config.clone);
        for clone in clones {
            let mut until = None;
            if let Some(row) = registry.clone_by_id(&clone.id).await? {
                let tenure = Tenure::new(asker, settings, term, row.named, row.bound.clone(), None);
                until = registry.renew(&row, &tenure, false).await?;
                clone.bound = tenure.prolonging();
            }
            let Some(until) = until else {
                return Err(Error::new(
                    Kind::NotFound,
                    format!("clone {} was discarded in the meantime", clone.id),
                ));
            };
            clone.by_session = false;
            clone.expires_at = until;
        }
        Ok(registry)
    }

    /// Releases clones by name or id. `take`: regardless of their owner. Runs `before_release` as
    /// [`Stencil::give_back`] does.
    ///
    /// Cancel safety: a dropped future has released some of them, or none.
    ///
    /// # Errors
    /// [`Kind::NotFound`], or [`Kind::NameTaken`] for a clone that a running process holds or another owner owns: the
    /// error of the first one, with the other errors and the clones released nevertheless as details. If the session
    /// is lost or the time is up, the following ones are not tried.
    pub(crate) async fn release_named(
        &self,
        names: &[String],
        take: bool,
        deadline: &Deadline,
    ) -> Result<Released> {
        let Some(mut registry) = self.open_existing(deadline).await? else {
            return Err(unknown(names.first().map_or("", String::as_str)));
        };
        let done = self.release_in(&mut registry, names, take, deadline).await;
        match done {
            // The rest of the cleanup follows in this process. They are released in any case.
            Ok(_) if self.is_background_off() => drop(self.keep_session(registry).await),
            Ok(_) => registry.close().await,
            Err(_) => {}
        }
        done
    }

    /// Releases a clone as [`Stencil::release_named`] does, by the session that is left for the next request, which
    /// stays for the one after. Also returns whether [`Stencil::bound_here`] finds clones.
    ///
    /// # Errors
    /// As [`Stencil::release_named`].
    pub(crate) async fn release_for_another(
        &self,
        name: &str,
        deadline: &Deadline,
    ) -> Result<(Released, bool)> {
        let Some(mut registry) = self.open_existing(deadline).await? else {
            return Err(unknown(name));
        };
        let names = [name.to_owned()];
        let done = self.release_in(&mut registry, &names, false, deadline).await?;
        // It is released: what fails from here on must not make the other process try again.
        let bound = self.bound_here(&mut registry).await.unwrap_or_default();
        let _ = self.keep_session(registry).await;
        Ok((done, !bound.is_empty()))
    }

    async fn release_in(
        &self,
        registry: &mut Registry,
        names: &[String],
        take: bool,
        deadline: &Deadline,
    ) -> Result<Released> {
        registry.note_command_in_checkout(&self.asker()).await?;
        let mut released = Released::default();
        let mut failed: Option<Error> = None;
        for name in names {
            let done = self.release_one(registry, name, take, deadline, &mut released).await;
            let Err(error) = done else {
                continue;
            };
            let ends = !matches!(error.kind(), Kind::NotFound | Kind::NameTaken);
            failed = Some(match failed {
                None => error,
                Some(first) => first.detail(error.message()),
            });
            if ends {
                break;
            }
        }
        if self.is_background_off() {
            // They are released in any case.
            let _ = self.clean_up_in(registry).await;
        }
        let Some(mut error) = failed else {
            return Ok(released);
        };
        if names.len() > 1 {
            error = error.detail(match released.clones.as_slice() {
                [] => "no clone was released".to_owned(),
                names => format!("released nevertheless: {}", names.join(", ")),
            });
        }
        Err(released.warnings.iter().fold(error, |error, warning| error.detail(warning.to_string())))
    }

    async fn release_one(
        &self,
        registry: &mut Registry,
        name: &str,
        take: bool,
        deadline: &Deadline,
        released: &mut Released,
    ) -> Result<()> {
        let Some(mut row) = registry.clone_by_name(name).await? else {
            return Err(unlike(registry, name).await);
        };
        let asker = self.asker();
        let refused = |row: &CloneRow| !take && row.state == CloneState::Leased && !asker.has_clone(row);
        if refused(&row) {
            return Err(lease::of_another(&row, &asker));
        }
        let mut given_up = row.state == CloneState::Released;
        if !given_up {
            let key = row.key();
            let lock = match row.lease {
                LeaseKind::Session => registry.try_lock(key).await?,
                LeaseKind::Expiry => {
                    // Its creator has not quite ended, or a cleanup examines it.
                    let waiting = Waiting {
                        step: Duration::from_millis(20),
                        most: None,
                        deadline,
                        what: "another command that uses the clone",
                    };
                    registry.lock(key, waiting).await?
                }
            };
            let Some(lock) = lock else {
                return Err(Error::new(
                    Kind::NameTaken,
                    format!("clone `{}` is in use by a running command", row.name),
                )
                .detail(row.holder.0.describe())
                .hint("wait until that command ends, which releases the clone"));
            };
            // Another owner may have taken it before this process got its lock.
            let Some(now) = registry.clone_by_id(&row.id).await? else {
                return Err(unknown(name));
            };
            if refused(&now) {
                lock.release(registry).await?;
                return Err(lease::of_another(&now, &asker));
            }
            // Held until the row says that the clone is released.
            lock.keep();
            given_up = now.state == CloneState::Released;
            row = now;
        }
        // Must precede the drop of the rest by any cleanup.
        let owner = Owner::Clone(row.id.clone());
        let databases = registry.databases_of(&owner).await?;
        let count = databases.len();
        let oids: Vec<Oid> = databases.iter().filter_map(|row| row.oid).collect();
        let mut estranged = registry.estranged(&owner).await?;
        if given_up {
            // A cleanup handles it, so it is expected that some are gone.
            estranged.retain(|(_, why)| why.is_there());
        } else {
            let warning = self.before_release(registry, &row.id, deadline, Hearer::Caller);
            released.warnings.extend(warning.await);
            if !asker.has_clone(&row) {
                let by = self.holder.describe_checkout();
                let why = format!("{by} released it with `pgstencil release --take`");
                registry.end_lease(&row.id, &why).await?;
            }
            registry.release_clone(&row.id).await?;
        }
        released.warnings.extend(estranged.iter().map(|(row, why)| estranged_warning(row, why)));
        let obstacles = Obstacle::find(registry.session(), &oids).await?;
        released.warnings.extend(obstacles.iter().map(Obstacle::warning));
        if count == 0 || estranged.len() < count {
            match given_up {
                true => released.before.push(row.name),
                false => released.clones.push(row.name),
            }
        }
        self.background.drop_given_back();
        Ok(())
    }
}

/// Result of a release of clones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Released {
    /// Names of the clones released.
    pub clones: Vec<String>,
    /// Names of the clones that had been released before, and wait for their drop.
    pub before: Vec<String>,
    /// Warnings about databases, of these clones or of the others, that are gone or were left alone.
    pub warnings: Vec<Warning>,
}

fn estranged_warning(row: &DatabaseRow, why: &Estranged) -> Warning {
    match why.is_there() {
        true => Warning::new(why.kept(&row.name)),
        false => Warning::new(format!("there is no database `{}` to release: {why}", row.name)),
    }
}

fn unknown(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no clone `{name}` in this registry"))
        .hint("list the clones: `pgstencil list`")
}

/// Returns the error [`unknown`], with the name that was probably meant.
async fn unlike(registry: &mut Registry, name: &str) -> Error {
    let Ok(clones) = registry.clones().await else {
        return unknown(name);
    };
    let handed_out = clones.iter().filter(|row| row.state == CloneState::Leased);
    let names = handed_out.flat_map(|row| [row.name.as_str(), row.id.as_str()]);
    match nearest(name, names) {
        Some(meant) => {
            let error = unknown(name);
            let first = Error::new(error.kind(), error.message());
            let first = first.hint(format!("did you mean `{meant}`?"));
            error.hints().iter().fold(first, Error::hint)
        }
        None => unknown(name),
    }
}

async fn remains_of(registry: &mut Registry, clones: &[ClonedSet], release: bool) -> Result<Vec<Remains>> {
    let mut all = Vec::new();
    for clone in clones {
        let names: Vec<String> = clone.databases.iter().map(|d| d.name.clone()).collect();
        all.push(registry.remains(&clone.id, &names, &clone.oids, release).await?);
    }
    Ok(all)
}

/// Reports databases that a command dropped or replaced, as Django's test runner does without `--keepdb`.
fn replaced(clone: &ClonedSet, remains: &Remains) -> Vec<Warning> {
    let Remains { rows, found, beside, obstacles, .. } = remains;
    let mut warnings: Vec<Warning> = rows
        .iter()
        .filter_map(|row| Some((row, row.estranged(found)?)))
        .filter(|(_, why)| why.is_there())
        .map(|(row, why)| estranged_warning(row, &why))
        .collect();
    warnings.extend(obstacles.iter().map(Obstacle::warning));
    let databases = clone.databases.iter().zip(&clone.oids);
    for ((database, oid), others) in databases.zip(beside) {
        let name = &database.name;
        if found.iter().any(|d| d.oid == *oid) {
            // Is there another one next to it, such as Django's test_NAME, or NAME_1 of its workers?
            if !others.is_empty() {
                warnings.push(
                    Warning::new(format!("the command did not use its clone `{name}` alone"))
                        .detail(format!("it created {}", others.join(", ")))
                        .detail("pgstencil does not drop these databases")
                        .hint("Django: set TEST = {\"NAME\": os.environ.get(\"PGSTENCIL_NAME\")}, and run the tests with --keepdb (pytest: --reuse-db)")
                        .hint("give each worker a clone of its own: `--clones` and `--name`"),
                );
            }
            continue;
        }
        let dropped =
            Warning::new(format!("the command dropped its clone `{name}`, so the clone saved no time"));
        let warning = match found.iter().any(|d| d.name == *name) {
            false => dropped,
            true => dropped
                .detail("it created another database of that name, which pgstencil does not drop")
                .detail("no clone can get that name while the database exists")
                .hint(drop_unneeded(name)),
        };
        warnings.push(warning.hint(KEEP));
    }
    warnings
}

/// Describes the remains of a clone that is no longer in the registry: no cleanup will find them.
fn forgotten(clone: &ClonedSet, remains: &Remains) -> Option<Warning> {
    let left = remains.found.iter();
    let left = left.filter(|d| clone.oids.contains(&d.oid));
    let names: Vec<String> = left.map(|d| format!("`{}`", d.name)).collect();
    (!names.is_empty()).then(|| {
        Warning::new(format!(
            "clone {} is not in the registry any more, so no cleanup drops its databases",
            clone.id
        ))
        .detail(format!("left: {}", names.join(", ")))
    })
}
