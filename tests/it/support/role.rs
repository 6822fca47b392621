//! An ordinary role: LOGIN and CREATEDB, nothing else.

use sqlx::postgres::PgConnectOptions;

use super::random_id;
use super::server::{TestServer, quote_ident, quote_literal};

/// A role of this test's own. Dropped with the databases and objects that it owns, unless the test
/// failed.
pub(crate) struct Role<'s> {
    /// Its name, random.
    pub(crate) name: String,
    /// Its password.
    pub(crate) password: String,
    server: &'s TestServer,
}

impl<'s> Role<'s> {
    /// LOGIN, CREATEDB and a harmless password.
    pub(crate) fn new(server: &'s TestServer) -> Self {
        Self::with(server, "createdb", &random_id())
    }

    /// A password with everything that a URL or SQL could stumble over.
    pub(crate) fn with_odd_password(server: &'s TestServer) -> Self {
        let odd = r##"a:/?#[]@!$&'()*+,;=%"\ ü%41"##;
        Self::with(server, "createdb", odd)
    }

    /// LOGIN, and the attributes given: `nocreatedb`, `createdb connection limit 1`.
    pub(crate) fn with(server: &'s TestServer, attributes: &str, password: &str) -> Self {
        let name = format!("role_{}", random_id());
        server.psql(
            "postgres",
            &format!(
                "create role {} login {attributes} password {}",
                quote_ident(&name),
                quote_literal(password)
            ),
        );
        Role { name, password: password.to_owned(), server }
    }

    /// The URL of a database for this role, over TCP with its password.
    pub(crate) fn url(&self, database: &str) -> String {
        self.server.url_as(&self.name, &self.password, database)
    }

    /// Options for a session of this role.
    pub(crate) fn options(&self, database: &str) -> PgConnectOptions {
        self.server.options(&self.name, &self.password, database)
    }

    fn remove(&self) -> Result<(), sqlx::Error> {
        let (ident, literal) = (quote_ident(&self.name), quote_literal(&self.name));
        let owned = self.server.try_psql(
            "postgres",
            &format!("select datname from pg_database where pg_get_userbyid(datdba) = {literal}"),
        )?;
        for database in owned.lines() {
            self.server.drop_database(database);
        }
        // Objects and rights in databases of others.
        let touched = self.server.try_psql(
            "postgres",
            &format!(
                "select distinct d.datname from pg_shdepend s
                 join pg_database d on d.oid = s.dbid and d.datallowconn
                 where s.refclassid = 'pg_authid'::regclass and s.refobjid = {literal}::regrole"
            ),
        )?;
        for database in touched.lines().chain(["postgres"]) {
            self.server.try_psql(database, &format!("drop owned by {ident} cascade"))?;
        }
        self.server.try_psql("postgres", &format!("drop role {ident}"))?;
        Ok(())
    }
}

impl Drop for Role<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for inspection: {}", self.url("postgres"));
        } else if let Err(e) = self.remove() {
            eprintln!("role {} stays behind: {e}", self.name);
        }
    }
}
