//! The JSON schema of `pgstencil.toml`, made from the structs of [`super::model`]: for editors, and for the check of
//! a file's shape.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::model::File;

/// The table of the definitions, and that of what they share.
pub(super) const TEMPLATE: &str = "template";
pub(super) const DEFAULTS: &str = "defaults";

/// The JSON schema of `pgstencil.toml`.
pub(super) static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<File>();
    let mut schema = schema.to_value();
    without_null(&mut schema);
    schema["title"] = Value::from("pgstencil.toml");
    schema
});

/// TOML has no null: a key that may be absent is simply not required.
fn without_null(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|t| t != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            if object.get("default") == Some(&Value::Null) {
                object.remove("default");
            }
            if let Some(Value::Object(default)) = object.get_mut("default") {
                default.retain(|_, value| !value.is_null());
            }
            // What is within a default is a value, not a schema.
            object.iter_mut().filter(|(key, _)| *key != "default").for_each(|(_, value)| without_null(value));
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        _ => {}
    }
}

/// The tables that have a key, as a file names them. What `[defaults]` has, a definition has, too.
pub(super) fn homes(key: &str) -> Vec<String> {
    let top = SCHEMA["properties"].as_object().into_iter().flatten();
    let tables = top.filter(|(name, _)| *name != DEFAULTS).flat_map(|(name, table)| {
        [(format!("`[{name}]`"), table), (format!("`[{name}.NAME]`"), &table["additionalProperties"])]
    });
    std::iter::once(("the top of the file".to_owned(), &*SCHEMA))
        .chain(tables)
        .filter(|(_, table)| table["properties"].get(key).is_some())
        .map(|(home, _)| home)
        .collect()
}
