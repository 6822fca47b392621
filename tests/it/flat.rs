//! What a command costs does not grow with what the registry holds, or has held.

use crate::support::extension::{ensure, registry};
use crate::support::proxy::Proxy;
use crate::support::server::PATIENCE;
use crate::support::{Pgstencil, Project, eventually, server};

/// A counter of the registry's tables, once the server has it.
fn counted(project: &Project<'_>, what: &str) -> i64 {
    let query = format!(
        "select coalesce(sum({what}), 0)::bigint from pg_stat_user_tables \
         where schemaname = 'pgstencil' and relname in ('clone', 'database')"
    );
    registry(project, &query).parse().unwrap()
}

#[test]
fn changes_of_a_clone_leave_nothing_in_indexes() {
    let project = Project::with_migrations(server());
    project.append_config("[clone]\nwarm = 1\nwarm_max = 1");
    ensure(&project);
    for _ in 0..5 {
        Pgstencil::new(&project).args(["run", "--", "true"]).success();
    }
    let all_hot = || {
        let changes = counted(&project, "n_tup_upd");
        changes >= 20 && changes == counted(&project, "n_tup_hot_upd")
    };
    assert!(
        eventually(PATIENCE, all_hot),
        "{} of {} are HOT",
        counted(&project, "n_tup_hot_upd"),
        counted(&project, "n_tup_upd")
    );
}

#[test]
fn a_cleanup_vacuums_what_has_many_dead_rows() {
    vacuums("auto");
}

#[test]
fn a_command_that_cleans_up_by_itself_does_so_too() {
    vacuums("off");
}

fn vacuums(background: &str) {
    let project = Project::with_migrations(server());
    project.append_config(&format!("\n[clone]\nbackground = \"{background}\"\n"));
    ensure(&project);
    let pages = "select pg_relation_size('pgstencil.clone') / current_setting('block_size')::int";
    let many = "insert into pgstencil.clone (id, project, definition, fingerprint, name, state, lease, holder) \
         select 'gone' || n, 'gone', 'app', repeat('a', 64), 'gone', 'leased', 'expiry', '{\"host\": \"h\", \"pid\": 1}' \
         from generate_series(1, 2000) n; delete from pgstencil.clone where project = 'gone'";
    registry(&project, many);
    let before: i64 = registry(&project, pages).parse().unwrap();
    assert!(before > 40, "{before}");
    // Each cleanup looks; the first may come before the server has counted the dead rows.
    let vacuumed = || {
        Pgstencil::new(&project).args(["run", "--", "true"]).success();
        registry(&project, pages).parse::<i64>().unwrap() < before / 2
    };
    assert!(eventually(PATIENCE, vacuumed), "{} of {before} pages", registry(&project, pages));
}

/// Adds templates, clones without holder, and their databases, that are only in the registry.
fn crowd(project: &Project<'_>, many: usize) {
    let add = |table: &str, rows: &str, different: &str| {
        let sql = format!(
            "insert into pgstencil.{table} overriding system value \
             select (jsonb_populate_record(null::pgstencil.{table}, to_jsonb(r) || jsonb_build_object({different}))).* \
             from (select * from pgstencil.{table} where {rows} limit 1) r, generate_series(1, {many}) n"
        );
        registry(project, &sql);
    };
    let fingerprint = "lpad(to_hex(n), 64, '0')";
    add("template", "state = 'ready'", &format!("'id', 1000 + n, 'fingerprint', {fingerprint}"));
    add("clone", "true", "'id', 'crowd' || n, 'lease', 'session', 'name', 'crowd' || n");
    let database = "'private_name', 'crowd_' || n, 'name', 'crowd' || n, 'oid', 4000000000 + n";
    add("database", "clone_id is not null", &format!("'id', 1000 + n, 'clone_id', 'crowd' || n, {database}"));
}

#[test]
fn to_list_many_takes_no_more_questions_than_to_list_few() {
    let mut project = Project::with_migrations(server());
    ensure(&project);
    Pgstencil::new(&project).arg("clone").success();
    let proxy = Proxy::new(server());
    project.connect_to(proxy.url(server()));
    let trips = |project: &Project<'_>| -> Vec<usize> {
        let of = |args: &[&str]| {
            proxy.reset();
            Pgstencil::new(project).args(args).success();
            proxy.round_trips().iter().sum()
        };
        [&["list"][..], &["evict", "--dry-run"]].map(of).to_vec()
    };
    crowd(&project, 1);
    let few = trips(&project);
    registry(
        &project,
        "delete from pgstencil.database where name like 'crowd%'; delete from pgstencil.clone where id like 'crowd%'; delete from pgstencil.template where id > 1000",
    );
    crowd(&project, 60);
    let many = trips(&project);
    // The eviction plan now exceeds `max_templates`, and asks what the builds took: three questions more.
    assert_eq!(few[0], many[0], "{few:?} {many:?}");
    assert!(many[1] <= few[1] + 3, "{few:?} {many:?}");
    assert!(many[0] <= 4 && many[1] <= 14, "{many:?}");
}
