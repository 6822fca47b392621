//! What copies cost, measured on the user's server; and how `auto` goes by it.

use crate::support::hold::only_templates_left;
use crate::support::{Pgstencil, Project, server};

#[test]
fn all_strategies_are_measured_and_leave_nothing() {
    let project = Project::with_migrations(server());
    let out = Pgstencil::new(&project).args(["bench", "--rounds", "2", "--json"]).success();
    let answer = out.json();
    let major = server().version_major();
    let strategies: Vec<&str> =
        answer["strategies"].as_array().unwrap().iter().map(|s| s["strategy"].as_str().unwrap()).collect();
    let expected: &[&str] = match major {
        ..=14 => &["only"],
        15..=17 => &["wal_log", "file_copy"],
        _ => &["wal_log", "file_copy", "reflink"],
    };
    assert_eq!(strategies, expected);
    for cost in answer["strategies"].as_array().unwrap() {
        if cost["refused"].is_null() {
            assert!(cost["create_ms"].as_f64().unwrap() > 0.0, "{cost}");
            assert!(cost["drop_ms"].as_f64().unwrap() > 0.0, "{cost}");
        }
    }
    only_templates_left(&project);
    let noted = "select count(*) from pgstencil.measurement";
    let noted = server().psql(&project.registry(), noted);
    let count = if major < 15 { 0 } else { strategies.len() };
    assert_eq!(noted, count.to_string());
    // In words, too.
    Pgstencil::new(&project).args(["bench", "--rounds", "1"]).success().stdout_has(if major < 15 {
        "only one copy strategy"
    } else {
        "recommended: "
    });
}

#[test]
fn auto_and_doctor_go_by_what_was_measured() {
    if server().version_major() < 15 {
        return;
    }
    let project = Project::with_migrations(server());
    Pgstencil::new(&project).args(["bench", "--rounds", "1"]).success();
    let measured = |wal: u32, file: u32| {
        let sql = format!(
            "update pgstencil.measurement set millis = case strategy when 'wal_log' then {wal} else {file} end"
        );
        server().psql(&project.registry(), &sql);
        let answer = Pgstencil::new(&project).args(["bench", "--rounds", "1", "--json"]).success().json();
        answer["before"].as_str().unwrap().to_owned()
    };
    assert_eq!(measured(10, 1_000), "wal_log");
    assert_eq!(measured(1_000, 10), "file_copy");
    let doctor = || Pgstencil::new(&project).arg("doctor").run();
    doctor().stdout_has("auto, by measurements");
    project.append_config("[clone]\nstrategy = \"wal_log\"");
    server().psql(
        &project.registry(),
        "update pgstencil.measurement set millis = case strategy when 'wal_log' then 500 else 20 end",
    );
    doctor().stdout_has("takes 500 ms").stdout_has("remove `strategy` from `[clone]`");
}
