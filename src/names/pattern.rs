//! Patterns for the names of clones.

use std::str::FromStr;

use super::{MAX_NAME_BYTES, SMALLEST, folded};
use crate::error::{Error, Result};

/// The largest index, which has three digits, also when it is counted from 1.
const MOST_CLONES: usize = 998;

/// The value of `--name`: a pattern with `{id}`, `{alias}`, `{n}`, `{shard}`, `{branch}`, `{worktree}`,
/// `{project}`. `{n1}` counts from 1. With characters of [`SEPARATORS`] before it, as in `{-n}`, a number is empty
/// for the first clone, and begins with the second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamePattern(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

/// What may stand before the `n` of a number that the first clone does not have.
const SEPARATORS: [char; 3] = ['-', '_', '.'];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Id,
    Alias,
    /// The number of the clone, counted from this one.
    Index(usize),
    /// Empty for the first clone; for the others the separator and their number, counted from this one.
    Following(String, usize),
    Shard,
    Branch,
    Worktree,
    Project,
}

/// The values of the fields of a [`NamePattern`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct NameParts<'a> {
    /// `{id}`: the same for all clones of one request.
    pub id: &'a str,
    /// `{alias}`
    pub alias: &'a str,
    /// `{n}`
    pub index: usize,
    /// `{shard}`, if the caller has one.
    pub shard: Option<u32>,
    /// `{branch}`, if there is one.
    pub branch: Option<&'a str>,
    /// `{worktree}`, if there is one.
    pub worktree: Option<&'a str>,
    /// `{project}`
    pub project: &'a str,
}

impl Default for NamePattern {
    fn default() -> Self {
        use Part::{Field as F, Text as T};
        NamePattern(vec![
            F(Field::Project),
            T("_".into()),
            F(Field::Alias),
            T("_".into()),
            F(Field::Id),
            F(following()),
        ])
    }
}

/// What a pattern without a number ends in: `_1`, `_2` … for the second clone and the next, as Django names its
/// copies.
fn following() -> Field {
    Field::Following("_".into(), 1)
}

/// The number in a pattern: `n`, `n1`, `-n`, `-n1`.
fn number(inner: &str) -> Option<Field> {
    let n = inner.trim_start_matches(SEPARATORS);
    let from = match n {
        "n" => 0,
        "n1" => 1,
        _ => return None,
    };
    Some(match &inner[..inner.len() - n.len()] {
        "" => Field::Index(from),
        separator => Field::Following(separator.to_owned(), from),
    })
}

impl NamePattern {
    /// Returns whether each clone has a number in its name.
    fn is_numbered(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Field(Field::Index(_))))
    }

    /// Returns whether every clone gets its own name.
    pub(crate) fn is_unique(&self) -> bool {
        self.0.contains(&Part::Field(Field::Id))
    }

    /// Returns whether the name depends on the branch.
    pub(crate) fn uses_branch(&self) -> bool {
        self.0.contains(&Part::Field(Field::Branch))
    }

    /// Returns whether the name depends on the worktree.
    pub(crate) fn uses_worktree(&self) -> bool {
        self.0.contains(&Part::Field(Field::Worktree))
    }

    /// Renders the pattern. Project, alias, branch and worktree are [`folded`], and shortened as far as
    /// needed to fit into 63 bytes.
    ///
    /// # Errors
    /// A field has no value here, or the name is too long even when shortened.
    pub(crate) fn render(&self, parts: &NameParts<'_>) -> Result<String> {
        // Numbers have room for three digits, so that `x_gw9` and `x_gw10` are shortened alike.
        let numbered = !self.is_unique() || self.is_numbered();
        let widest = if numbered { MOST_CLONES } else { 0 };
        for index in [widest.max(parts.index), parts.index] {
            let widest = NameParts { index, ..*parts };
            // The longest of these fields is shortened first; each keeps at least eight characters.
            for room in (SMALLEST..=MAX_NAME_BYTES).rev() {
                if self.render_within(&widest, room)?.len() <= MAX_NAME_BYTES {
                    return self.render_within(parts, room);
                }
            }
        }
        Err(Error::usage(format!("the name pattern gives names of more than {MAX_NAME_BYTES} bytes"))
            .detail(format!("such as `{}`", self.render_within(parts, SMALLEST)?))
            .detail("Postgres would truncate them, and two of them could become equal")
            .hint("use a shorter `--name`"))
    }

    fn render_within(&self, parts: &NameParts<'_>, room: usize) -> Result<String> {
        let mut name = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => name += text,
                Part::Field(Field::Id) => name += parts.id,
                Part::Field(Field::Index(from)) => name += &(parts.index + from).to_string(),
                Part::Field(Field::Following(separator, from)) => {
                    if let Some(before) = parts.index.checked_sub(1) {
                        name += &format!("{separator}{}", before + from);
                    }
                }
                Part::Field(Field::Alias) => name += &folded(parts.alias, room),
                Part::Field(Field::Project) => name += &folded(parts.project, room),
                Part::Field(Field::Shard) => match parts.shard {
                    Some(shard) => name += &shard.to_string(),
                    None => {
                        return Err(Error::usage("the name pattern has `{shard}`, but there is no shard")
                            .hint("add `--shard I/N`"));
                    }
                },
                Part::Field(Field::Branch) => match parts.branch {
                    Some(branch) => name += &folded(branch, room),
                    None => {
                        return Err(Error::usage(
                            "the name pattern has `{branch}`, but no branch is checked out here",
                        )
                        .hint("run pgstencil in a git worktree with a branch, or remove `{branch}`"));
                    }
                },
                Part::Field(Field::Worktree) => match parts.worktree {
                    Some(worktree) => name += &folded(worktree, room),
                    None => {
                        return Err(Error::usage(
                            "the name pattern has `{worktree}`, but the checkout is not known",
                        )
                        .hint("remove `{worktree}`, or run in a git worktree"));
                    }
                },
            }
        }
        Ok(name)
    }
}

impl FromStr for NamePattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::usage("the name pattern is empty"));
        }
        if let Some(bad) = text.chars().find(|c| c.is_control()) {
            return Err(Error::usage(format!("the name pattern contains the control character {bad:?}")));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            if open > 0 {
                parts.push(Part::Text(rest[..open].to_owned()));
            }
            let Some(close) = rest[open..].find('}') else {
                return Err(Error::usage(format!("the name pattern `{text}` has a `{{` without a `}}`")));
            };
            parts.push(Part::Field(match &rest[open + 1..open + close] {
                "id" => Field::Id,
                "alias" => Field::Alias,
                "shard" => Field::Shard,
                "branch" => Field::Branch,
                "worktree" => Field::Worktree,
                "project" => Field::Project,
                other => match number(other) {
                    Some(number) => number,
                    None => {
                        return Err(Error::usage(format!(
                            "the name pattern has the unknown field `{{{other}}}`"
                        ))
                        .hint("use only the fields {id} {alias} {n} {n1} {-n} {-n1} {shard} {branch} {worktree} {project}"));
                    }
                },
            }));
            rest = &rest[open + close + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        let is_number = |part: &Part| matches!(part, Part::Field(Field::Index(_) | Field::Following(..)));
        if !parts.iter().any(is_number) {
            parts.push(Part::Field(following()));
        }
        Ok(NamePattern(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts<'a>(project: &'a str, alias: &'a str) -> NameParts<'a> {
        NameParts {
            id: "k3f9x2ab",
            alias,
            index: 3,
            shard: Some(2),
            branch: Some("feat/Ü-1"),
            worktree: Some("wt-1"),
            project,
        }
    }

    fn render(pattern: &str, parts: &NameParts<'_>) -> String {
        pattern.parse::<NamePattern>().unwrap().render(parts).unwrap()
    }

    #[test]
    fn patterns_give_the_names_that_test_runners_insist_on() {
        let name = |p: &str| render(p, &parts("Shop", "app"));
        assert_eq!(name("test_x_gw{n}"), "test_x_gw3");
        assert_eq!(name("x-{n}"), "x-3");
        assert_eq!(name("{branch}_{shard}"), format!("{}_2_3", folded("feat/Ü-1", 63)));
        assert_eq!(name("{worktree}-{n}"), "wt-1-3");
        let default = |index| {
            let parts = NameParts { index, ..parts("shop", "app") };
            NamePattern::default().render(&parts).unwrap()
        };
        assert_eq!(default(0), "shop_app_k3f9x2ab");
        assert_eq!(default(2), "shop_app_k3f9x2ab_2");
    }

    #[test]
    fn numbers_may_begin_at_one_and_with_the_second_clone() {
        let names = |pattern: &str| -> Vec<String> {
            let of = |index| render(pattern, &NameParts { index, ..parts("Shop", "app") });
            (0..3).map(of).collect()
        };
        assert_eq!(names("x_{n1}"), ["x_1", "x_2", "x_3"]);
        // Rails: the first process has the plain name.
        assert_eq!(names("shop_test{-n}"), ["shop_test", "shop_test-0", "shop_test-1"]);
        assert_eq!(names("test_x{_n1}"), ["test_x", "test_x_1", "test_x_2"]);
        assert_eq!(names("test_x"), names("test_x{_n1}"));
        assert_eq!(names("x{n1}y"), ["x1y", "x2y", "x3y"]);
        assert_eq!(names("{alias}{__n}.z"), ["app.z", "app__0.z", "app__1.z"]);
        for bad in ["x{n2}", "x{-}", "x{n-}", "x{-m}", "x{ n}"] {
            assert!(bad.parse::<NamePattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn branches_that_look_alike_have_names_of_their_own() {
        let of = |pattern: &str, branch: &str| {
            let parts = NameParts { branch: Some(branch), index: 0, ..parts("shop", "app") };
            render(pattern, &parts)
        };
        let long = "dependabot/npm_and_yarn/frontend/group-of-many-updates-7f3a9c21d4";
        let alike = [
            "feat/a-b",
            "feat-a/b",
            "feat-a-b",
            "feat_a_b",
            "feat/a/b",
            "Feat-a-b",
            "FEAT-A-B",
            &format!("{long}-1"),
            &format!("{long}-2"),
            long,
        ];
        for pattern in ["{branch}", "dev_{branch}", "{branch}_gw{n}", "{project}_{branch}_{n}"] {
            let names: std::collections::BTreeSet<_> =
                alike.iter().map(|branch| of(pattern, branch)).collect();
            assert_eq!(names.len(), alike.len(), "{names:?}");
            assert!(names.iter().all(|name| name.len() <= 63), "{names:?}");
        }
        assert_eq!(of("{branch}", "feat_a-b"), "feat_a-b");
        assert!(of("{branch}_gw{n}", long).ends_with("_gw0"));
        // The hash comes before the rest, and the names of all workers begin alike.
        let worker = |index| {
            let parts = NameParts { branch: Some(long), index, ..parts("shop", "app") };
            render("test_{branch}_gw{n}", &parts)
        };
        let stem = worker(0).strip_suffix("_gw0").unwrap().to_owned();
        assert!(stem.ends_with(&blake3::hash(long.as_bytes()).to_hex()[..6]), "{stem}");
        for index in [9, 10, 99, 100, 499] {
            assert_eq!(worker(index), format!("{stem}_gw{index}"));
        }
    }

    #[test]
    fn roles_and_projects_that_look_alike_too() {
        let of = |project, alias| render("{project}_{alias}", &parts(project, alias));
        assert_ne!(of("shop", "Main"), of("shop", "main"));
        assert_ne!(of("My.shop", "main"), of("my_shop", "main"));
        assert_eq!(of("my-shop", "main-1"), "my-shop_main-1_3");
    }

    #[test]
    fn patterns_say_what_they_depend_on() {
        let uses = |text: &str| {
            let pattern: NamePattern = text.parse().unwrap();
            (pattern.uses_branch(), pattern.uses_worktree(), pattern.is_unique())
        };
        assert_eq!(uses("dev_{branch}"), (true, false, false));
        assert_eq!(uses("{worktree}{id}"), (false, true, true));
        assert_eq!(uses("branch"), (false, false, false));
    }

    #[test]
    fn names_fit_63_bytes_by_construction() {
        let long = "é".repeat(60);
        let name = NamePattern::default().render(&parts(&long, &long)).unwrap();
        assert!(name.len() <= 63 && name.ends_with("_k3f9x2ab_3"), "{name}");
        let pattern: NamePattern = "x".repeat(64).parse().unwrap();
        assert!(pattern.render(&parts("a", "b")).is_err());
        // Room for three digits is reserved only if there is enough of it.
        let tight = "x".repeat(62) + "{n}";
        assert_eq!(render(&tight, &parts("a", "b")).len(), 63);
    }

    #[test]
    fn bad_patterns_are_refused() {
        for bad in ["", "{nope}", "{id", "a\0b", "a\nb"] {
            assert!(bad.parse::<NamePattern>().is_err(), "{bad:?}");
        }
        let without = NameParts { branch: None, worktree: None, ..parts("a", "b") };
        for field in ["{branch}", "{worktree}"] {
            let pattern: NamePattern = field.parse().unwrap();
            let error = pattern.render(&without).expect_err(field);
            assert!(error.message().contains(field), "{error}");
        }
    }
}
