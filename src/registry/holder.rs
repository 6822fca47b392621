//! Processes that build a template or hold a clone, with facts that help a person to find them.

use std::path::Path;

use nix::unistd::{User, gethostname, getuid};
use serde::{Deserialize, Serialize};

/// Process on some host. Other users can read everything here, so it holds no secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Holder {
    /// Host name.
    pub host: String,
    /// Process id on that host.
    pub pid: u32,
    /// Boot and pid namespace in which `pid` is valid; empty if unknown.
    #[serde(default)]
    pub machine: String,
    /// Name of the account.
    #[serde(default)]
    pub user: String,
    /// Directory of the checkout.
    #[serde(default)]
    pub worktree: String,
    /// Branch that is checked out in that directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Name of the program: the CI job, or the command.
    #[serde(default)]
    pub label: String,
    /// Checkout that the process works in; it outlives the process.
    #[serde(default)]
    pub checkout: Checkout,
}

/// Checkout on a machine. Together with the server role it is the owner of a named clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkout {
    /// Id of the machine, the same across reboots: machine-id on Linux, the host's UUID on macOS, the host name in
    /// a container. Empty if unknown, or if `owner` is set.
    #[serde(default)]
    pub machine: String,
    /// `PGSTENCIL_OWNER`, which replaces machine and directory; empty if it is not set.
    #[serde(default)]
    pub owner: String,
    /// Top level of the git checkout; without git the directory of the config's root.
    #[serde(default)]
    pub top: String,
    /// The config's root relative to `top`; empty if it is `top`.
    #[serde(default)]
    pub below: String,
    /// Repository that the checkout belongs to; `None` without git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<Repository>,
    /// Name of the checkout's worktree as git registered it; `None` for the main worktree and without git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worktree: Option<String>,
    /// Value of `{branch}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<Branch>,
}

/// Git repository on a machine. Copied machines and containers share paths, so the path is not enough.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// Absolute path of git's common directory.
    pub common_dir: String,
    /// Inode of that directory.
    pub inode: u64,
    /// Time of that directory's creation, in seconds since 1970; `None` if the file system does not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born: Option<i64>,
}

/// Value of `{branch}`, and its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch {
    /// Name as git or the CI system writes it.
    pub name: String,
    /// Source of the name.
    pub from: BranchSource,
}

/// Source of a branch's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BranchSource {
    /// Branch of this repository, checked out or being rebased here.
    Local,
    /// Variable of a CI system.
    Ci,
    /// Bookmark of jj.
    Bookmark,
    /// Id of the commit that is checked out.
    Commit,
}

impl Checkout {
    /// Returns the value of `{worktree}`: the name under which git registered the worktree; for a main worktree,
    /// and without git, the name of the directory. `None` if the checkout is not known.
    pub fn worktree_name(&self) -> Option<String> {
        let Some(name) = &self.worktree else {
            let folder = Path::new(&self.top).file_name()?;
            return Some(folder.to_string_lossy().into_owned());
        };
        // Another worktree may have the same name as the main one.
        let common = self.repository.as_ref().map(|r| Path::new(&r.common_dir));
        let main =
            common.filter(|common| common.ends_with(".git")).and_then(|common| common.parent()?.file_name());
        match main.is_some_and(|main| main == name.as_str()) {
            true => Some(format!("{name}/{name}")),
            false => Some(name.clone()),
        }
    }
}

/// Describes this process, without a checkout: its host, number, account and program.
impl Default for Holder {
    fn default() -> Self {
        let user = User::from_uid(getuid()).ok().flatten();
        let program = std::env::current_exe().ok();
        let name = program.as_deref().and_then(Path::file_name);
        Holder {
            user: user.map(|user| user.name).unwrap_or_default(),
            label: name.map_or_else(String::new, |name| name.to_string_lossy().into()),
            ..Holder::process()
        }
    }
}

/// Returns boot and pid namespace: where these are equal, a pid means the same process. Linux only.
fn machine() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}

impl Holder {
    /// Describes this process by its host and number only, for callers that know the rest better than
    /// [`Holder::default`], which asks the system for account and program.
    pub fn process() -> Self {
        Holder {
            host: gethostname().map_or_else(|_| String::new(), |h| h.to_string_lossy().into()),
            pid: std::process::id(),
            machine: machine().unwrap_or_default(),
            user: String::new(),
            worktree: String::new(),
            branch: None,
            label: String::new(),
            checkout: Checkout::default(),
        }
    }

    /// Returns one line for a person, for a process that has ended while its checkout remains.
    pub fn describe_checkout(&self) -> String {
        let mut text = format!("{} on {}", self.user, self.host);
        // A program that uses the library may not know any checkout.
        if !self.worktree.is_empty() {
            text += &format!(", {}", self.worktree);
        }
        if let Some(branch) = &self.branch {
            text += &format!(" ({branch})");
        }
        text
    }

    /// Returns one line for a person.
    pub fn describe(&self) -> String {
        let mut text = format!("pid {} on {}", self.pid, self.host);
        if !self.label.is_empty() {
            text += &format!(" ({})", self.label);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worktree_of_a_repository_has_a_name_of_its_own() {
        let name = |top: &str, worktree: Option<&str>| {
            let checkout = Checkout {
                top: top.into(),
                worktree: worktree.map(Into::into),
                repository: Some(Repository { common_dir: "/src/shop/.git".into(), ..Repository::default() }),
                ..Checkout::default()
            };
            checkout.worktree_name()
        };
        assert_eq!(name("/src/shop", None).as_deref(), Some("shop"));
        assert_eq!(name("/wt/moved", Some("fix")).as_deref(), Some("fix"));
        assert_eq!(name("/wt/shop", Some("shop")).as_deref(), Some("shop/shop"));
        assert_eq!(Checkout::default().worktree_name(), None);
    }
}
