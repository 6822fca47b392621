//! [`ServerUrl`]: a Postgres URL, split into its parts in their original notation.
//!
//! The scheme (`postgresql+psycopg://`) and the query (`?sslmode=require`) belong to the user's driver, so
//! they are kept verbatim; only the path differs from database to database. `Debug` and `Display` hide the
//! password; only [`ServerUrl::reveal`] returns the whole text.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::error::{Error, Result};

/// All characters except RFC 3986's unreserved ones are escaped.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Returns whether a character must be escaped in every part of a URL, because a terminal, a log or a shell's
/// `read` would not show or read the same URL otherwise. These are control characters and all characters that
/// are not ASCII and neither letter nor digit, such as those that change the direction of writing.
fn is_unfit(c: char) -> bool {
    c.is_control() || c.is_whitespace() || (!c.is_ascii() && !c.is_alphanumeric())
}

/// Returns a part of a URL as written, except that unfit characters are escaped.
fn as_written(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match is_unfit(c) {
            true => out += &encode(c.encode_utf8(&mut [0; 4])),
            false => out.push(c),
        }
    }
    out
}

/// Percent-encodes a text for use in a URL.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// A URL of a Postgres server, or of one database on it.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl {
    scheme: String,
    user: Option<String>,
    password: Option<String>,
    /// The host as written: brackets and percent escapes are kept.
    host: String,
    port: Option<u16>,
    database: Option<String>,
    /// Pairs of the query as written, in order.
    query: Vec<String>,
}

impl ServerUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// Refuses keyword strings (`host=… dbname=…`), several hosts, bad ports and bad percent escapes, each
    /// with a hint. No message repeats the password.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(Error::config("the server URL has no scheme")
                .detail("keyword strings such as `host=… dbname=…` are not supported")
                .hint("write it as a URL: `postgresql://USER:PASSWORD@HOST:5432/postgres`"));
        };
        let driver = scheme.split('+').next().unwrap_or(scheme);
        if !matches!(driver, "postgres" | "postgresql" | "postgis" | "pgsql" | "psql") {
            return Err(Error::config(format!(
                "the server URL has the scheme `{scheme}`, which is not a Postgres scheme"
            ))
            .hint("use `postgresql://…` (also `postgres://`, `postgresql+DRIVER://`, `postgis://`)"));
        }
        if !scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-._".contains(c)) {
            return Err(Error::config("the server URL's scheme contains an invalid character")
                .hint("write `postgresql://…` or `postgresql+DRIVER://…`"));
        }
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, query),
            None => (rest, ""),
        };
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, Some(path)),
            None => (rest, None),
        };
        let (userinfo, hostport) = match authority.rsplit_once('@') {
            Some((userinfo, hostport)) => (Some(userinfo), hostport),
            None => (None, authority),
        };
        let (user, password) = match userinfo.map(|u| u.split_once(':').unwrap_or((u, ""))) {
            None => (None, None),
            Some((user, password)) => {
                (non_empty(decode(user, "user")?), non_empty(decode(password, "password")?))
            }
        };
        let (host, port) = split_port(hostport)?;
        let url = ServerUrl {
            scheme: scheme.to_owned(),
            user,
            password,
            host: as_written(host),
            port,
            database: match path {
                Some(path) => non_empty(decode(path, "database name")?),
                None => None,
            },
            query: query.split('&').filter(|pair| !pair.is_empty()).map(as_written).collect(),
        };
        if hostport.contains(',')
            || ["host", "hostaddr", "port"].iter().any(|k| url.parameter(k).is_some_and(|v| v.contains(',')))
        {
            return Err(Error::config("the server URL names several hosts")
                .detail("templates are on one server, so the URL must name exactly one")
                .hint("name the one server that is the primary"));
        }
        if let Some(port) = url.parameter("port") {
            parse_port(&port)?;
        }
        Ok(url)
    }

    /// Returns the user, from the authority or the query.
    pub fn user(&self) -> Option<String> {
        self.parameter("user").or_else(|| self.user.clone())
    }

    /// Returns the password, from the authority or the query.
    pub fn password(&self) -> Option<String> {
        self.parameter("password").or_else(|| self.password.clone())
    }

    /// Returns the host, or the directory of the unix socket (then it starts with `/`).
    pub fn host(&self) -> Option<String> {
        self.parameter("hostaddr").or_else(|| self.parameter("host")).or_else(|| {
            let bare = self.host.trim_start_matches('[').trim_end_matches(']');
            non_empty(percent_decode_str(bare).decode_utf8_lossy().into_owned())
        })
    }

    /// Returns the port, from the authority or the query.
    pub fn port(&self) -> Option<u16> {
        self.parameter("port").and_then(|p| p.parse().ok()).or(self.port)
    }

    /// Returns the database, from the path or the query.
    pub fn database(&self) -> Option<String> {
        self.parameter("dbname").or_else(|| self.database.clone())
    }

    /// Returns the last value of a query parameter, decoded; empty values count as absent.
    pub fn parameter(&self, key: &str) -> Option<String> {
        self.pairs().filter(|(k, _)| k == key).last().and_then(|(_, v)| non_empty(v))
    }

    /// Returns all query parameters, decoded, in order.
    pub fn pairs(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.query.iter().map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let text = |s: &str| percent_decode_str(s).decode_utf8_lossy().into_owned();
            (text(key), text(value))
        })
    }

    /// Returns the same URL with another database. Removes a `dbname` of the query, which would override the
    /// path.
    #[must_use]
    pub fn with_database(&self, database: &str) -> Self {
        let mut url = self.without(&["dbname"]);
        url.database = Some(database.to_owned());
        url
    }

    /// Returns the same URL with another host and port. Removes a host or port of the query.
    #[must_use]
    pub fn with_endpoint(&self, host: Option<&str>, port: Option<u16>) -> Self {
        let mut url = self.clone();
        if let Some(host) = host {
            url = url.without(&["host", "hostaddr"]);
            url.host = match host {
                directory if directory.starts_with('/') => {
                    url.move_to_the_query(directory);
                    String::new()
                }
                v6 if v6.contains(':') && !v6.starts_with('[') => {
                    format!("[{}]", as_written(v6))
                }
                host => as_written(host),
            };
        }
        if let Some(port) = port {
            url = url.without(&["port"]);
            if url.has_its_host_in_the_query() {
                url.query.push(format!("port={port}"));
                url.port = None;
            } else {
                url.port = Some(port);
            }
        }
        url
    }

    /// Puts the directory of a socket into the query, in the form that every driver reads: few decode `%2F` in
    /// the place of a host. What stood beside the host goes there, too, since `//user@/` is no URL to most.
    fn move_to_the_query(&mut self, directory: &str) {
        self.query.push(format!("host={}", encode(directory).replace("%2F", "/")));
        let port = self.port.take().map(|port| format!("port={port}"));
        let user = self.user.take().map(|user| format!("user={}", encode(&user)));
        let password = self.password.take().map(|password| format!("password={}", encode(&password)));
        self.query.extend([port, user, password].into_iter().flatten());
    }

    /// Returns the same URL with another scheme.
    #[must_use]
    pub fn with_scheme(&self, scheme: &str) -> Self {
        let mut url = self.clone();
        url.scheme = scheme.to_owned();
        url
    }

    /// Returns the same URL with user and password filled in where it has none, so that it can be used
    /// without the environment or the password file that supplied them. If the host is in the query, they are
    /// added there, too: to most parsers but libpq's, `//user@/` is not a URL.
    #[must_use]
    pub fn with_credentials(&self, user: &str, password: Option<&str>) -> Self {
        let mut url = self.clone();
        if url.user.is_none() && url.has_its_host_in_the_query() {
            if url.user().is_none() {
                url.query.push(format!("user={}", encode(user)));
            }
            if let (None, Some(password)) = (url.password(), password) {
                url.query.push(format!("password={}", encode(password)));
            }
            return url;
        }
        if url.user().is_none() {
            url.user = Some(user.to_owned());
        }
        if url.password().is_none() {
            url.password = password.map(str::to_owned);
            // A password in the authority requires a user there.
            if url.password.is_some() && url.user.is_none() {
                url.user = Some(user.to_owned());
            }
        }
        url
    }

    /// Returns the whole URL with its password. Pass it only to a caller that asked for a URL.
    pub fn reveal(&self) -> String {
        self.render(self.password.as_deref(), false)
    }

    /// Returns `text` without the passwords of this URL: in plain form, and in the forms used in URLs, in SQL
    /// and in JSON.
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        let keys = ["password", "sslpassword"];
        let in_query = self.query.iter().filter_map(|pair| pair.split_once('='));
        let written: Vec<&str> =
            in_query.filter(|(key, _)| keys.contains(key)).map(|(_, value)| value).collect();
        let plain = self.password.iter().cloned();
        let plain = plain.chain(keys.iter().filter_map(|key| self.parameter(key)));
        for secret in plain {
            let encoded = utf8_percent_encode(&secret, RESERVED).to_string();
            if secret.len() <= 2 {
                // A short password occurs in many words; in a URL it is certainly a password.
                text = text.replace(&format!(":{encoded}@"), ":***@");
                continue;
            }
            // The form in SQL, where quotes and backslashes are doubled, and in the quotes of a shell or
            // JSON.
            let literal = secret.replace('\'', "''");
            let escaped = secret.replace('\\', "\\\\");
            let both = literal.replace('\\', "\\\\");
            let identifier = secret.replace('"', "\"\"");
            let json = escaped.replace('"', "\\\"");
            let mut forms = [encoded, both, json, literal, escaped, identifier, secret];
            // A form may begin with another form.
            forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
            for form in forms {
                text = text.replace(&form, "***");
            }
        }
        for secret in written.iter().filter(|s| s.len() > 2) {
            text = text.replace(secret, "***");
        }
        text
    }

    fn has_its_host_in_the_query(&self) -> bool {
        self.host.is_empty() && self.host().is_some()
    }

    fn without(&self, keys: &[&str]) -> Self {
        let mut url = self.clone();
        url.query.retain(|pair| {
            let key = pair.split_once('=').map_or(pair.as_str(), |(k, _)| k);
            !keys.contains(&key)
        });
        url
    }

    fn render(&self, password: Option<&str>, hide: bool) -> String {
        let mut text = format!("{}://", self.scheme);
        if let Some(user) = &self.user {
            text += &encode(user);
        }
        if let Some(password) = password {
            text.push(':');
            text += &if hide { password.to_owned() } else { encode(password) };
        }
        if self.user.is_some() || password.is_some() {
            text.push('@');
        }
        text += &self.host;
        if let Some(port) = self.port {
            text += &format!(":{port}");
        }
        text.push('/');
        if let Some(database) = &self.database {
            text += &encode(database);
        }
        for (i, pair) in self.query.iter().enumerate() {
            text.push(if i == 0 { '?' } else { '&' });
            match pair.split_once('=') {
                Some((key, _)) if hide && matches!(key, "password" | "sslpassword") => {
                    text += &format!("{key}=***");
                }
                _ => text += pair,
            }
        }
        text
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(self.password.as_ref().map(|_| "***"), true))
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerUrl({self})")
    }
}

fn split_port(hostport: &str) -> Result<(&str, Option<u16>)> {
    let colon = match hostport.rfind(']') {
        Some(bracket) => hostport[bracket..].find(':').map(|i| bracket + i),
        None => hostport.rfind(':'),
    };
    match colon {
        None => Ok((hostport, None)),
        Some(i) if i + 1 == hostport.len() => Ok((&hostport[..i], None)),
        Some(i) if hostport[i + 1..].contains(',') => Ok((hostport, None)),
        Some(i) => Ok((&hostport[..i], Some(parse_port(&hostport[i + 1..])?))),
    }
}

fn parse_port(text: &str) -> Result<u16> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(Error::config("the server URL has a port that is not a number from 1 to 65535")
            .hint("percent-encode `:`, `/`, `?`, `#` and `@` in a password, such as `@` as `%40`")),
    }
}

fn decode(text: &str, what: &str) -> Result<String> {
    let bad = |why: &str| {
        Error::config(format!("the {what} in the server URL {why}"))
            .hint("percent-encode special characters: `%` as `%25`, `@` as `%40`, `/` as `%2F`")
    };
    let bytes = text.as_bytes();
    for (i, _) in text.match_indices('%') {
        let hex = |b: Option<&u8>| b.is_some_and(u8::is_ascii_hexdigit);
        if !(hex(bytes.get(i + 1)) && hex(bytes.get(i + 2))) {
            return Err(bad("has a `%` that is not followed by two hex digits"));
        }
    }
    match percent_decode_str(text).decode_utf8() {
        Ok(text) if text.contains('\0') => Err(bad("has a zero byte")),
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(bad("is not UTF-8")),
    }
}

fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|t| !t.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> ServerUrl {
        ServerUrl::parse(text).unwrap()
    }

    #[test]
    fn passwords_are_taken_out_of_texts_in_every_form() {
        let u = url("postgresql://me:p%40s%20s@db/x?sslpassword=%71uux");
        assert_eq!(
            u.redact("p@s s, postgresql://me:p%40s%20s@db/x?sslpassword=%71uux quux"),
            "***, postgresql://me:***@db/x?sslpassword=*** ***"
        );
        let quoted = url("postgresql://me:it%27s%20%22a%5Cb%22@db/x");
        for form in [
            r#"it's "a\b""#,
            r#"it''s "a\b""#,
            r#"it''s "a\\b""#,
            r#"it's "a\\b""#,
            r#"it's ""a\b"""#,
            r#"it's \"a\\b\""#,
        ] {
            assert_eq!(quoted.redact(&format!("<{form}>")), "<***>", "{form}");
        }
        let short = url("postgresql://me:a@db/x");
        assert_eq!(short.redact("a cat on postgresql://me:a@db/x"), "a cat on postgresql://me:***@db/x");
    }

    #[test]
    fn keeps_scheme_and_query_and_changes_only_the_path() {
        let u = url("postgresql+psycopg://me:p%40ss@db:6543/old?sslmode=require&x=%20y");
        assert_eq!(u.password().as_deref(), Some("p@ss"));
        assert_eq!(
            u.with_database("né w").reveal(),
            "postgresql+psycopg://me:p%40ss@db:6543/n%C3%A9%20w?sslmode=require&x=%20y"
        );
    }

    #[test]
    fn a_url_holds_nothing_that_a_terminal_obeys() {
        let odd = "\x1b[31m\u{9b}x\u{202e}y\u{2066} \n\t";
        let u = url(&format!("postgres://u{odd}:p{odd}@h{odd}:1/d?a{odd}=b{odd}&keep=%1b+ü"));
        let text = u.with_database(odd).reveal();
        assert!(!text.contains(is_unfit), "{text:?}");
        assert!(text.ends_with("&keep=%1b+ü"), "{text}");
        assert_eq!(u.user(), Some(format!("u{odd}")));
        assert_eq!(u.host(), Some(format!("h{odd}")));
        assert_eq!(u.parameter(&format!("a{odd}")), Some(format!("b{odd}")));
        assert_eq!(url(&text), u.with_database(odd));
        assert!(ServerUrl::parse("postgresql+x\x1b://h/d").is_err());
        // The escapes show what the terminal would have received.
        assert_eq!(url("postgres://hôte/d").reveal(), "postgres://hôte/d");
    }

    #[test]
    fn hides_the_password_everywhere_but_in_reveal() {
        for text in
            ["postgres://u:s3cret@h/d", "postgres://h/d?user=u&password=s3cret", "postgres://:s3cret@h/d"]
        {
            let u = url(text);
            assert_eq!(u.password().as_deref(), Some("s3cret"));
            assert!(!format!("{u} {u:?}").contains("s3cret"), "{u}");
            assert!(u.reveal().contains("s3cret"));
        }
    }

    #[test]
    fn odd_passwords_come_back_as_they_were() {
        for password in ["a:b", "a/b?c#d", "100%", "'\"\\", "ü@host", " ", "a@b@c"] {
            let base = url("postgres://h/d").with_credentials("me", Some(password));
            let again = url(&base.reveal());
            assert_eq!(again.password().as_deref(), Some(password));
            assert_eq!(again.host().as_deref(), Some("h"));
        }
        // Not encoded, but not ambiguous either: the last @ ends the password.
        assert_eq!(url("postgres://u:p@ss@h/d").password().as_deref(), Some("p@ss"));
    }

    #[test]
    fn sockets_and_addresses() {
        assert_eq!(url("postgres:///d?host=/run/pg&port=5433").host().as_deref(), Some("/run/pg"));
        assert_eq!(url("postgres:///d?host=/run/pg&port=5433").port(), Some(5433));
        assert_eq!(url("postgres://%2Frun%2Fpg/d").host().as_deref(), Some("/run/pg"));
        let v6 = url("postgres://[::1]:5433/d");
        assert_eq!((v6.host().as_deref(), v6.port()), (Some("::1"), Some(5433)));
        assert_eq!(
            url("postgres:///d?host=/x&port=1&a=b").with_endpoint(Some("pg"), Some(2)).reveal(),
            "postgres://pg:2/d?a=b"
        );
    }

    #[test]
    fn what_is_filled_in_stays_readable_for_every_parser() {
        let u = url("postgres:///d?host=/run/pg").with_endpoint(None, Some(5433));
        assert_eq!(
            u.with_credentials("me", Some("p&w")).reveal(),
            "postgres:///d?host=/run/pg&port=5433&user=me&password=p%26w"
        );
        assert_eq!(
            url("postgres:///d")
                .with_endpoint(Some("/run/pg"), Some(5433))
                .with_credentials("me", None)
                .reveal(),
            "postgres:///d?host=/run/pg&port=5433&user=me"
        );
    }

    #[test]
    fn a_socket_in_place_of_a_host_takes_everything_into_the_query() {
        let u = url("postgresql+psycopg://me:p%40ss@db:6543/d?a=b").with_endpoint(Some("/run/my pg"), None);
        assert_eq!(
            u.reveal(),
            "postgresql+psycopg:///d?a=b&host=/run/my%20pg&port=6543&user=me&password=p%40ss"
        );
        assert!(!u.to_string().contains("p%40ss"), "{u}");
        let again = url(&u.reveal());
        assert_eq!((again.host().as_deref(), again.port()), (Some("/run/my pg"), Some(6543)));
        assert_eq!((again.user().as_deref(), again.password().as_deref()), (Some("me"), Some("p@ss")));
        // What the user wrote stays.
        assert_eq!(url("postgres://me@%2Fs/d").with_database("e").reveal(), "postgres://me@%2Fs/e");
    }

    #[test]
    fn a_dbname_parameter_does_not_survive() {
        let u = url("postgres://h/d?dbname=other&a=b");
        assert_eq!(u.database().as_deref(), Some("other"));
        assert_eq!(u.with_database("c").reveal(), "postgres://h/c?a=b");
    }

    #[test]
    fn refuses_what_it_cannot_honour() {
        for bad in [
            "host=a dbname=b",
            "mysql://h/d",
            "postgres://a,b/d",
            "postgres://a:1,b:2/d",
            "postgres:///d?host=a,b",
            "postgres://h:0/d",
            "postgres://h:x/d",
            "postgres://u:50%@h/d",
            "postgres://u:%ff@h/d",
        ] {
            let e = ServerUrl::parse(bad).expect_err(bad);
            assert_eq!(e.kind(), crate::error::Kind::Config, "{bad}");
            assert!(!e.hints().is_empty(), "{bad}");
        }
    }
}
