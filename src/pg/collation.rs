//! Versions of the collations that a database uses. The library's version may change under a database, with
//! an update of the operating system, and then its indexes may be out of order.
//!
//! No session can connect to a template. So a collation is represented by a collation of the registry
//! database with the same provider and locale. Its version is read at the build and again at each use.
//! Postgres' own record, `pg_collation.collversion`, is of no use for that: for the collations that initdb
//! made it is the version of the library at that time, and a rebuild does not change it.

use std::collections::BTreeMap;

use sqlx::FromRow;

use super::sql::{self, Part};
use super::{Doing as _, Session};
use crate::error::Result;

/// A collation that a database uses.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub(crate) struct Collation {
    /// Name with its schema, quoted.
    pub(crate) name: String,
    /// `i` (ICU) or `c` (libc).
    pub(crate) provider: String,
    /// The provider's name of the collation.
    pub(crate) locale: String,
    /// The version that Postgres recorded when the collation was created.
    pub(crate) recorded: Option<String>,
    /// The current version of the library.
    pub(crate) actual: Option<String>,
}

impl Collation {
    /// Returns the warning that sessions which use the collation get, if any.
    pub(crate) fn warning(&self) -> Option<String> {
        let (recorded, actual) = (self.recorded.as_ref()?, self.actual.as_ref()?);
        (recorded != actual)
            .then(|| format!("{}: version {recorded} recorded, {actual} installed", self.name))
    }

    /// Returns whether its order never changes.
    fn is_fixed(&self) -> bool {
        let locale = self.locale.to_ascii_uppercase();
        self.provider == "c" && (locale == "C" || locale == "POSIX" || locale.starts_with("C."))
    }
}

/// Returns the column of `pg_collation` with the provider's name.
fn locale(major: u32) -> Part {
    Part(match major {
        ..=14 => "c.collcollate::text",
        15 | 16 => "coalesce(c.colliculocale, c.collcollate)::text",
        _ => "coalesce(c.colllocale, c.collcollate)::text",
    })
}

/// Returns the collations that the session's database defines, or that its objects use. From 15 on Postgres
/// itself records the version of the database's own collation; before 15 that collation is included.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn used(session: &mut Session) -> Result<Vec<Collation>> {
    let major = session.facts().major();
    let locale = locale(major);
    let of_database = Part(match major {
        ..=14 => {
            " UNION ALL SELECT 'default', 'c', datcollate::text, NULL, NULL FROM pg_database \
                 WHERE datname = current_database()"
        }
        _ => "",
    });
    let statement = sql::fill(
        "SELECT format('%I.%I', n.nspname, c.collname) AS name, c.collprovider::text AS provider, \
         $1 AS locale, c.collversion::text AS recorded, \
         pg_collation_actual_version(c.oid) AS actual \
         FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace \
         WHERE c.collprovider IN ('i', 'c') AND (c.oid >= 16384 OR EXISTS (SELECT FROM pg_depend d \
           WHERE d.refclassid = 'pg_collation'::regclass AND d.refobjid = c.oid))$2",
        &[&locale, &of_database],
    );
    let mut used: Vec<Collation> = session.rows(statement).await.doing(|| "list the collations".into())?;
    used.retain(|collation| !collation.is_fixed());
    used.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(used)
}

/// Returns the current versions of collations, by the names of the collations of the session's database, the
/// registry, that represent them. A collation with a locale that the server does not define is represented by
/// the root of ICU, or by any other of libc, which has one version for all.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn versions(session: &mut Session, used: &[Collation]) -> Result<BTreeMap<String, String>> {
    let locale = locale(session.facts().major());
    const VERSION: &str = "SELECT o.collname::text, pg_collation_actual_version(o.oid) FROM pg_collation o WHERE o.oid = \
         (SELECT c.oid FROM pg_collation c WHERE c.collnamespace = 'pg_catalog'::regnamespace \
          AND c.collprovider = $1 AND ($3 = $2 OR c.collname = 'und-x-icu' \
            OR $1 = 'c' AND $3 !~* '^(C|POSIX)(\\.|$)') \
          ORDER BY $3 = $2 DESC, c.collname LIMIT 1)";
    let mut versions = BTreeMap::new();
    for collation in used {
        let found: Option<(String, Option<String>)> = session
            .first(sql::fill(VERSION, &[&collation.provider, &collation.locale, &locale]))
            .await
            .doing(|| "read the versions of collations".into())?;
        if let Some((name, Some(version))) = found {
            versions.insert(name, version);
        }
    }
    Ok(versions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collation(provider: &str, locale: &str, recorded: &str, actual: &str) -> Collation {
        let version = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Collation {
            name: "public.german".into(),
            provider: provider.into(),
            locale: locale.into(),
            recorded: version(recorded),
            actual: version(actual),
        }
    }

    #[test]
    fn what_has_no_version_never_changes() {
        assert!(collation("c", "C", "", "").is_fixed());
        assert!(collation("c", "c.utf8", "", "").is_fixed());
        assert!(collation("c", "POSIX", "", "").is_fixed());
        assert!(!collation("c", "cs_CZ.utf8", "2.36", "2.36").is_fixed());
        assert!(!collation("i", "C", "153.120", "153.120").is_fixed());
    }

    #[test]
    fn users_are_warned_where_the_note_is_another() {
        let warning = |recorded, actual| collation("i", "de", recorded, actual).warning();
        assert_eq!(warning("153.120", "153.120"), None);
        assert_eq!(warning("", "153.120"), None);
        assert_eq!(
            warning("153.80", "153.120").unwrap(),
            "public.german: version 153.80 recorded, 153.120 installed"
        );
    }
}
