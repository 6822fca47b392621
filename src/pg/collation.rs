//! Versions of the collations that a database uses. The library's version may change under a database, with an
//! update of the operating system, and then its indexes may be out of order.
//!
//! Nobody can connect to a template. So a collation is represented by one of the registry database with the
//! same provider and locale, whose version is read at the build and again at each use. Postgres' own note, in
//! `pg_collation.collversion`, is of no use for that: of the collations that initdb made it says what the
//! library was then, and a rebuild changes nothing about it.

use std::collections::BTreeMap;

use sqlx::FromRow;

use super::{Doing as _, Session, sql};
use crate::error::Result;

/// A collation that a database uses.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Collation {
    /// With its schema, quoted.
    pub name: String,
    /// `i` (ICU) or `c` (libc).
    pub provider: String,
    /// The provider's name for it.
    pub locale: String,
    /// The version that Postgres noted when the collation was made.
    pub recorded: Option<String>,
    /// The version that the library has now.
    pub actual: Option<String>,
}

impl Collation {
    /// Why sessions that use it are warned, if they are.
    pub fn warning(&self) -> Option<String> {
        let (recorded, actual) = (self.recorded.as_ref()?, self.actual.as_ref()?);
        (recorded != actual).then(|| format!("{}: version {recorded} noted, {actual} present", self.name))
    }

    /// Whether its order never changes.
    fn is_fixed(&self) -> bool {
        let locale = self.locale.to_ascii_uppercase();
        self.provider == "c" && (locale == "C" || locale == "POSIX" || locale.starts_with("C."))
    }
}

/// The column of `pg_collation` with the provider's name.
fn locale(major: u32) -> &'static str {
    match major {
        ..=14 => "c.collcollate::text",
        15 | 16 => "coalesce(c.colliculocale, c.collcollate)::text",
        _ => "coalesce(c.colllocale, c.collcollate)::text",
    }
}

/// The collations that the session's database defines, or that its objects use. From 15 on Postgres itself
/// notes the version of the database's own; before, that is one of these.
///
/// # Errors
/// The driver's.
pub async fn used(session: &mut Session) -> Result<Vec<Collation>> {
    let major = session.facts().major();
    let locale = locale(major);
    let mut text = format!(
        "SELECT format('%I.%I', n.nspname, c.collname) AS name, c.collprovider::text AS provider, \
         {locale} AS locale, c.collversion::text AS recorded, \
         pg_collation_actual_version(c.oid) AS actual \
         FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace \
         WHERE c.collprovider IN ('i', 'c') AND (c.oid >= 16384 OR EXISTS (SELECT FROM pg_depend d \
           WHERE d.refclassid = 'pg_collation'::regclass AND d.refobjid = c.oid))"
    );
    if major < 15 {
        text += " UNION ALL SELECT 'default', 'c', datcollate::text, NULL, NULL FROM pg_database \
                 WHERE datname = current_database()";
    }
    let mut used: Vec<Collation> =
        session.rows(sql::fill(&text, &[])).await.doing(|| "list the collations".into())?;
    used.retain(|collation| !collation.is_fixed());
    used.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(used)
}

/// The versions that collations have now, by the names of those of the session's database, the registry, that
/// stand for them. One of a locale that the server does not know by itself is represented by the root of ICU,
/// or by any other of libc, which has one version for all.
///
/// # Errors
/// The driver's.
pub async fn versions(session: &mut Session, used: &[Collation]) -> Result<BTreeMap<String, String>> {
    let locale = locale(session.facts().major());
    let text = format!(
        "SELECT o.collname::text, pg_collation_actual_version(o.oid) FROM pg_collation o WHERE o.oid = \
         (SELECT c.oid FROM pg_collation c WHERE c.collnamespace = 'pg_catalog'::regnamespace \
          AND c.collprovider = $1 AND ({locale} = $2 OR c.collname = 'und-x-icu' \
            OR $1 = 'c' AND {locale} !~* '^(C|POSIX)(\\.|$)') \
          ORDER BY {locale} = $2 DESC, c.collname LIMIT 1)"
    );
    let mut versions = BTreeMap::new();
    for collation in used {
        let found: Option<(String, Option<String>)> = session
            .first(sql::fill(&text, &[&collation.provider, &collation.locale]))
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
            "public.german: version 153.80 noted, 153.120 present"
        );
    }
}
