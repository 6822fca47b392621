//! The registry of an older version: told by commands that read, upgraded by those that write.

use crate::support::extension::{KEEP, items, outcome, registry as ask};
use crate::support::hold::{list, only_templates_left};
use crate::support::server::quote_ident;
use crate::support::{Pgstencil, Project, server};

const FILES: [&str; 4] = [
    include_str!("../../src/registry/schema/001.sql"),
    include_str!("../../src/registry/schema/002.sql"),
    include_str!("../../src/registry/schema/003.sql"),
    include_str!("../../src/registry/schema/004.sql"),
];

/// Makes the project's registry as that version of it was.
fn older(project: &Project<'_>, version: usize) {
    let registry = project.registry();
    let create = format!(
        "create database {} template template0 encoding 'UTF8' lc_collate 'C' lc_ctype 'C'",
        quote_ident(&registry)
    );
    server().psql("postgres", &create);
    for file in &FILES[..version] {
        server().psql(&registry, file);
    }
    let note = format!("update pgstencil.meta set version = {version}");
    server().psql(&registry, &note);
}

#[test]
fn a_registry_of_version_one_is_upgraded_with_what_is_in_it() {
    let project = Project::with_migrations(server());
    let registry = project.registry();
    older(&project, 1);
    let fingerprint = "ab".repeat(32);
    server().psql(
        &registry,
        &format!(
            "insert into pgstencil.template (project, definition, fingerprint, state, recipe, builder, sealed_at, created_at) \
             values ('{}', 'app', '{fingerprint}', 'ready', '{{}}', '{{\"host\": \"h\", \"pid\": 1}}', now(), now() - interval '3 days')",
            project.name()
        ),
    );
    Pgstencil::new(&project)
        .arg("list")
        .fails(2)
        .stderr_has("was created by an older version of pgstencil")
        .stderr_has("`pgstencil ensure`");
    // What has a recipe that cannot be read is no base, and in nobody's way.
    Pgstencil::new(&project).arg("ensure").success();
    let version = "select version from pgstencil.meta";
    assert_eq!(server().psql(&registry, version), "10");
    let rows = list(&project)["templates"].as_array().unwrap().clone();
    let old = rows.iter().find(|t| t["fingerprint"] == *fingerprint).unwrap();
    assert_eq!(old["chain"], 0);
    assert_eq!(old["provisional"], false);
    assert_eq!(rows.len(), 2);
    let age = "select now() - fresh_at > interval '2 days' from pgstencil.template order by id limit 1";
    assert_eq!(server().psql(&registry, age), "t");
}

/// Up to version 4 a comparison could find what Postgres itself had written into the options of columns.
#[test]
fn notes_of_differences_are_forgotten_with_version_five() {
    let project = Project::extending(server(), KEEP);
    items(&project);
    let explained = Pgstencil::new(&project).args(["explain", "--json"]).success().json();
    let noted = explained["fingerprint"].as_str().unwrap();
    std::fs::remove_file(project.path().join("migrations/0003_items.sql")).unwrap();
    older(&project, 4);
    let name = project.name();
    let event = format!(
        "insert into pgstencil.event (project, definition, fingerprint, outcome, millis)
             values ('{name}', 'app', '{noted}', 'differed', 5), ('{name}', 'app', '{noted}', 'settled', 5)"
    );
    ask(&project, &event);
    for (fingerprint, difference) in
        [("aa", "'-  column 1 with (pg_attver=1)'"), ("bb", "''"), ("cc", "null")]
    {
        let template = format!(
            "insert into pgstencil.template (project, definition, fingerprint, state, recipe, builder, sealed_at, difference)
                 values ('{name}', 'app', '{}', 'ready', '{{}}', '{{\"host\": \"h\", \"pid\": 1}}', now(), {difference})",
            fingerprint.repeat(32)
        );
        ask(&project, &template);
    }
    outcome(&project, "miss");
    let events = "select outcome from pgstencil.event order by id";
    assert_eq!(ask(&project, events), "settled\nmiss");
    let differences = "select left(fingerprint, 2), coalesce(difference, 'unknown') from pgstencil.template
         where recipe = '{}' order by 1";
    assert_eq!(ask(&project, differences), "aa|unknown\nbb|\ncc|unknown");
    items(&project);
    assert_eq!(outcome(&project, "extended")["fingerprint"], noted);
    // One that is noted now is kept to: the next build of that fingerprint is a full one.
    ask(&project, &event);
    Pgstencil::new(&project).args(["evict", &noted[..12]]).success();
    outcome(&project, "miss");
}

/// Up to version 4 nobody's checkout was recorded.
#[test]
fn a_clone_of_version_four_belongs_to_whom_its_holder_matches() {
    let project = Project::with_migrations(server());
    older(&project, 4);
    let fingerprint = "ab".repeat(32);
    let host = nix::unistd::gethostname().unwrap();
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
    let user = user.unwrap().unwrap().name;
    let holder = |worktree: &str| {
        let host = host.to_string_lossy();
        format!(r#"{{"host": "{host}", "pid": 1, "user": "{user}", "worktree": "{worktree}", "label": ""}}"#)
    };
    let here = project.path().display().to_string();
    let name = |of: &str| format!("{of}_{}", project.id);
    for (of, worktree) in [("mine", here.as_str()), ("theirs", "/elsewhere")] {
        let name = name(of);
        let mark = format!("{of}{}", project.id);
        server().psql("postgres", &format!("create database {name}"));
        let comment = format!("comment on database {name} is 'a clone [pgstencil {mark}]'");
        server().psql("postgres", &comment);
        let project_name = project.name();
        let (clone, holder) = (&mark[..8], holder(worktree));
        ask(
            &project,
            &format!(
                "insert into pgstencil.clone (id, project, definition, fingerprint, name, state, lease, \
                 expires_at, holder, created_at) values ('{clone}', '{project_name}', 'app', \
                 '{fingerprint}', '{name}', 'leased', 'expiry', null, '{holder}', now() - interval '3 days')"
            ),
        );
        ask(
            &project,
            &format!(
                "insert into pgstencil.database (clone_id, role, ordinal, private_name, name, nonce, oid, state) \
                 select '{clone}', 'app', 0, 'pgstencil_{mark}', '{name}', '{mark}', oid, 'present' \
                 from pg_database where datname = '{name}'"
            ),
        );
    }
    // It was kept for ever, and still is.
    let json = Pgstencil::new(&project).args(["clone", "--json", "--name", &name("mine")]).success().json();
    assert_eq!(json["outcome"], "reused");
    assert_eq!(json["clone"]["age"], "other");
    assert!(json["clone"]["expires_at"].is_null());
    let owned = "select owner_role is not null, owned_at > now() - interval '1 day' \
                 from pgstencil.clone order by name";
    assert_eq!(ask(&project, owned), "t|t\nf|f");
    for args in [&["clone", "--name"][..], &["clone", "--fresh", "--name"], &["release"]] {
        Pgstencil::new(&project).args(args).arg(name("theirs")).fails(7).stderr_has("/elsewhere");
    }
    Pgstencil::new(&project).args(["release", "--take", &name("mine"), &name("theirs")]).success();
    only_templates_left(&project);
}

/// Cleanups and evictions of any project apply them, also if the project is no longer worked on.
#[test]
fn settings_of_projects_survive_the_upgrade() {
    let project = Project::with_migrations(server());
    let registry = project.registry();
    older(&project, 4);
    server().psql(
        &registry,
        "insert into pgstencil.project (name, max_bytes, max_templates, max_idle_s, keep, warm, warm_max, grace_s)
         values ('other', null, 3, 86400.5, 1, 2, 8, null)",
    );
    Pgstencil::new(&project).arg("ensure").success();
    let kept =
        "select s ->> 'max_bytes', s ->> 'max_templates', s ->> 'max_idle_s', s ->> 'keep', s ->> 'warm',
            s ->> 'warm_max', s ->> 'grace_s'
        from (select settings as s from pgstencil.project where name = 'other') x";
    assert_eq!(ask(&project, kept), "|3|86400.5|1|2|8|");
    // The rows are read, too.
    Pgstencil::new(&project).args(["evict", "--dry-run"]).success();
}

#[test]
fn a_newer_one_is_left_alone() {
    let project = Project::with_migrations(server());
    Pgstencil::new(&project).arg("ensure").success();
    let newest = server().psql(&project.registry(), "select version from pgstencil.meta");
    server().psql(&project.registry(), "update pgstencil.meta set version = 99");
    for command in ["ensure", "list", "explain", "verify"] {
        Pgstencil::new(&project).arg(command).fails(2).stderr_has("its version is 99");
    }
    server().psql(&project.registry(), &format!("update pgstencil.meta set version = {newest}"));
    Pgstencil::new(&project).arg("ensure").success().stderr_has("hit app");
}

/// From a plain hash a short value can be found by trying values.
#[test]
fn hashes_of_variables_are_keyed_also_in_recipes_from_before() {
    let project = Project::with_migrations(server());
    let config = project.read("pgstencil.toml").replace(
        "extend = \"never\"",
        "extend = \"never\"\nenv_inputs = [\"TOKEN\", \"UNSET\"]\nenv = { PLACE = \"a word\" }",
    );
    project.write("pgstencil.toml", &config);
    older(&project, 4);
    let registry = project.registry();
    let hash = |value: &str| blake3::hash(value.as_bytes()).to_hex().to_string();
    let plain = [hash("1234"), hash("a word")];
    let variables = format!(
        r#"{{"format": 1, "env": [{{"name": "TOKEN", "hash": "{}"}}, {{"name": "UNSET", "hash": null}}],
            "mapping": [{{"name": "PLACE", "hash": "{}"}}]}}"#,
        plain[0], plain[1]
    );
    server().psql(
        &registry,
        &format!(
            "insert into pgstencil.template (project, definition, fingerprint, state, recipe, builder, sealed_at) \
             values ('{}', 'app', '{}', 'ready', '{variables}', '{{\"host\": \"h\", \"pid\": 1}}', now())",
            project.name(),
            "ab".repeat(32)
        ),
    );
    let with = |args: &[&str], token: &str| Pgstencil::new(&project).args(args).env("TOKEN", token).success();
    with(&["ensure"], "1234");
    let kept = "select recipe -> 'env', recipe -> 'mapping' from pgstencil.template order by id";
    let kept = server().psql(&registry, kept);
    let rows: Vec<&str> = kept.lines().collect();
    // What the upgrade made of the old one is what is made of a new one.
    assert_eq!(rows.len(), 2, "{kept}");
    assert_eq!(rows[0], rows[1]);
    assert!(rows[0].contains(r#"{"hash": null, "name": "UNSET"}"#), "{kept}");
    let all = "select string_agg(t::text, '') from pgstencil.template t";
    let all = server().psql(&registry, all);
    assert!(plain.iter().all(|hash| !all.contains(hash)), "{all}");

    // That a value has changed is told, and nothing from which it could be found.
    let explained = with(&["explain", "--json", "-v"], "4321");
    let difference = &explained.json()["against"]["difference"];
    assert_eq!(difference["env"], serde_json::json!(["TOKEN"]), "{explained}");
    assert_eq!(difference["mapping"], serde_json::json!([]));
    explained.lacks(&hash("4321")).lacks(&plain[0]);
    with(&["explain"], "4321").stdout_has("TOKEN");
}
