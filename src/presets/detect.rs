//! Which presets fit a tree.

use std::collections::BTreeMap;

use super::Presets;
use super::file::{Preset, Sign};
use super::tree::{Tree, directory, related};

/// Directories whose projects count only if there are no others.
const ASIDE: [&str; 13] = [
    "test",
    "tests",
    "spec",
    "example",
    "examples",
    "sample",
    "samples",
    "fixtures",
    "docs",
    "doc",
    "testdata",
    "e2e",
    "benchmarks",
];

/// Preset that fits a tree.
#[derive(Clone, Debug)]
pub(crate) struct Detected<'p> {
    /// The preset.
    pub(crate) preset: &'p Preset,
    /// The directories in which it was found, relative to the tree; `""` is the tree itself.
    pub(crate) sites: Vec<String>,
    /// The file or package that showed it.
    pub(crate) because: String,
}

/// How much a sign counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Strength {
    Weak,
    Aside,
    Full,
}

/// Returns the presets that fit a tree, sorted by name.
pub(crate) fn detect<'p>(presets: &'p Presets, tree: &Tree) -> Vec<Detected<'p>> {
    let mut found: Vec<(Strength, Detected<'p>)> = Vec::new();
    for preset in presets.all() {
        let mut sites: BTreeMap<String, (Strength, String)> = BTreeMap::new();
        for sign in &preset.detect {
            for (site, because) in sign.sites(tree) {
                let strength = strength(sign, &site);
                let known = sites.entry(site).or_insert_with(|| (strength, because.clone()));
                if known.0 < strength {
                    *known = (strength, because);
                }
            }
        }
        let Some(best) = sites.values().map(|(strength, _)| *strength).max() else { continue };
        let mut sites: Vec<_> = sites.into_iter().filter(|(_, (strength, _))| *strength == best).collect();
        let depth = |site: &str| if site.is_empty() { 0 } else { site.matches('/').count() + 1 };
        sites.sort_by_key(|(site, _)| depth(site));
        let because = sites[0].1.1.clone();
        // A part of a project below is no project of its own.
        let mut kept: Vec<String> = Vec::new();
        for (site, _) in sites {
            if !kept.iter().any(|above| related(above, &site)) {
                kept.push(site);
            }
        }
        found.push((best, Detected { preset, sites: kept, because }));
    }
    let best = found.iter().map(|(strength, _)| *strength).max();
    found.retain(|(strength, _)| Some(*strength) == best);
    let over: Vec<String> = found.iter().flat_map(|(_, found)| found.preset.over.clone()).collect();
    found.retain(|(_, found)| !over.contains(&found.preset.name));
    found.into_iter().map(|(_, found)| found).collect()
}

fn strength(sign: &Sign, site: &str) -> Strength {
    match sign.weak {
        true => Strength::Weak,
        false if site.split('/').any(|part| ASIDE.contains(&part)) => Strength::Aside,
        false => Strength::Full,
    }
}

impl Sign {
    /// Returns the directories that have this sign, each with the reason.
    fn sites(&self, tree: &Tree) -> Vec<(String, String)> {
        let sites: Vec<(String, String)> = match &self.file {
            None => {
                let names: Vec<&str> = self.packages.iter().map(|package| package.name.as_str()).collect();
                let because = format!("a manifest names the package {}", names.join(" or "));
                tree.naming(&self.packages).map(|site| (site.to_owned(), because.clone())).collect()
            }
            Some(_) => {
                let sites = tree.files().filter_map(|file| {
                    let site = self.site_of(tree, file)?;
                    let text = |wanted: &super::file::Pattern| wanted.0.is_match(&tree.text(file));
                    self.contains.as_ref().is_none_or(text).then(|| (site.to_owned(), file.to_owned()))
                });
                let named: Vec<&str> = tree.naming(&self.packages).collect();
                let fits = |site: &str| self.packages.is_empty() || named.iter().any(|at| related(at, site));
                sites.filter(|(site, _)| fits(site)).collect()
            }
        };
        let barred: Vec<&str> = tree.naming(&self.no_packages).collect();
        let lacks = |site: &str| {
            self.no_file.as_ref().is_none_or(|glob| !tree.below(site).any(|(_, file)| glob.is_match(file)))
        };
        sites
            .into_iter()
            .filter(|(site, _)| !barred.iter().any(|at| related(at, site)) && lacks(site))
            .collect()
    }

    /// Returns the directory from which the sign's glob matches a file. If it matches at any depth, that is the
    /// nearest directory with a manifest, or the root.
    fn site_of<'f>(&self, tree: &Tree, file: &'f str) -> Option<&'f str> {
        let glob = self.file.as_ref()?;
        if glob.text.starts_with("**/") {
            return glob.is_match(file).then(|| tree.project_of(file));
        }
        let mut site = directory(file);
        loop {
            let rest = if site.is_empty() { file } else { &file[site.len() + 1..] };
            if glob.is_match(rest) {
                return Some(site);
            }
            if site.is_empty() {
                return None;
            }
            site = directory(site);
        }
    }
}
