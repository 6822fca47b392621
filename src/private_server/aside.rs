//! Data that cannot be trusted any more: when that is so, and where it goes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::cluster::{Cluster, Data};
use super::folder::unusable;
use super::majors;
use crate::error::Result;

/// What the names of directories with such data begin with.
const PREFIX: &str = "data.crashed-";

impl Cluster {
    /// Why the next start must not use this data; `None` if it can. `rebooted`: the server was last started
    /// in another boot of the host.
    pub(super) fn distrust(&self, data: Data, rebooted: bool) -> Option<String> {
        match data {
            Data::Broken => Some("the data directory held no complete cluster".to_owned()),
            Data::Unclean if rebooted => Some("the host went down while the private server ran".to_owned()),
            Data::Clean if rebooted => self.doubt(),
            Data::Missing | Data::Unclean | Data::Clean => None,
        }
    }

    /// Moves the data out of the way, to a directory that was not there before. Returns where it went.
    pub(super) fn move_aside(&self) -> Result<PathBuf> {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let name = format!("{PREFIX}{}", now.replace(':', "-"));
        let mut aside = self.folder.join(&name);
        let mut number = 1;
        // A rename would replace an empty directory.
        while fs::symlink_metadata(&aside).is_ok() {
            number += 1;
            aside = self.folder.join(format!("{name}-{number}"));
        }
        fs::rename(self.data(), &aside).map_err(|e| unusable(&aside, e))?;
        Ok(aside)
    }
}

/// The directories that were moved aside in the cluster of one major version, oldest first.
pub(super) fn moved_of(home: &Path, major: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.join(major.to_string()));
    let mut moved: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
        .map(|entry| entry.path())
        .collect();
    moved.sort();
    moved
}

/// The directories that were moved aside in all clusters.
pub(super) fn moved(home: &Path) -> Vec<PathBuf> {
    let majors = majors(home).into_iter();
    majors.flat_map(|major| moved_of(home, major)).collect()
}

/// What to say of directories that were moved aside; `None` if there are none.
pub fn notice(moved: &[PathBuf]) -> Option<String> {
    let names: Vec<String> = moved.iter().map(|f| f.display().to_string()).collect();
    (!names.is_empty()).then(|| {
        format!(
            "old data of the private server, which was moved aside, is still in {}; `pgstencil server remove --moved` deletes it",
            names.join(" and ")
        )
    })
}
