//! What a command may read and write, by the variables of its CI system. They are self-declared: what protects a store
//! is who has credentials for it, and the signing key.

use serde_json::Value;

use super::entry::Origin;
use crate::config::Push;
use crate::env::{self, Environment};
use crate::names::folded;

/// Scope of the default branch, of protected branches and of tags. All read it.
pub(crate) const TRUSTED: &str = "trusted";

/// Longest name of a branch in a scope.
const ROOM: usize = 48;

/// Rights of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The scopes that it reads, the nearest first.
    pub(crate) scopes: Vec<String>,
    /// The scope that it writes to, or the reason why it writes nothing.
    pub(crate) write: Result<String, String>,
    /// Whether its results must serve no other command: `PGSTENCIL_UNTRUSTED`.
    pub(crate) untrusted: bool,
    /// Origin of what it pushes.
    pub(crate) origin: Origin,
}

/// What a CI system says of a job.
#[derive(Clone, Debug, Default)]
struct Job {
    system: &'static str,
    git_ref: String,
    /// Branch that a pull request goes to.
    base: String,
    commit: String,
    /// Whether it is the default branch, a protected one or a tag.
    protected: bool,
    /// Why nothing of it may ever be pushed.
    never: Option<String>,
}

impl Standing {
    /// Reads the rights. `branch`: that of the checkout, for a command outside CI.
    pub(crate) fn read(env: &Environment, push: Push, branch: Option<&str>) -> Self {
        let job = github(env).or_else(|| gitlab(env)).or_else(|| buildkite(env));
        let untrusted = env.non_empty(env::UNTRUSTED).is_some_and(|value| value != "0");
        let asked = env.non_empty(env::PUSH).is_some_and(|value| value != "0");
        let (git_ref, base) = match &job {
            Some(job) => (job.git_ref.as_str(), job.base.as_str()),
            None => (branch.unwrap_or_default(), ""),
        };
        let own = scope(git_ref).unwrap_or_else(|| "ref-none".to_owned());
        let mut scopes: Vec<String> = Vec::new();
        for scope in [Some(own.clone()), scope(base), Some(TRUSTED.to_owned())].into_iter().flatten() {
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        let write = match (push, &job) {
            _ if untrusted => Err(format!("{} is set", env::UNTRUSTED)),
            (_, Some(Job { never: Some(why), .. })) => Err(why.clone()),
            (Push::Never, _) => Err("`[remote] push` is \"never\"".into()),
            (_, Some(job)) if job.protected => Ok(TRUSTED.into()),
            (Push::Trusted, Some(job)) => Err(format!(
                "`{}` is not the default branch, a protected branch or a tag, and `[remote] push` is \"trusted\"",
                job.git_ref
            )),
            (Push::Trusted | Push::Always, None) if asked => Ok(TRUSTED.into()),
            (Push::Trusted, None) => Err(format!(
                "this is no job of a known CI system, {} is not set, and `[remote] push` is \"trusted\"",
                env::PUSH
            )),
            (Push::Always, _) => Ok(own),
        };
        let origin = job.map_or_else(
            || Origin { git_ref: branch.unwrap_or_default().to_owned(), ..Origin::default() },
            |job| Origin { system: job.system.into(), git_ref: job.git_ref, commit: job.commit },
        );
        Standing { scopes, write, untrusted, origin }
    }
}

fn scope(git_ref: &str) -> Option<String> {
    (!git_ref.is_empty()).then(|| format!("ref-{}", folded(git_ref, ROOM)))
}

fn text(env: &Environment, name: &str) -> String {
    env.non_empty(name).unwrap_or_default().to_owned()
}

fn is_true(env: &Environment, name: &str) -> bool {
    env.non_empty(name) == Some("true")
}

fn github(env: &Environment) -> Option<Job> {
    if !is_true(env, "GITHUB_ACTIONS") {
        return None;
    }
    let event: Value = env
        .path("GITHUB_EVENT_PATH")
        .and_then(|file| std::fs::read(file).ok())
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let kind = text(env, "GITHUB_EVENT_NAME");
    let head = &event["pull_request"]["head"]["repo"]["full_name"];
    let own = &event["repository"]["full_name"];
    // A deleted fork has no name.
    let fork = !event["pull_request"].is_null() && (head != own || head.is_null());
    let never = match kind.as_str() {
        "pull_request_target" | "workflow_run" | "issue_comment" => {
            Some(format!("a job of `{kind}` pushes nothing, since a fork can start it"))
        }
        "pull_request" | "pull_request_review" | "pull_request_review_comment" if fork => {
            Some("a pull request from a fork pushes nothing".into())
        }
        _ => None,
    };
    let is_request = kind.starts_with("pull_request");
    let name = text(env, "GITHUB_REF_NAME");
    let default = event["repository"]["default_branch"].as_str().unwrap_or_default();
    let is_branch = text(env, "GITHUB_REF_TYPE") == "branch";
    let protected = !is_request
        && kind != "merge_group"
        && (is_true(env, "GITHUB_REF_PROTECTED")
            || text(env, "GITHUB_REF_TYPE") == "tag"
            || (is_branch && !default.is_empty() && name == default));
    Some(Job {
        system: "github",
        git_ref: if is_request { text(env, "GITHUB_HEAD_REF") } else { name },
        base: text(env, "GITHUB_BASE_REF"),
        commit: text(env, "GITHUB_SHA"),
        protected,
        never,
    })
}

fn gitlab(env: &Environment) -> Option<Job> {
    if !is_true(env, "GITLAB_CI") {
        return None;
    }
    let request = text(env, "CI_PIPELINE_SOURCE") == "merge_request_event"
        || env.non_empty("CI_MERGE_REQUEST_IID").is_some();
    let source = text(env, "CI_MERGE_REQUEST_SOURCE_PROJECT_PATH");
    let fork = request && source != text(env, "CI_PROJECT_PATH");
    let branch = text(env, "CI_COMMIT_BRANCH");
    let protected = !request
        && (is_true(env, "CI_COMMIT_REF_PROTECTED")
            || env.non_empty("CI_COMMIT_TAG").is_some()
            || (!branch.is_empty() && branch == text(env, "CI_DEFAULT_BRANCH")));
    let git_ref = match request {
        true => text(env, "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME"),
        false => text(env, "CI_COMMIT_REF_NAME"),
    };
    Some(Job {
        system: "gitlab",
        git_ref,
        base: text(env, "CI_MERGE_REQUEST_TARGET_BRANCH_NAME"),
        commit: text(env, "CI_COMMIT_SHA"),
        protected,
        never: fork.then(|| "a merge request from a fork pushes nothing".into()),
    })
}

fn buildkite(env: &Environment) -> Option<Job> {
    if !is_true(env, "BUILDKITE") {
        return None;
    }
    let request = env.non_empty("BUILDKITE_PULL_REQUEST").is_some_and(|number| number != "false");
    let theirs = text(env, "BUILDKITE_PULL_REQUEST_REPO");
    let fork = request && !same_repository(&theirs, &text(env, "BUILDKITE_REPO"));
    let branch = text(env, "BUILDKITE_BRANCH");
    let protected = !request
        && (env.non_empty("BUILDKITE_TAG").is_some()
            || (!branch.is_empty() && branch == text(env, "BUILDKITE_PIPELINE_DEFAULT_BRANCH")));
    Some(Job {
        system: "buildkite",
        git_ref: branch,
        base: text(env, "BUILDKITE_PULL_REQUEST_BASE_BRANCH"),
        commit: text(env, "BUILDKITE_COMMIT"),
        protected,
        never: fork.then(|| "a pull request from a fork pushes nothing".into()),
    })
}

/// Returns whether two URLs name one repository, as `git@host:a/b.git` and `https://host/a/b` do.
fn same_repository(a: &str, b: &str) -> bool {
    let plain = |url: &str| {
        let url = url.split_once("://").map_or(url, |(_, rest)| rest);
        let url = url.rsplit_once('@').map_or(url, |(_, rest)| rest);
        url.replacen(':', "/", 1).trim_end_matches('/').trim_end_matches(".git").to_ascii_lowercase()
    };
    !a.is_empty() && plain(a) == plain(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(push: Push, variables: &[(&str, &str)]) -> Standing {
        let env: Environment = variables.iter().copied().collect();
        Standing::read(&env, push, Some("topic"))
    }

    fn github_event(kind: &str, head: Option<&str>, more: &[(&str, &str)], push: Push) -> Standing {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("event.json");
        let mut event = serde_json::json!({"repository": {"full_name": "a/shop", "default_branch": "main"}});
        if let Some(head) = head {
            event["pull_request"] = serde_json::json!({"head": {"repo": {"full_name": head}}});
        }
        std::fs::write(&file, event.to_string()).unwrap();
        let path = file.to_str().unwrap();
        let all =
            [&[("GITHUB_ACTIONS", "true"), ("GITHUB_EVENT_PATH", path), ("GITHUB_EVENT_NAME", kind)], more]
                .concat();
        standing(push, &all)
    }

    const MAIN: [(&str, &str); 2] = [("GITHUB_REF_NAME", "main"), ("GITHUB_REF_TYPE", "branch")];
    const REQUEST: [(&str, &str); 4] = [
        ("GITHUB_HEAD_REF", "topic"),
        ("GITHUB_BASE_REF", "release"),
        ("GITHUB_REF_NAME", "7/merge"),
        ("GITHUB_REF_TYPE", "branch"),
    ];

    #[test]
    fn on_github_only_the_default_branch_protected_ones_and_tags_push() {
        assert_eq!(github_event("push", None, &MAIN, Push::Trusted).write, Ok(TRUSTED.into()));
        assert!(github_event("push", None, &MAIN, Push::Never).write.is_err());
        let tag = [("GITHUB_REF_NAME", "v1"), ("GITHUB_REF_TYPE", "tag")];
        assert_eq!(github_event("push", None, &tag, Push::Trusted).write, Ok(TRUSTED.into()));
        let other = [("GITHUB_REF_NAME", "topic"), ("GITHUB_REF_TYPE", "branch")];
        assert!(github_event("push", None, &other, Push::Trusted).write.is_err());
        let protected = [&other[..], &[("GITHUB_REF_PROTECTED", "true")]].concat();
        assert_eq!(github_event("push", None, &protected, Push::Trusted).write, Ok(TRUSTED.into()));
        assert_eq!(github_event("push", None, &other, Push::Always).write, Ok("ref-topic".into()));
        let queue = [&MAIN[..], &[("GITHUB_REF_PROTECTED", "true")]].concat();
        assert!(github_event("merge_group", None, &queue, Push::Trusted).write.is_err());
    }

    #[test]
    fn a_fork_never_pushes() {
        for push in [Push::Trusted, Push::Always] {
            assert!(github_event("pull_request", Some("b/shop"), &REQUEST, push).write.is_err());
            for kind in ["pull_request_target", "workflow_run"] {
                let more = [&MAIN[..], &[("GITHUB_REF_PROTECTED", "true")]].concat();
                assert!(github_event(kind, Some("a/shop"), &more, push).write.is_err(), "{kind}");
            }
        }
        let own = github_event("pull_request", Some("a/shop"), &REQUEST, Push::Always);
        assert_eq!(own.write, Ok("ref-topic".into()));
        assert_eq!(own.scopes, ["ref-topic", "ref-release", TRUSTED]);
        assert!(github_event("pull_request", Some("a/shop"), &REQUEST, Push::Trusted).write.is_err());
    }

    #[test]
    fn on_gitlab_and_buildkite_the_same_holds() {
        let main = [
            ("GITLAB_CI", "true"),
            ("CI_COMMIT_BRANCH", "main"),
            ("CI_COMMIT_REF_NAME", "main"),
            ("CI_DEFAULT_BRANCH", "main"),
        ];
        assert_eq!(standing(Push::Trusted, &main).write, Ok(TRUSTED.into()));
        let request = |from: &'static str| {
            [
                ("GITLAB_CI", "true"),
                ("CI_PIPELINE_SOURCE", "merge_request_event"),
                ("CI_COMMIT_REF_PROTECTED", "true"),
                ("CI_MERGE_REQUEST_SOURCE_PROJECT_PATH", from),
                ("CI_PROJECT_PATH", "a/shop"),
                ("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "topic"),
            ]
        };
        assert!(standing(Push::Trusted, &request("a/shop")).write.is_err());
        assert_eq!(standing(Push::Always, &request("a/shop")).write, Ok("ref-topic".into()));
        assert!(standing(Push::Always, &request("b/shop")).write.is_err());
        let kite = |request: &'static str, repository: &'static str| {
            [
                ("BUILDKITE", "true"),
                ("BUILDKITE_BRANCH", "main"),
                ("BUILDKITE_PIPELINE_DEFAULT_BRANCH", "main"),
                ("BUILDKITE_PULL_REQUEST", request),
                ("BUILDKITE_PULL_REQUEST_REPO", repository),
                ("BUILDKITE_REPO", "git@github.com:a/shop.git"),
            ]
        };
        assert_eq!(standing(Push::Trusted, &kite("false", "")).write, Ok(TRUSTED.into()));
        assert!(standing(Push::Trusted, &kite("7", "https://github.com/a/shop")).write.is_err());
        assert!(standing(Push::Always, &kite("7", "https://github.com/a/shop")).write.is_ok());
        assert!(standing(Push::Always, &kite("7", "https://github.com/b/shop.git")).write.is_err());
    }

    #[test]
    fn outside_ci_a_person_says_so_and_untrusted_jobs_write_nothing() {
        assert!(standing(Push::Trusted, &[]).write.is_err());
        assert_eq!(standing(Push::Trusted, &[("PGSTENCIL_PUSH", "1")]).write, Ok(TRUSTED.into()));
        assert!(standing(Push::Never, &[("PGSTENCIL_PUSH", "1")]).write.is_err());
        assert_eq!(standing(Push::Always, &[]).write, Ok("ref-topic".into()));
        let untrusted = standing(Push::Always, &[("PGSTENCIL_UNTRUSTED", "1")]);
        assert!(untrusted.untrusted && untrusted.write.is_err());
        assert_eq!(standing(Push::Never, &[]).scopes, ["ref-topic", TRUSTED]);
    }
}
