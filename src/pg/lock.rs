//! Advisory lock keys.
//!
//! Advisory locks are per database, so all of pgstencil's are taken in the registry database, on direct
//! sessions (<https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS>). They end with the
//! session that took them: a killed process releases its locks immediately.

use super::sql::{self, Statement};
use crate::names::Fingerprint;

/// A 64-bit advisory lock key, derived from the object that it protects.
#[derive(Clone, Copy, Debug)]
pub struct LockKey {
    value: i64,
    protects: &'static str,
}

impl PartialEq for LockKey {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Eq for LockKey {}

impl std::hash::Hash for LockKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.value.hash(state);
    }
}

impl LockKey {
    /// Returns the key for the right to build one template.
    pub fn build(project: &str, definition: &str, fingerprint: &Fingerprint) -> Self {
        LockKey::derive("build", "the builds of a template", &[project, definition, &fingerprint.to_string()])
    }

    /// Returns the key of a template: shared while it is copied, exclusive while it is dropped.
    pub fn template(id: i64) -> Self {
        LockKey::derive("template", "a template", &[&id.to_string()])
    }

    /// Returns the key of a clone: held by its holder, or by the process that drops it.
    pub fn clone(id: &str) -> Self {
        LockKey::derive("clone", "a clone", &[id])
    }

    /// Returns the key of a clone that is being copied: shared by the further sessions that copy, in addition
    /// to the one that holds the clone's lock, which may end before them.
    pub fn copying(id: &str) -> Self {
        LockKey::derive("copying", "the copies of a clone", &[id])
    }

    /// Returns the key that is held by the process that runs `before_release` for a clone.
    pub fn owed(id: &str) -> Self {
        LockKey::derive("owed", "a before_release command", &[id])
    }

    /// Returns the key for the right to create warm clones of a template: one process at a time.
    pub fn filler(template: i64) -> Self {
        LockKey::derive("filler", "the creation of warm clones", &[&template.to_string()])
    }

    /// Returns the key of a process that waits to evict a template: no more warm clones of it are created.
    pub fn evicting(template: i64) -> Self {
        LockKey::derive("evicting", "the eviction of a template", &[&template.to_string()])
    }

    /// Returns the key that is shared by copies that a command waits for; drops give way to them.
    pub fn hurry() -> Self {
        LockKey::derive("hurry", "the precedence of copies", &[])
    }

    /// Returns the key of the process that drops many released clones, for which others may wait.
    pub fn drops() -> Self {
        LockKey::derive("drops", "the drops of released clones", &[])
    }

    /// Returns the key for the right to run a build that must be the only one of its kind in this registry.
    pub fn serial() -> Self {
        LockKey::derive("serial", "serial builds", &[])
    }

    /// Returns the key for the right to run the full builds that replace incrementally built templates of a
    /// definition: one such build at a time.
    pub fn rebuild(project: &str, definition: &str) -> Self {
        LockKey::derive("rebuild", "the rebuilds of a definition", &[project, definition])
    }

    /// Returns the key of the one process that has taken on the full build that replaces a template.
    pub fn rebuilder(template: i64) -> Self {
        LockKey::derive("settler", "the rebuild of a template", &[&template.to_string()])
    }

    /// Returns the key of the one process that considers whether a template is rebuilt, which may wait for an idle
    /// machine.
    pub fn considered(template: i64) -> Self {
        LockKey::derive("considered", "the decision on the rebuild of a template", &[&template.to_string()])
    }

    /// Returns the key for installation and upgrade of the registry.
    pub fn registry() -> Self {
        LockKey::derive("registry", "the registry", &[])
    }

    /// Describes the protected object.
    pub fn protects(self) -> &'static str {
        self.protects
    }

    /// Returns the number to bind.
    pub fn value(self) -> i64 {
        self.value
    }

    /// Returns the key from its halves in `pg_locks`: upper half in `classid`, lower half in `objid`.
    pub fn from_halves(classid: u32, objid: u32) -> Self {
        let value = ((u64::from(classid) << 32) | u64::from(objid)) as i64;
        LockKey { value, protects: "a lock" }
    }

    /// Returns the two halves as `pg_locks` shows them.
    pub fn halves(self) -> (u32, u32) {
        let bits = self.value as u64;
        ((bits >> 32) as u32, bits as u32)
    }

    /// Takes the lock if it is free, and returns whether it was. A session may take one lock several times.
    pub(crate) fn try_lock(self) -> Statement {
        self.with("SELECT pg_try_advisory_lock($1)")
    }

    /// Takes the lock in shared mode if possible, and returns whether it was.
    pub(crate) fn try_lock_shared(self) -> Statement {
        self.with("SELECT pg_try_advisory_lock_shared($1)")
    }

    /// Releases an exclusive lock.
    pub(crate) fn unlock(self) -> Statement {
        self.with("SELECT pg_advisory_unlock($1)")
    }

    /// Releases a shared lock.
    pub(crate) fn unlock_shared(self) -> Statement {
        self.with("SELECT pg_advisory_unlock_shared($1)")
    }

    fn with(self, query: &'static str) -> Statement {
        sql::fill(query, &[&self.value])
    }

    fn derive(kind: &str, protects: &'static str, parts: &[&str]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("pgstencil advisory lock v1");
        for part in std::iter::once(&kind).chain(parts) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        let mut bytes = [0; 8];
        hasher.finalize_xof().fill(&mut bytes);
        LockKey { value: i64::from_le_bytes(bytes), protects }
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
