//! What the store keeps of a template: a manifest, a small head to find it as a base, and a compressed dump of each
//! database.
//!
//! ```text
//! v1/PROJECT/DEFINITION/SCOPE/tpl/FINGERPRINT/manifest
//! v1/PROJECT/DEFINITION/SCOPE/tpl/FINGERPRINT/BLAKE3.dump.zst
//! v1/PROJECT/DEFINITION/SCOPE/heads/CORE/COUNT-FINGERPRINT
//! v1/PROJECT/DEFINITION/SCOPE/used/FINGERPRINT
//! v1/PROJECT/DEFINITION/SCOPE/building/FINGERPRINT
//! ```
//!
//! CORE hashes everything of the fingerprint but migrations, companions and `rerun_inputs`: one list shows the possible
//! bases. Manifest and head are three lines each: format and hash, JSON, signature.

use std::collections::{BTreeMap, HashMap};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cache_file::key::{PublicKey, Purpose, SecretKey};
use crate::config::Order;
use crate::fingerprint::{FileInput, Recipe, RelPath, groups};
use crate::pg::replay::Replay;

/// Version of the formats.
pub(crate) const FORMAT: u32 = 1;
/// Beginning of all keys.
pub(crate) const TOP: &str = "v1";
/// Upper limits of sizes.
pub(crate) const MANIFEST: u64 = 64 << 20;
pub(crate) const HEAD: u64 = 4 << 20;

const MAGIC: &str = "pgstencil-remote ";

/// Everything about an entry but its dumps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Namespace.
    pub(crate) project: String,
    /// Name of the definition.
    pub(crate) definition: String,
    /// Scope that it was pushed to.
    pub(crate) scope: String,
    /// Fingerprint of its inputs; 64 hex digits.
    pub(crate) fingerprint: String,
    /// Hash of the parts of the recipe that are not below.
    pub(crate) core: String,
    /// Files of the recipe.
    pub(crate) migrations: Vec<FileInput>,
    /// Files of the recipe.
    pub(crate) companions: Vec<FileInput>,
    /// Files of the recipe.
    pub(crate) rerun_inputs: Vec<FileInput>,
    /// Major version of the server that built it.
    pub(crate) major: u32,
    /// Exact version of that server.
    pub(crate) server_version: u32,
    /// Major version of the `pg_dump` that wrote the dumps.
    pub(crate) dumped_by: u32,
    /// Role that built it.
    pub(crate) built_as: String,
    /// Whether grants or policies in it name that role, so that only a role of this name can restore it.
    pub(crate) names_builder: bool,
    /// Whether some of its objects belong to other roles.
    pub(crate) other_owners: bool,
    /// Other roles that it needs.
    pub(crate) roles: Vec<String>,
    /// Extensions in it and their versions.
    pub(crate) extensions: BTreeMap<String, String>,
    /// Duration of its build.
    pub(crate) build_ms: u64,
    /// Duration of a full build, if it was built incrementally and that is known.
    pub(crate) full_ms: Option<u64>,
    /// Fingerprint of the base of its incremental build.
    pub(crate) base: Option<String>,
    /// Migrations that were added to that.
    pub(crate) added: Vec<RelPath>,
    /// Number of incremental builds since the full build.
    pub(crate) chain: i32,
    /// Whether a full build was to replace it.
    pub(crate) provisional: bool,
    /// Age of its oldest contents when it was pushed, in seconds.
    pub(crate) contents_s: u64,
    /// Time of the push, in seconds since 1970, by the pusher's clock.
    pub(crate) pushed_s: u64,
    /// Origin: CI system, branch and commit, as far as they are known.
    pub(crate) origin: Origin,
    /// Version of pgstencil.
    pub(crate) pgstencil: String,
    /// Databases, in the order of the definition.
    pub(crate) databases: Vec<Dump>,
}

/// Origin of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// `github`, `gitlab`, `buildkite`, or empty.
    pub(crate) system: String,
    /// Branch or tag; may be empty.
    pub(crate) git_ref: String,
    /// Commit; may be empty.
    pub(crate) commit: String,
}

/// One database of an entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Dump {
    /// Alias of the database.
    pub(crate) alias: String,
    /// blake3 of the compressed dump; hex.
    pub(crate) blake3: String,
    /// Size of the compressed dump.
    pub(crate) bytes: u64,
    /// Size of the dump.
    pub(crate) raw_bytes: u64,
    /// Approximate number of files of the database.
    pub(crate) files: i64,
    /// Hash of its numbers of objects and rows, if it was computed.
    pub(crate) shape: Option<String>,
    /// Properties that lie outside the database.
    pub(crate) replay: Replay,
}

/// End of the name of each dump.
pub(crate) const DUMP_END: &str = ".dump.zst";

impl Dump {
    /// Returns its name in the entry's directory.
    pub(crate) fn name(&self) -> String {
        format!("{}{DUMP_END}", self.blake3)
    }
}

impl Manifest {
    /// Returns the recipe, if it has the same core as `fresh`, which may be the inputs of another template of the
    /// same definition.
    pub(crate) fn recipe(&self, fresh: &Recipe) -> Option<Recipe> {
        let recipe = Recipe {
            migrations: self.migrations.clone(),
            companions: self.companions.clone(),
            rerun_inputs: self.rerun_inputs.clone(),
            ..fresh.clone()
        };
        // This also covers everything in which the cores could differ.
        (recipe.fingerprint().to_string() == self.fingerprint).then_some(recipe)
    }

    /// Returns the size of its dumps.
    pub(crate) fn bytes(&self) -> u64 {
        self.databases.iter().map(|dump| dump.bytes).sum()
    }
}

/// What shows whether an entry can be a base, without its list of files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Namespace.
    pub(crate) project: String,
    /// Name of the definition.
    pub(crate) definition: String,
    /// Fingerprint; 64 hex digits.
    pub(crate) fingerprint: String,
    /// Hash of the rest of the recipe.
    pub(crate) core: String,
    /// Number of files of `migrations`.
    pub(crate) migrations: usize,
    /// Whether a full build was to replace it.
    pub(crate) provisional: bool,
    /// For each group of migrations its directory, the number of its files and the hash of their chain.
    pub(crate) groups: Vec<(RelPath, usize, String)>,
    /// Short hashes of the companions.
    pub(crate) companions: Vec<String>,
}

impl Head {
    pub(crate) fn new(project: &str, definition: &str, recipe: &Recipe, provisional: bool) -> Self {
        let chains = chains(&recipe.migrations, recipe.order);
        Head {
            project: project.to_owned(),
            definition: definition.to_owned(),
            fingerprint: recipe.fingerprint().to_string(),
            core: recipe.core(),
            migrations: recipe.migrations.len(),
            provisional,
            groups: chains
                .into_iter()
                .map(|(directory, chain)| {
                    let last = chain.last().cloned().unwrap_or_default();
                    (directory, chain.len(), last)
                })
                .collect(),
            companions: recipe.companions.iter().map(digest).collect(),
        }
    }

    /// Returns whether a template of `recipe` can only append to this entry: for each group of the entry, the chain of
    /// the recipe is the same at that length.
    pub(crate) fn is_prefix_of(&self, recipe: &Recipe, chains: &Chains) -> bool {
        let companions: Vec<String> = recipe.companions.iter().map(digest).collect();
        self.companions.iter().all(|one| companions.contains(one))
            && self.groups.iter().all(|(directory, length, last)| {
                let chain = chains.get(directory);
                *length > 0 && chain.and_then(|chain| chain.get(length - 1)) == Some(last)
            })
    }
}

/// The chain of hashes of each group: the n-th one covers the first n files.
pub(crate) type Chains = HashMap<RelPath, Vec<String>>;

/// Returns the chains of some migrations.
pub(crate) fn chains(files: &[FileInput], order: Order) -> Chains {
    let by_path: HashMap<&RelPath, &FileInput> = files.iter().map(|file| (&file.path, file)).collect();
    let mut chains = Chains::new();
    for group in groups(files, order) {
        let mut chain = Vec::new();
        let mut before = String::new();
        for path in group.unordered.iter().chain(&group.ordered) {
            if let Some(file) = by_path.get(path) {
                before = short(format!("{before} {}", digest(file)).as_bytes());
                chain.push(before.clone());
            }
        }
        chains.insert(group.directory, chain);
    }
    chains
}

fn digest(file: &FileInput) -> String {
    let form = file.normal.as_ref().map(|normal| normal.form.as_str()).unwrap_or_default();
    short(format!("{} {} {} {form}", file.path, file.hash, file.bytes).as_bytes())
}

fn short(text: &[u8]) -> String {
    blake3::hash(text).to_hex()[..16].to_owned()
}

/// Returns the directory of an entry.
pub(crate) fn directory(project: &str, definition: &str, scope: &str, fingerprint: &str) -> String {
    format!("{TOP}/{project}/{definition}/{scope}/tpl/{fingerprint}")
}

/// Returns the key of an entry's manifest.
pub(crate) fn manifest_key(project: &str, definition: &str, scope: &str, fingerprint: &str) -> String {
    format!("{}/manifest", directory(project, definition, scope, fingerprint))
}

/// Returns the key by which it is recorded that an entry was used.
pub(crate) fn used(project: &str, definition: &str, scope: &str, fingerprint: &str) -> String {
    format!("{TOP}/{project}/{definition}/{scope}/used/{fingerprint}")
}

/// Returns the key by which a command says that it builds a template.
pub(crate) fn building(project: &str, definition: &str, scope: &str, fingerprint: &str) -> String {
    format!("{TOP}/{project}/{definition}/{scope}/building/{fingerprint}")
}

/// Returns the directory of the heads of a core.
pub(crate) fn heads(project: &str, definition: &str, scope: &str, core: &str) -> String {
    format!("{TOP}/{project}/{definition}/{scope}/heads/{}", &core[..16.min(core.len())])
}

/// Returns the name of a head, which shows its number of migrations.
pub(crate) fn head_name(migrations: usize, fingerprint: &str) -> String {
    format!("{migrations:06}-{fingerprint}")
}

/// Reason why an object cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is not what was written.
    Damaged(&'static str),
    /// A newer pgstencil wrote it.
    Newer,
    /// It is not signed, or with a key that is not trusted.
    Untrusted(String),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::Damaged(what) => write!(f, "is damaged ({what})"),
            Refused::Newer => f.write_str("was written by a newer pgstencil"),
            Refused::Untrusted(why) => f.write_str(why),
        }
    }
}

/// Writes a manifest or a head.
pub(crate) fn seal<T: Serialize>(what: &T, key: Option<&SecretKey>) -> Result<Vec<u8>, serde_json::Error> {
    let text = serde_json::to_vec(what)?;
    let mut bytes = format!("{MAGIC}{FORMAT} {}\n", blake3::hash(&text).to_hex()).into_bytes();
    bytes.extend(&text);
    bytes.extend(match key {
        Some(key) => {
            format!("\nsigned {} {}\n", key.public(), key.sign(Purpose::RemoteEntry, &text)).into_bytes()
        }
        None => b"\nunsigned\n".to_vec(),
    });
    Ok(bytes)
}

/// Reads a manifest or a head, once its hash and its signature are right. With `trusted`, a signature of one of these
/// keys is required. Also returns the key that signed it.
///
/// # Errors
/// The reason why it cannot be used.
pub(crate) fn open<T: DeserializeOwned>(
    bytes: &[u8],
    trusted: &[PublicKey],
) -> Result<(T, Option<PublicKey>), Refused> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut line = || lines.next().ok_or(Refused::Damaged("truncated"));
    let first = std::str::from_utf8(line()?).map_err(|_| Refused::Damaged("first line"))?;
    let rest = first.strip_prefix(MAGIC).ok_or(Refused::Damaged("first line"))?;
    let (format, hash) = rest.split_once(' ').ok_or(Refused::Damaged("first line"))?;
    match format.parse::<u32>() {
        Ok(FORMAT) => {}
        Ok(format) if format > FORMAT => return Err(Refused::Newer),
        _ => return Err(Refused::Damaged("first line")),
    }
    let (text, signature) = (line()?, line()?);
    if blake3::hash(text).to_hex().as_str() != hash {
        return Err(Refused::Damaged("checksum"));
    }
    if line()? != b"" || lines.next().is_some() {
        return Err(Refused::Damaged("end"));
    }
    let signature = std::str::from_utf8(signature).map_err(|_| Refused::Damaged("signature"))?;
    let key = match signature {
        "unsigned" => None,
        signed => {
            let damaged = || Refused::Damaged("signature");
            let (key, signature) =
                signed.strip_prefix("signed ").and_then(|rest| rest.split_once(' ')).ok_or_else(damaged)?;
            let key = PublicKey::parse(key).map_err(|_| damaged())?;
            // It must be right even if no key is required.
            if !key.verifies(Purpose::RemoteEntry, text, signature) {
                return Err(damaged());
            }
            Some(key)
        }
    };
    match &key {
        _ if trusted.is_empty() => {}
        Some(key) if trusted.contains(key) => {}
        Some(key) => {
            return Err(Refused::Untrusted(format!("is signed with {key}, which `trust` does not name")));
        }
        None => return Err(Refused::Untrusted("is not signed, and `trust` names keys".into())),
    }
    let what = serde_json::from_slice(text).map_err(|_| Refused::Damaged("contents"))?;
    Ok((what, key))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn recipe(files: &[(&str, &str)]) -> Recipe {
        let file = |(path, text): &(&str, &str)| FileInput {
            path: RelPath::new(Path::new(path)),
            hash: blake3::hash(text.as_bytes()).to_string(),
            bytes: text.len() as u64,
            normal: None,
        };
        Recipe::of_migrations(files.iter().map(file).collect())
    }

    fn fits(base: &[(&str, &str)], new: &[(&str, &str)]) -> bool {
        let new = recipe(new);
        let head = Head::new("shop", "app", &recipe(base), false);
        head.is_prefix_of(&new, &chains(&new.migrations, new.order))
    }

    #[test]
    fn a_head_shows_whether_others_only_append() {
        let base = [("a/1.sql", "x"), ("a/2.sql", "y"), ("b/1.sql", "z")];
        assert!(fits(&base, &[&base[..], &[("a/10.sql", "n"), ("c/1.sql", "m")]].concat()));
        // Edited, gone, in between; and the base is newer than the code.
        assert!(!fits(&base, &[("a/1.sql", "X"), ("a/2.sql", "y"), ("b/1.sql", "z"), ("b/2.sql", "")]));
        assert!(!fits(&base, &[("a/1.sql", "x"), ("a/2.sql", "y"), ("a/3.sql", "")]));
        assert!(!fits(&base, &[&base[..], &[("a/1_5.sql", "n")]].concat()));
        assert!(!fits(&base, &base[..2]));
        assert!(fits(&base, &base));
    }

    #[test]
    fn what_was_changed_or_signed_by_others_is_refused() {
        let head = Head::new("shop", "app", &recipe(&[("a/1.sql", "x")]), true);
        let key = SecretKey::random().unwrap();
        let trusted = [key.public()];
        let plain = seal(&head, None).unwrap();
        let signed = seal(&head, Some(&key)).unwrap();
        assert_eq!(open::<Head>(&plain, &[]).unwrap(), (head.clone(), None));
        assert_eq!(open::<Head>(&signed, &trusted).unwrap(), (head.clone(), Some(key.public())));
        assert!(matches!(open::<Head>(&plain, &trusted), Err(Refused::Untrusted(_))));
        let other = [SecretKey::random().unwrap().public()];
        assert!(matches!(open::<Head>(&signed, &other), Err(Refused::Untrusted(_))));
        for length in 0..signed.len() {
            assert!(open::<Head>(&signed[..length], &trusted).is_err(), "{length}");
        }
        for at in 0..signed.len() {
            let mut bent = signed.clone();
            bent[at] ^= 1;
            assert!(open::<Head>(&bent, &trusted).is_err(), "{at}");
        }
        let newer = String::from_utf8(plain).unwrap().replacen("remote 1 ", "remote 2 ", 1);
        assert_eq!(open::<Head>(newer.as_bytes(), &[]).unwrap_err(), Refused::Newer);
    }
}
