//! [`KeptRecipe`]: a recipe as the registry stores it, from which the values of variables cannot be guessed.
//!
//! A plain hash of a short value, such as a password, can be inverted by trying values. So the registry
//! stores a hash of the plain hash with a key, which is random and also in the registry: a copy of a recipe
//! alone is not enough to try values. The fingerprint uses the plain hashes, since it must be the same on
//! every server; so secrets do not belong in `env_inputs`.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::config::Order;

use super::recipe::{
    EnvInput, FileInput, LinesInput, Recipe, ServerTraits, empty_database, is_empty_database,
};

/// The key of a registry.
#[derive(Clone)]
pub(crate) struct RecipeKey(Vec<u8>);

impl RecipeKey {
    /// Wraps the bytes that the registry stores.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        RecipeKey(bytes)
    }

    /// Returns the same variable with its hash keyed. The schema of the registry also computes this, for
    /// recipes that are older than the key.
    fn keyed(&self, variable: &EnvInput) -> EnvInput {
        let keyed = |hash: &String| {
            let text = format!("{}={hash}", variable.name);
            let inner = Sha256::new().chain_update(&self.0).chain_update(text);
            let outer = Sha256::new().chain_update(&self.0).chain_update(inner.finalize());
            outer.finalize().iter().map(|b| format!("{b:02x}")).collect()
        };
        EnvInput { name: variable.name.clone(), hash: variable.hash.as_ref().map(keyed) }
    }

    /// Replaces each kept variable by the fresh one of the same name and value, if there is one.
    fn recognize(&self, kept: Vec<EnvInput>, fresh: &[EnvInput]) -> Vec<EnvInput> {
        let recognize = |kept: EnvInput| {
            let known = fresh.iter().find(|f| self.keyed(f) == kept);
            known.cloned().unwrap_or(kept)
        };
        kept.into_iter().map(recognize).collect()
    }
}

impl std::fmt::Debug for RecipeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// A recipe with keyed hashes of variables. Only this type can be serialized.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct KeptRecipe(#[serde(with = "Shape")] Recipe);

impl KeptRecipe {
    /// Converts a recipe to the form that a registry with this key stores.
    pub(crate) fn new(recipe: &Recipe, key: &RecipeKey) -> Self {
        let keyed = |variables: &[EnvInput]| variables.iter().map(|v| key.keyed(v)).collect();
        KeptRecipe(Recipe {
            env: keyed(&recipe.env),
            mapping: keyed(&recipe.mapping),
            build_env: keyed(&recipe.build_env),
            ..recipe.clone()
        })
    }

    /// Returns the recipe, ready to be compared with one that was just read from files and environment: a
    /// variable is equal to the fresh one if its value was the same.
    pub(crate) fn into_comparable(self, fresh: &Recipe, key: &RecipeKey) -> Recipe {
        Recipe {
            env: key.recognize(self.0.env, &fresh.env),
            mapping: key.recognize(self.0.mapping, &fresh.mapping),
            build_env: key.recognize(self.0.build_env, &fresh.build_env),
            ..self.0
        }
    }

    /// Returns the recipe, to be compared with others that were stored with the same key.
    pub(crate) fn into_comparable_with_kept(self) -> Recipe {
        self.0
    }
}

/// The fields of [`Recipe`], which is not serializable itself. Fields that were added after the first release
/// are omitted where they hold the value that used to be implied.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Recipe")]
struct Shape {
    format: u32,
    migrations: Vec<FileInput>,
    rerun_inputs: Vec<FileInput>,
    inputs: Vec<FileInput>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    companions: Vec<FileInput>,
    #[serde(default, skip_serializing_if = "is_by_directory")]
    order: Order,
    lines: Vec<LinesInput>,
    env: Vec<EnvInput>,
    mapping: Vec<EnvInput>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    build_env: Vec<EnvInput>,
    build: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    databases: Vec<String>,
    #[serde(default = "empty_database", skip_serializing_if = "is_empty_database")]
    from: String,
    server: ServerTraits,
}

fn is_by_directory(order: &Order) -> bool {
    *order == Order::Directory
}
