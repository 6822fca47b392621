//! Other users of this machine. Only root can act for them.

use std::os::unix::fs::lchown;
use std::path::Path;

use nix::unistd::{User, geteuid};

/// Two accounts that are neither root nor each other. `None` without root: the test cannot be run, and
/// says so.
pub(crate) fn strangers(test: &str) -> Option<[User; 2]> {
    if !geteuid().is_root() {
        eprintln!("SKIPPED {test}: it needs root, to act for other users");
        return None;
    }
    let mut found = ["nobody", "daemon", "bin", "games", "mail"]
        .into_iter()
        .filter_map(|name| User::from_name(name).ok().flatten())
        .filter(|user| !user.uid.is_root());
    match (found.next(), found.next()) {
        (Some(one), Some(other)) => Some([one, other]),
        _ => panic!("root needs two accounts such as `nobody` and `daemon` for this test"),
    }
}

/// Gives a file, directory or link to an account; a link is not followed.
pub(crate) fn give(path: impl AsRef<Path>, to: &User) {
    let path = path.as_ref();
    lchown(path, Some(to.uid.as_raw()), Some(to.gid.as_raw()))
        .unwrap_or_else(|e| panic!("cannot give {} away: {e}", path.display()));
}
