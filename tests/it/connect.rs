//! Ways to the server: URLs, libpq's variables, TLS, poolers, and the private server.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::support::private_server::Private;
use crate::support::server::PATIENCE;
use crate::support::{Build, Pgstencil, Project, Role, alive, ends, eventually, server};

fn pgstencil(project: &Project<'_>, args: &[&str]) -> Pgstencil {
    Pgstencil::new(project).args(args)
}

/// Two parsers that share no code have to read the URL alike: sqlx's and libpq's.
fn both_read(url: &str) {
    let read = crate::support::block_on(async {
        let mut session = PgConnectOptions::from_str(url)
            .unwrap_or_else(|e| panic!("sqlx cannot read {url}: {e}"))
            .connect()
            .await
            .unwrap_or_else(|e| panic!("sqlx cannot use {url}: {e}"));
        let name: String =
            sqlx::query_scalar("select name from users").fetch_one(&mut session).await.unwrap();
        session.close().await.unwrap();
        name
    });
    assert_eq!(read, "ann");
    let output =
        Command::new("psql").args(["-X", "-At", "-c", "select name from users", "-d", url]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "ann", "{url}: {output:?}");
}

/// The directory of the shared server's socket; none if the server is not ours.
fn socket() -> Option<String> {
    server().socket_url("postgres").map(|_| server().dir().display().to_string())
}

const PRINT: &str = "printf '%s\\n' \"$DATABASE_URL\" \"$PGSTENCIL_URL\" \"$PGSTENCIL_SERVER_URL\"; \
                     psql -XAtc 'select name from users' -d \"$DATABASE_URL\"";

#[test]
fn odd_passwords_survive_every_way() {
    let role = Role::with_odd_password(server());
    let mut project = Project::with_migrations(server());
    project.connect_as(&role);
    let cloned = pgstencil(&project, &["clone"]).success();
    both_read(cloned.line());

    let output = pgstencil(&project, &["run", "--", "sh", "-c", PRINT]).success();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{output}");
    assert_eq!(lines[0], lines[1]);
    assert_eq!(lines[2], project.server_url());
    assert_eq!(lines[3], "ann");
    let shown = pgstencil(&project, &["run", "--", "sh", "-c", "printf %s \"$PGPASSWORD\""]);
    shown.success().stdout(&role.password);
    let json = pgstencil(&project, &["clone", "--json"]).success().json();
    both_read(json["clone"]["databases"]["app"]["url"].as_str().unwrap());
}

#[test]
fn scheme_and_query_are_the_users_own() {
    let role = Role::new(server());
    let mut project = Project::with_migrations(server());
    let tail = "?sslmode=disable&application_name=x%20y";
    let url = format!("{}{tail}", role.url("postgres"));
    project.connect_to(url.replacen("postgresql://", "postgresql+psycopg://", 1));
    // libpq knows no such scheme, so the build uses PGHOST and the like.
    project.build(&Build::Script("DATABASE_URL=$PGDATABASE; unset PGSTENCIL_URL_APP; migrate".into()));
    let cloned = pgstencil(&project, &["clone"]).success();
    let line = cloned.line();
    assert!(line.starts_with("postgresql+psycopg://"), "{line}");
    assert!(line.ends_with(tail), "{line}");
    both_read(&line.replacen("+psycopg", "", 1));
    pgstencil(&project, &["run", "--", "sh", "-c", "echo $PGSTENCIL_SERVER_URL"])
        .success()
        .stdout(&format!("{}\n", project.server_url()));
}

#[test]
fn sockets_in_the_query_and_in_the_authority() {
    let Some(folder) = socket() else { return };
    let port = server().port();
    let mut project = Project::with_migrations(server());
    let encoded = folder.replace('/', "%2F");
    let user = server().user();
    for url in [
        format!("postgresql:///postgres?host={folder}&port={port}&user={user}"),
        format!("postgresql://{user}@{encoded}:{port}/postgres"),
    ] {
        project.connect_to(&url);
        let cloned = pgstencil(&project, &["clone"]).success();
        both_read(cloned.line());
        pgstencil(&project, &["run", "--", "sh", "-c", PRINT]).success().stdout_has("\nann\n");
    }
    // What the URL lacks comes from the variables, and ends up in the URL that is printed.
    project.connect_to(format!("postgresql:///postgres?host={folder}"));
    let cloned = pgstencil(&project, &["clone"])
        .env("PGPORT", port.to_string())
        .env("PGUSER", &user)
        .env("PGPASSWORD", "unused & odd")
        .success();
    both_read(cloned.line());
}

#[test]
fn variables_fill_what_a_url_leaves_out() {
    let role = Role::with_odd_password(server());
    let mut project = Project::with_migrations(server());
    project.connect_to("postgresql:///");
    let mut hosts = vec![server().host()];
    hosts.extend(socket());
    for host in hosts {
        let with = |args: &[&str]| {
            pgstencil(&project, args)
                .env("PGHOST", &host)
                .env("PGPORT", server().port().to_string())
                .env("PGUSER", &role.name)
                .env("PGPASSWORD", &role.password)
                // Neither is what a URL that names none means.
                .env("PGDATABASE", "postgres")
                .env("PGAPPNAME", "mine")
        };
        let cloned = with(&["clone"]).success();
        both_read(cloned.line());
        let output = with(&["run", "--", "sh", "-c", PRINT]).success();
        let lines: Vec<&str> = output.stdout.lines().collect();
        assert_eq!(lines[3], "ann");
        // The background process has none of these variables.
        let name = cloned.line().split('?').next().unwrap().rsplit('/').next().unwrap();
        with(&["release", name]).success();
        assert!(eventually(PATIENCE, || !server().has_database(name)), "{host}");
    }
    for (host, port) in [("a,b", "5432"), ("a", "5432,5433")] {
        pgstencil(&project, &["clone"])
            .env("PGHOST", host)
            .env("PGPORT", port)
            .env("PGUSER", "me")
            .fails(2)
            .stderr_has("PG");
    }
}

#[test]
fn a_password_file_is_read_by_libpqs_rules() {
    let role = Role::new(server());
    let mut project = Project::with_migrations(server());
    let file = project.home().join("passes");
    let line = format!("*:{}:*:{}:{}\n", server().port(), role.name, role.password);
    fs::write(&file, line).unwrap();
    let host = format!("{}:{}", server().host(), server().port());
    project.connect_to(format!("postgresql://{}@{host}/postgres", role.name));
    let with = |mode| {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        pgstencil(&project, &["run", "--", "sh", "-c", PRINT]).env("PGPASSFILE", &file)
    };
    with(0o600).success().stdout_has("\nann\n");
    with(0o644)
        .fails(3)
        .stderr_has("others than its owner can read it")
        .stderr_has("refuses role")
        .lacks(&role.password);
}

#[test]
fn urls_that_cannot_be_honoured_are_refused() {
    let mut project = Project::with_migrations(server());
    for (url, message) in [
        ("postgresql://u:s3cret@a,b/postgres", "several hosts"),
        ("postgresql://u:s3cret@a:1,b:2/postgres", "several hosts"),
        ("host=localhost dbname=x password=s3cret", "keyword strings"),
        ("mysql://u:s3cret@a/b", "not a Postgres scheme"),
        ("postgresql://u:s3cret@a:99999/b", "port"),
        ("postgresql://u:s3%zzcret@a/b", "two hex digits"),
    ] {
        project.connect_to(url);
        pgstencil(&project, &["clone", "-v"])
            .fails(2)
            .stdout("")
            .stderr_has(message)
            .stderr_has("PGSTENCIL_SERVER_URL")
            .stderr_has("hint:")
            .lacks("s3");
    }
    // Not one that was free a moment ago: another test's server may have it by now.
    let port = 9;
    project.connect_to(format!("postgresql://u:s3cret@127.0.0.1:{port}/postgres"));
    pgstencil(&project, &["clone", "-v"])
        .fails(3)
        .stderr_has(&format!("the server at 127.0.0.1:{port} cannot be reached"))
        .stderr_has("--server-url")
        .lacks("s3cret");
}

#[test]
fn tls_that_the_server_does_not_speak() {
    let ssl = server().psql("postgres", "show ssl");
    if ssl == "on" {
        return;
    }
    let role = Role::new(server());
    let mut project = Project::with_migrations(server());
    for mode in ["require", "verify-full"] {
        project.connect_to(format!("{}?sslmode={mode}", role.url("postgres")));
        pgstencil(&project, &["clone"]).fails(3).stdout("").stderr_has("sslmode").lacks(&role.password);
    }
    project.connect_as(&role);
    pgstencil(&project, &["clone"]).env("PGSSLMODE", "require").fails(3).stderr_has("sslmode");
    pgstencil(&project, &["clone"]).env("PGSSLMODE", "disable").success();
}

const CLIENT: &str = "client_host = \"db.internal\"\nclient_port = 15432\n";
const SEES: [&str; 5] = ["run", "--", "sh", "-c", "echo $PGHOST $PGPORT $DATABASE_URL"];

/// A project whose build and hook note where they are to connect.
fn noting_its_server(role: &Role<'_>, keys: &str) -> Project<'static> {
    let mut project = Project::with_migrations(server());
    project.connect_as(role);
    project.build(&Build::Script(format!(
        "echo \"$PGHOST $PGPORT $DATABASE_URL\" >seen
         export PGHOST={} PGPORT={}; DATABASE_URL=$PGDATABASE; unset PGSTENCIL_URL_APP; migrate",
        server().host(),
        server().port()
    )));
    project.append_config("after_clone = \"echo $PGHOST $PGPORT >hook\"");
    let config = project.read("pgstencil.toml");
    project.write("pgstencil.toml", &config.replace("[server]\n", &format!("[server]\n{keys}")));
    project
}

#[test]
fn clients_get_the_name_that_they_reach_the_server_by() {
    let role = Role::new(server());
    let project = noting_its_server(&role, CLIENT);
    let cloned = pgstencil(&project, &["clone"]).success();
    let line = cloned.line();
    assert!(line.contains("@db.internal:15432/"), "{line}");
    let seen = project.read("seen");
    let own = format!("{} {} ", server().host(), server().port());
    assert!(seen.starts_with(&own) && !seen.contains("15432"), "{seen}");
    assert_eq!(project.read("hook"), "db.internal 15432\n");
    let output = pgstencil(&project, &SEES).success();
    let start = format!("db.internal 15432 postgresql://{}:", role.name);
    output.stdout_has(&start).stdout_has("@db.internal:15432/");
    pgstencil(&project, &["run", "--", "sh", "-c", "echo $PGSTENCIL_SERVER_URL"])
        .success()
        .stdout(&format!("{}\n", project.server_url()));
}

#[test]
fn builds_get_it_too_where_the_config_says_so() {
    let role = Role::new(server());
    let project = noting_its_server(&role, &format!("{CLIENT}client_for = \"all\"\n"));
    pgstencil(&project, &["ensure"]).success();
    let seen = project.read("seen");
    assert!(seen.starts_with("db.internal 15432 "), "{seen}");
    assert!(seen.contains("@db.internal:15432/"), "{seen}");
}

#[test]
fn options_and_variables_go_before_the_config() {
    let role = Role::new(server());
    let project = noting_its_server(&role, CLIENT);
    let sees = |args: &[&str], env: &[(&str, &str)]| {
        let args = args.iter().chain(&SEES);
        let command = Pgstencil::new(&project).args(args);
        let command = env.iter().fold(command, |c, (name, value)| c.env(name, value));
        let shown = command.success().stdout.clone();
        let words: Vec<&str> = shown.split(' ').take(2).collect();
        words.join(" ")
    };
    let env = [("PGSTENCIL_CLIENT_HOST", "from.env"), ("PGSTENCIL_CLIENT_PORT", "7")];
    assert_eq!(sees(&[], &env), "from.env 7");
    assert_eq!(sees(&["--client-host", "typed"], &env), "typed 7");
    assert_eq!(sees(&["--client-port", "8"], &[]), "db.internal 8");
    assert_eq!(sees(&[], &[("PGSTENCIL_CLIENT_HOST", "")]), "db.internal 15432");
    pgstencil(&project, &["clone", "--client-host", "a:1"]).fails(2).stderr_has("--client-port");
    pgstencil(&project, &["clone"])
        .env("PGSTENCIL_CLIENT_PORT", "x")
        .fails(2)
        .stderr_has("`PGSTENCIL_CLIENT_PORT` is `x`");
}

#[test]
fn options_of_the_url_reach_commands_and_those_of_the_caller_do_not() {
    let mut project = Project::with_migrations(server());
    let url = server().url("postgres");
    let mark = if url.contains('?') { '&' } else { '?' };
    project.build(&Build::Script("echo \"$PGOPTIONS\" >seen; migrate".into()));
    // The head of the script sets its own.
    let script = project.read("migrate.sh");
    project.write("migrate.sh", &script.replace("export PGOPTIONS=", ": ${PGOPTIONS=}; OWN="));
    let shows = |project: &Project<'_>| {
        let args = ["run", "--", "psql", "-XAtc", "show work_mem"];
        let command = pgstencil(project, &args).env("PGOPTIONS", "-c work_mem=77MB");
        command.success().stdout.trim().to_owned()
    };
    assert_ne!(shows(&project), "77MB");
    project.connect_to(format!("{url}{mark}options=-c%20work_mem%3D33MB"));
    assert_eq!(shows(&project), "33MB");
    assert_eq!(project.read("seen"), "\n");
    project.add_migration("0003_items", "create table items ();");
    assert_eq!(shows(&project), "33MB");
    assert_eq!(project.read("seen"), "-c work_mem=33MB\n");
}

/// What a proxy in between does with the `options` of a startup message.
#[derive(Clone, Copy)]
enum Pooler {
    /// As pgbouncer with `ignore_startup_parameters = options`.
    Swallows,
    /// As pgbouncer without.
    Refuses,
}

/// A proxy on a port of its own, as long as the test runs.
fn pooler(kind: Pooler) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || proxy(client, kind));
        }
    });
    port
}

fn proxy(mut client: TcpStream, kind: Pooler) -> Option<()> {
    let startup = loop {
        let mut length = [0; 4];
        client.read_exact(&mut length).ok()?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
        client.read_exact(&mut body).ok()?;
        if body[..4] != 80_877_103_u32.to_be_bytes() {
            break body;
        }
        client.write_all(b"N").ok()?; // no TLS
    };
    let mut words = startup[4..].split(|b| *b == 0);
    let mut kept = startup[..4].to_vec();
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        match (key, kind) {
            (b"", _) => break,
            (b"options", Pooler::Swallows) => continue,
            (b"options", Pooler::Refuses) => {
                let fields = b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0";
                client.write_all(b"E").ok()?;
                let length = u32::try_from(fields.len() + 4).unwrap();
                client.write_all(&length.to_be_bytes()).ok()?;
                return client.write_all(fields).ok();
            }
            _ => {}
        }
        kept.extend([key, b"\0", value, b"\0"].concat());
    }
    kept.push(0);
    let mut upstream = TcpStream::connect((server().host(), server().port())).ok()?;
    let length = u32::try_from(kept.len() + 4).unwrap();
    upstream.write_all(&length.to_be_bytes()).ok()?;
    upstream.write_all(&kept).ok()?;
    let (mut up, mut down) = (upstream.try_clone().ok()?, client.try_clone().ok()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut up, &mut down);
        let _ = down.shutdown(std::net::Shutdown::Both);
    });
    let _ = std::io::copy(&mut client, &mut upstream);
    let _ = upstream.shutdown(std::net::Shutdown::Both);
    Some(())
}

#[test]
fn poolers_are_refused() {
    let role = Role::new(server());
    let mut project = Project::with_migrations(server());
    for registry_is_there in [false, true] {
        for kind in [Pooler::Swallows, Pooler::Refuses] {
            let port = pooler(kind);
            let direct = format!(":{}/", server().port());
            let through = role.url("postgres").replacen(&direct, &format!(":{port}/"), 1);
            project.connect_to(through);
            for command in [&["ensure"][..], &["clone"], &["list"], &["run", "--", "true"]] {
                // Reading where nothing is needs no more than to know that.
                if command == ["list"] && !registry_is_there && matches!(kind, Pooler::Swallows) {
                    continue;
                }
                pgstencil(&project, command)
                    .fails(3)
                    .stdout("")
                    .stderr_has(&format!(
                        "there is a connection pooler in front of the server at 127.0.0.1:{port}"
                    ))
                    .stderr_has("use the URL of the Postgres server itself");
            }
        }
        assert_eq!(server().has_database(&project.registry()), registry_is_there);
        project.connect_as(&role);
        pgstencil(&project, &["ensure"]).success();
    }
    assert_eq!(project.builds(), 1);
}

#[test]
fn without_a_url_the_private_server_is_started() {
    let private = Private::new();
    let status = private.run(&["server", "status"]).fails(1);
    status.stdout_has("state    absent\n");
    private.run(&["server", "url"]).fails(1).stdout("");
    // What only reads starts nothing.
    let listed = private.run(&["list"]).success();
    listed.stdout("").stderr_has("the private server is not running");
    private.run(&["server", "status"]).fails(1);
    let json = private.run(&["server", "status", "--json"]).fails(1).json();
    assert_eq!((json["version"].as_i64(), &json["state"]), (Some(1), &"absent".into()));

    // Two at once start one.
    let pair = [private.run(&["clone"]).spawn(), private.run(&["clone"]).spawn()];
    let outputs = pair.map(|running| running.wait());
    let mut urls = Vec::new();
    for output in &outputs {
        both_read(output.code(0).line());
        urls.push(output.line().to_owned());
    }
    assert_ne!(urls[0], urls[1]);
    let said = outputs.iter().filter(|o| o.stderr.contains("started the private server, PostgreSQL"));
    assert_eq!(said.count(), 1, "{}\n{}", outputs[0], outputs[1]);
    assert_eq!(private.project.builds(), 1);

    // It has outlived both.
    let pid = private.pid().unwrap();
    assert!(alive(pid));
    let json = private.run(&["server", "status", "--json"]).success().json();
    assert_eq!(json["state"], "running");
    assert!(json["url"].is_null(), "status shows no password: {json}");
    private.run(&["server", "status"]).success().stdout_has("state    running\n");
    let url = private.run(&["server", "url"]).success();
    let url = url.line();
    private.run(&["server", "start"]).success().stdout(&format!("{url}\n"));
    let json = private.run(&["server", "start", "--json"]).success().json();
    assert_eq!(json["url"], url);
    assert_eq!(json["pid"].as_i64(), Some(i64::from(pid)));
    private.run(&["run", "--", "sh", "-c", PRINT]).success().stdout_has(&format!("\n{url}\nann\n"));

    private.run(&["server", "stop"]).success().stdout("");
    assert!(ends(pid));
    private.run(&["server", "status"]).fails(1).stdout_has("state    stopped\n");
    private.run(&["server", "stop"]).success().stderr_has("is not running");
    let json = private.run(&["server", "stop", "--json"]).success().json();
    assert_eq!(json["stopped"], serde_json::json!([]));
    // The template is still there, and so is the URL.
    private
        .run(&["run", "--", "sh", "-c", PRINT])
        .success()
        .stdout_has(&format!("\n{url}\nann\n"))
        .stderr_has("hit");
    assert_eq!(private.project.builds(), 1);
    let json = private.run(&["server", "stop", "--json"]).success().json();
    assert_eq!(json["stopped"].as_array().unwrap().len(), 1);
}

/// Asks everybody who connects for the password in clear, as a stranger would; what they said.
fn thief(port: u16) -> Arc<Mutex<Vec<u8>>> {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&heard);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, notes) = (client.unwrap(), Arc::clone(&notes));
            std::thread::spawn(move || {
                // No TLS here, and the password in clear.
                for answer in [&b"N"[..], b"R\0\0\0\x08\0\0\0\x03", b""] {
                    let mut buffer = [0; 4096];
                    let count = client.read(&mut buffer).unwrap_or(0);
                    notes.lock().unwrap().extend_from_slice(&buffer[..count]);
                    let _ = client.write_all(answer);
                }
            });
        }
    });
    heard
}

#[test]
fn a_stranger_on_the_port_of_a_stopped_private_server_gets_no_password() {
    let private = Private::new();
    let config = private.project.read("pgstencil.toml");
    let config = format!("{config}\n[clone]\norphan_grace = \"400ms\"\n");
    private.project.write("pgstencil.toml", &config);
    // Its keeper looks for its session every 100 ms.
    let held = private.run(&["run", "--", "sh", "-c", "echo in; sleep 300"]).spawn();
    held.wait_for_text("in\n");
    let url = private.run(&["server", "url"]).success().line().to_owned();
    let with_url = |args: &[&str]| pgstencil(&private.project, args).env("PGSTENCIL_SERVER_URL", &url);
    with_url(&["list", "-v"]).success().stderr_has("/socket/.s.PGSQL.");
    private.run(&["server", "stop", "--force"]).success();

    let read = PgConnectOptions::from_str(&url).unwrap();
    let heard = thief(read.get_port());
    // A nested pgstencil has the URL, and so has whoever copied it.
    with_url(&["list"]).fails(3).stderr_has("cannot be reached");
    with_url(&["clone"]).fails(3).stderr_has("cannot be reached");
    let elsewhere = url.replace("127.0.0.1", "localhost");
    with_url(&["list", "--server-url", &elsewhere]).fails(3).stderr_has("cannot be reached");
    private.run(&["list"]).success().stderr_has("is not running");
    std::thread::sleep(Duration::from_secs(1));
    let heard = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
    let some: String = heard.chars().take(1000).collect();
    assert!(heard.is_empty(), "{some:?}");
    drop(held);

    // It leaves the port to the stranger.
    private.run(&["clone"]).success().stderr_has("moved to port");
}

#[test]
fn commands_are_told_that_the_server_has_no_tls() {
    let mut project = Project::with_migrations(server());
    let mode = ["run", "--", "sh", "-c", "echo ${PGSSLMODE-unset}"];
    let on = server().psql("postgres", "SHOW ssl").trim() == "on";
    let told = if on && !server().host().starts_with('/') { "unset\n" } else { "disable\n" };
    pgstencil(&project, &mode).success().stdout(told);
    // What the user says stays.
    if !on {
        pgstencil(&project, &mode).env("PGSSLMODE", "allow").success().stdout("allow\n");
        let url = project.server_url().to_owned();
        project.connect_to(format!("{url}{}sslmode=prefer", if url.contains('?') { '&' } else { '?' }));
        pgstencil(&project, &mode).success().stdout("prefer\n");
    }
}

#[test]
fn a_directory_in_place_of_a_host_is_printed_in_the_query() {
    let Some(folder) = socket() else { return };
    let mut project = Project::with_migrations(server());
    project.connect_to("postgresql:///postgres");
    let cloned = pgstencil(&project, &["clone"])
        .env("PGHOST", &folder)
        .env("PGPORT", server().port().to_string())
        .env("PGUSER", server().user())
        .success();
    let line = cloned.line();
    assert!(line.starts_with("postgresql:///") && line.contains(&format!("?host={folder}&")), "{line}");
    both_read(line);
}
