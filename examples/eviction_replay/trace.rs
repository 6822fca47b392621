//! Traces: the runs of a project's CI, each with its set of migrations.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

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
    ///
    /// # Errors
    /// The file, the line and the fault.
    pub(crate) fn read(directory: &Path, name: &str) -> Result<Trace> {
        let table = |kind| Table::read(directory, name, kind);
        let mut files: Vec<(u32, i64)> = Vec::new();
        let mut ids: HashMap<u64, usize> = HashMap::new();
        let rows = table("files")?;
        let [id, dir, rank] = rows.columns(["id", "dir", "rank"])?;
        for row in rows.iter() {
            if ids.insert(row.number::<u64>(id)?, files.len()).is_some() {
                return Err(row.fault(&format!("file {} was there before", row.text(id)?)));
            }
            files.push((row.number(dir)?, row.number(rank)?));
        }
        let words = files.len().div_ceil(64);
        let mut sets: Vec<Set> = Vec::new();
        let mut numbers: HashMap<u64, usize> = HashMap::new();
        let rows = table("sets")?;
        let [fp, from, diff] = rows.columns(["fp", "from", "diff"])?;
        for row in rows.iter() {
            let mut bits = match row.text(from)? {
                "" => vec![0; words],
                _ => match numbers.get(&row.number::<u64>(from)?) {
                    Some(from) => sets[*from].bits.clone(),
                    None => return Err(row.fault(&format!("set {} does not come before", row.text(from)?))),
                },
            };
            let diff = row.text(diff)?;
            let parts = diff.split_once(';');
            let (added, removed) = parts.ok_or_else(|| row.fault(&format!("`{diff}` has no `;`")))?;
            for (list, is_added) in [(removed, false), (added, true)] {
                for id in list.split_whitespace() {
                    let known = id.parse::<u64>().ok().and_then(|id| ids.get(&id));
                    let known = *known.ok_or_else(|| row.fault(&format!("there is no file `{id}`")))?;
                    match is_added {
                        true => bits[known / 64] |= 1 << (known % 64),
                        false => bits[known / 64] &= !(1 << (known % 64)),
                    }
                }
            }
            if numbers.insert(row.number::<u64>(fp)?, sets.len()).is_some() {
                return Err(row.fault(&format!("set {} was there before", row.text(fp)?)));
            }
            sets.push(Set::new(bits, &files));
        }
        let mut now = 0.0;
        let mut runs = Vec::new();
        let rows = table("events")?;
        let [dt, fp] = rows.columns(["dt", "fp"])?;
        for row in rows.iter() {
            let passed: f64 = row.number(dt)?;
            if !(passed >= 0.0 && passed.is_finite()) {
                return Err(row.fault("`dt` is no number of seconds since the row before"));
            }
            now += passed;
            let set = numbers.get(&row.number::<u64>(fp)?);
            let set =
                *set.ok_or_else(|| row.fault(&format!("there is no set {}", row.text(fp).unwrap_or(""))))?;
            runs.push((now, set));
        }
        if runs.is_empty() {
            return Err(format!("{}: there are no runs", rows.file.display()).into());
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

/// Table with a header.
struct Table {
    file: PathBuf,
    header: Vec<String>,
    rows: Vec<String>,
}

/// Row of a table.
struct Row<'a> {
    table: &'a Table,
    /// Number of its line, from 1.
    line: usize,
    values: Vec<&'a str>,
}

/// Column of a table.
#[derive(Clone, Copy)]
struct Column(usize);

impl Table {
    fn read(directory: &Path, name: &str, kind: &str) -> Result<Table> {
        let plain = directory.join(format!("{name}.{kind}.csv"));
        let packed = directory.join(format!("{name}.{kind}.csv.xz"));
        let (file, text) = if plain.exists() {
            let text = std::fs::read_to_string(&plain).map_err(|e| format!("{}: {e}", plain.display()))?;
            (plain, text)
        } else if packed.exists() {
            let output = Command::new("xz")
                .arg("--decompress")
                .arg("--stdout")
                .arg(&packed)
                .output()
                .map_err(|e| format!("xz, which unpacks traces, does not start: {e}"))?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).trim_end().into());
            }
            let text = String::from_utf8(output.stdout).map_err(|e| format!("{}: {e}", packed.display()))?;
            (packed, text)
        } else {
            return Err(format!("there is neither {} nor {}", plain.display(), packed.display()).into());
        };
        let mut lines = text.lines();
        let header = lines.next().unwrap_or_default().split(',').map(|name| name.trim().to_owned()).collect();
        Ok(Table { file, header, rows: lines.map(str::to_owned).collect() })
    }

    fn columns<const N: usize>(&self, names: [&str; N]) -> Result<[Column; N]> {
        let mut columns = [Column(0); N];
        for (column, name) in columns.iter_mut().zip(names) {
            let found = self.header.iter().position(|header| header == name);
            *column = Column(found.ok_or_else(|| {
                format!(
                    "{}:1: there is no column `{name}`, but {}",
                    self.file.display(),
                    self.header.join(", ")
                )
            })?);
        }
        Ok(columns)
    }

    fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        let rows = self.rows.iter().enumerate().filter(|(_, row)| !row.trim().is_empty());
        rows.map(|(i, row)| Row { table: self, line: i + 2, values: row.split(',').map(str::trim).collect() })
    }
}

impl<'a> Row<'a> {
    fn text(&self, Column(at): Column) -> Result<&'a str> {
        let value = self.values.get(at).copied();
        value.ok_or_else(|| self.fault(&format!("`{}` is missing", self.table.header[at])))
    }

    fn number<T: FromStr>(&self, column: Column) -> Result<T> {
        let text = self.text(column)?;
        text.parse().map_err(|_| {
            self.fault(&format!("`{}` is `{text}`, which is no number", self.table.header[column.0]))
        })
    }

    fn fault(&self, what: &str) -> Box<dyn Error> {
        format!("{}:{}: {what}", self.table.file.display(), self.line).into()
    }
}

/// Returns the names of the traces in a directory.
pub(crate) fn names(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let entries = std::fs::read_dir(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    for entry in entries {
        let file = entry?.file_name().to_string_lossy().into_owned();
        if let Some((name, "")) = file.trim_end_matches(".xz").split_once(".events.csv") {
            names.push(name.to_owned());
        }
    }
    names.sort();
    match names.is_empty() {
        true => {
            Err(format!("{}: there is no trace, since no file is named NAME.events.csv", directory.display())
                .into())
        }
        false => Ok(names),
    }
}
