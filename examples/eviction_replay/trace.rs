//! Traces: the runs of a project's CI, each with its set of migrations.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::Path;
use std::process::Command;

/// One project's history.
pub(crate) struct Trace {
    pub(crate) name: String,
    /// Seconds since the epoch, and the number of the set.
    pub(crate) runs: Vec<(f64, usize)>,
    pub(crate) sets: Vec<Set>,
    /// Directory and rank of each file.
    files: Vec<(u32, i64)>,
}

/// The migrations of one fingerprint.
pub(crate) struct Set {
    /// One bit per file.
    bits: Vec<u64>,
    /// Number of files.
    pub(crate) files: usize,
    /// The highest rank in each directory.
    last: BTreeMap<u32, i64>,
}

impl Set {
    fn new(bits: Vec<u64>, files: &[(u32, i64)]) -> Set {
        let mut last = BTreeMap::new();
        let present = (0..files.len()).filter(|id| bits[id / 64] >> (id % 64) & 1 == 1);
        for id in present {
            let (directory, rank) = files[id];
            let last = last.entry(directory).or_insert(rank);
            *last = rank.max(*last);
        }
        let count = bits.iter().map(|word| word.count_ones() as usize).sum();
        Set { bits, files: count, last }
    }
}

type Result<T> = std::result::Result<T, Box<dyn Error>>;

impl Trace {
    /// Reads `NAME.events.csv`, `NAME.sets.csv` and `NAME.files.csv` of a directory. Each may end in `.xz`;
    /// then `xz` must be on the PATH.
    pub(crate) fn read(directory: &Path, name: &str) -> Result<Trace> {
        let files: Vec<(u32, i64)> = table(directory, name, "files")?
            .iter()
            .map(|row| Ok((row[1].parse()?, row[2].parse()?)))
            .collect::<Result<_>>()?;
        let words = files.len().div_ceil(64);
        let mut sets: Vec<Set> = Vec::new();
        for row in table(directory, name, "sets")? {
            let mut bits = match row[1].as_str() {
                "" => vec![0; words],
                from => sets[from.parse::<usize>()?].bits.clone(),
            };
            let (added, removed) = row[2].split_once(';').ok_or("a set without `;`")?;
            for id in removed.split_whitespace() {
                let id: usize = id.parse()?;
                bits[id / 64] &= !(1 << (id % 64));
            }
            for id in added.split_whitespace() {
                let id: usize = id.parse()?;
                bits[id / 64] |= 1 << (id % 64);
            }
            sets.push(Set::new(bits, &files));
        }
        let mut now = 0.0;
        let mut runs = Vec::new();
        for row in table(directory, name, "events")? {
            now += row[0].parse::<f64>()?;
            runs.push((now, row[4].parse()?));
        }
        Ok(Trace { name: name.to_owned(), runs, sets, files })
    }

    /// Keeps only the runs of the last years.
    pub(crate) fn last_years(mut self, years: f64) -> Trace {
        let end = self.runs.last().map_or(0.0, |run| run.0);
        let start = end - years * 365.25 * 86_400.0;
        self.runs.retain(|run| run.0 >= start);
        self
    }

    /// Returns the number of different sets in the runs.
    pub(crate) fn distinct(&self) -> usize {
        let sets: BTreeSet<usize> = self.runs.iter().map(|run| run.1).collect();
        sets.len()
    }

    /// Returns the number of files that must be added to the set `base` to get `set`; `None` if that is not
    /// an extension.
    pub(crate) fn added(&self, base: usize, set: usize) -> Option<usize> {
        let (base, set) = (&self.sets[base], &self.sets[set]);
        if base.files >= set.files {
            return None;
        }
        let mut pairs = base.bits.iter().zip(&set.bits);
        if !pairs.all(|(base, set)| base & !set == 0) {
            return None;
        }
        let new = (0..self.files.len()).filter(|id| {
            let (word, bit) = (id / 64, id % 64);
            (set.bits[word] & !base.bits[word]) >> bit & 1 == 1
        });
        for id in new {
            let (directory, rank) = self.files[id];
            if rank < 0 {
                continue;
            }
            if base.last.get(&directory).is_some_and(|last| rank <= *last) {
                return None;
            }
        }
        Some(set.files - base.files)
    }

    /// Returns the files of `set` that `other` has as well and that come before the first difference in their
    /// directory, as bits.
    pub(crate) fn prefix(&self, other: usize, set: usize) -> Vec<u64> {
        let (other, set) = (&self.sets[other], &self.sets[set]);
        let ids = |word: usize, mut bits: u64| {
            std::iter::from_fn(move || {
                let bit = bits.trailing_zeros() as usize;
                bits = bits.checked_sub(1)? & bits;
                Some(word * 64 + bit)
            })
        };
        let mut first: BTreeMap<u32, i64> = BTreeMap::new();
        let pairs = || other.bits.iter().zip(&set.bits).enumerate();
        for (word, (a, b)) in pairs() {
            for (directory, rank) in ids(word, a ^ b).map(|id| self.files[id]).filter(|file| file.1 >= 0) {
                let first = first.entry(directory).or_insert(rank);
                *first = rank.min(*first);
            }
        }
        let mut prefix = vec![0; set.bits.len()];
        for (word, (a, b)) in pairs() {
            for id in ids(word, a & b) {
                let (directory, rank) = self.files[id];
                if first.get(&directory).is_none_or(|first| rank < *first) {
                    prefix[word] |= 1 << (id % 64);
                }
            }
        }
        prefix
    }

    /// Returns whether the files of `set` that `prefix` lacks are in one directory, and the prefix has files with an
    /// order there: only then a migrate command can stop in between.
    pub(crate) fn stops(&self, prefix: &[u64], set: usize) -> bool {
        let ids = |word: usize, mut bits: u64| {
            std::iter::from_fn(move || {
                let bit = bits.trailing_zeros() as usize;
                bits = bits.checked_sub(1)? & bits;
                Some(word * 64 + bit)
            })
        };
        let pairs = || self.sets[set].bits.iter().zip(prefix).enumerate();
        let later: BTreeSet<u32> = pairs()
            .flat_map(|(word, (set, prefix))| ids(word, set & !prefix))
            .filter(|id| self.files[*id].1 >= 0)
            .map(|id| self.files[id].0)
            .collect();
        let mut before = pairs().flat_map(|(word, (_, prefix))| ids(word, *prefix));
        later.len() == 1 && before.any(|id| self.files[id].1 >= 0 && later.contains(&self.files[id].0))
    }

    /// Returns the number of the set of these files, which is added if it is new.
    pub(crate) fn add(&mut self, bits: Vec<u64>) -> usize {
        if let Some(found) = self.sets.iter().position(|set| set.bits == bits) {
            return found;
        }
        self.sets.push(Set::new(bits, &self.files));
        self.sets.len() - 1
    }
}

/// Returns the rows of a table, without its header.
fn table(directory: &Path, name: &str, kind: &str) -> Result<Vec<Vec<String>>> {
    let plain = directory.join(format!("{name}.{kind}.csv"));
    let packed = directory.join(format!("{name}.{kind}.csv.xz"));
    let text = if plain.exists() {
        std::fs::read_to_string(&plain)?
    } else {
        let output = Command::new("xz")
            .arg("--decompress")
            .arg("--stdout")
            .arg(&packed)
            .output()
            .map_err(|e| format!("xz, which unpacks traces, does not start: {e}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        String::from_utf8(output.stdout)?
    };
    let rows = text.lines().skip(1);
    Ok(rows.map(|row| row.split(',').map(str::to_owned).collect()).collect())
}

/// Returns the names of the traces in a directory.
pub(crate) fn names(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        if let Some((name, "")) = file.trim_end_matches(".xz").split_once(".events.csv") {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}
