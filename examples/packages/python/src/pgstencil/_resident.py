"""One process of ``pgstencil serve --stdio``, which holds the databases of this process."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import subprocess
import sysconfig
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Union


class PgstencilError(Exception):
    """An error of pgstencil. ``kind`` is the word of ``--json``, such as ``build``, ``config`` or ``timeout``."""

    def __init__(self, message: str, kind: str = "failed") -> None:
        super().__init__(message)
        self.kind = kind


def binary() -> str:
    """Returns the program: PGSTENCIL_BINARY, the one of this package, or the one on the PATH."""
    named = os.environ.get("PGSTENCIL_BINARY")
    if named:
        return named
    user_scheme = sysconfig.get_preferred_scheme("user") if hasattr(sysconfig, "get_preferred_scheme") else None
    schemes = [sysconfig.get_path("scripts")]
    if user_scheme:
        schemes.append(sysconfig.get_path("scripts", scheme=user_scheme))
    # `pip install --target DIRECTORY` has its own layout.
    schemes.append(str(Path(__file__).resolve().parent.parent / "bin"))
    for scheme in schemes:
        program = Path(scheme) / "pgstencil"
        if program.is_file():
            return str(program)
    found = shutil.which("pgstencil")
    if found:
        return found
    raise PgstencilError("the program `pgstencil` is missing: reinstall this package, or set PGSTENCIL_BINARY", "config")


@dataclass
class Database:
    """A clone: one database, or several with an alias each. It is held until it is released, or its process ends."""

    name: str
    #: URL of the first database, with the password.
    url: str = field(repr=False)
    #: The URLs by alias.
    databases: Mapping[str, str] = field(repr=False)
    #: ``hit``, ``miss``, ``extended`` ...
    outcome: str
    _resident: "Resident" = field(repr=False, compare=False)
    _held: bool = field(default=True, repr=False, compare=False)
    _until: Optional[str] = field(default=None, repr=False, compare=False)

    def url_of(self, alias: str) -> str:
        """Returns the URL of the database of this alias."""
        try:
            return self.databases[alias]
        except KeyError:
            known = ", ".join(self.databases)
            raise PgstencilError(f"the definition has no alias `{alias}`; it has {known}", "usage") from None

    def release(self) -> List[str]:
        """Releases it; it is dropped off this process. Returns warnings. Does nothing if it is kept or released."""
        if not self._held:
            return []
        self._held = False
        return list(self._resident.request("release", self.name)["warnings"])

    def keep(self) -> Optional[str]:
        """Keeps it beyond this process, for ``[clone] ttl``. Returns until when; ``None``: until it is released."""
        if self._held:
            self._held = False
            self._until = self._resident.request("keep", self.name)["expires_at"]
        return self._until

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Resident:
    """The process. It starts with the first request, and ends with this one, in whatever way this one ends."""

    def __init__(
        self, *, config: Optional[Union[str, Path]] = None, directory: Optional[Union[str, Path]] = None
    ) -> None:
        """``config``: the file, else the ``pgstencil.toml`` upwards from ``directory``."""
        self._config = config
        self._directory = directory
        self._process: Optional["subprocess.Popen[str]"] = None
        self._owner = 0
        self._last = 0
        self._lock = threading.Lock()

    def acquire(
        self, template: Optional[str] = None, *, name: Optional[str] = None, wait: Optional[float] = None
    ) -> Database:
        """Creates a clone of a definition's template, which is built if it is missing.

        ``name`` is a pattern as ``--name`` takes it; ``wait`` limits waiting and building together, in seconds.
        """
        wanted: Dict[str, Any] = {"template": template, "name": name}
        if wait is not None:
            wanted["wait_ms"] = int(wait * 1000)
        answer = self.request("acquire", wanted)
        clone = answer["clone"]
        urls = {alias: database["url"] for alias, database in clone["databases"].items()}
        first = next(d["url"] for d in clone["databases"].values() if d["name"] == clone["name"])
        return Database(clone["name"], first, urls, answer["outcome"], self)

    def request(self, act: str, argument: Any) -> Dict[str, Any]:
        """Sends a request, and waits for its answer."""
        with self._lock:
            process = self._running()
            assert process.stdin is not None and process.stdout is not None
            self._last += 1
            try:
                process.stdin.write(json.dumps({"id": self._last, act: argument}) + "\n")
                process.stdin.flush()
            except OSError:
                raise self._gone() from None
            while True:
                line = process.stdout.readline()
                if not line:
                    raise self._gone()
                answer: Dict[str, Any] = json.loads(line)
                # The answer of a request that an exception such as KeyboardInterrupt left is nobody's.
                if answer.get("id") == self._last:
                    break
        if "error" in answer:
            error = answer["error"]
            lines = [error["message"], *(f"  {line}" for line in error["details"])]
            lines += [f"  caused by: {line}" for line in error["causes"]]
            lines += [f"hint: {line}" for line in error["hints"]]
            raise PgstencilError("\n".join(lines), error["kind"])
        return answer

    def close(self) -> None:
        """Ends the process, which releases all databases that are not kept."""
        with self._lock:
            process, self._process = self._process, None
            if process is None or self._owner != os.getpid():
                return
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()
            # It needs no signal: its standard input has ended.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)

    def _running(self) -> "subprocess.Popen[str]":
        # A fork must not answer its parent's requests.
        if self._process is not None and self._owner == os.getpid():
            return self._process
        command = [binary(), "serve", "--stdio"]
        if self._config is not None:
            command += ["--config", str(self._config)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._directory,
            encoding="utf-8",
        )
        self._owner = os.getpid()
        return self._process

    def _gone(self) -> PgstencilError:
        process, self._process = self._process, None
        code = process.wait() if process is not None else None
        return PgstencilError(f"`pgstencil serve` ended with exit code {code}; standard error has its messages")


_default: Optional[Resident] = None


@contextlib.contextmanager
def database(template: Optional[str] = None, *, name: Optional[str] = None) -> Iterator[Database]:
    """A database for a block of code. All blocks of a program share one process."""
    global _default
    if _default is None:
        _default = Resident()
        atexit.register(_default.close)
    with _default.acquire(template, name=name) as acquired:
        yield acquired
