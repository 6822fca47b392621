//! [`KeptRecipe`]: a recipe as the registry keeps it, from which no value of a variable can be guessed.
//!
//! A plain hash of a short value, such as a password, is found by trying values. So what is written to the
//! registry is a hash of the plain one with a key, which is random and in the registry, too: whoever has only
//! a copy of a recipe cannot try anything. The fingerprint comes from the plain hashes, since it must be the
//! same on every server; so secrets do not belong into `env_inputs`.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::config::Order;

use super::recipe::{
    EnvInput, FileInput, LinesInput, Recipe, ServerTraits, empty_database, is_empty_database,
};

/// The key of a registry.
#[derive(Clone)]
pub struct RecipeKey(Vec<u8>);

impl RecipeKey {
    /// Takes the bytes that the registry has.
    pub fn new(bytes: Vec<u8>) -> Self {
        RecipeKey(bytes)
    }

    /// The same variable with its hash keyed. The schema of the registry computes it, too, for recipes from
    /// before there was a key.
    fn keyed(&self, variable: &EnvInput) -> EnvInput {
        let keyed = |hash: &String| {
            let text = format!("{}={hash}", variable.name);
            let inner = Sha256::new().chain_update(&self.0).chain_update(text);
            let outer = Sha256::new().chain_update(&self.0).chain_update(inner.finalize());
            outer.finalize().iter().map(|b| format!("{b:02x}")).collect()
        };
        EnvInput { name: variable.name.clone(), hash: variable.hash.as_ref().map(keyed) }
    }

    /// For each kept variable the fresh one of the same name and value, if there is one.
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

/// A recipe with keyed hashes of variables. Only this can be written as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeptRecipe(#[serde(with = "Shape")] Recipe);

impl KeptRecipe {
    /// How a registry with this key keeps a recipe.
    pub fn new(recipe: &Recipe, key: &RecipeKey) -> Self {
        let keyed = |variables: &[EnvInput]| variables.iter().map(|v| key.keyed(v)).collect();
        KeptRecipe(Recipe {
            env: keyed(&recipe.env),
            mapping: keyed(&recipe.mapping),
            build_env: keyed(&recipe.build_env),
            ..recipe.clone()
        })
    }

    /// The recipe, to be compared with one that was just read from files and environment: a variable is equal
    /// to that recipe's if its value was the same.
    pub fn to_compare_with(self, fresh: &Recipe, key: &RecipeKey) -> Recipe {
        Recipe {
            env: key.recognize(self.0.env, &fresh.env),
            mapping: key.recognize(self.0.mapping, &fresh.mapping),
            build_env: key.recognize(self.0.build_env, &fresh.build_env),
            ..self.0
        }
    }

    /// The recipe, to be compared with others that were kept with the same key.
    pub fn to_compare_with_kept(self) -> Recipe {
        self.0
    }
}

/// The fields of [`Recipe`], which cannot be written by itself. Those that came after the first release are
/// left out where they say what was always so before.
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
    databases: Vec<String>,
    #[serde(default = "empty_database", skip_serializing_if = "is_empty_database")]
    from: String,
    server: ServerTraits,
}

fn is_by_directory(order: &Order) -> bool {
    *order == Order::Directory
}
