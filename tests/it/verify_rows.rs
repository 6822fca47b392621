//! What `verify` compares of rows, ids and sequences, and what a settle makes of it.

use serde_json::{Value, json};

use crate::support::extension::{KEEP, ensure, items, outcome, registry, templates};
use crate::support::server::PATIENCE;
use crate::support::{Build, Pgstencil, Project, Role, eventually, server};

/// A project whose extended template was built by `build`, after a template of two migrations.
fn extended(keys: &str, build: &str) -> Project<'static> {
    let project = Project::extending(server(), keys);
    ensure(&project);
    items(&project);
    project.build(&Build::Script(format!("migrate\n{build}")));
    outcome(&project, "extended");
    project
}

fn verify(project: &Project<'_>, args: &[&str]) -> Pgstencil {
    Pgstencil::new(project).arg("verify").args(args)
}

/// `verify --json` with further arguments, which exits with `code`; its only template.
#[track_caller]
fn verdict(project: &Project<'_>, args: &[&str], code: i32) -> Value {
    let command = verify(project, args).arg("--json");
    let output = match code {
        0 => command.success(),
        code => command.fails(code),
    };
    output.json()["verified"][0].clone()
}

/// Rows that say how they were built, under ids that depend on it.
const NOTES: &str = "sql -d \"$DATABASE_URL\" -c 'create table if not exists notes (id int primary key, said text)' \
     -c \"insert into notes values (1, 'always'), (2, '$PGSTENCIL_OUTCOME')\"";

/// Django's content types and permissions: the ids follow the order in which models became known.
const TYPES: &str = "
     case $PGSTENCIL_OUTCOME in miss) order=asc ;; *) order=desc ;; esac
     sql -d \"$DATABASE_URL\" -c 'create table if not exists kinds (id serial primary key, model text)' \
         -c 'create table if not exists rights (id serial primary key, kind int not null references kinds, name text)' \
         -c \"insert into kinds (model) select m from unnest(array['a', 'b', 'c']) m order by m $order\" \
         -c \"insert into rights (kind, name) select id, 'add' from kinds order by model\"";

#[test]
fn row_contents_are_compared_when_they_are_asked_for() {
    let project = extended(KEEP, NOTES);
    verify(&project, &[])
        .success()
        .stderr_has("equals template app")
        .stderr_has("in schema, grants, settings, row counts and sequences\n")
        .stderr_has("not compared: row contents and ids; `--rows` compares them\n");
    let plain = verdict(&project, &[], 0);
    assert_eq!(plain["not_compared"], json!(["row_contents", "ids"]));
    assert_eq!(plain["compared"], json!(["schema", "grants", "settings", "row_counts", "sequences"]));
    assert_eq!(plain["differs"], json!([]));

    verify(&project, &["--rows"])
        .fails(1)
        .stdout_has("@@ row contents @@\n table public.notes\n-  1 of 2 rows differ in said\n+  1 of 2 rows differ in said\n")
        .stderr_has("differs from template app")
        .stderr_has("in row contents\n")
        .stderr_has("the incrementally built template is kept");
    let rows = verdict(&project, &["--rows"], 1);
    assert_eq!(rows["differs"], json!(["row_contents"]));
    assert_eq!(rows["not_compared"], json!([]));
    assert_eq!(rows["fate"], "kept");
    assert_eq!(
        rows["differences"]["app"]["changes"],
        json!([{
            "class": "row_contents", "heading": "table public.notes", "kind": "changed",
            "removed": ["1 of 2 rows differ in said"], "added": ["1 of 2 rows differ in said"],
        }])
    );
    // An upgraded installation has such rows, too.
    outcome(&project, "hit");
}

#[test]
fn columns_that_the_config_names_do_not_count() {
    for (ignored, code) in
        [("notes.said", 0), ("public.notes.said", 0), ("notes.*", 0), ("notes.id", 1), ("other.said", 1)]
    {
        let keys = format!("{KEEP}\nverify_ignore = [\"{ignored}\"]");
        let project = extended(&keys, NOTES);
        let command = verify(&project, &["--rows"]);
        let output = match code {
            0 => command.success(),
            code => command.fails(code),
        };
        let unknown = output.stderr.contains("names `other.said`, which is not a column");
        assert_eq!(unknown, ignored == "other.said", "{output}");
    }
}

#[test]
fn moved_ids_are_a_class_of_their_own() {
    let project = extended(KEEP, TYPES);
    verify(&project, &[]).success();
    verify(&project, &["--rows"])
        .fails(1)
        .stdout_has("@@ ids @@\n table public.kinds\n-  2 of 3 rows have other ids in id\n+  2 of 3 rows have other ids in id\n table public.rights\n")
        .lacks("@@ row contents");
    assert_eq!(verdict(&project, &["--rows"], 1)["differs"], json!(["ids"]));
    outcome(&project, "hit");
}

#[test]
fn rows_that_are_the_same_and_mean_others_are_found() {
    // Right 1 belongs to kind 1, which is another one.
    let build = TYPES.replace("from kinds order by model", "from kinds order by id");
    let project = extended(KEEP, &build);
    verify(&project, &["--rows"]).fails(1).stdout_has(
        " table public.rights\n-  2 of 3 rows have other ids in id, kind\n+  2 of 3 rows have other ids in id, kind\n",
    );
}

#[test]
fn a_right_that_means_another_row_is_no_moved_id() {
    let build = "
        case $PGSTENCIL_OUTCOME in miss) kind=1 ;; *) kind=2 ;; esac
        sql -d \"$DATABASE_URL\" -c 'create table if not exists kinds (id int primary key, model text)' \
            -c 'create table if not exists rights (id int primary key, kind int references kinds)' \
            -c \"insert into kinds values (1, 'a'), (2, 'b')\" -c \"insert into rights values (1, $kind)\"";
    let project = extended(KEEP, build);
    assert_eq!(verdict(&project, &["--rows"], 1)["differs"], json!(["row_contents"]));
}

#[test]
fn positions_of_sequences_are_a_class_of_their_own() {
    let project = extended(
        KEEP,
        "sql -d \"$DATABASE_URL\" -c 'create sequence if not exists counted' -c \"select setval('counted', ${#PGSTENCIL_OUTCOME})\"",
    );
    verify(&project, &[])
        .fails(1)
        .stdout_has("@@ sequences @@\n sequence public.counted\n-  position 8\n+  position 4\n");
    let found = verdict(&project, &[], 1);
    assert_eq!(found["differs"], json!(["sequences"]));
    assert_eq!(found["fate"], "kept");
    outcome(&project, "hit");
}

#[test]
fn the_time_of_the_build_does_not_count() {
    let project = extended(
        KEEP,
        "sql -d \"$DATABASE_URL\" -c \"create table if not exists log (id int primary key, at timestamptz default now(), day date default now(),
             local timestamp default localtimestamp, seconds bigint default extract(epoch from now()), millis bigint default extract(epoch from now()) * 1000,
             said text default 'built at ' || now(), details jsonb default jsonb_build_object('at', now()), execution_time int default random() * 1000000,
             span tstzrange default tstzrange(now(), null), born date default '2001-02-03')\" -c 'insert into log values (1)'",
    );
    let found = verdict(&project, &["--rows"], 0);
    assert_eq!(found["differs"], json!([]), "{found}");
    let left_out = found["left_out"].as_array().unwrap();
    for column in ["at", "local", "seconds", "millis", "said", "details", "span"] {
        assert!(left_out.contains(&json!(format!("public.log.{column}"))), "{found}");
    }
    assert!(!left_out.contains(&json!("public.log.born")), "{found}");
    // Beside the time, what a text says counts.
    let project = extended(
        KEEP,
        "sql -d \"$DATABASE_URL\" -c 'create table if not exists log (said text)' -c \"insert into log select '$PGSTENCIL_OUTCOME at ' || now()\"",
    );
    assert_eq!(verdict(&project, &["--rows"], 1)["differs"], json!(["row_contents"]));
}

#[test]
fn what_lies_outside_of_the_tables_is_compared() {
    let project = extended(
        KEEP,
        "sql -d \"$DATABASE_URL\" -c 'create extension if not exists hstore'
         [ $PGSTENCIL_OUTCOME = miss ] || sql -d \"$DATABASE_URL\" \
             -c 'revoke execute on function akeys(hstore) from public' -c \"select lo_from_bytea(0, 'x')\" \
             -c 'revoke connect on database \"'$PGDATABASE'\" from public' -c 'alter database \"'$PGDATABASE'\" set work_mem = \"7MB\"' \
             -c 'alter database \"'$PGDATABASE'\" connection limit 7' -c \"comment on database \\\"$PGDATABASE\\\" is 'said'\"",
    );
    let output = verify(&project, &["--rows"]).fails(1);
    output
        .stdout_has(
            "@@ grants @@\n database\n+  grant CONNECT to PUBLIC\n-function public.akeys(public.hstore)\n",
        )
        .stdout_has("@@ schema @@\n database\n-  comment \"said\"\n")
        .stdout_has("@@ settings @@\n database\n-  setting work_mem = 7MB\n-  connection limit 7\n")
        .stdout_has("@@ row counts @@\n-large objects\n-  owned by ")
        .stderr_has("in schema, grants, settings and row counts\n")
        .stderr_has("marked broken");
}

#[test]
fn the_owner_of_the_database_is_compared() {
    let owner = Role::new(server());
    let project = extended(
        KEEP,
        &format!(
            "[ $PGSTENCIL_OUTCOME = miss ] || sql -d \"$DATABASE_URL\" -c 'alter database \"'$PGDATABASE'\" owner to {}'",
            owner.name
        ),
    );
    verify(&project, &[])
        .fails(1)
        .stdout_has(&format!("@@ grants @@\n database\n-  owner {}\n", owner.name))
        .stderr_has("marked broken");
}

#[test]
fn what_the_owner_took_from_itself_is_compared_and_clones_lack_it() {
    let role = Role::new(server());
    let mut project = Project::extending(server(), KEEP);
    project.connect_as(&role);
    ensure(&project);
    items(&project);
    project.build(&Build::Script(
        "migrate
         [ $PGSTENCIL_OUTCOME = miss ] || sql -d \"$DATABASE_URL\" -c 'revoke temporary on database \"'$PGDATABASE'\" from current_user, public'"
            .into(),
    ));
    let output = Pgstencil::new(&project).arg("clone").success();
    output.lacks("could not re-apply");
    let name = output.line().rsplit_once('/').unwrap().1.to_owned();
    let right = format!("select has_database_privilege('{}', '{name}', 'temporary')", role.name);
    assert_eq!(server().psql("postgres", &right), "f");
    verify(&project, &[]).fails(1).stdout_has(
        "@@ grants @@\n database\n-  revoke TEMPORARY from its owner\n+  grant TEMPORARY to PUBLIC\n",
    );
}

#[test]
fn what_the_role_may_not_read_is_told() {
    let role = Role::new(server());
    let mut project = Project::extending(server(), KEEP);
    project.connect_as(&role);
    project.build(&Build::Script(
        "migrate
         PGUSER= psql -X -q -d \"$ADMIN_URL/$PGDATABASE\" -c 'create table if not exists closed (n int)' \\
             -c 'revoke all on closed from public' -c 'truncate closed' -c \"insert into closed values (${#PGSTENCIL_OUTCOME})\""
            .into(),
    ));
    let admin = server().url("");
    let admin = admin.trim_end_matches('/');
    Pgstencil::new(&project).arg("ensure").env("ADMIN_URL", admin).success();
    let output = verify(&project, &["--rows"]).env("ADMIN_URL", admin).success();
    output.stderr_has("not compared: table public.closed: rows unknown: permission denied");
}

#[test]
fn a_settle_reports_what_moved_and_the_definition_is_extended_as_before() {
    let project = Project::extending(server(), "rebuild = \"always\"");
    project.build(&Build::Script(
        "migrate
         sql -d \"$DATABASE_URL\" -c 'create table if not exists notes (said text)' -c 'delete from notes' \\
             -c \"insert into notes values ('$PGSTENCIL_OUTCOME')\" -c 'create sequence if not exists counted' \\
             -c \"select setval('counted', ${#PGSTENCIL_OUTCOME})\""
            .into(),
    ));
    ensure(&project);
    for n in 3..6 {
        project.add_migration(&format!("000{n}_t"), &format!("create table t{n} ();"));
        // After two differences that speak against the command it would be built from nothing.
        outcome(&project, "extended");
        let exact = || {
            let all = templates(&project);
            all.iter().all(|t| t["chain"] == 0 && t["state"] == "ready")
        };
        assert!(eventually(PATIENCE, exact), "{:?}", templates(&project));
        assert!(templates(&project).iter().all(|t| t["difference"].as_str().is_none_or(str::is_empty)));
        let output = Pgstencil::new(&project).arg("ensure").success();
        let told = output.stderr.contains(
            "differs from a full build in row contents (table public.notes), sequences (sequence public.counted)\n",
        );
        // As long as it is the same, once.
        assert_eq!(told, n == 3, "{output}");
        assert!(!output.stderr.contains("extend = \"never\""), "{output}");
    }
    let found = "select count(*), count(*) filter (where difference <> ''), count(*) filter (where moved <> '') from pgstencil.comparison";
    assert_eq!(registry(&project, found), "3|0|3");
}

#[test]
fn large_objects_are_always_compared() {
    let project = extended(
        KEEP,
        "sql -d \"$DATABASE_URL\" -c \"select lo_from_bytea(0, 'always'), lo_from_bytea(0, '$PGSTENCIL_OUTCOME')\"",
    );
    verify(&project, &[])
        .fails(1)
        .stdout_has("@@ row contents @@\n large objects\n")
        .stdout_has("-  contents of 8 bytes, digest ")
        .stderr_has("in row contents\n");
}
