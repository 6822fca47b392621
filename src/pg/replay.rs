//! The properties that `CREATE DATABASE … TEMPLATE` does not copy: the owner, settings, grants, security
//! labels, the connection limit. They are read from the built database, stored with the template, and applied
//! to each clone before it opens.

use serde::{Deserialize, Serialize};
use sqlx::postgres::types::Oid;

use super::failure::words;
use super::sqlstate::SqlState;
use super::{Doing as _, Session, sql};
use crate::env::looks_secret;
use crate::error::Result;
use crate::names::Mark;

/// Properties of a database that are stored outside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Replay {
    /// The owner, if the build gave the database to another Postgres role than the one that pgstencil acts
    /// as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<String>,
    /// `ALTER DATABASE … SET` and `ALTER ROLE … IN DATABASE … SET`.
    pub(crate) settings: Vec<Setting>,
    /// Grants that differ from the default; `None` if they are the default.
    pub(crate) grants: Option<Vec<Grant>>,
    /// Privileges that the owner revoked from itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) withheld: Vec<String>,
    /// The limit; -1 means no limit.
    pub(crate) connection_limit: i32,
    /// The builder's own comment.
    pub(crate) comment: Option<String>,
    /// Security labels, with their providers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) labels: Vec<(String, String)>,
}

impl Default for Replay {
    fn default() -> Self {
        Replay {
            owner: None,
            settings: Vec::new(),
            grants: None,
            withheld: Vec::new(),
            connection_limit: -1,
            comment: None,
            labels: Vec::new(),
        }
    }
}

/// One stored setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Setting {
    /// The Postgres role; `None` means all.
    pub(crate) role: Option<String>,
    /// Name of the setting.
    pub(crate) name: String,
    /// Its value, as stored.
    pub(crate) value: String,
}

/// One granted privilege.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Grant {
    /// The Postgres role; `None` means PUBLIC.
    pub(crate) grantee: Option<String>,
    /// `CONNECT`, `TEMPORARY` or `CREATE`.
    pub(crate) privilege: String,
    /// `WITH GRANT OPTION`
    pub(crate) grantable: bool,
}

/// Reads the properties of a database. `mark` is pgstencil's part of the comment, which does not come from
/// the builder.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn read(session: &mut Session, oid: Oid, mark: &Mark) -> Result<Replay> {
    let doing = || "read the settings and grants of the built database".to_owned();
    let settings: Vec<(Option<String>, String)> = session
        .rows(sql::fill(
            "SELECT r.rolname::text, cfg FROM pg_db_role_setting s \
         CROSS JOIN LATERAL unnest(s.setconfig) cfg \
         LEFT JOIN pg_roles r ON r.oid = s.setrole \
         WHERE s.setdatabase = $1 AND (s.setrole = 0 OR r.oid IS NOT NULL) ORDER BY 1 NULLS FIRST, 2",
            &[&oid],
        ))
        .await
        .doing(doing)?;
    type Row = (Option<String>, i32, bool, Option<String>);
    let (owner, limit, default_acl, comment): Row = session
        .one(sql::fill(
            "SELECT nullif(pg_get_userbyid(datdba), current_user)::text, datconnlimit, datacl IS NULL, \
             shobj_description(oid, 'pg_database') FROM pg_database WHERE oid = $1",
            &[&oid],
        ))
        .await
        .doing(doing)?;
    let labels = session
        .rows(sql::fill(
            "SELECT provider, label FROM pg_shseclabel \
             WHERE classoid = 'pg_database'::regclass AND objoid = $1 ORDER BY 1",
            &[&oid],
        ))
        .await
        .doing(doing)?;
    let withheld = session
        .scalars(sql::fill(
            "SELECT x.privilege_type FROM pg_database d \
             CROSS JOIN LATERAL aclexplode(acldefault('d', d.datdba)) x \
             WHERE d.oid = $1 AND d.datacl IS NOT NULL AND x.grantee = d.datdba AND NOT EXISTS ( \
               SELECT FROM aclexplode(d.datacl) a WHERE a.grantee = d.datdba AND a.privilege_type = x.privilege_type) \
             ORDER BY 1",
            &[&oid],
        ))
        .await
        .doing(doing)?;
    let grants = if default_acl {
        None
    } else {
        // The owner's own privileges come with ownership.
        let rows: Vec<(Option<String>, String, bool)> = session
            .rows(sql::fill(
                "SELECT r.rolname::text, a.privilege_type, a.is_grantable FROM pg_database d \
             CROSS JOIN LATERAL aclexplode(d.datacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee \
             WHERE d.oid = $1 AND a.grantee <> d.datdba AND (a.grantee = 0 OR r.oid IS NOT NULL) \
             ORDER BY 1 NULLS FIRST, 2",
                &[&oid],
            ))
            .await
            .doing(doing)?;
        Some(
            rows.into_iter()
                .map(|(grantee, privilege, grantable)| Grant { grantee, privilege, grantable })
                .collect(),
        )
    };
    Ok(Replay {
        owner,
        settings: settings
            .into_iter()
            .filter_map(|(role, pair)| {
                // The value may contain more equal signs.
                let (name, value) = pair.split_once('=')?;
                Some(Setting { role, name: name.to_owned(), value: value.to_owned() })
            })
            .collect(),
        grants,
        withheld,
        connection_limit: limit,
        comment: mark.builders(comment.as_deref()).map(str::to_owned),
        labels,
    })
}

/// Applies the properties to a clone. Returns a line for each property that the role may not set.
///
/// # Errors
/// Errors of the driver, except for a missing privilege.
pub(crate) async fn apply(session: &mut Session, database: &str, replay: &Replay) -> Result<Vec<String>> {
    let mut refused = Vec::new();
    // Comes first: grants are made as the owner.
    if let Some(owner) = &replay.owner {
        let what = format!("OWNER TO {owner}");
        match lack(session, owner, true).await? {
            Some(lack) => refused.push(format!("{what}: {lack}")),
            None => {
                let statement = sql::owner(database, owner);
                attempt(session, statement, what, &mut refused).await?;
            }
        }
    }
    if let Some(grants) = &replay.grants {
        attempt(session, sql::revoke_public(database), "REVOKE … FROM PUBLIC".into(), &mut refused).await?;
        for g in grants {
            let statement = sql::grant(database, &g.privilege, g.grantee.as_deref(), g.grantable);
            let what = format!("GRANT {} TO {}", g.privilege, g.grantee.as_deref().unwrap_or("PUBLIC"));
            attempt(session, statement, what, &mut refused).await?;
        }
    }
    for privilege in &replay.withheld {
        let statement = sql::revoke(database, privilege, replay.owner.as_deref());
        let what = format!("REVOKE {privilege} FROM its owner");
        attempt(session, statement, what, &mut refused).await?;
    }
    for s in &replay.settings {
        let before = refused.len();
        let secret = looks_secret(&s.name) && !s.value.is_empty();
        let value = if secret { "***" } else { &s.value };
        let what = match &s.role {
            None => format!("SET {} = {value}", s.name),
            Some(role) => format!("SET {} = {value} for role {role}", s.name),
        };
        let done = if LISTS.contains(&s.name.as_str()) {
            store_list(session, database, s).await
        } else {
            session.run(sql::store_setting(database, s.role.as_deref(), &s.name, Some(&s.value))).await
        };
        refusal(done, what, &mut refused)?;
        if secret {
            // The server's message may quote the value.
            let lines = refused.iter_mut().skip(before);
            lines.for_each(|line| *line = line.replace(&s.value, "***"));
        }
    }
    for (provider, label) in &replay.labels {
        let statement = sql::security_label(database, provider, label);
        let what = format!("SECURITY LABEL FOR {provider}");
        attempt(session, statement, what, &mut refused).await?;
    }
    if replay.connection_limit >= 0 {
        let statement = sql::connection_limit(database, replay.connection_limit);
        let what = format!("CONNECTION LIMIT {}", replay.connection_limit);
        attempt(session, statement, what, &mut refused).await?;
    }
    Ok(refused)
}

/// Returns the privilege that the session's role lacks to act as the owner `owner` of databases, as text with
/// the statement that grants it; `None` if it lacks nothing. `to_give`: also the privilege to give databases
/// to that role and to keep acting as their owner.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn lack(session: &mut Session, owner: &str, to_give: bool) -> Result<Option<String>> {
    let major = session.facts().major();
    // Since 16 SET ROLE needs a privilege of its own.
    let set = if major >= 16 { "SET" } else { "MEMBER" };
    let found: Option<(bool, bool, bool)> = session
        .first(sql::fill(
            "SELECT pg_has_role(oid, 'MEMBER'), pg_has_role(oid, 'USAGE'), pg_has_role(oid, $2) \
             FROM pg_roles WHERE rolname::text = $1",
            &[&owner, &set],
        ))
        .await
        .doing(|| format!("check whether databases of role `{owner}` can be managed"))?;
    let role = session.facts().role.clone();
    let (me, it) = (sql::quote_ident(&role), sql::quote_ident(owner));
    Ok(match found {
        None => Some(format!("there is no role `{owner}`")),
        Some((_, true, set)) if set || !to_give => None,
        Some((true, false, _)) if major < 16 => {
            Some(format!("role `{role}` does not inherit from it: ALTER ROLE {me} INHERIT;"))
        }
        Some(_) if major >= 16 => {
            Some(format!("role `{role}` may not act as it: GRANT {it} TO {me} WITH INHERIT TRUE, SET TRUE;"))
        }
        Some(_) => Some(format!("role `{role}` is not a member of it: GRANT {it} TO {me};")),
    })
}

/// The settings whose stored value is a list of names, quoted where needed (GUC_LIST_QUOTE, which extensions
/// cannot have): as one literal, `app, public` would become a single odd name. `pg_dump` has the same list.
const LISTS: [&str; 4] =
    ["search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"];

/// Stores a list with `FROM CURRENT`, as the server itself parsed it. The value is local to the transaction,
/// so it does not remain in the session. Not usable for other settings: some cannot be set in a session, and
/// some would affect these very statements.
async fn store_list(
    session: &mut Session,
    database: &str,
    setting: &Setting,
) -> std::result::Result<(), sqlx::Error> {
    session.begin().await?;
    let done = async {
        session
            .execute(sql::fill("SELECT set_config($1, $2, true)", &[&setting.name, &setting.value]))
            .await?;
        session.run(sql::store_setting(database, setting.role.as_deref(), &setting.name, None)).await
    }
    .await;
    session.end(done).await
}

async fn attempt(
    session: &mut Session,
    statement: sql::Statement,
    what: String,
    refused: &mut Vec<String>,
) -> Result<()> {
    let done = session.run(statement).await;
    refusal(done, what, refused)
}

fn refusal(
    done: std::result::Result<(), sqlx::Error>,
    what: String,
    refused: &mut Vec<String>,
) -> Result<()> {
    match done {
        // 42501: a privilege is missing; 42704/22023: a setting, role or value no longer exists.
        Err(e)
            if matches!(
                SqlState::of(&e),
                Some(
                    SqlState::INSUFFICIENT_PRIVILEGE
                        | SqlState::UNDEFINED_OBJECT
                        | SqlState::INVALID_PARAMETER_VALUE
                )
            ) =>
        {
            refused.push(format!("{what}: {}", words(&e)));
            Ok(())
        }
        other => other.doing(|| format!("re-apply {what}")),
    }
}
