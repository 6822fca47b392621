//! The URL of a store of objects, taken apart.

use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};

/// How a store is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    S3,
    Google,
    Azure,
    /// GET, PUT and DELETE, and WebDAV for lists.
    Http,
}

/// Parts of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) kind: Kind,
    /// Bucket or container; for HTTP the host and port.
    pub(super) bucket: String,
    /// Scheme and host, for HTTP.
    pub(super) origin: String,
    /// Names above the keys.
    pub(super) prefix: Vec<String>,
    /// URL of requests, instead of the provider's.
    pub(super) endpoint: Option<String>,
    /// Region of S3.
    pub(super) region: Option<String>,
    /// Account of Azure.
    pub(super) account: Option<String>,
    /// Whether connections may be unencrypted; `None`: the provider's variable says so.
    pub(super) allow_http: Option<bool>,
}

impl Place {
    /// Reads a URL; `None` for the scheme of a directory.
    ///
    /// # Errors
    /// `Config` for an unknown option, or a value that is none. The URL may be that of a variable, and is checked like
    /// one in the config.
    pub(super) fn read(url: &str) -> Result<Option<Self>> {
        let refused = |why: String| Error::config(format!("`[remote] url` {why}"));
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(refused("is not a URL".into()).hint(HINT));
        };
        let kind = match scheme {
            "file" => return Ok(None),
            "s3" => Kind::S3,
            "gs" => Kind::Google,
            "az" => Kind::Azure,
            "http" | "https" => Kind::Http,
            _ => return Err(refused(format!("has the unknown scheme `{scheme}`")).hint(HINT)),
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, path) = path.split_once('/').unwrap_or((path, ""));
        if bucket.contains('@') {
            return Err(refused("contains a user or a password".into()).hint(match kind {
                Kind::Http => {
                    "leave them out, and set PGSTENCIL_REMOTE_TOKEN to `USER:PASSWORD` or to a token"
                }
                _ => "leave them out: the provider's own variables and files hold the credentials",
            }));
        }
        if bucket.is_empty() {
            return Err(refused("names no place".into()).hint(HINT));
        }
        if scheme == "http" && !is_loopback(bucket) {
            return Err(refused(format!("leads to {bucket} without encryption")).hint("use `https`"));
        }
        let decoded = percent_decode_str(path).decode_utf8_lossy();
        let prefix: Vec<String> =
            decoded.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        if prefix.iter().any(|part| part == "." || part == "..") {
            return Err(refused("contains `.` or `..`".into()));
        }
        let mut place = Place {
            kind,
            bucket: bucket.to_owned(),
            origin: format!("{scheme}://{bucket}"),
            prefix,
            endpoint: None,
            region: None,
            account: None,
            allow_http: None,
        };
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
            match (key, kind) {
                ("endpoint", Kind::S3 | Kind::Google | Kind::Azure) if is_url(&value) => {
                    place.endpoint = Some(value.trim_end_matches('/').to_owned());
                }
                ("region", Kind::S3) if !value.is_empty() => place.region = Some(value),
                ("account", Kind::Azure) if !value.is_empty() => place.account = Some(value),
                ("allow_http", _) if value == "true" || value == "false" => {
                    place.allow_http = Some(value == "true");
                }
                // Not the value: it could be a secret.
                _ => {
                    let known = match kind {
                        Kind::S3 => "`endpoint`, `region` and `allow_http`",
                        Kind::Google => "`endpoint` and `allow_http`",
                        Kind::Azure => "`endpoint`, `account` and `allow_http`",
                        Kind::Http => "`allow_http`",
                    };
                    return Err(refused(format!(
                        "has the option `{key}`, which is unknown or has no valid value"
                    ))
                    .hint(format!("options are {known}; credentials belong into the provider's variables")));
                }
            }
        }
        Ok(Some(place))
    }
}

const HINT: &str = "write it like `file:///mnt/templates` or `s3://bucket/path`";

fn is_url(text: &str) -> bool {
    let address = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    address.is_some_and(|address| !address.is_empty() && !address.contains(['@', '?', '#', ' ']))
}

/// Whether an address with or without a port and a path is this machine's.
pub(super) fn is_loopback(address: &str) -> bool {
    let host = address.split('/').next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> Place {
        Place::read(url).unwrap().unwrap()
    }

    #[test]
    fn urls_are_taken_apart() {
        assert_eq!(Place::read("file:///mnt/x").unwrap(), None);
        let s3 = place("s3://ci/pg/sten%20cil/?endpoint=https%3A%2F%2Fr2.example%2F&region=auto");
        assert_eq!((s3.kind, &*s3.bucket, s3.prefix.join("/")), (Kind::S3, "ci", "pg/sten cil".into()));
        assert_eq!(
            (s3.endpoint.as_deref(), s3.region.as_deref()),
            (Some("https://r2.example"), Some("auto"))
        );
        assert_eq!(place("s3://ci").prefix, Vec::<String>::new());
        let az = place("az://box/x?account=ann&allow_http=true");
        assert_eq!((az.kind, az.account.as_deref(), az.allow_http), (Kind::Azure, Some("ann"), Some(true)));
        let http = place("https://dav.example:8443/a/b");
        assert_eq!((&*http.origin, http.prefix.join("/")), ("https://dav.example:8443", "a/b".into()));
    }

    #[test]
    fn wrong_urls_are_refused_without_their_secrets() {
        for url in [
            "s3://key:hush-hush@ci/x",
            "https://ann:hush-hush@example.org/x",
            "az://box/x?sig=hush-hush",
            "s3://ci/x?aws_secret_access_key=hush-hush",
            "s3://ci/x?endpoint=https://hush-hush@example.org",
            "s3:///hush-hush",
            "http://example.org/hush-hush",
            "hush-hush",
            "s3://ci/../hush-hush",
        ] {
            let error = Place::read(url).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hush-hush"), "{url}: {error:?}");
        }
    }

    #[test]
    fn this_machine_has_several_addresses() {
        for address in ["127.0.0.1", "127.9.9.9:80/x", "localhost:9000", "[::1]:80"] {
            assert!(is_loopback(address), "{address}");
        }
        for address in
            ["10.0.0.1", "localhost.example.org", "[::2]:80", "127.0.0.1.example.org", "minio:9000"]
        {
            assert!(!is_loopback(address), "{address}");
        }
    }
}
