#!/usr/bin/env python3
"""A day of edits on the Wagtail example: 20 edits of one migration, a test run after each.

    cargo build --release
    python3 -m venv venv && venv/bin/pip install -r examples/django/requirements.txt
    venv/bin/python benches/day/measure.py target/release/pgstencil

Prints for each setting the CPU seconds in front (the commands) and behind (what goes on after they have ended), each
also of the server; and how much slower another user's queries on the same server get meanwhile. `new`: the migration is
new, so that the template of the others is the base of each edit. `built`: the first template contains it.

CPU seconds are those of all processes: this script adopts what the commands leave (PR_SET_CHILD_SUBREAPER). The queries
run all the time, one after the other; before each edit for some seconds alone, which their times are compared with. A
private server in a temporary directory (on /dev/shm if it exists) is used for each setting. Linux only.
"""

import argparse
import ctypes
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

PR_SET_CHILD_SUBREAPER = 36
TICK = os.sysconf("SC_CLK_TCK")
ROOT = pathlib.Path(__file__).resolve().parents[2]
SETTINGS = {  # rebuild, waypoints, and whether the first template has the migration
    "new, always": ("always", "never", False),
    "new, auto": ("auto", "never", False),
    "new, never": ("never", "never", False),
    "built, always": ("always", "never", True),
    "built, always, copy": ("always", "copy", True),
    "built, auto": ("auto", "never", True),
    "built, auto, copy": ("auto", "copy", True),
    "built, never, copy": ("never", "copy", True),
}
MIGRATION = """\
from django.db import migrations, models

class Migration(migrations.Migration):
    dependencies = [("orders", "0002_first_products")]
    operations = [migrations.CreateModel(name="Supplier", fields=[
        ("id", models.AutoField(primary_key=True)), ("name", models.CharField(max_length={length}))])]
"""
# Some milliseconds of work.
QUERY = "select count(*) from generate_series(1, 20000) i where md5(i::text) < '8'"


def stat(pid):
    """Returns parent, and CPU seconds of a process and of the children that it has collected."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return int(fields[1]), sum(map(int, fields[11:13])) / TICK, sum(map(int, fields[13:15])) / TICK


def children(of):
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (found := stat(entry)) and found[0] == of:
            yield int(entry), found


class Probe:
    """Another user's queries, on a thread."""

    def __init__(self, url):
        import psycopg
        self.connection = psycopg.connect(url, autocommit=True)
        self.backend = self.connection.info.backend_pid
        self.times, self.ended = [], False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.ended:
            begun = time.monotonic()
            self.connection.execute(QUERY)
            self.times.append((begun, time.monotonic() - begun))

    def end(self):
        self.ended = True
        self.thread.join()
        self.connection.close()

    def mean(self, spans):
        times = [took for at, took in self.times if any(begin <= at < end for begin, end in spans)]
        return statistics.mean(times) if times else None


class Day:
    def __init__(self, binary, directory, setting):
        rebuild, waypoints, self.built = SETTINGS[setting]
        self.binary, self.project = binary, directory / "project"
        shutil.copytree(ROOT / "examples/django", self.project, ignore=shutil.ignore_patterns("__pycache__"))
        config = self.project / "pgstencil.toml"
        config.write_text(config.read_text().replace(
            "[template.app]\n", f'[template.app]\nrebuild = "{rebuild}"\nwaypoints = "{waypoints}"\n'))
        directory.chmod(0o755)
        paths = [pathlib.Path(sys.executable).parent, os.environ["PATH"]]
        self.env = os.environ | {
            "PGSTENCIL_STATE_DIR": str(directory / "state"), "XDG_CACHE_HOME": str(directory / "cache"),
            "PATH": os.pathsep.join(map(str, paths)), "PYTHONDONTWRITEBYTECODE": "1"}
        for name in ("PGSTENCIL_SERVER_URL", "PGSTENCIL_CONFIG", "PGSTENCIL_BACKGROUND", "DJANGO_SETTINGS_MODULE", "CI"):
            self.env.pop(name, None)
        self.behind = self.front = 0.0
        self.postmaster = self.probe = None
        self.of_server = set()

    def call(self, *args):
        """Runs a command; its CPU seconds are added to those in front."""
        log = tempfile.TemporaryFile("w+")
        child = subprocess.Popen([self.binary, *args], cwd=self.project, env=self.env, stdin=subprocess.DEVNULL,
                                 stdout=log, stderr=log)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        text = log.read()
        if child.returncode:
            raise SystemExit(f"{args}: exit code {child.returncode}\n{text}")
        self.front += used.ru_utime + used.ru_stime
        return text

    def collect(self):
        """Waits for all that the commands left, apart from the server."""
        while True:
            # Those that have ended first: a process that is listed is one that still runs, or was adopted since.
            while True:
                try:
                    pid, _, used = os.wait4(-1, os.WNOHANG)
                except ChildProcessError:
                    pid = 0
                if not pid:
                    break
                self.behind += used.ru_utime + used.ru_stime
            if not [pid for pid, _ in children(os.getpid()) if pid not in self.of_server]:
                return
            time.sleep(0.02)

    def server(self):
        """CPU seconds of the server so far, without those of the queries."""
        _, own, collected = stat(self.postmaster)
        live = sum(found[1] for pid, found in children(self.postmaster) if not self.probe or pid != self.probe.backend)
        return own + collected + live

    def test(self):
        return self.call("run", "-q", "--report", "report.json", "--",
                         "python", "manage.py", "test", "--keepdb", "orders")

    def edit(self, number):
        (self.project / "orders/migrations/0003_supplier.py").write_text(MIGRATION.format(length=80 + number))

    def run(self, edits, alone):
        self.call("server", "start")
        # The server, and a process that waits for its end.
        self.of_server = {pid for pid, _ in children(os.getpid())}
        if self.built:
            self.edit(0)
        self.test()
        found = list((self.project.parent / "state").rglob("postmaster.pid"))
        if not found:
            raise SystemExit("there is no server in the state directory")
        self.postmaster = int(found[0].read_text().split()[0])
        self.collect()
        url = self.call("server", "url").strip()
        self.probe = Probe(url) if alone else None
        self.front = self.behind = 0.0
        server_front = server_behind = waited = 0.0
        quiet, front, behind = [], [], []
        for number in range(1, edits + 1):
            begun = time.monotonic()
            time.sleep(alone)
            quiet.append((begun, time.monotonic()))
            self.edit(number)
            at = [self.server()]
            begun = time.monotonic()
            self.test()
            ended = time.monotonic()
            front.append((begun, ended))
            waited += ended - begun
            at.append(self.server())
            self.collect()
            behind.append((ended, time.monotonic()))
            at.append(self.server())
            server_front += at[1] - at[0]
            server_behind += at[2] - at[1]
        row = [f"{figure:.1f}" for figure in (self.front, server_front, self.behind, server_behind,
               self.front + server_front + self.behind + server_behind, waited)]
        row.append(f"{sum(end - begin for begin, end in behind):.0f}")
        if self.probe:
            self.probe.end()
            before = self.probe.mean(quiet)
            for spans in front, behind:
                mean = self.probe.mean(spans)
                row.append("" if mean is None else f"{(mean / before - 1) * 100:+.0f}")
            # What the queries lost, in seconds, had they run all the time.
            lost = 0.0
            for spans in front, behind:
                mean = self.probe.mean(spans)
                length = sum(end - begin for begin, end in spans)
                lost += 0 if mean is None else length * (1 - before / mean)
            row.append(f"{lost:.0f}")
        else:
            row += ["", "", ""]
        return row

    def end(self):
        if self.probe and not self.probe.ended:
            self.probe.end()
        subprocess.run([self.binary, "server", "stop"], cwd=self.project, env=self.env, capture_output=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=", ".join(f"`{name}`" for name in SETTINGS))
    parser.add_argument("--edits", type=int, default=20)
    parser.add_argument("--alone", type=float, default=2.0,
                        help="seconds of the queries before each edit; 0: no queries [default: 2]")
    args = parser.parse_args()
    if wrong := [name for name in args.settings if name not in SETTINGS]:
        parser.error(f"there is no setting `{wrong[0]}`")
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    head = ["migration, rebuild, waypoints", "commands", "their server", "behind", "its server", "sum", "waited s",
            "behind s", "queries slower % in front", "behind", "lost s", "load"]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", flush=True)
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    for setting in args.settings or SETTINGS:
        with tempfile.TemporaryDirectory(prefix="pgstencil-day-", dir=shm) as directory:
            day = Day(args.binary.resolve(), pathlib.Path(directory), setting)
            load = os.getloadavg()[0]
            try:
                row = day.run(args.edits, args.alone)
            finally:
                day.end()
            print("| " + " | ".join([setting, *row, f"{load:.0f}-{os.getloadavg()[0]:.0f}"]) + " |", flush=True)


main()
