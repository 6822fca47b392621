use super::*;
use tempfile::TempDir;

struct Disk(TempDir);

impl Disk {
    fn new() -> Self {
        Disk(tempfile::tempdir().unwrap())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(path)
    }

    fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// Creates a git directory with the entries that git itself requires.
    fn repository(&self, path: &str) -> &Self {
        fs::create_dir_all(self.path(path).join("objects")).unwrap();
        self.write(&format!("{path}/HEAD"), "ref: refs/heads/main\n")
    }

    /// Creates a worktree of it, as `git worktree add` does.
    fn worktree(&self, repository: &str, path: &str, name: &str) -> &Self {
        let own = format!("{repository}/worktrees/{name}");
        self.write(&format!("{own}/HEAD"), "ref: refs/heads/feat/x\n")
            .write(&format!("{own}/commondir"), "../..\n")
            .write(&format!("{path}/.git"), &format!("gitdir: {}\n", self.path(&own).display()))
    }

    fn find(&self, path: &str) -> Tree {
        fs::create_dir_all(self.path(path)).unwrap();
        Tree::find(&self.path(path)).unwrap()
    }

    fn name(&self, path: &str) -> String {
        self.find(path).repository_name().unwrap()
    }

    fn head(&self, path: &str) -> Option<Head> {
        self.find(path).git.unwrap().head()
    }
}

const ID: &str = "0123456789abcdef0123456789abcdef01234567";

#[test]
fn a_checkout_is_found_from_any_directory_in_it() {
    let disk = Disk::new();
    disk.repository("shop/.git").worktree("shop/.git", "wt/a", "a");
    let main = disk.find("shop/deep/er");
    assert_eq!(main.top, disk.path("shop"));
    let git = main.git.unwrap();
    assert_eq!((&git.own, git.worktree()), (&git.common, None));
    assert_eq!(git.head(), Some(Head::Branch("main".into())));
    let other = disk.find("wt/a/b");
    assert_eq!(other.top, disk.path("wt/a"));
    let git = other.git.unwrap();
    assert_eq!(git.common, disk.path("shop/.git"));
    assert_eq!(git.worktree().as_deref(), Some("a"));
    assert_eq!(git.head(), Some(Head::Branch("feat/x".into())));
    // A directory of this name that is not a repository is ignored, as by git.
    disk.write("shop/sub/.git/note", "");
    assert_eq!(disk.find("shop/sub").top, disk.path("shop"));
}

#[test]
fn all_checkouts_of_a_repository_share_its_name() {
    let disk = Disk::new();
    disk.repository("shop/.git").worktree("shop/.git", "wt/feature", "feature");
    assert_eq!(disk.name("shop"), "shop");
    assert_eq!(disk.name("wt/feature/services/a"), "shop");
    // Bare repositories, and the ways to hide one among its worktrees.
    for (repository, name) in
        [("store/cart.git", "cart"), ("store/plain", "plain"), ("desk/.bare", "desk"), ("lamp/.git", "lamp")]
    {
        disk.repository(repository);
        let worktree = format!("of-{name}");
        disk.worktree(repository, &worktree, "w");
        assert_eq!(disk.name(&worktree), name, "{repository}");
    }
    // The directory name of a main worktree is used unchanged.
    disk.repository(".dotfiles/.git").repository("x.git/.git");
    assert_eq!(disk.name(".dotfiles"), ".dotfiles");
    assert_eq!(disk.name("x.git"), "x.git");
}

#[test]
fn submodules_and_their_worktrees() {
    let disk = Disk::new();
    let module = "shop/.git/modules/libs/sub";
    disk.repository("shop/.git")
        .repository(module)
        .write("shop/vendor/sub2/.git", "gitdir: ../../.git/modules/libs/sub\n")
        .worktree(module, "wt", "wt");
    assert_eq!(disk.name("shop/vendor/sub2"), "sub");
    assert_eq!(disk.name("wt"), "sub");
    let config = "[core]\n\tworktree = ../../../../vendor/sub2\n";
    disk.write(&format!("{module}/config"), config);
    assert_eq!(disk.name("shop/vendor/sub2"), "sub2");
    assert_eq!(disk.name("wt"), "sub2");
    assert_eq!(disk.find("shop/vendor/sub2").top, disk.path("shop/vendor/sub2"));
    assert_eq!(disk.find("shop/vendor/sub2").git.unwrap().worktree(), None);
}

#[test]
fn a_worktree_that_is_mounted_alone_still_has_its_name() {
    let disk = Disk::new();
    disk.write("w/.git", "gitdir: /not/here/shop/.git/worktrees/feature\n");
    let tree = disk.find("w");
    assert_eq!(tree.repository_name().as_deref(), Some("shop"));
    let git = tree.git.unwrap();
    assert_eq!(git.worktree().as_deref(), Some("feature"));
    assert_eq!(git.head(), None);
}

#[test]
fn workspaces_of_jj() {
    let disk = Disk::new();
    disk.write("shop/.jj/repo/store/type", "git").write("ws/.jj/repo", "../../shop/.jj/repo");
    let main = disk.find("shop/deep");
    assert_eq!((main.top, main.git, main.jj), (disk.path("shop"), None, true));
    assert_eq!(disk.name("shop"), "shop");
    assert_eq!(disk.name("ws"), "shop");
    disk.repository("shop/.git");
    assert_eq!(disk.name("shop"), "shop");
}

#[test]
fn what_is_checked_out() {
    let disk = Disk::new();
    disk.repository("a/.git");
    for (text, head) in [
        ("ref: refs/heads/feat/x\n", Some(Head::Branch("feat/x".into()))),
        ("ref: refs/heads/.invalid\n", Some(Head::Reftable)),
        (ID, Some(Head::Commit(ID.into()))),
        ("ref: refs/remotes/origin/main\n", None),
        ("0123\n", None),
    ] {
        disk.write("a/.git/HEAD", text);
        assert_eq!(disk.head("a"), head, "{text}");
    }
    fs::remove_file(disk.path("a/.git/HEAD")).unwrap();
    std::os::unix::fs::symlink("refs/heads/old", disk.path("a/.git/HEAD")).unwrap();
    assert_eq!(disk.head("a"), Some(Head::Branch("old".into())));
}

#[test]
fn what_is_rebased_or_bisected() {
    let disk = Disk::new();
    let interrupted = |path: &str, text: &str| {
        disk.repository("a/.git").write(&format!("a/.git/{path}"), text);
        let found = disk.find("a").git.unwrap().interrupted();
        fs::remove_dir_all(disk.path("a")).unwrap();
        found
    };
    for path in ["rebase-merge/head-name", "rebase-apply/head-name"] {
        assert_eq!(interrupted(path, "refs/heads/feat/x\n").as_deref(), Some("feat/x"));
        assert_eq!(interrupted(path, "detached HEAD\n"), None);
    }
    assert_eq!(interrupted("BISECT_START", "feat/x\n").as_deref(), Some("feat/x"));
    assert_eq!(interrupted("BISECT_START", &format!("{ID}\n")), None);
    assert_eq!(interrupted("other", ""), None);
}
