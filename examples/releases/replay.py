#!/usr/bin/env python3
"""Replays real migrations with pgstencil: a series of Wagtail releases, single new migrations,
four branches at the same time, what a full build says about the incremental builds before it, and
what machines that start empty get from those before them.
See README.md. Needs Python 3.10+ with pip, a release build of pgstencil, and Postgres binaries;
everything else is in a temporary directory."""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

DJANGO = "4.2.16"
PSYCOPG = "psycopg[binary]==3.2.3"
RELEASES = "5.0.5 5.1.3 5.2.7 6.0.6 6.1.3 6.2.4 6.3.5 6.4.2 7.0.3 7.1.2 7.2.1".split()

CONFIG = """\
project = "{project}"

[template.app]
# The installed migrations and two local apps; three directories of that name contain migrations that never run.
migrations = ["lib/**/migrations/*.py", "own/*/migrations/*.py", "!lib/wagtail/{{test,blocks,project_template}}/**"]
rerun_inputs = ["requirements.txt"]
input_lines = [{{ file = "requirements.txt", match = "(?i)^django==" }}]
build = "sh build.sh"
rebuild = "{rebuild}"

[eviction]
max_templates = 200
{more}"""

REMOTE = """
[remote]
url = "file://{store}"
push = "always"
min_gain = "0s"
"""

# The time of the migrate command is written to a file, to separate pgstencil's own time from it.
BUILD = """\
started=$(date +%s%N)
"$PYTHON" manage.py migrate --noinput >/dev/null || exit 1
echo $((($(date +%s%N) - started) / 1000000)) >build.ms
"""

MANAGE = """\
import os, sys
sys.path[:0] = ["lib", "own"]
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""

SETTINGS = """\
import os
# Its name before 3.0.
CORE = "wagtail.core" if os.path.exists("lib/wagtail/core/migrations") else "wagtail"
SECRET_KEY = "no secret"
USE_TZ = True
STATIC_URL = "/static/"
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
ROOT_URLCONF = "urls"
WAGTAIL_SITE_NAME = "replay"
WAGTAILADMIN_BASE_URL = BASE_URL = "http://localhost"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql"} | {
    key: os.environ["PG" + variable] for key, variable in
    {"NAME": "DATABASE", "HOST": "HOST", "PORT": "PORT", "USER": "USER", "PASSWORD": "PASSWORD"}.items()}}
INSTALLED_APPS = ["shop", "news",
    "wagtail.contrib.forms", "wagtail.contrib.redirects", "wagtail.embeds", "wagtail.sites",
    "wagtail.users", "wagtail.snippets", "wagtail.documents", "wagtail.images", "wagtail.search",
    "wagtail.admin", CORE, "modelcluster", "taggit",
    "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions",
    "django.contrib.messages", "django.contrib.staticfiles"]
"""

MIGRATION = """\
from django.db import migrations, models

class Migration(migrations.Migration):
    dependencies = [{after}]
    operations = [migrations.CreateModel(name="{model}", fields=[
        ("id", models.AutoField(primary_key=True)), ("name", models.CharField(max_length=80))])]
"""


# Prints the files of all migrations in an order in which they can be added one by one: by the dates in their heads, and
# each after those that it depends on.
ORDER = """\
import heapq, os, re, sys
sys.path[:0] = ["lib", "own"]
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
for variable in "DATABASE HOST PORT USER PASSWORD".split():
    os.environ.setdefault("PG" + variable, "none")
import django
django.setup()
from django.db.migrations.loader import MigrationLoader
graph = MigrationLoader(None).graph
def file(key):
    return sys.modules[graph.nodes[key].__module__].__file__
def own_date(key):
    found = re.search(r"on (20\\d\\d-\\d\\d-\\d\\d)", open(file(key)).read(300))
    return found[1] if found else ""
parents = {key: {parent.key for parent in node.parents} for key, node in graph.node_map.items()}
dates, ready, left = {}, [], dict(parents)
while left or ready:
    for key in [key for key, above in left.items() if above <= dates.keys()]:
        date = max([own_date(key), *(dates[parent] for parent in left.pop(key))])
        heapq.heappush(ready, (date, key))
    date, key = heapq.heappop(ready)
    dates[key] = date
    print(file(key))
"""


# Counts the migrations that a database records and the code does not have, and those that it lacks.
KNOWN = """\
import os, sys
sys.path[:0] = ["lib", "own"]
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django
django.setup()
from django.db import connection
from django.db.migrations.loader import MigrationLoader
loader = MigrationLoader(connection)
print(len(loader.applied_migrations.keys() - loader.disk_migrations.keys()),
      len(loader.graph.nodes.keys() - loader.applied_migrations.keys()))
"""


class Replay:
    def __init__(self, binary, directory):
        self.directory, self.binary = directory, binary
        # The account of the private server needs access.
        directory.chmod(0o755)
        self.env = os.environ | {"PYTHON": sys.executable}
        for name in ("PGSTENCIL_SERVER_URL", "PGSTENCIL_CONFIG", "DJANGO_SETTINGS_MODULE"):
            self.env.pop(name, None)
        self.machine("state")

    def machine(self, name):
        """From now on uses the private server in this directory."""
        (self.directory / name).mkdir(exist_ok=True)
        self.env["PGSTENCIL_STATE_DIR"] = str(self.directory / name)

    def leave(self):
        """Stops the private server."""
        subprocess.run([self.binary, "server", "stop"], env=self.env, cwd=self.directory,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def pgstencil(self, project, *args, codes=(0,)):
        """Runs pgstencil in a project; returns the exit code, the JSON, and the seconds."""
        started = time.monotonic()
        done = subprocess.run([self.binary, *args, "--json"], cwd=project, env=self.env,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)
        took = time.monotonic() - started
        if done.returncode not in codes:
            sys.exit(f"pgstencil {' '.join(args)}: exit code {done.returncode}\n{done.stderr}")
        return done.returncode, json.loads(done.stdout or "{}"), took

    def project(self, release, django=DJANGO, driver=PSYCOPG):
        """Creates a directory with that release of Wagtail, its dependencies, and two small apps."""
        project = self.directory / release
        lib = project / "lib"
        print(f"installing wagtail {release}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check",
                        "--root-user-action=ignore", "--target", lib, f"Django=={django}",
                        f"wagtail=={release}", driver, "setuptools<81"], check=True)
        for path in ("manage.py", "settings.py", "urls.py", "build.sh", "requirements.txt"):
            text = {"manage.py": MANAGE, "settings.py": SETTINGS, "urls.py": "urlpatterns = []\n",
                    "build.sh": BUILD, "requirements.txt": f"Django=={django}\nwagtail=={release}\n"}[path]
            (project / path).write_text(text)
        for app in ("shop", "news"):
            (project / "own" / app / "migrations").mkdir(parents=True)
            (project / "own" / app / "__init__.py").touch()
            (project / "own" / app / "migrations/__init__.py").touch()
            add_migration(project, app, 1)
        return project

    def configure(self, project, name, rebuild="never", more=""):
        (project / "pgstencil.toml").write_text(CONFIG.format(project=name, rebuild=rebuild, more=more))

    def ensure(self, project, *args):
        """Returns the answer, files added, seconds of pgstencil, seconds of the migrate command."""
        (project / "build.ms").unlink(missing_ok=True)
        _, answer, took = self.pgstencil(project, "ensure", *args)
        mark = project / "build.ms"
        command = int(mark.read_text()) / 1000 if mark.exists() else 0
        added = len(answer["extends"]["added"]) if "extends" in answer else None
        return answer, added, took, command

    def verify(self, project, *args):
        """Returns `equal`, or the first lines that differ."""
        code, answer, _ = self.pgstencil(project, "verify", *args, codes=(0, 1))
        verdict = answer["verified"][0]
        if verdict["equal"]:
            return "equal"
        lines = []
        for difference in verdict["differences"].values():
            for change in difference["changes"]:
                sides = [f"-{l}" for l in change.get("removed", [])] + [f"+{l}" for l in change.get("added", [])]
                lines.append(change["heading"] + ": " + ", ".join(sides[:2]))
        return f"{len(lines)} differ: " + "; ".join(lines[:3])


def add_migration(project, app, number):
    after = f'("{app}", "{number - 1:04}_table")' if number > 1 else ""
    text = MIGRATION.format(after=after, model=f"Table{number}")
    (project / f"own/{app}/migrations/{number:04}_table.py").write_text(text)


def table(head, rows):
    print("\n| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    sys.stdout.flush()


def releases(replay, names):
    """Each release after the other on one server: first extended and kept, then rebuilt."""
    projects = {name: replay.project(name) for name in names}
    rows = {}
    for name, project in projects.items():
        replay.configure(project, "kept")
        answer, added, took, command = replay.ensure(project)
        files = sum(1 for _ in project.glob("lib/**/migrations/*.py"))
        rows[name] = [name, files, answer["outcome"], added if added is not None else "", f"{took:.1f}",
                      f"{command:.1f}", f"{took - command:.2f}"]
    for name, project in projects.items():
        rows[name].append(replay.verify(project))
    for name, project in projects.items():
        replay.configure(project, "rebuilt", "auto")
        first, *_ = replay.ensure(project)
        rebuilt, *_ = replay.ensure(project, "--rebuild")
        assert not rebuilt["provisional"]
        rows[name].append(f"{first['outcome']}, then {replay.verify(project)}")
    table(["Wagtail", "migration files", "outcome", "added", "seconds", "of them `migrate`",
           "pgstencil", "verify", "rebuilt"], rows.values())


def wagtail(replay, release, rounds):
    """A full build; then one migration more, five more, and one edited in the middle."""
    project = replay.project(release)
    figures = {}
    verdicts = {}
    for round_ in range(rounds):
        replay.configure(project, f"steps{round_}")
        for app in ("shop", "news"):
            for path in (project / f"own/{app}/migrations").glob("0*.py"):
                path.unlink()
            add_migration(project, app, 1)

        def step(what):
            answer, added, took, command = replay.ensure(project)
            figures.setdefault(what, []).append((took, command))
            if round_ == 0:
                verdicts[what] = (answer["outcome"], added, replay.verify(project))

        step("all, on an empty server" if round_ == 0 else "all, on an empty server")
        add_migration(project, "shop", 2)
        step("one migration added")
        for number in range(3, 8):
            add_migration(project, "shop", number)
        step("five more added")
        edited = project / "own/news/migrations/0001_table.py"
        edited.write_text(edited.read_text() + "# edited\n")
        step("one edited in the middle")
    full = statistics.median(took for took, _ in figures["all, on an empty server"])
    rows = []
    for what, times in figures.items():
        took = statistics.median(t for t, _ in times)
        own = statistics.median(t - c for t, c in times)
        outcome, added, verdict = verdicts[what]
        rows.append([what, outcome, added if added is not None else "", f"{took:.2f}", f"{took / full:.0%}",
                     f"{own:.2f}", verdict])
    table([f"Wagtail {release}", "outcome", "added", "seconds", "of a full build", "pgstencil", "verify"], rows)


def branches(replay, release):
    """Four checkouts of four branches at the same time on a server without templates, and once more."""
    main = replay.project(release)
    rows = []
    for turn in ("no template", "next commit of each"):
        running = []
        for branch in "abcd":
            directory = replay.directory / f"branch-{branch}"
            if turn == "no template":
                shutil.copytree(main, directory)
            replay.configure(directory, "branches")
            add_migration(directory, "shop" if branch in "ab" else "news", 2 if turn == "no template" else 3)
            if branch in "bd":  # Two pairs that differ in the content of a file.
                path = directory / f"own/{'shop' if branch == 'b' else 'news'}/migrations/0002_table.py"
                path.write_text(path.read_text().replace("max_length=80", "max_length=90"))
            running.append((branch, directory, time.monotonic(), subprocess.Popen(
                [replay.binary, "ensure", "--json"], cwd=directory, env=replay.env, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)))
        begun, waiting = min(r[2] for r in running), list(running)
        while waiting:
            for entry in [r for r in waiting if r[3].poll() is not None]:
                waiting.remove(entry)
                branch, directory, _, process = entry
                if process.returncode:
                    sys.exit(f"pgstencil ensure on branch {branch}: exit code {process.returncode}")
                answer = json.loads(process.stdout.read())
                base = answer.get("extends", {}).get("base", "")[:12]
                rows.append([turn, branch, answer["fingerprint"][:12], answer["outcome"], base,
                             f"{time.monotonic() - begun:.1f}"])
            time.sleep(0.02)
    table(["turn", "branch", "template", "outcome", "base", "ready after s"], rows)


def proof(replay, walk):
    """What one full build says about others. `walk`: names of sets of migrations, each with its directory.

    In one project no incremental build is replaced, so that each is verified at the end of its chain. In another one
    `verify --replace` puts a full build in its place, so that each rests on a base that is proved.
    """
    rows, chains, twice = [], [], []
    for name, project in walk:
        replay.configure(project, "chains")
        answer, added, *_ = replay.ensure(project)
        end = replay.verify(project)
        replay.configure(project, "proved")
        replay.ensure(project)
        link = replay.verify(project, "--replace")
        if added is None:
            # Two full builds of the same files.
            twice += [end == "equal", link == "equal"]
            chains.append([])
        else:
            chains[-1].append((name, end, link))
        rows.append([name, answer["outcome"], "" if added is None else added, len(chains[-1]), end, link])
        print(rows[-1], file=sys.stderr)
    table(["set", "outcome", "added", "place in the chain", "chain against a full build",
           "built on a proved base"], rows)
    links = [link for chain in chains for link in chain]
    count = lambda chosen: sum(1 for _ in chosen)
    # For each chain and each later template in it: a full build there would find no difference, although the
    # template before it has one.
    missed = {name: later for chain in chains for i, (name, end, _) in enumerate(chain) if end != "equal"
              for later, at, _ in chain[i + 1:] if at == "equal"}
    alone = {name for chain in chains for i, (name, _, link) in enumerate(chain) if link != "equal"
             and any(at == "equal" for _, at, _ in chain[i:])}
    print(f"\n{len(links)} incremental builds in {count(filter(None, chains))} chains, the longest of "
          f"{max(map(len, chains))}")
    print(f"{count(l for l in links if l[1] != 'equal')} templates differ from a full build in their chain, "
          f"{count(l for l in links if l[2] != 'equal')} on a proved base")
    print("chain rule: differences that a full build of a later template does not show: "
          + (", ".join(f"{a} by that of {b}" for a, b in missed.items()) or "none"))
    print(f"incremental builds that differ by themselves and not at the end of a chain: "
          + (", ".join(sorted(alone)) or "none"))
    print(f"proved base: {sum(twice)} of {len(twice)} second full builds of a set equal the first one")


def applied(replay, project):
    """Says whether Django recorded in a clone what the code has: nothing that it does not know, and all of its plan."""
    (project / "known.py").write_text(KNOWN)
    shown = subprocess.run([replay.binary, "-q", "run", "--", sys.executable, "known.py"], cwd=project, env=replay.env,
                           stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    unknown, missing = map(int, shown.stdout.split())
    return "the code's" if unknown == missing == 0 else f"{unknown} unknown, {missing} missing"


def travel(replay, older, newer):
    """Machines that start empty: what each gets from what those before it left in a store or a cache file.

    These are the cases in which a cache of dumps by name hands out the wrong one: its newest dump is newer than the
    code; the branch left main before the newest dump; a migration was edited since the dump.
    """
    names = {"older": older, "newer": newer}
    code = {name: replay.project(release) for name, release in names.items()}
    code["branch"] = replay.directory / "branch"
    shutil.copytree(code["older"], code["branch"])
    add_migration(code["branch"], "shop", 2)
    code["edited"] = replay.directory / "edited"
    shutil.copytree(code["newer"], code["edited"])
    edited = code["edited"] / "own/news/migrations/0001_table.py"
    edited.write_text(edited.read_text().replace("max_length=80", "max_length=90"))
    steps = ["newer", "older", "older", "branch", "branch", "newer", "edited", "edited"]
    store, file = replay.directory / "store", replay.directory / "cache.tar.zst"
    store.mkdir()
    for way, more in {"store": REMOTE.format(store=store), "cache file": ""}.items():
        known, rows = {}, []
        for number, name in enumerate(steps, 1):
            replay.machine(f"{way}-{number}".replace(" ", "-"))
            project = code[name]
            replay.configure(project, "travel", "never", more)
            if not more and file.exists():
                replay.pgstencil(project, "cache", "restore", str(file))
            answer, added, took, _ = replay.ensure(project)
            base = known.get(answer.get("extends", {}).get("base"), "")
            there = ", ".join(known.values())
            known.setdefault(answer["fingerprint"], name)
            right = applied(replay, project)
            rows.append([number, name, there, answer["outcome"], base, "" if added is None else added,
                         f"{took:.1f}", right, replay.verify(project)])
            print(rows[-1], file=sys.stderr)
            if not more:
                replay.pgstencil(project, "cache", "save", str(file))
            replay.leave()
        table([f"machine, with a {way}", "code", "templates there", "outcome", "base", "added", "seconds",
               "recorded", "verify"], rows)


def by_releases(replay, names):
    """Walks over releases, with the newest Django that all of them run on."""
    old = all(int(name.split(".")[0]) < 5 or name.startswith("5.0") for name in names)
    of = {"django": "3.2.25", "driver": "psycopg2-binary<2.10"} if old else {}
    for name in names:
        project = replay.project(name, **of)
        yield name, project
        shutil.rmtree(project)


def by_migrations(replay, release, count):
    """Adds the newest migrations of a release one by one."""
    whole = replay.project(release)
    (whole / "order.py").write_text(ORDER)
    done = subprocess.run([sys.executable, "order.py"], cwd=whole, env=replay.env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    files = [pathlib.Path(line).relative_to(whole) for line in done.stdout.split()]
    project = replay.directory / "migrations"
    shutil.copytree(whole, project)
    for file in files[-count:]:
        (project / file).unlink()
    yield f"the first {len(files) - count}", project
    for file in files[-count:]:
        shutil.copy2(whole / file, project / file)
        yield f"{file.parent.parent.name}/{file.stem}", project


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["releases", "wagtail", "branches", "proof", "steps", "travel"])
    parser.add_argument("--releases", nargs="*", default=RELEASES)
    parser.add_argument("--rounds", type=int, default=3, help="of `wagtail`; medians are shown")
    parser.add_argument("--count", type=int, default=40, help="of the migrations of `steps`")
    parser.add_argument("--binary", type=pathlib.Path, help="pgstencil [default: target/release/pgstencil]")
    args = parser.parse_args()
    root = pathlib.Path(__file__).resolve().parents[2]
    binary = (args.binary or root / "target/release/pgstencil").resolve()
    if not binary.exists():
        sys.exit("build it first: cargo build --release")
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="pgstencil-replay-", dir=shm) as directory:
        replay = Replay(binary, pathlib.Path(directory))
        try:
            print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores", flush=True)
            match args.what:
                case "releases":
                    releases(replay, args.releases)
                case "wagtail":
                    wagtail(replay, args.releases[-1], args.rounds)
                case "branches":
                    branches(replay, args.releases[-1])
                case "travel":
                    travel(replay, *args.releases[-2:])
                case "proof":
                    proof(replay, by_releases(replay, args.releases))
                case "steps":
                    proof(replay, by_migrations(replay, args.releases[-1], args.count))
            print(f"\nload at the end {os.getloadavg()[0]:.1f}")
        finally:
            replay.leave()


main()
