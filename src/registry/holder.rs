//! Who builds a template or holds a clone, in words that help a person to find them.

use serde::{Deserialize, Serialize};

/// A process on some host. Everything here is told to others, so no secrets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Holder {
    /// Host name.
    pub host: String,
    /// Process id on that host.
    pub pid: u32,
    /// Boot and pid namespace in which `pid` means something; empty if unknown.
    #[serde(default)]
    pub machine: String,
    /// Account's name.
    #[serde(default)]
    pub user: String,
    /// Folder of the checkout.
    #[serde(default)]
    pub worktree: String,
    /// Branch that is checked out there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// What runs: the CI job, or the command's name.
    #[serde(default)]
    pub label: String,
}

impl Holder {
    /// One line for a person, where the process has ended and its checkout is what remains.
    pub fn describe_checkout(&self) -> String {
        let mut text = format!("{} on {}, {}", self.user, self.host, self.worktree);
        if let Some(branch) = &self.branch {
            text += &format!(" ({branch})");
        }
        text
    }

    /// One line for a person.
    pub fn describe(&self) -> String {
        let mut text = format!("pid {} on {}", self.pid, self.host);
        if !self.label.is_empty() {
            text += &format!(" ({})", self.label);
        }
        text
    }
}
