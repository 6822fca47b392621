//! Options in the catalogs that no person set: since 15.20 the server notes some by itself.

use super::{Database, diff, text};
use crate::support::{Role, server};

/// What the server's own options are made to look like: to tables and their columns, to indexes and theirs.
/// One of an index's column is possible where the operator class takes options at all.
const WRITTEN: &str = "
    update pg_attribute set attoptions = array['pg_attver=' || :n || attnum] || attoptions || array['pg_late=' || :n]
        from pg_class c where c.oid = attrelid and c.oid >= 16384 and attnum > 0 and relkind in ('r', 'p', 'v', 'm', 'f', 'c');
    update pg_attribute set attoptions = array['pg_attver=:n'] || attoptions || array['pg_late=word']
        where attrelid in ('app.by_words'::regclass, 'app.by_default'::regclass);
    update pg_class set reloptions = array['pg_relver=:n'] || reloptions || array['pg_late=word']
        where oid >= 16384 and relkind in ('r', 'p', 'v', 'm', 't', 'i', 'I');";

const INDEXES: &str = "
    create index by_words on app.users using gist (to_tsvector('simple', name) tsvector_ops (siglen = 100))
        with (fillfactor = 80);
    create index by_default on app.users using gist (to_tsvector('simple', email) tsvector_ops)
        where email <> 'pg_a=''b'', (pg_c=''d'')';";

#[test]
fn options_that_the_server_writes_do_not_count() {
    let reader = Role::new(server());
    let database = Database::full(&reader);
    database.run(INDEXES);
    let plain = database.inventory();
    let told = text(&plain);
    for line in [
        "tsvector_ops (siglen='100')) WITH (fillfactor='80')\n",
        "with (n_distinct=10)",
        "with (toast.autovacuum_enabled=off)",
        "security_barrier=true)",
    ] {
        assert!(told.contains(line), "no {line} in {told}");
    }
    database.run(&WRITTEN.replace(":n", "17"));
    let first = database.inventory();
    assert!(!text(&first).contains("pg_attver"), "{}", text(&first));
    database.run(&WRITTEN.replace(":n", "4"));
    // A definition names the default operator class of a column that has options, and no other one.
    let named = diff(&plain, &first).to_string();
    assert_eq!(named.matches("\n+ ").count(), 1, "{named}");
    assert!(
        named.contains("gist (to_tsvector('simple'::regconfig, (email)::text) tsvector_ops) WHERE ((email)::text <> 'pg_a="),
        "{named}"
    );
    assert_eq!(diff(&first, &database.inventory()).to_string(), "");
}

/// Fails where a release of Postgres begins to note something under a name that the inventory tells.
#[test]
fn no_others_are_there_than_those_that_were_set() {
    let reader = Role::new(server());
    let database = Database::full(&reader);
    database.run(INDEXES);
    let found = database.run(
        "select distinct split_part(o, '=', 1) from (
             select unnest(attoptions) o from pg_attribute where attrelid >= 16384
             union all select unnest(attfdwoptions) from pg_attribute
             union all select unnest(reloptions) from pg_class where oid >= 16384
             union all select unnest(ftoptions) from pg_foreign_table
             union all select unnest(srvoptions) from pg_foreign_server
             union all select unnest(fdwoptions) from pg_foreign_data_wrapper
             union all select unnest(umoptions) from pg_user_mapping
         ) every where o not like 'pg\\_%' order by 1",
    );
    assert_eq!(
        found.split('\n').collect::<Vec<_>>(),
        [
            "autovacuum_enabled",
            "check_option",
            "column_name",
            "dbname",
            "debug",
            "fillfactor",
            "host",
            "n_distinct",
            "password",
            "schema_name",
            "security_barrier",
            "siglen",
            "table_name",
            "user",
        ]
    );
}
