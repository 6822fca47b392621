//! Moves data aside that can no longer be trusted.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::cluster::{Cluster, Data};
use super::directory::unusable;
use super::majors;
use crate::error::Result;

/// The beginning of the names of directories with such data.
const PREFIX: &str = "data.crashed-";

impl Cluster {
    /// Returns the reason why the next start must not use this data; `None` if it can. `rebooted`: the server
    /// was last started in another boot of the host.
    pub(super) fn distrust(&self, data: Data, rebooted: bool) -> Option<String> {
        match data {
            Data::Broken => Some("the data directory contained no complete cluster".to_owned()),
            Data::Unclean if rebooted => {
                Some("the host went down while the private server was running".to_owned())
            }
            Data::Clean if rebooted => self.doubt(),
            Data::Missing | Data::Unclean | Data::Clean => None,
        }
    }

    /// Moves the data to a directory that did not exist before. Returns its path.
    pub(super) fn move_aside(&self) -> Result<PathBuf> {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let name = format!("{PREFIX}{}", now.replace(':', "-"));
        let mut aside = self.directory.join(&name);
        let mut number = 1;
        // A rename would replace an empty directory.
        while fs::symlink_metadata(&aside).is_ok() {
            number += 1;
            aside = self.directory.join(format!("{name}-{number}"));
        }
        fs::rename(self.data(), &aside).map_err(|e| unusable(&aside, e))?;
        Ok(aside)
    }
}

/// Returns the directories that were moved aside in the cluster of one major version, oldest first.
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

/// Returns the directories that were moved aside in all clusters.
pub(super) fn moved(home: &Path) -> Vec<PathBuf> {
    let majors = majors(home).into_iter();
    majors.flat_map(|major| moved_of(home, major)).collect()
}

/// Returns the notice for directories that were moved aside; `None` if there are none.
pub(crate) fn notice(moved: &[PathBuf]) -> Option<String> {
    let names: Vec<String> = moved.iter().map(|f| f.display().to_string()).collect();
    (!names.is_empty()).then(|| {
        format!(
            "the private server's old data, which was moved aside, is still in {}; delete it with `pgstencil server remove --moved`",
            names.join(" and ")
        )
    })
}
