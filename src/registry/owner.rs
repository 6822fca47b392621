//! Whose a clone is, and how long it is kept for them.
//!
//! The owner outlives the process that asked: a role of the server, in a checkout on a machine.
//! `PGSTENCIL_OWNER` stands for machine and checkout. A clone from before owners were recorded belongs to
//! whoever its holder matches: host, account and directory.

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

/// The owner of a clone, as the registry has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow)]
pub(crate) struct CloneOwner {
    /// Role of the server that the owner logs in with; `None` if the clone is from before owners were
    /// recorded.
    #[sqlx(rename = "owner_role")]
    pub(crate) role: Option<String>,
    /// Whether the session that read this logged in with the same role.
    pub(crate) same_role: bool,
    /// The machine; see [`Checkout::machine`].
    #[sqlx(rename = "owner_machine")]
    pub(crate) machine: String,
    /// `PGSTENCIL_OWNER`, which stands for machine and checkout; empty if it was not set.
    #[sqlx(rename = "owner_name")]
    pub(crate) name: String,
    /// Top level of the checkout.
    #[sqlx(rename = "owner_top")]
    pub(crate) top: String,
    /// The config's root below `top`.
    #[sqlx(rename = "owner_below")]
    pub(crate) below: String,
    /// Since when; RFC 3339, UTC.
    #[sqlx(rename = "owned_since")]
    pub(crate) since: String,
    /// Whether all checkouts of the project that say so may have it, too.
    pub(crate) shared: bool,
}

/// The columns of a [`CloneOwner`], of `pgstencil.clone` or `pgstencil.dropped`.
macro_rules! owner_columns {
    () => {
        "owner_role, coalesce(owner_role = session_user::text, false) AS same_role, owner_machine, owner_name, \
         owner_top, owner_below, shared, \
         to_char(owned_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS owned_since"
    };
}
pub(super) use owner_columns;

impl CloneOwner {
    /// Whether machine and checkout are those of the owner.
    fn is_of(&self, checkout: &Checkout) -> bool {
        match (self.name.as_str(), checkout.owner.as_str()) {
            ("", "") => {
                self.machine == checkout.machine && self.top == checkout.top && self.below == checkout.below
            }
            (ours, theirs) => ours == theirs,
        }
    }

    /// Who and where, in one line for a person. `holder`: who had it last; where others share it, that may
    /// be one of them.
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

/// What the name of a clone comes from, if that is something that can go away in git.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow)]
pub(crate) struct Bound {
    /// A local branch.
    #[sqlx(rename = "bound_branch")]
    pub(crate) branch: Option<String>,
    /// A worktree of a git repository, by the name that git registered it under; empty for the main one.
    #[sqlx(rename = "bound_worktree")]
    pub(crate) worktree: Option<String>,
}

impl Bound {
    /// Whether there is neither.
    pub(crate) fn is_free(&self) -> bool {
        *self == Bound::default()
    }

    /// This where there is something, else the other.
    fn or(self, other: &Bound) -> Self {
        Bound {
            branch: self.branch.or_else(|| other.branch.clone()),
            worktree: self.worktree.or_else(|| other.worktree.clone()),
        }
    }

    /// What a name that holds `{branch}` or `{worktree}` comes from in this checkout. Branches of CI
    /// variables, bookmarks and commits do not go away with anything here.
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

    /// In words, for what comes after "while": `branch `x` exists`.
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

/// Who asks for a clone, or gives it back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    /// The process and its checkout. The role is that of the session.
    pub(crate) holder: &'a Holder,
    /// Namespace.
    pub(crate) project: &'a str,
    /// `[clone] named = "project"`: shares clones of the project with all that say so, too.
    pub(crate) shares: bool,
}

impl<'a> Asker<'a> {
    /// By the settings of a config.
    pub(crate) fn new(holder: &'a Holder, project: &'a str, settings: &CloneSettings) -> Self {
        Asker { holder, project, shares: settings.named == Named::Project }
    }

    /// Whether a clone of this owner is the asker's. `holder`: who had it last; `project`: its own.
    pub(crate) fn has(&self, owner: &CloneOwner, holder: &Holder, project: &str) -> bool {
        self.is_owner(owner, holder)
            || (self.shares && owner.shared && owner.role.is_some() && project == self.project)
    }

    /// [`Asker::has`] of a clone.
    pub(crate) fn has_clone(&self, row: &CloneRow) -> bool {
        self.has(&row.owner, &row.holder.0, &row.project)
    }

    /// Whether the asker is the very owner, not only one of those that share the clone.
    pub(crate) fn is_owner(&self, owner: &CloneOwner, holder: &Holder) -> bool {
        let own = self.holder;
        match &owner.role {
            Some(_) => owner.same_role && owner.is_of(&own.checkout),
            None => (&own.host, &own.user, &own.worktree) == (&holder.host, &holder.user, &holder.worktree),
        }
    }
}

/// For whom a clone is kept, and how long.
#[derive(Clone, Debug)]
pub(crate) struct Tenure<'a> {
    /// Who asks.
    pub(crate) asker: Asker<'a>,
    /// How long from each use on; never [`Term::Usual`].
    pub(crate) term: Term,
    /// At least so long from now on: what is left of the lease of the clone before it.
    pub(crate) least: Option<Duration>,
    /// Whether a person said just now how long.
    pub(crate) exact: bool,
    /// Whether a person ever did, which holds until they say otherwise.
    pub(crate) typed: bool,
    /// Whether its name can be wanted again.
    pub(crate) named: bool,
    /// What its name comes from.
    pub(crate) bound: Bound,
    /// Whether a command is about to be started for it, which may outlive its holder.
    pub(crate) command: bool,
}

impl<'a> Tenure<'a> {
    /// What a lease means for a name, by the settings. `before`: the clone that has the name so far. What
    /// was typed for it still counts, and its lease is not shortened.
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
            // The branch is one of the owner's repository.
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

    /// Seconds that it is kept if nobody uses it again; `None` for ever, or as long as a session.
    fn seconds(&self) -> Option<f64> {
        let ttl = self.term.seconds()?;
        Some(self.least.map_or(ttl, |least| ttl.max(least.as_secs_f64())))
    }

    /// What prolongs the lease, while it is there: see [`Tenure::bound`].
    pub(crate) fn prolonging(&self) -> Bound {
        match self.branch_seconds() {
            Some(_) => self.bound.clone(),
            None => Bound::default(),
        }
    }

    /// Seconds that it is kept from each command in its checkout on; `None` if that does not matter.
    fn branch_seconds(&self) -> Option<f64> {
        self.term.seconds().filter(|_| !self.typed && !self.bound.is_free())
    }
}

/// Hands a clone over, and returns until when its lease is, as Postgres writes it. A lease that ends by the clock
/// is confirmed later: a crash before its maker has told anybody must not leave a clone until then.
const LEASE: &str = "UPDATE pgstencil.clone SET state = 'leased', name = $2, lease = $3, \
     expires_at = now() + make_interval(secs => $4), orphaned_at = NULL, holder = $5, \
     owner_role = session_user::text, owner_machine = $6, owner_name = $7, owner_top = $8, owner_below = $9, \
     owned_at = now(), repository = $10, shared = $11, named = $12, bound_branch = $13, bound_worktree = $14, \
     ttl_typed = $15, ttl_s = $16, branch_ttl_s = $17, seen_at = now(), command_pid = $18, command_group = NULL, \
     confirmed = ($3 <> 'expiry') \
     WHERE id = $1 AND state = 'creating' RETURNING (expires_at AT TIME ZONE 'UTC')::text";
/// A lease is shortened only by who typed how long it is to be.
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
/// Others may be at the same rows, in another order; what they write is the same.
const SEEN: &str = "UPDATE pgstencil.clone SET seen_at = now(), \
     expires_at = greatest(expires_at, now() + make_interval(secs => branch_ttl_s)) \
     WHERE id IN (SELECT id FROM pgstencil.clone \
       WHERE branch_ttl_s IS NOT NULL AND state = 'leased' AND lease = 'expiry' AND expires_at > now() \
       AND seen_at < now() - make_interval(secs => least(3600, branch_ttl_s / 24)) \
       AND (owner_role = session_user::text AND owner_name = $2 \
         AND ($2 <> '' OR (owner_machine, owner_top, owner_below) = ($3, $4, $5)) \
         OR shared AND $6 AND project = $1) \
       FOR UPDATE SKIP LOCKED)";

/// Hands a clone over, and returns until when its lease is, as Postgres writes it.
pub(super) fn lease(id: &str, name: &str, tenure: &Tenure<'_>) -> Statement {
    let Asker { holder, shares, .. } = tenure.asker;
    let checkout = &holder.checkout;
    sql::fill(
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

/// Notes a command in the asker's checkout, once an hour: clones that are named by a branch or a worktree
/// there are kept for longer.
pub(super) fn seen(asker: &Asker<'_>) -> Option<Statement> {
    let checkout = &asker.holder.checkout;
    // Else nothing there is named so.
    checkout.repository.as_ref()?;
    Some(sql::fill(
        SEEN,
        &[&asker.project, &checkout.owner, &checkout.machine, &checkout.top, &checkout.below, &asker.shares],
    ))
}

impl Registry {
    /// Renews a lease, or makes one that ends by the clock of one that a session held. `takes`: the clone is
    /// the asker's from now on. Returns until when it is kept, in RFC 3339, inside: `None` for ever. `None`:
    /// the clone was given up.
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

    /// Notes a command in the asker's checkout: see [`CloneRow::bound`]. Writes at most once an hour.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn note_command_in_checkout(&mut self, asker: &Asker<'_>) -> Result<()> {
        let here = bound::here(&asker.holder.checkout);
        if let (Some(seen), Some(here)) = (seen(asker), here) {
            let [_, here] =
                self.session().send([seen, here]).await.doing(|| "note a command in this checkout".into())?;
            self.note_bound(Some(&here));
        }
        Ok(())
    }
}
