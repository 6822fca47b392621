//! Owners of clones, and how long clones are kept for them.
//!
//! The owner outlives the process that asked: it is a role of the server, in a checkout on a machine.
//! `PGSTENCIL_OWNER` replaces machine and checkout. A clone from before owners were recorded belongs to every owner
//! that its holder matches: host, account and directory.

use std::path::Path;
use std::time::Duration;

use sqlx::FromRow;
use sqlx::types::Json;

use crate::config::{CloneSettings, Named};
use crate::error::Result;
use crate::pg::Doing as _;
use crate::pg::sql::{self, Statement};
use crate::quantity::Seconds;

use super::holder::{Branch, BranchSource, Checkout, Holder};
use super::{CloneRow, LeaseKind, Registry, Term, bound};

/// Owner of a clone, as recorded in the registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow)]
pub(crate) struct CloneOwner {
    /// Role that the owner logs in with; `None` if the clone is from before owners were recorded.
    #[sqlx(rename = "owner_role")]
    pub(crate) role: Option<String>,
    /// Whether the session that read this logged in with the same role.
    pub(crate) same_role: bool,
    /// Machine of the owner; see [`Checkout::machine`].
    #[sqlx(rename = "owner_machine")]
    pub(crate) machine: String,
    /// `PGSTENCIL_OWNER`, which replaces machine and checkout; empty if it was not set.
    #[sqlx(rename = "owner_name")]
    pub(crate) name: String,
    /// Top level of the checkout.
    #[sqlx(rename = "owner_top")]
    pub(crate) top: String,
    /// The config's root relative to `top`.
    #[sqlx(rename = "owner_below")]
    pub(crate) below: String,
    /// Start of the ownership; RFC 3339, UTC.
    #[sqlx(rename = "owned_since")]
    pub(crate) since: String,
    /// Whether all checkouts of the project whose config allows it share the clone.
    pub(crate) shared: bool,
}

/// Columns of a [`CloneOwner`], of `pgstencil.clone` or `pgstencil.dropped`.
macro_rules! owner_columns {
    () => {
        "owner_role, coalesce(owner_role = session_user::text, false) AS same_role, owner_machine, owner_name, \
         owner_top, owner_below, shared, \
         to_char(owned_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS owned_since"
    };
}
pub(super) use owner_columns;

impl CloneOwner {
    /// Returns whether machine and checkout are those of the owner.
    fn is_of(&self, checkout: &Checkout) -> bool {
        match (self.name.as_str(), checkout.owner.as_str()) {
            ("", "") => {
                self.machine == checkout.machine && self.top == checkout.top && self.below == checkout.below
            }
            (ours, theirs) => ours == theirs,
        }
    }

    /// Returns owner and place, in one line for a person. `holder`: the last holder; for a shared clone, that may
    /// be one of the other checkouts.
    pub(crate) fn describe(&self, holder: &Holder) -> String {
        let Some(role) = &self.role else {
            return holder.describe_checkout();
        };
        let place = match self.name.as_str() {
            "" if self.is_of(&holder.checkout) => holder.describe_checkout(),
            "" => Path::new(&self.top).join(&self.below).display().to_string(),
            name => format!("PGSTENCIL_OWNER `{name}`"),
        };
        format!("role `{role}`, {place}")
    }
}

/// Branch or worktree that a clone's name comes from, and that may be deleted in git.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow)]
pub(crate) struct Bound {
    /// Name of a local branch.
    #[sqlx(rename = "bound_branch")]
    pub(crate) branch: Option<String>,
    /// Name of a git repository's worktree, as git registered it; empty for the main one.
    #[sqlx(rename = "bound_worktree")]
    pub(crate) worktree: Option<String>,
}

impl Bound {
    /// Returns whether there is neither.
    pub(crate) fn is_free(&self) -> bool {
        *self == Bound::default()
    }

    /// Takes each part from this value, or from the other one if it is missing here.
    fn or(self, other: &Bound) -> Self {
        Bound {
            branch: self.branch.or_else(|| other.branch.clone()),
            worktree: self.worktree.or_else(|| other.worktree.clone()),
        }
    }

    /// Returns the branch and worktree of this checkout that a name with `{branch}` or `{worktree}` comes from.
    /// Branches of CI variables, bookmarks and commits do not count: nothing that is deleted here ends them.
    pub(crate) fn of(checkout: &Checkout, branch: bool, worktree: bool) -> Self {
        let local = |b: &&Branch| branch && b.from == BranchSource::Local;
        match &checkout.repository {
            None => Bound::default(),
            Some(_) => Bound {
                branch: checkout.branch.as_ref().filter(local).map(|b| b.name.clone()),
                worktree: worktree.then(|| checkout.worktree.clone().unwrap_or_default()),
            },
        }
    }

    /// Returns words that fit after "while": `branch `x` exists`.
    pub(crate) fn describe(&self) -> Option<String> {
        let branch = self.branch.as_ref().map(|b| format!("branch `{b}`"));
        let worktree = self.worktree.as_ref().map(|w| match w.as_str() {
            "" => "the main worktree".to_owned(),
            name => format!("worktree `{name}`"),
        });
        match (branch, worktree) {
            (Some(branch), Some(worktree)) => Some(format!("{branch} and {worktree} exist")),
            (Some(one), None) | (None, Some(one)) => Some(format!("{one} exists")),
            (None, None) => None,
        }
    }
}

/// Process that asks for a clone, or releases it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    /// The process and its checkout. The role is that of the session.
    pub(crate) holder: &'a Holder,
    /// Namespace.
    pub(crate) project: &'a str,
    /// Whether `[clone] named = "project"` is set: shares clones with all checkouts of the project that also set
    /// it.
    pub(crate) shares: bool,
}

impl<'a> Asker<'a> {
    /// Creates it from the settings of a config.
    pub(crate) fn new(holder: &'a Holder, project: &'a str, settings: &CloneSettings) -> Self {
        Asker { holder, project, shares: settings.named == Named::Project }
    }

    /// Returns whether a clone of this owner is the asker's. `holder`: its last holder; `project`: its project.
    pub(crate) fn has(&self, owner: &CloneOwner, holder: &Holder, project: &str) -> bool {
        self.is_owner(owner, holder)
            || (self.shares && owner.shared && owner.role.is_some() && project == self.project)
    }

    /// Does the same as [`Asker::has`], for a clone's row.
    pub(crate) fn has_clone(&self, row: &CloneRow) -> bool {
        self.has(&row.owner, &row.holder.0, &row.project)
    }

    /// Returns whether the asker is the owner itself, not only a checkout that shares the clone.
    pub(crate) fn is_owner(&self, owner: &CloneOwner, holder: &Holder) -> bool {
        let own = self.holder;
        match &owner.role {
            Some(_) => owner.same_role && owner.is_of(&own.checkout),
            None => (&own.host, &own.user, &own.worktree) == (&holder.host, &holder.user, &holder.worktree),
        }
    }
}

/// Owner and duration of a clone's lease.
#[derive(Clone, Debug)]
pub(crate) struct Tenure<'a> {
    /// Process that asks.
    pub(crate) asker: Asker<'a>,
    /// Duration of the lease after each use; never [`Term::Usual`].
    pub(crate) term: Term,
    /// Minimum duration from now on: the rest of the lease of the clone before it.
    pub(crate) least: Option<Duration>,
    /// Whether a person specified the duration just now.
    pub(crate) exact: bool,
    /// Whether a person ever specified it, which holds until the next specification.
    pub(crate) typed: bool,
    /// Whether its name can be requested again.
    pub(crate) named: bool,
    /// Branch or worktree that its name comes from.
    pub(crate) bound: Bound,
    /// Whether a command is about to start for it, which may outlive its holder.
    pub(crate) command: bool,
}

impl<'a> Tenure<'a> {
    /// Determines the lease of a name by the settings. `before`: the clone that has the name so far. A duration
    /// that was typed for it still counts, and its lease is not shortened.
    pub(crate) fn new(
        asker: Asker<'a>,
        settings: &CloneSettings,
        term: Term,
        named: bool,
        bound: Bound,
        before: Option<&CloneRow>,
    ) -> Self {
        let bound = match before {
            Some(row) if asker.is_owner(&row.owner, &row.holder.0) => bound.or(&row.bound),
            // The branch is a branch of the owner's repository.
            Some(row) if asker.has_clone(row) => row.bound.clone(),
            _ => bound,
        };
        let mut tenure = Tenure {
            asker,
            term,
            least: None,
            exact: matches!(term, Term::Expiry(_)),
            typed: matches!(term, Term::Expiry(_)),
            named,
            bound,
            command: false,
        };
        if term == Term::Usual {
            let typed = before.filter(|row| row.ttl_typed);
            let kept = before.filter(|row| row.lease == LeaseKind::Expiry);
            let ttl = match typed {
                Some(row) => row.ttl_s.map(Seconds::duration),
                None if tenure.bound.is_free() => *settings.ttl,
                None => *settings.branch_ttl,
            };
            let for_ever = kept.is_some_and(|row| row.left_s.is_none());
            tenure.typed = typed.is_some();
            tenure.term = Term::Expiry(ttl.filter(|_| !for_ever));
            tenure.least = kept.and_then(|row| row.left_s).map(Seconds::duration);
        }
        tenure
    }

    /// Returns the seconds that it is kept without another use; `None` if indefinitely, or as long as a session.
    fn seconds(&self) -> Option<f64> {
        let ttl = self.term.seconds()?;
        Some(self.least.map_or(ttl, |least| ttl.max(least.as_secs_f64())))
    }

    /// Returns the branch and worktree that prolong the lease while they exist: see [`Tenure::bound`].
    pub(crate) fn prolonging(&self) -> Bound {
        match self.branch_seconds() {
            Some(_) => self.bound.clone(),
            None => Bound::default(),
        }
    }

    /// Returns the seconds that it is kept after each command in its checkout; `None` if commands do not matter.
    fn branch_seconds(&self) -> Option<f64> {
        self.term.seconds().filter(|_| !self.typed && !self.bound.is_free())
    }
}

/// Hands a clone over, and returns the end of its lease as Postgres writes it. A lease with an expiry is confirmed
/// later: if its creator crashes before it has reported the clone, the clone must not be kept until its expiry.
const LEASE: &str = "UPDATE pgstencil.clone SET state = 'leased', name = $2, lease = $3, \
     expires_at = now() + make_interval(secs => $4), orphaned_at = NULL, holder = $5, \
     owner_role = session_user::text, owner_machine = $6, owner_name = $7, owner_top = $8, owner_below = $9, \
     owned_at = now(), repository = $10, shared = $11, named = $12, bound_branch = $13, bound_worktree = $14, \
     ttl_typed = $15, ttl_s = $16, branch_ttl_s = $17, seen_at = now(), command_pid = $18, command_group = NULL, \
     confirmed = ($3 <> 'expiry') \
     WHERE id = $1 AND state = 'creating' RETURNING (expires_at AT TIME ZONE 'UTC')::text";
/// Only a typed duration can shorten a lease.
const RENEW: &str = "UPDATE pgstencil.clone SET lease = $2, expires_at = CASE \
       WHEN $3 OR lease = 'session' THEN now() + make_interval(secs => $4) \
       WHEN expires_at IS NULL OR $4 IS NULL THEN NULL \
       ELSE greatest(expires_at, now() + make_interval(secs => $4)) END, \
     orphaned_at = NULL, holder = $5, bound_branch = $6, bound_worktree = $7, ttl_typed = $8, ttl_s = $9, \
     branch_ttl_s = $10, seen_at = now(), command_pid = NULL, command_group = NULL \
     WHERE id = $1 AND state = 'leased' RETURNING (expires_at AT TIME ZONE 'UTC')::text";
const OWN: &str = "UPDATE pgstencil.clone SET project = $2, owned_at = now(), owner_role = session_user::text, \
     owner_machine = $3, owner_name = $4, owner_top = $5, owner_below = $6 WHERE id = $1 AND state = 'leased'";
const OWNS: &str =
    "UPDATE pgstencil.clone SET repository = $2, shared = $3 WHERE id = $1 AND state = 'leased'";
/// Other processes may update the same rows in another order; they write the same values.
const SEEN: &str = "UPDATE pgstencil.clone SET seen_at = now(), \
     expires_at = greatest(expires_at, now() + make_interval(secs => branch_ttl_s)) \
     WHERE id IN (SELECT id FROM pgstencil.clone \
       WHERE branch_ttl_s IS NOT NULL AND state = 'leased' AND lease = 'expiry' AND expires_at > now() \
       AND seen_at < now() - make_interval(secs => least(3600, branch_ttl_s / 24)) \
       AND (owner_role = session_user::text AND owner_name = $2 \
         AND ($2 <> '' OR (owner_machine, owner_top, owner_below) = ($3, $4, $5)) \
         OR shared AND $6 AND project = $1) \
       FOR UPDATE SKIP LOCKED)";

/// Statement that hands a clone over, and returns the end of its lease as Postgres writes it.
pub(super) fn lease(id: &str, name: &str, tenure: &Tenure<'_>) -> Statement {
    let Asker { holder, shares, .. } = tenure.asker;
    let checkout = &holder.checkout;
    sql::planned(
        "pgstencil_lease",
        LEASE,
        &[
            &id,
            &name,
            &tenure.term.kind(),
            &tenure.seconds(),
            &Json(holder),
            &checkout.machine,
            &checkout.owner,
            &checkout.top,
            &checkout.below,
            &checkout.repository.as_ref().map(Json),
            &shares,
            &tenure.named,
            &tenure.bound.branch,
            &tenure.bound.worktree,
            &tenure.typed,
            &tenure.term.seconds().filter(|_| tenure.typed),
            &tenure.branch_seconds(),
            &tenure.command.then_some(0_i64),
        ],
    )
}

/// Statement that records a command in the asker's checkout, once an hour: it prolongs the leases of clones that
/// are named by a branch or a worktree of that checkout.
pub(super) fn seen(asker: &Asker<'_>) -> Option<Statement> {
    let checkout = &asker.holder.checkout;
    // Without a repository no clone of the checkout has such a name.
    checkout.repository.as_ref()?;
    Some(sql::fill(
        SEEN,
        &[&asker.project, &checkout.owner, &checkout.machine, &checkout.top, &checkout.below, &asker.shares],
    ))
}

impl Registry {
    /// Renews a lease, or turns a session lease into one with an expiry. `takes`: the clone belongs to the asker
    /// from now on. Returns its end in RFC 3339, inside: `None` is indefinite. `None`: the clone was released.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn renew(
        &mut self,
        row: &CloneRow,
        tenure: &Tenure<'_>,
        takes: bool,
    ) -> Result<Option<Option<String>>> {
        let Asker { holder, shares, project } = tenure.asker;
        let (id, checkout) = (&row.id, &holder.checkout);
        let mut statements = vec![sql::flushed()];
        statements.push(sql::fill(
            RENEW,
            &[
                id,
                &tenure.term.kind(),
                &tenure.exact,
                &tenure.term.seconds(),
                &Json(holder),
                &tenure.bound.branch,
                &tenure.bound.worktree,
                &tenure.typed,
                &tenure.term.seconds().filter(|_| tenure.typed),
                &tenure.branch_seconds(),
            ],
        ));
        if takes || row.owner.role.is_none() {
            let own = [
                &project as &dyn sql::Literal,
                &checkout.machine,
                &checkout.owner,
                &checkout.top,
                &checkout.below,
            ];
            let values: Vec<&dyn sql::Literal> =
                std::iter::once(id as &dyn sql::Literal).chain(own).collect();
            statements.push(sql::fill(OWN, &values));
        }
        if takes || tenure.asker.is_owner(&row.owner, &row.holder.0) {
            let repository = checkout.repository.as_ref().map(Json);
            statements.push(sql::fill(OWNS, &[id, &repository, &shares]));
        }
        statements.extend(seen(&tenure.asker));
        let here = bound::here(checkout);
        let asked = here.is_some();
        statements.extend(here);
        let doing = || format!("renew the lease of clone {id}");
        let answers = self.session().send_all(&statements).await.doing(doing)?;
        self.note_bound(answers.last().filter(|_| asked));
        let renewed: Vec<(Option<String>,)> = match answers.get(1) {
            Some(answer) => answer.read().doing(doing)?,
            None => Vec::new(),
        };
        Ok(renewed.into_iter().next().map(|(until,)| until.as_deref().and_then(super::publish::rfc_3339)))
    }

    /// Records a command in the asker's checkout: see [`CloneRow::bound`]. Writes at most once an hour.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn note_command_in_checkout(&mut self, asker: &Asker<'_>) -> Result<()> {
        let here = bound::here(&asker.holder.checkout);
        if let (Some(seen), Some(here)) = (seen(asker), here) {
            let [_, here] = self
                .session()
                .send([seen, here])
                .await
                .doing(|| "record a command in this checkout".into())?;
            self.note_bound(Some(&here));
        }
        Ok(())
    }
}
