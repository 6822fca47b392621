//! Announcements of builds: of several machines that need a template, one builds it, and the others wait.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use super::client::{Remote, now_s};
use super::entry;

/// Answer to an announcement of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Announced {
    /// No other command builds the template, as far as the store shows; this one says that it does.
    Ours,
    /// The same, but this command may not write.
    Nobody,
    /// Another command builds it, and may need this time.
    Other(Duration),
}

/// Time that a build may need if nothing is known about it, and the limits of the time.
const UNKNOWN: Duration = Duration::from_secs(60);
const SHORTEST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// Time for which an announcement holds unless it is renewed: that of a command that was killed is soon of no account.
const HOLDS: Duration = Duration::from_secs(90);
/// Time between two renewals.
pub(crate) const RENEWED: Duration = Duration::from_secs(20);

/// Text of an announcement: until when it holds, and until when others may wait, in seconds since 1970.
fn announcement(now: u64, latest: u64) -> Vec<u8> {
    format!("{} {latest}", now + HOLDS.as_secs()).into_bytes()
}

/// Returns how long others may still wait for an announced build; zero if the announcement no longer holds.
fn left(text: &[u8], now: u64) -> Duration {
    let text = std::str::from_utf8(text).unwrap_or_default();
    let numbers = text.trim().split_once(' ').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let (holds, latest): (u64, u64) = numbers.unwrap_or_default();
    if holds <= now {
        return Duration::ZERO;
    }
    // The clocks may differ.
    Duration::from_secs(latest.saturating_sub(now)).min(LONGEST)
}

impl Remote {
    /// Says in the store that this command is about to run a full build of a template, if it may write and no other
    /// command says so; else returns how long the other one may need. Only an optimisation: two commands may build.
    pub(crate) async fn announce(
        &self,
        definition: &str,
        fingerprint: &str,
        expected: Option<Duration>,
    ) -> Announced {
        let written = self.why_no_write().is_none().then(|| self.standing.write.as_deref().ok()).flatten();
        let limit = expected.map_or(UNKNOWN, |time| time.mul_f64(1.5)).clamp(SHORTEST, LONGEST);
        let latest = now_s() + limit.as_secs();
        let ours = |key: String| {
            self.announced().insert(key, latest);
            Announced::Ours
        };
        let looked = self.within(async {
            for scope in &self.standing.scopes {
                let key = entry::building(&self.project, definition, scope, fingerprint);
                let Some(bytes) = self.store.get(&key, entry::HEAD).await? else {
                    continue;
                };
                let left = left(&bytes, now_s());
                if !left.is_zero() {
                    return Ok(Announced::Other(left));
                }
            }
            let Some(scope) = written else {
                return Ok(Announced::Nobody);
            };
            let key = entry::building(&self.project, definition, scope, fingerprint);
            if self.store.put(&key, announcement(now_s(), latest), true).await? {
                return Ok(ours(key));
            }
            let bytes = self.store.get(&key, entry::HEAD).await?;
            let left = left(&bytes.unwrap_or_default(), now_s());
            if left.is_zero() {
                // That of a command that was killed.
                self.store.put(&key, announcement(now_s(), latest), false).await?;
                return Ok(ours(key));
            }
            Ok(Announced::Other(left))
        });
        match self.why_no_read() {
            Some(_) => Announced::Nobody,
            None => looked.await.unwrap_or(Announced::Nobody),
        }
    }

    /// Returns whether another command still says that it builds a template.
    pub(crate) async fn is_announced(&self, definition: &str, fingerprint: &str) -> bool {
        let looked = self.within(async {
            for scope in &self.standing.scopes {
                let key = entry::building(&self.project, definition, scope, fingerprint);
                let bytes = self.store.get(&key, entry::HEAD).await?;
                if bytes.is_some_and(|bytes| !left(&bytes, now_s()).is_zero()) {
                    return Ok(true);
                }
            }
            Ok(false)
        });
        looked.await.unwrap_or(false)
    }

    fn announced(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own_announcement(&self, definition: &str, fingerprint: &str) -> Option<String> {
        let scope = self.standing.write.as_ref().ok()?;
        Some(entry::building(&self.project, definition, scope, fingerprint))
    }

    /// Renews the announcement of this command, if there is one, since the build goes on.
    pub(crate) async fn renew(&self, definition: &str, fingerprint: &str) {
        let Some(key) = self.own_announcement(definition, fingerprint) else {
            return;
        };
        let latest = self.announced().get(&key).copied();
        if let Some(latest) = latest {
            // Otherwise it expires, and others build, too.
            let _ = self.within(self.store.put(&key, announcement(now_s(), latest), false)).await;
        }
    }

    /// Takes the announcement of this command back, if there is one, since the build ended or failed.
    pub(crate) async fn withdraw(&self, definition: &str, fingerprint: &str) {
        if let Some(key) = self.own_announcement(definition, fingerprint)
            && self.announced().remove(&key).is_some()
        {
            // Otherwise it expires.
            let _ = self.within(self.store.delete(&key)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_holds_while_it_is_renewed() {
        let text = announcement(1000, 1600);
        assert_eq!(left(&text, 1000), Duration::from_secs(600));
        assert_eq!(left(&text, 1089), Duration::from_secs(511));
        // The command was killed.
        assert_eq!(left(&text, 1090), Duration::ZERO);
        // It builds for longer than others wait.
        assert_eq!(left(&announcement(1700, 1600), 1701), Duration::ZERO);
        assert_eq!(left(&announcement(0, u64::MAX), 1), LONGEST);
        assert_eq!(left(b"nonsense", 1), Duration::ZERO);
        assert!(RENEWED * 3 < HOLDS);
    }
}
