//! A store of objects: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage, and servers that know
//! WebDAV.
//!
//! The credentials are those that the providers' own programs find in the environment or on the machine. No text of
//! this file contains one: an error says the status and the code of the answer, and nothing of the request.

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use futures_util::TryStreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Error, HeaderMap, HeaderValue, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMode, PutPayload, RetryConfig,
};

mod failure;
mod variables;

use self::failure::{Failed, Observed, observed};
use self::variables::{Variables, is_true};
use super::place::{Kind, Place};
use super::store::{Object, Store, StoreError, StoreResult};
use crate::env::{self, Environment};

/// Repetitions of a request that was not answered, or with "later".
const RETRIES: usize = 3;
/// Shortest and longest pause before one.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Longest time until a connection stands.
const CONNECT: Duration = Duration::from_secs(5);

/// A store that is reached by HTTP. It is set up by the first operation: most commands need none.
#[derive(Debug)]
pub(super) struct Objects {
    place: Place,
    variables: Variables,
    timeout: Duration,
    client: OnceLock<Result<Arc<dyn ObjectStore>, StoreError>>,
    /// Whether the store refused a condition.
    unconditional: AtomicBool,
}

impl Objects {
    /// Takes the place and the provider's variables. Connects to nothing. The inner error is the reason why the store
    /// must not be used.
    pub(super) fn new(place: Place, timeout: Duration, env: &Environment) -> Result<Self, String> {
        let variables = Variables::read(place.kind, env);
        let store =
            Objects { place, variables, timeout, client: OnceLock::new(), unconditional: false.into() };
        match store.unencrypted() {
            Some(why) => Err(why),
            None => Ok(store),
        }
    }

    /// Returns the URL of requests, if it is not that of the provider.
    fn endpoint(&self) -> Option<&str> {
        let names: &[&str] = match self.place.kind {
            Kind::S3 => &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"],
            Kind::Google => &["GOOGLE_BASE_URL"],
            Kind::Azure => &["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"],
            Kind::Http => return Some(&self.place.origin),
        };
        let named = names.iter().find_map(|name| self.variables.get(name));
        self.place.endpoint.as_deref().or(named)
    }

    fn allows_http(&self) -> bool {
        let name = match self.place.kind {
            Kind::S3 => "AWS_ALLOW_HTTP",
            Kind::Google => "GOOGLE_ALLOW_HTTP",
            Kind::Azure => "AZURE_ALLOW_HTTP",
            Kind::Http => "",
        };
        self.place.allow_http.unwrap_or_else(|| self.variables.get(name).is_some_and(is_true))
    }

    /// Returns why the connection must not be used, if it is not encrypted.
    fn unencrypted(&self) -> Option<String> {
        let endpoint = self.endpoint()?;
        let address = endpoint.strip_prefix("http://")?;
        if !self.allows_http() {
            let variable = match self.place.kind {
                Kind::S3 => ", or set AWS_ALLOW_HTTP=true",
                Kind::Google => ", or set GOOGLE_ALLOW_HTTP=true",
                Kind::Azure => ", or set AZURE_ALLOW_HTTP=true",
                Kind::Http => "",
            };
            return Some(format!(
                "connections to {address} are not encrypted; to allow that, add `?allow_http=true` to \
                 `[remote] url`{variable}"
            ));
        }
        // What is signed by S3's method tells no secret; tokens and passwords would be read on the way.
        (self.place.kind != Kind::S3 && !super::place::is_loopback(address)).then(|| {
            format!("connections to {address} are not encrypted, which is only allowed on this machine")
        })
    }

    fn options(&self) -> ClientOptions {
        ClientOptions::new()
            .with_timeout(self.timeout)
            .with_connect_timeout(CONNECT.min(self.timeout))
            .with_allow_http(self.allows_http())
    }

    fn retry(&self) -> RetryConfig {
        let (init_backoff, max_backoff) = PAUSES;
        RetryConfig {
            backoff: BackoffConfig { init_backoff, max_backoff, base: 2.0 },
            max_retries: RETRIES,
            retry_timeout: self.timeout / 2,
        }
    }

    fn client(&self) -> StoreResult<&Arc<dyn ObjectStore>> {
        self.client
            .get_or_init(|| self.connect().map_err(|error| self.error(&error.into())))
            .as_ref()
            .map_err(Clone::clone)
    }

    /// Returns what the provider's variables say, as far as its client knows it.
    fn settings<K: FromStr>(&self) -> impl Iterator<Item = (K, &str)> {
        // These would undo what was checked.
        let is_own = |key: &str| {
            !key.ends_with("allow_http")
                && !key.ends_with("timeout")
                && !key.ends_with("allow_invalid_certificates")
        };
        let own = self.variables.keys().filter(move |(key, _)| is_own(key));
        own.filter_map(|(key, value)| Some((key.parse().ok()?, value)))
    }

    fn connect(&self) -> object_store::Result<Arc<dyn ObjectStore>> {
        // An error means that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let place = &self.place;
        Ok(match place.kind {
            Kind::S3 => {
                let mut builder = AmazonS3Builder::new()
                    .with_client_options(self.options())
                    .with_retry(self.retry())
                    .with_http_connector(Observed)
                    // Not every store knows the other way.
                    .with_disable_bulk_delete(true);
                for (key, value) in self.settings() {
                    builder = builder.with_config(key, value);
                }
                if let Some(region) = &place.region {
                    builder = builder.with_region(region);
                }
                if let Some(endpoint) = self.endpoint() {
                    builder = builder.with_config(object_store::aws::AmazonS3ConfigKey::S3Endpoint, endpoint);
                }
                Arc::new(builder.with_bucket_name(&place.bucket).build()?)
            }
            Kind::Google => {
                let mut builder = GoogleCloudStorageBuilder::new()
                    .with_client_options(self.options())
                    .with_retry(self.retry())
                    .with_http_connector(Observed);
                for (key, value) in self.settings() {
                    builder = builder.with_config(key, value);
                }
                if let Some(endpoint) = self.endpoint() {
                    builder = builder.with_base_url(endpoint);
                }
                Arc::new(builder.with_bucket_name(&place.bucket).build()?)
            }
            Kind::Azure => {
                let mut builder = MicrosoftAzureBuilder::new()
                    .with_client_options(self.options())
                    .with_retry(self.retry())
                    .with_http_connector(Observed);
                for (key, value) in self.settings() {
                    builder = builder.with_config(key, value);
                }
                if let Some(account) = &place.account {
                    builder = builder.with_account(account);
                }
                if let Some(endpoint) = self.endpoint() {
                    builder = builder.with_endpoint(endpoint.to_owned());
                }
                Arc::new(builder.with_container_name(&place.bucket).build()?)
            }
            Kind::Http => {
                let mut options = self.options();
                if let Some(token) = self.variables.get(env::REMOTE_TOKEN) {
                    options = options.with_default_headers(authorization(token)?);
                }
                Arc::new(
                    HttpBuilder::new()
                        .with_url(&place.origin)
                        .with_client_options(options)
                        .with_retry(self.retry())
                        .with_http_connector(Observed)
                        .build()?,
                )
            }
        })
    }

    fn path(&self, key: &str) -> Path {
        Path::from_iter(self.place.prefix.iter().map(String::as_str).chain(key.split('/')))
    }

    fn object(&self, meta: &ObjectMeta) -> Option<Object> {
        let above = Path::from_iter(self.place.prefix.iter().map(String::as_str));
        let key: Vec<String> =
            meta.location.prefix_match(&above)?.map(|part| part.as_ref().to_owned()).collect();
        Some(Object { key: key.join("/"), bytes: meta.size, modified: SystemTime::from(meta.last_modified) })
    }

    fn error(&self, failed: &Failed) -> StoreError {
        let StoreError { words, down } = failed.describe();
        StoreError { words: self.variables.redact(words), down }
    }

    async fn read(&self, key: &str, most: u64) -> StoreResult<Option<Vec<u8>>> {
        let (client, path) = (self.client()?, self.path(key));
        let read = observed(async {
            let found = client.get(&path).await?;
            let (mut bytes, mut parts) = (Vec::new(), found.into_stream());
            while let Some(part) = parts.try_next().await? {
                bytes.extend_from_slice(&part);
                if bytes.len() as u64 > most {
                    return Ok(None);
                }
            }
            Ok(Some(bytes))
        });
        match read.await {
            Ok(Some(bytes)) => Ok(Some(bytes)),
            Ok(None) => Err(StoreError::refused(format!("object {key} is too large"))),
            Err(failed) if failed.is_missing() => Ok(None),
            Err(failed) => Err(self.error(&failed)),
        }
    }

    async fn write(&self, key: &str, bytes: Vec<u8>, create_only: bool) -> StoreResult<bool> {
        let (client, path) = (self.client()?, self.path(key));
        let payload = PutPayload::from(bytes);
        if create_only && !self.unconditional.load(Ordering::Relaxed) {
            match observed(client.put_opts(&path, payload.clone(), PutMode::Create.into())).await {
                Ok(_) => return Ok(true),
                Err(Failed { error: Error::AlreadyExists { .. }, .. }) => return Ok(false),
                Err(failed) if failed.knows_no_condition() => {
                    self.unconditional.store(true, Ordering::Relaxed)
                }
                Err(failed) => return Err(self.error(&failed)),
            }
        }
        if create_only {
            match observed(client.head(&path)).await {
                Ok(_) => return Ok(false),
                Err(failed) if matches!(failed.error, Error::NotFound { .. }) => {}
                Err(failed) => return Err(self.error(&failed)),
            }
        }
        observed(client.put(&path, payload)).await.map_err(|failed| self.error(&failed))?;
        Ok(true)
    }

    async fn find(&self, prefix: &str, most: usize) -> StoreResult<Option<Vec<Object>>> {
        let (client, path) = (self.client()?, self.path(prefix));
        let mut found = Vec::new();
        let listed = observed(async {
            let mut listed = client.list(Some(&path));
            while let Some(meta) = listed.try_next().await? {
                found.extend(self.object(&meta));
                if found.len() >= most {
                    break;
                }
            }
            Ok(())
        });
        match listed.await {
            Ok(()) => Ok(Some(found)),
            Err(failed) if self.place.kind == Kind::Http && failed.status().is_some() => {
                self.walk(client, path, most).await
            }
            Err(failed) => Err(self.error(&failed)),
        }
    }

    /// Lists directory by directory: some servers do not list a tree at once, and some none.
    async fn walk(
        &self,
        client: &Arc<dyn ObjectStore>,
        top: Path,
        most: usize,
    ) -> StoreResult<Option<Vec<Object>>> {
        let (mut found, mut next) = (Vec::new(), vec![top]);
        while let Some(directory) = next.pop().filter(|_| found.len() < most) {
            match observed(client.list_with_delimiter(Some(&directory))).await {
                Ok(listed) => {
                    found.extend(listed.objects.iter().filter_map(|meta| self.object(meta)));
                    next.extend(listed.common_prefixes);
                }
                // What a server says that has no PROPFIND.
                Err(failed) if matches!(failed.status(), Some(400 | 404 | 405 | 501)) => return Ok(None),
                Err(failed) => return Err(self.error(&failed)),
            }
        }
        found.truncate(most);
        Ok(Some(found))
    }

    async fn remove(&self, key: &str) -> StoreResult<()> {
        match observed(self.client()?.delete(&self.path(key))).await {
            Ok(()) | Err(Failed { error: Error::NotFound { .. }, .. }) => Ok(()),
            Err(failed) => Err(self.error(&failed)),
        }
    }
}

impl Store for Objects {
    fn get<'a>(&'a self, key: &'a str, most: u64) -> BoxFuture<'a, StoreResult<Option<Vec<u8>>>> {
        self.read(key, most).boxed()
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        bytes: Vec<u8>,
        create_only: bool,
    ) -> BoxFuture<'a, StoreResult<bool>> {
        self.write(key, bytes, create_only).boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str, most: usize) -> BoxFuture<'a, StoreResult<Option<Vec<Object>>>> {
        self.find(prefix, most).boxed()
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        self.remove(key).boxed()
    }

    fn stranger(&self) -> Option<String> {
        Some("`[remote] trust` names no key, and only a directory is read without".into())
    }

    fn credentials(&self) -> Option<String> {
        let of = |names: &[&str]| self.variables.any(names);
        let machine = match self.place.kind {
            Kind::S3 => {
                let named = of(&["AWS_ACCESS_KEY_ID", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"]);
                let named = named.or_else(|| of(&["AWS_WEB_IDENTITY_TOKEN_FILE"]));
                match named.or_else(|| of(&["AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_SKIP_SIGNATURE"])) {
                    Some(name) => return Some(format!("from {name}")),
                    None if self.variables.get("AWS_PROFILE").is_some() => {
                        "of the machine; AWS_PROFILE does not count, so run \
                         `eval \"$(aws configure export-credentials --format env)\"` before"
                    }
                    None => "of the machine, since no AWS variable holds any",
                }
            }
            Kind::Google => {
                let names = [
                    "GOOGLE_SERVICE_ACCOUNT",
                    "GOOGLE_SERVICE_ACCOUNT_PATH",
                    "GOOGLE_SERVICE_ACCOUNT_KEY",
                    "GOOGLE_APPLICATION_CREDENTIALS",
                    "GOOGLE_BEARER_TOKEN",
                    "GOOGLE_SKIP_SIGNATURE",
                ];
                match of(&names) {
                    Some(name) => return Some(format!("from {name}")),
                    None => "of gcloud or of the machine, since no GOOGLE variable holds any",
                }
            }
            Kind::Azure => {
                let names = [
                    "AZURE_STORAGE_ACCOUNT_KEY",
                    "AZURE_STORAGE_ACCESS_KEY",
                    "AZURE_STORAGE_SAS_KEY",
                    "AZURE_STORAGE_SAS_TOKEN",
                    "AZURE_STORAGE_TOKEN",
                    "AZURE_FEDERATED_TOKEN_FILE",
                    "AZURE_CLIENT_SECRET",
                    "AZURE_STORAGE_CLIENT_SECRET",
                    "AZURE_USE_AZURE_CLI",
                    "AZURE_SKIP_SIGNATURE",
                ];
                match of(&names) {
                    Some(name) => return Some(format!("from {name}")),
                    None => "of the machine, since no AZURE variable holds any",
                }
            }
            Kind::Http => match of(&[env::REMOTE_TOKEN]) {
                Some(name) => return Some(format!("from {name}")),
                None => "none",
            },
        };
        Some(machine.to_owned())
    }
}

/// Returns the header with a bearer token, or with a user and a password.
fn authorization(token: &str) -> object_store::Result<HeaderMap> {
    let text = match token.split_once(':') {
        Some(_) => format!("Basic {}", BASE64_STANDARD.encode(token)),
        None => format!("Bearer {token}"),
    };
    let mut value = HeaderValue::from_str(&text).map_err(|_| Error::Generic {
        store: "HTTP",
        source: format!("{} holds a character that a header cannot", env::REMOTE_TOKEN).into(),
    })?;
    value.set_sensitive(true);
    let mut headers = HeaderMap::new();
    headers.insert("authorization", value);
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str, variables: &[(&str, &str)]) -> Result<Objects, String> {
        let place = Place::read(url).unwrap().unwrap();
        Objects::new(place, Duration::from_secs(1), &variables.iter().copied().collect())
    }

    #[test]
    fn unencrypted_connections_take_a_permission() {
        let local = ("AWS_ENDPOINT_URL", "http://127.0.0.1:9000");
        assert!(at("s3://b/x", &[local]).unwrap_err().contains("AWS_ALLOW_HTTP=true"));
        assert!(at("s3://b/x", &[local, ("AWS_ALLOW_HTTP", "true")]).is_ok());
        assert!(at("s3://b/x?allow_http=true", &[local]).is_ok());
        assert!(at("s3://b/x?allow_http=false", &[local, ("AWS_ALLOW_HTTP", "true")]).is_err());
        assert!(at("s3://b/x?endpoint=http://minio:9000&allow_http=true", &[]).is_ok());
        // Tokens would be read on the way.
        let far = ("GOOGLE_BASE_URL", "http://fake-gcs:4443");
        assert!(at("gs://b/x?allow_http=true", &[far]).unwrap_err().contains("on this machine"));
        assert!(at("gs://b/x?allow_http=true&endpoint=http://localhost:4443", &[far]).is_ok());
        assert!(at("http://127.0.0.1:80/x", &[]).is_err());
        assert!(at("http://127.0.0.1:80/x?allow_http=true", &[]).is_ok());
    }

    #[test]
    fn credentials_are_told_by_name() {
        let of = |variables| at("s3://b/x", variables).unwrap().credentials().unwrap();
        assert_eq!(of(&[("AWS_ACCESS_KEY_ID", "AKIA")]), "from AWS_ACCESS_KEY_ID");
        assert!(of(&[]).contains("of the machine"));
        assert!(of(&[("AWS_PROFILE", "ci")]).contains("export-credentials"));
    }
}
