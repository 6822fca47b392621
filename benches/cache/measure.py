#!/usr/bin/env python3
"""What a cache file costs, beside a dump and a build: CPU time of everything, the server included.

    cargo build --release
    benches/cache/measure.py target/release/pgstencil                     # 100 and 400 tables
    benches/cache/measure.py target/release/pgstencil wagtail             # a Wagtail site from PyPI as well
    benches/cache/measure.py target/release/pgstencil examples/django    # a project of yours as well

Each round does every thing once, in turn, each on a machine that is empty: a state directory on /dev/shm. ROUNDS (7)
and BINDIR (the programs of Postgres) are variables. All processes of a thing are its descendants, also the server, and
a process that collects them (PR_SET_CHILD_SUBREAPER) knows the CPU time of all. Linux only.

The goals: restore, start and first clone take at most 0.35 of the CPU time of initdb, pg_restore and ANALYZE, and for
Wagtail at most 0.05 of that of the build. The last lines say whether they are reached.
"""

import ctypes
import json
import os
import pathlib
import pwd
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

PR_SET_CHILD_SUBREAPER = 36
ROUNDS = int(os.environ.get("ROUNDS", "7"))


def bindir():
    if "BINDIR" in os.environ:
        return pathlib.Path(os.environ["BINDIR"])
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent


BINDIR = bindir()
PGSTENCIL = pathlib.Path(sys.argv[1]).resolve()
# Postgres refuses to run as root.
SERVER = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


def run(*words, **options):
    done = subprocess.run([str(w) for w in words], stdin=subprocess.DEVNULL, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise SystemExit(f"{words}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def measured(work, end=lambda: None):
    """CPU seconds and wall seconds of `work`. `end` ends what it left."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            begun = time.monotonic()
            work()
            wall = time.monotonic() - begun
            end()
            while True:
                try:
                    os.wait()
                except ChildProcessError:
                    break
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            os.write(write, json.dumps([used.ru_utime + used.ru_stime, wall]).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    said = b"".join(iter(lambda: os.read(read, 4096), b""))
    os.close(read)
    os.waitpid(child, 0)
    return json.loads(said)


class Project:
    def __init__(self, top, name, folder):
        self.top, self.name, self.folder, self.count = top, name, folder, 0
        self.origin = self.machine()
        self.pgstencil(self.origin, "ensure")
        self.file = top / f"{name}.cache"
        self.pgstencil(self.origin, "cache", "save", self.file)
        url = self.pgstencil(self.origin, "clone")
        self.dump = top / f"{name}.dump"
        run(BINDIR / "pg_dump", "-Fc", "-f", self.dump, url)
        if SERVER:
            self.dump.chmod(0o644)
        self.end(self.origin)()

    def machine(self):
        self.count += 1
        state = self.top / f"{self.name}{self.count}"
        state.mkdir(mode=0o755)
        return state

    def pgstencil(self, state, *words):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "XDG"))}
        env |= {"PGSTENCIL_STATE_DIR": str(state), "PGSTENCIL_BACKGROUND": "off", "HOME": str(self.top)}
        env["PATH"] = f"{BINDIR}:{env['PATH']}"
        return run(PGSTENCIL, *words, env=env, cwd=self.folder)

    def end(self, state):
        def kill():
            for file in state.glob("server/*/data/postmaster.pid"):
                os.kill(int(file.read_text().split()[0]), signal.SIGQUIT)
        return kill

    def dumped(self, add):
        """initdb, start, createdb, pg_restore and ANALYZE."""
        state = self.machine()
        if SERVER:
            shutil.chown(state, "postgres")
        options = f"-c fsync=off -c full_page_writes=off -c shared_buffers=256MB -c listen_addresses= -k {state}"
        data, url = state / "data", f"postgresql:///x?host={state}&user=postgres"

        def work():
            run(BINDIR / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync",
                "--locale=C.UTF-8", cwd="/", **SERVER)
            run(BINDIR / "pg_ctl", "start", "-w", "-s", "-D", data, "-l", state / "log", "-o", options, cwd="/", **SERVER)
            run(BINDIR / "createdb", "-h", state, "-U", "postgres", "x")
            run(BINDIR / "pg_restore", "-d", url, self.dump)
            run(BINDIR / "psql", "-Xqc", "analyze", "-d", url)

        def end():
            os.kill(int((data / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)

        add("dump", measured(work, end))
        shutil.rmtree(state)

    def cached(self, add):
        """`cache restore`, then `clone`, which starts the server."""
        state = self.machine()
        add("cache restore", measured(lambda: self.pgstencil(state, "cache", "restore", self.file)))
        add("start and clone", measured(lambda: self.pgstencil(state, "clone"), self.end(state)))
        shutil.rmtree(state)

    def built(self, add):
        """`clone` on an empty machine: initdb, start, build, clone."""
        state = self.machine()
        add("build", measured(lambda: self.pgstencil(state, "clone"), self.end(state)))
        shutil.rmtree(state)

    def saved(self, add):
        """`cache save` on a machine whose server runs."""
        state = self.machine()
        self.pgstencil(state, "cache", "restore", self.file)
        self.pgstencil(state, "ensure")
        other = self.top / "saved"
        add("cache save", measured(lambda: self.pgstencil(state, "cache", "save", other), self.end(state)))
        shutil.rmtree(state)


def tables(top, count):
    folder = top / f"tables{count}"
    (folder / "migrations").mkdir(parents=True)
    for i in range(count):
        sql = (f"create table t{i} (id serial primary key, a text, b int references t{max(i - 1, 0)}(id));\n"
               f"create index on t{i} (a);\n"
               f"insert into t{i} (a) select 'x' || g from generate_series(1, 20) g;\n")
        (folder / f"migrations/{i:04}.sql").write_text(sql)
    config = (f'project = "tables{count}"\n\n[template.app]\nmigrations = ["migrations/*.sql"]\n'
              'build = \'cat migrations/*.sql | psql -XqAt -v ON_ERROR_STOP=1 "$DATABASE_URL"\'\n')
    (folder / "pgstencil.toml").write_text(config)
    return folder


SETTINGS = """
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"],
    "USER": os.environ["PGUSER"], "PASSWORD": os.environ.get("PGPASSWORD", ""), "HOST": os.environ["PGHOST"],
    "PORT": os.environ["PGPORT"]}}
"""


def wagtail(top):
    """A new Wagtail site, with all of its packages, and so all migrations, in its directory."""
    folder = top / "wagtail"
    vendor = folder / "vendor"
    vendor.mkdir(parents=True)
    run(sys.executable, "-m", "pip", "install", "-q", "--target", vendor, "wagtail==7.0", "psycopg[binary]")
    run(sys.executable, vendor / "bin/wagtail", "start", "shop", folder, env=os.environ | {"PYTHONPATH": str(vendor)})
    settings = folder / "shop/settings/base.py"
    settings.write_text(settings.read_text() + SETTINGS)
    (folder / "pgstencil.toml").write_text(
        'project = "wagtail"\n\n[template.app]\n'
        'migrations = ["**/migrations/*.py", "!**/migrations/__init__.py"]\n'
        f'build = "PYTHONPATH=vendor {sys.executable} manage.py migrate --noinput -v0"\nrebuild = "never"\n')
    return folder


def main():
    top = pathlib.Path(tempfile.mkdtemp(prefix="pgstencil-cache-", dir="/dev/shm"))
    top.chmod(0o755)
    try:
        projects = [Project(top, f"{n} tables".replace(" ", "-"), tables(top, n)) for n in (100, 400)]
        for name in sys.argv[2:]:
            path = wagtail(top) if name == "wagtail" else pathlib.Path(name).resolve()
            projects.append(Project(top, path.name, path))
        verdicts = []
        print(f"{run(BINDIR / 'postgres', '--version')}, {os.cpu_count()} cores, load {os.getloadavg()} at the start")
        for project in projects:
            samples = {}
            for number in range(ROUNDS + 1):
                steps = [project.cached, project.dumped, project.built, project.saved]
                for i in range(len(steps)):
                    add = lambda name, value: samples.setdefault(name, []).append(value)
                    # The first round warms up.
                    steps[(i + number) % len(steps)](add if number else lambda name, value: None)
            cpu = {name: [value[0] for value in values] for name, values in samples.items()}
            together = [a + b for a, b in zip(cpu["cache restore"], cpu["start and clone"])]
            ratio = lambda other: statistics.median(a / b for a, b in zip(together, cpu[other]))
            print(f"\n{project.name}: file {project.file.stat().st_size:,} bytes, dump {project.dump.stat().st_size:,}")
            for name, values in samples.items():
                middle = [statistics.median(value[i] for value in values) for i in (0, 1)]
                print(f"  {name:16} {middle[0] * 1e3:8.0f} ms CPU {middle[1] * 1e3:8.0f} ms wall")
            print(f"  restore + start + clone: {statistics.median(together) * 1e3:.0f} ms CPU, "
                  f"{ratio('dump'):.3f} x dump, {ratio('build'):.3f} x build")
            goals = [("dump", 0.35)] + ([("build", 0.05)] if project.name == "wagtail" else [])
            for other, most in goals:
                word = "reached" if ratio(other) <= most else "missed"
                verdicts.append(f"{project.name}: goal {most} x {other} {word} ({ratio(other):.3f})")
        print("\n" + "\n".join(verdicts))
        print(f"\nload {os.getloadavg()} at the end")
    finally:
        shutil.rmtree(top, ignore_errors=True)


if __name__ == "__main__":
    main()
