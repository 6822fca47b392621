//! Identifies this machine: across reboots, and where a process id is valid.

use std::path::Path;

use crate::env::{self, Environment};
use crate::git::ask;

/// Separates pgstencil's hash of a machine's id from those of other programs.
const PURPOSE: &str = "pgstencil 2026 owner of a clone";

/// Returns the id of the machine, across reboots. Containers of one image may share a machine-id, so there it is the
/// host name, as it is where there is no id.
pub(super) async fn id(env: &Environment, host: &str) -> String {
    if cfg!(target_os = "macos") {
        let uuid = ask::host_uuid().await.ok().flatten();
        return uuid.map_or_else(|| host.to_owned(), |uuid| hidden(&uuid));
    }
    let variable = |name: &str| env.non_empty(name).is_some();
    let contained = variable(env::CONTAINER) || variable(env::KUBERNETES);
    linux(Path::new("/"), contained, host)
}

fn linux(system: &Path, contained: bool, host: &str) -> String {
    match contained || is_container(system) {
        true => host.to_owned(),
        false => machine_id(system).map_or_else(|| host.to_owned(), |id| hidden(&id)),
    }
}

/// Hashes the id, which is confidential according to its manual
/// (<https://www.freedesktop.org/software/systemd/man/machine-id.html>), since others read this.
fn hidden(id: &str) -> String {
    let mut hash = blake3::Hasher::new_derive_key(PURPOSE);
    hash.update(id.as_bytes());
    hash.finalize().to_hex()[..32].to_owned()
}

fn machine_id(system: &Path) -> Option<String> {
    ["etc/machine-id", "var/lib/dbus/machine-id"].iter().find_map(|file| {
        let text = std::fs::read_to_string(system.join(file)).ok()?;
        let id = text.trim();
        // Before the first boot of an image it is empty, or `uninitialized`.
        let whole = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
        whole.then(|| id.to_ascii_lowercase())
    })
}

/// Whether there are traces of a container engine: Docker's and Podman's files, systemd's record, the control groups
/// of the first version; and the files that each of them mounts over the image's own.
fn is_container(system: &Path) -> bool {
    let marks = [".dockerenv", "run/.containerenv", "run/systemd/container"];
    if marks.iter().any(|mark| system.join(mark).exists()) {
        return true;
    }
    let read = |file: &str| std::fs::read_to_string(system.join(file)).unwrap_or_default();
    let engines = ["docker", "kubepods", "containerd", "libpod", "/lxc"];
    let groups = read("proc/1/cgroup");
    if engines.iter().any(|engine| groups.contains(engine)) {
        return true;
    }
    // Engines mount these one by one; no other program does.
    let mounts = read("proc/self/mountinfo");
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let (mut hosts, mut name) = (false, false);
    for point in points {
        hosts |= point == "/etc/hosts";
        name |= point == "/etc/hostname";
    }
    hosts && name
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3d1219c7c4c5404aaa1f6d2a48adfda4";

    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    fn id_of(files: &[(&str, &str)]) -> String {
        linux(system(files).path(), false, "host")
    }

    #[test]
    fn the_machine_is_its_id_and_nobody_reads_that() {
        let id = id_of(&[("etc/machine-id", &format!("{ID}\n"))]);
        assert_eq!(id, id_of(&[("var/lib/dbus/machine-id", ID)]));
        assert!(id.len() == 32 && id != ID, "{id}");
        for none in ["", "uninitialized\n", "0123"] {
            assert_eq!(id_of(&[("etc/machine-id", none)]), "host");
        }
    }

    #[test]
    fn in_a_container_it_is_the_host_name() {
        let mounts = "1 0 8:1 /a /etc/hosts rw\n2 0 8:1 /b /etc/hostname rw\n";
        for mark in [
            (".dockerenv", ""),
            ("run/.containerenv", ""),
            ("run/systemd/container", "lxc\n"),
            ("proc/1/cgroup", "12:pids:/kubepods/besteffort/pod1/2\n"),
            ("proc/1/cgroup", "4:memory:/docker/0123\n"),
            ("proc/self/mountinfo", mounts),
        ] {
            assert_eq!(id_of(&[("etc/machine-id", ID), mark]), "host", "{mark:?}");
        }
        let host = [("etc/machine-id", ID), ("proc/1/cgroup", "0::/init.scope\n")];
        assert_ne!(id_of(&host), "host");
        let folder = system(&host);
        assert_eq!(linux(folder.path(), true, "host"), "host");
    }
}
