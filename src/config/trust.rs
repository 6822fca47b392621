//! Whether a config file that was found may be used.
//!
//! A config runs commands and names the server that gets the password, so a file that another user laid
//! into a shared directory must not count. The rule is that of git since CVE-2022-24765, and goes by
//! ownership alone: mode bits say nothing where a runner works under umask 0.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::{Config, FILE_NAME};
use crate::error::{Error, Result, shell_word};
use crate::private_file::user_name;

/// How many links lead to a file at most, as in the kernel.
const MOST_LINKS: usize = 40;

/// How a config came to be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Origin {
    /// The caller named the file, whoever owns it.
    #[default]
    Named,
    /// It was found, and belongs to this user or to root.
    Own,
    /// It was found, and belongs to the owner of the current directory, who is another user.
    Neighbor {
        /// Their user id.
        uid: u32,
    },
}

/// A config file that was found and may be used. It is open, so what is read is what was judged.
#[derive(Debug)]
#[non_exhaustive]
pub struct Found {
    path: PathBuf,
    file: File,
    origin: Origin,
}

impl Found {
    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Reads and checks the config.
    ///
    /// # Errors
    /// A file that cannot be read, and everything that [`Config::parse`] refuses.
    pub fn load(mut self) -> Result<Config> {
        let mut bytes = Vec::new();
        self.file
            .read_to_end(&mut bytes)
            .map_err(|e| Error::config(format!("cannot read `{}`", self.path.display())).caused_by(e))?;
        let mut config = super::from_bytes(bytes, &self.path)?;
        config.origin = self.origin;
        Ok(config)
    }
}

/// The users whose files count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trust {
    /// This user.
    us: u32,
    /// The owner of the current directory.
    folder: u32,
}

impl Trust {
    /// For whoever works in this directory. Where its owner is not known, only this user and root count.
    pub(super) fn of(folder: &Path) -> Self {
        let us = geteuid().as_raw();
        let owner = fs::metadata(folder).map_or(us, |about| about.uid());
        let folder = match is_anybody(owner) {
            true => us,
            false => owner,
        };
        Trust { us, folder }
    }

    /// What a file of this user is to us; `None`: it does not count.
    fn judge(self, uid: u32) -> Option<Origin> {
        match uid {
            0 => Some(Origin::Own),
            uid if uid == self.us => Some(Origin::Own),
            uid if uid == self.folder => Some(Origin::Neighbor { uid }),
            _ => None,
        }
    }

    /// Opens the file of this name. `None`: there is none. Links to it are judged as the file is, since
    /// their owner decides what they lead to.
    ///
    /// # Errors
    /// A file or link whose owner does not count; a file that cannot be opened.
    pub(super) fn open(self, path: PathBuf) -> Result<Option<Found>> {
        let mut origin = Origin::Own;
        let mut place = path.clone();
        for _ in 0..MOST_LINKS {
            let Ok(about) = fs::symlink_metadata(&place) else {
                return Ok(None);
            };
            if !about.is_symlink() && !about.is_file() {
                return Ok(None);
            }
            if about.is_symlink() && fs::metadata(&place).is_err() {
                return Ok(None);
            }
            let mut meet = |uid: u32| match self.judge(uid) {
                None => Err(self.refusal(&path, &place, uid)),
                Some(Origin::Own) => Ok(()),
                Some(other) => {
                    origin = other;
                    Ok(())
                }
            };
            meet(about.uid())?;
            if about.is_symlink() {
                let Ok(target) = fs::read_link(&place) else {
                    return Ok(None);
                };
                place = place.parent().unwrap_or(Path::new("")).join(target);
                continue;
            }
            let file = open(&place)
                .map_err(|e| Error::config(format!("cannot read `{}`", path.display())).caused_by(e))?;
            // Between the look and the opening another file may have taken its place.
            let about = file
                .metadata()
                .map_err(|e| Error::config(format!("cannot read `{}`", path.display())).caused_by(e))?;
            meet(about.uid())?;
            return Ok(about.is_file().then_some(Found { path, file, origin }));
        }
        Ok(None)
    }

    fn refusal(self, path: &Path, place: &Path, uid: u32) -> Error {
        let owner = user_name(uid);
        let what = match path == place {
            true => String::new(),
            false => format!(" through `{}`", place.display()),
        };
        let error = Error::config(format!(
            "not using the config file `{}`{what}: it belongs to {owner}",
            path.display()
        ))
        .detail("a config file runs commands and names the server that gets your password")
        .detail(match self.folder {
            folder if folder == self.us || folder == 0 => format!(
                "without `--config`, a config file must belong to you ({}) or to root",
                user_name(self.us)
            ),
            folder => format!(
                "without `--config`, a config file must belong to you ({}), to root, or to the owner of the current directory ({})",
                user_name(self.us),
                user_name(folder)
            ),
        });
        let word = shell_word(path.display());
        error
            .hint(format!(
                "if you trust {owner}, name the file: `--config {word}` or `PGSTENCIL_CONFIG={word}`"
            ))
            .hint(format!("otherwise put your own `{FILE_NAME}` into the current directory"))
    }
}

/// In a user namespace that does not map all users (a rootless container), one id stands for all the others:
/// two files that seem to have the same owner may have two.
fn is_anybody(uid: u32) -> bool {
    let text = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let overflow = text("/proc/sys/kernel/overflowuid");
    overflow.trim().parse() == Ok(uid) && !maps_all_users(&text("/proc/self/uid_map"))
}

/// Whether a `uid_map`, lines of first id inside, first id outside and their number, leaves nobody out.
/// Without namespaces there is no such file.
fn maps_all_users(map: &str) -> bool {
    let count = |line: &str| line.split_whitespace().nth(2)?.parse::<u64>().ok();
    map.trim().is_empty() || map.lines().filter_map(count).sum::<u64>() >= u64::from(u32::MAX)
}

fn open(path: &Path) -> std::io::Result<File> {
    // Without waiting for a pipe that has taken the file's place.
    OpenOptions::new().read(true).custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()).open(path)
}

/// Opens a config file by name for a process that was started after its caller had judged it: the owner
/// must still be one that counted.
///
/// # Errors
/// A file that has another owner by now; one that cannot be read; everything that [`Config::parse`] refuses.
pub fn load_again(path: &Path, origin: Origin) -> Result<Config> {
    let folder = match origin {
        Origin::Named => return Config::load(path),
        Origin::Own => geteuid().as_raw(),
        Origin::Neighbor { uid } => uid,
    };
    let trust = Trust { us: geteuid().as_raw(), folder };
    match trust.open(path.to_owned())? {
        Some(found) => found.load(),
        None => Err(Error::config(format!("no config file `{}`", path.display()))
            .caused_by(std::io::Error::from(ErrorKind::NotFound))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const OTHER: u32 = 4321;

    #[test]
    fn files_of_ours_of_root_and_of_the_folders_owner_count() {
        let ours = Trust { us: 1000, folder: 1000 };
        assert_eq!(ours.judge(1000), Some(Origin::Own));
        assert_eq!(ours.judge(0), Some(Origin::Own));
        assert_eq!(ours.judge(OTHER), None);
        // Root in a container, in a checkout of uid 1000.
        let container = Trust { us: 0, folder: 1000 };
        assert_eq!(container.judge(1000), Some(Origin::Neighbor { uid: 1000 }));
        assert_eq!(container.judge(OTHER), None);
        // In /tmp, which is root's.
        let shared = Trust { us: 1000, folder: 0 };
        assert_eq!(shared.judge(OTHER), None);
    }

    #[test]
    fn a_namespace_that_leaves_users_out_is_told() {
        assert!(maps_all_users("         0          0 4294967295\n"));
        assert!(maps_all_users(""));
        assert!(!maps_all_users("         0       1000          1\n"));
        assert!(!maps_all_users("0 1000 1\n1 100000 65536\n"));
    }

    /// As if we were another user.
    fn elsewhere(us: u32) -> Trust {
        Trust { us, folder: us }
    }

    #[test]
    fn links_lead_to_files_that_count() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "x").unwrap();
        symlink("file", at("link")).unwrap();
        symlink("link", at("chain")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let trust = Trust::of(folder.path());
        for name in ["file", "link", "chain"] {
            let found = trust.open(at(name)).unwrap().unwrap();
            assert_eq!((found.path(), found.origin()), (&*at(name), Origin::Own));
        }
        for name in ["dangling", "loop", "nothing"] {
            assert!(trust.open(at(name)).unwrap().is_none(), "{name}");
        }
        assert!(trust.open(folder.path().to_owned()).unwrap().is_none());
        if !geteuid().is_root() {
            let stranger = elsewhere(geteuid().as_raw() + 1);
            for name in ["file", "link"] {
                let e = stranger.open(at(name)).expect_err(name);
                assert!(e.message().contains("not using the config file"), "{e}");
            }
        }
    }
}
