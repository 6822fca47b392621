//! What happened, and what it took and saved.

use serde_json::json;

use crate::support::extension::{KEEP, items, outcome};
use crate::support::{Build, Pgstencil, Project, server};

#[test]
fn hits_extensions_and_builds_are_counted_with_their_times() {
    let project = Project::extending(server(), KEEP);
    let stats = || Pgstencil::new(&project).args(["stats", "--json"]).success().json();
    assert_eq!(stats()["templates"], json!([]));
    assert!(!server().has_database(&project.registry()));
    outcome(&project, "miss");
    items(&project);
    outcome(&project, "extended");
    outcome(&project, "hit");
    Pgstencil::new(&project).args(["run", "--", "true"]).success();
    Pgstencil::new(&project).arg("verify").success();
    // As if the build from nothing had taken a minute, the extension a second, and a hit ten
    // milliseconds, and all but the first had been the day after.
    server().psql(
        &project.registry(),
        "update pgstencil.event set millis = case outcome when 'miss' then 60000 when 'extended' then 1000 \
         when 'hit' then 10 else 50000 end, at = case outcome when 'miss' then '2026-01-01 12:00Z' \
         else timestamptz '2026-01-02 12:00Z' end",
    );
    let answer = stats();
    assert_eq!(answer["version"], 1);
    let total = &answer["total"];
    for (key, expected) in [
        ("hits", 2),
        ("misses", 1),
        ("pulls", 0),
        ("extensions", 1),
        ("fallbacks", 0),
        ("comparisons", 1),
        ("differences", 0),
        ("spent_ms", 61_020),
        ("compared_ms", 50_000),
        ("saved_ms", 59_000 + 2 * 59_990),
        ("net_ms", 59_000 + 2 * 59_990 - 50_000),
    ] {
        assert_eq!(total[key], expected, "{key} in {total}");
    }
    assert_eq!(answer["templates"][0]["project"], project.name());
    assert_eq!(answer["templates"][0]["template"], "app");
    assert_eq!(answer["templates"][0]["saved_ms"], total["saved_ms"]);
    let days: Vec<_> = answer["days"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| (d["day"].as_str().unwrap(), d["misses"].as_i64().unwrap()))
        .collect();
    assert_eq!(days, [("2026-01-01", 1), ("2026-01-02", 0)]);
    Pgstencil::new(&project)
        .arg("stats")
        .success()
        .stdout_has("TEMPLATE")
        .stdout_has("(rebuilds and comparisons took 50.0 s)")
        .stdout_has("2026-01-02  2     1           0      0       0          0          1.0 s");
    let of = |args: &[&str]| {
        Pgstencil::new(&project).args(["stats", "--json"]).args(args).success().json()["total"]["hits"]
            .clone()
    };
    assert_eq!(of(&["-t", "other"]), 0);
    assert_eq!(of(&["-t", "app"]), 2);
    assert_eq!(of(&["--last", "1d"]), 0);
    outcome(&project, "hit");
    assert_eq!(of(&["--last", "1d"]), 1);
    assert_eq!(of(&["--last", "1000y"]), 3);
    for long in ["1001y", "100000y", "99999999999999999999y"] {
        Pgstencil::new(&project).args(["stats", "--last", long]).fails(2).stderr_has("--last <DURATION>");
    }
    Pgstencil::new(&project)
        .args(["stats", "--last", "100000y"])
        .fails(2)
        .stderr_has("the maximum is `1000y`");
}

#[test]
fn failed_and_timed_out_builds_are_counted_with_the_time_that_they_took() {
    let project = Project::with_migrations(server());
    project.build(&Build::Fail);
    Pgstencil::new(&project).arg("ensure").fails(4);
    project.append_config("build_timeout = \"1s\"");
    project.build(&Build::Hang);
    Pgstencil::new(&project).arg("ensure").fails(5);
    // As if they had taken half an hour.
    server().psql(
        &project.registry(),
        "update pgstencil.event set millis = 900000 where outcome in ('failed', 'timed_out')",
    );
    let stats = Pgstencil::new(&project).args(["stats", "--json"]).success();
    let total = &stats.json()["total"];
    for (key, expected) in
        [("failures", 2), ("timeouts", 1), ("failed_ms", 1_800_000), ("misses", 0), ("spent_ms", 0)]
    {
        assert_eq!(total[key], expected, "{key} in {total}");
    }
    let text = Pgstencil::new(&project).arg("stats").success();
    text.stdout_has("FAILED").stdout_has("2 (30 min)\n");
}
