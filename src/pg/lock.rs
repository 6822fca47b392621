//! Advisory lock keys.
//!
//! Advisory locks are per database, so all of ours are taken in the registry database, on direct
//! sessions (<https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS>). They
//! go with the session that took them: a killed process gives its locks up at once.

use super::sql::{self, Statement};
use crate::names::Fingerprint;

/// A 64-bit advisory lock key, derived from what it protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockKey(i64);

impl LockKey {
    /// The right to build one template.
    pub fn build(project: &str, definition: &str, fingerprint: &Fingerprint) -> Self {
        LockKey::derive("build", &[project, definition, &fingerprint.to_string()])
    }

    /// A template: shared while it is copied, exclusive while it is dropped.
    pub fn template(id: i64) -> Self {
        LockKey::derive("template", &[&id.to_string()])
    }

    /// A clone: held by its holder, or by whoever drops it.
    pub fn clone(id: &str) -> Self {
        LockKey::derive("clone", &[id])
    }

    /// A clone that is being copied: shared by the further sessions that copy, beside the one that
    /// holds its lock, and survived by them.
    pub fn copying(id: &str) -> Self {
        LockKey::derive("copying", &[id])
    }

    /// Held by the process that runs `before_release` for a clone.
    pub fn owed(id: &str) -> Self {
        LockKey::derive("owed", &[id])
    }

    /// The right to make warm clones of a template: one process at a time.
    pub fn filler(template: i64) -> Self {
        LockKey::derive("filler", &[&template.to_string()])
    }

    /// Held by a process that waits to evict a template: no more warm clones are made of it.
    pub fn evicting(template: i64) -> Self {
        LockKey::derive("evicting", &[&template.to_string()])
    }

    /// Shared by those who copy while somebody waits; drops give way to them.
    pub fn hurry() -> Self {
        LockKey::derive("hurry", &[])
    }

    /// The right to run a build that must be the only one of its kind in this registry.
    pub fn serial() -> Self {
        LockKey::derive("serial", &[])
    }

    /// The right to build from nothing what is to take the place of extended templates of a
    /// definition: one such build at a time.
    pub fn settle(project: &str, definition: &str) -> Self {
        LockKey::derive("settle", &[project, definition])
    }

    /// Held by the one process that has taken it on to settle a template.
    pub fn settler(template: i64) -> Self {
        LockKey::derive("settler", &[&template.to_string()])
    }

    /// Installation and upgrade of the registry.
    pub fn registry() -> Self {
        LockKey::derive("registry", &[])
    }

    /// The number to bind.
    pub fn value(self) -> i64 {
        self.0
    }

    /// A key as `pg_locks` shows it: upper half in `classid`, lower half in `objid`.
    pub fn from_halves(classid: u32, objid: u32) -> Self {
        LockKey(((u64::from(classid) << 32) | u64::from(objid)) as i64)
    }

    /// The two halves as `pg_locks` shows them.
    pub fn halves(self) -> (u32, u32) {
        let bits = self.0 as u64;
        ((bits >> 32) as u32, bits as u32)
    }

    /// Takes the lock if it is free, and says whether. A session may take one lock several times.
    pub(crate) fn try_lock(self) -> Statement {
        self.with("SELECT pg_try_advisory_lock($1)")
    }

    /// The same with a lock that others may share.
    pub(crate) fn try_lock_shared(self) -> Statement {
        self.with("SELECT pg_try_advisory_lock_shared($1)")
    }

    /// Gives an exclusive lock back.
    pub(crate) fn unlock(self) -> Statement {
        self.with("SELECT pg_advisory_unlock($1)")
    }

    /// Gives a shared lock back.
    pub(crate) fn unlock_shared(self) -> Statement {
        self.with("SELECT pg_advisory_unlock_shared($1)")
    }

    fn with(self, query: &'static str) -> Statement {
        sql::fill(query, &[&self.0])
    }

    fn derive(kind: &str, parts: &[&str]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("pgstencil advisory lock v1");
        for part in std::iter::once(&kind).chain(parts) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        let mut bytes = [0; 8];
        hasher.finalize_xof().fill(&mut bytes);
        LockKey(i64::from_le_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_survive_pg_locks() {
        let a = LockKey::clone("a");
        assert_ne!(a, LockKey::clone("b"));
        assert_ne!(LockKey::template(1), LockKey::clone("1"));
        let (upper, lower) = a.halves();
        assert_eq!(LockKey::from_halves(upper, lower), a);
    }
}
