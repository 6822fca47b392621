//! The packages of `examples/packages`, built, installed and used. Not by CI, since that takes another build of
//! everything.

use std::path::Path;
use std::process::Command;

use crate::support::{Project, server};

#[test]
fn packages_are_built_installed_and_used() {
    if std::env::var_os("PGSTENCIL_TEST_PACKAGES").is_none() {
        eprintln!("SKIPPED, since PGSTENCIL_TEST_PACKAGES is not set: no package was built and installed");
        return;
    }
    let project = Project::new(server());
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let folders = server().bindir().map(Path::to_owned).into_iter().chain(std::env::split_paths(&inherited));
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/packages.sh"))
        .env("PATH", std::env::join_paths(folders).unwrap())
        .env("PGSTENCIL_SERVER_URL", project.server_url())
        .env("PGSTENCIL_STATE_DIR", project.state_dir())
        .env("PACKAGES_REGISTRY", project.registry())
        .env("PACKAGES_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages"))
        // The binary that other tests start must stay.
        .env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages-target"))
        // A release build takes minutes.
        .env("PACKAGES_PROFILE", "dev")
        .env("PACKAGES_MUSL", "no")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("{text}");
}
