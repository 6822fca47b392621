"""Fixtures for pytest: a database for each test, and one for each worker."""

from __future__ import annotations

from typing import Any, Generator, Iterator, Optional

import pytest

from ._resident import Database, PgstencilError, Resident

_RESIDENT = pytest.StashKey[Resident]()
_OF_TEST = pytest.StashKey[Database]()
_OF_WORKER = pytest.StashKey[Database]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("pgstencil_template", "definition of pgstencil.toml for the fixtures", default="")
    parser.addini("pgstencil_config", "config file of pgstencil, relative to the rootdir", default="")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "pgstencil(template): definition of pgstencil.toml for the fixture `database`")


def pytest_unconfigure(config: pytest.Config) -> None:
    resident = config.stash.get(_RESIDENT, None)
    if resident is not None:
        resident.close()


def _acquire(config: pytest.Config, template: Optional[str]) -> Database:
    resident = config.stash.get(_RESIDENT, None)
    if resident is None:
        file = config.getini("pgstencil_config")
        named = config.rootpath / file if file else None
        resident = config.stash[_RESIDENT] = Resident(config=named, directory=config.rootpath)
    try:
        return resident.acquire(template or config.getini("pgstencil_template") or None)
    except PgstencilError as error:
        why = str(error)
    # Words for a person, without the stack of this file.
    pytest.fail(f"pgstencil: no database\n{why}", pytrace=False)


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A migrated Postgres database for this test alone."""
    marker = request.node.get_closest_marker("pgstencil")
    acquired = _acquire(request.config, marker.args[0] if marker and marker.args else None)
    request.node.stash[_OF_TEST] = acquired
    yield acquired
    for warning in acquired.release():
        print(f"pgstencil: warning: {warning}")


@pytest.fixture(scope="session")
def worker_database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A migrated Postgres database for this process: without pytest-xdist for all tests, else for those of a worker."""
    acquired = request.config.stash[_OF_WORKER] = _acquire(request.config, None)
    yield acquired
    acquired.release()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    report = (yield).get_result()
    # At the teardown's report the databases are released already.
    if not report.failed or report.when == "teardown":
        return
    used = [item.stash.get(_OF_TEST, None)]
    if "worker_database" in getattr(item, "fixturenames", ()):
        used.append(item.config.stash.get(_OF_WORKER, None))
    for kept in filter(None, used):
        # A section travels from a worker of xdist to the terminal.
        report.sections.append(("pgstencil", _keep(kept)))


def _keep(used: Database) -> str:
    try:
        until = used.keep() or "it is released"
    except PgstencilError as error:
        return f"the database {used.name} could not be kept: {error}"
    urls = [used.url] if len(used.databases) == 1 else [f"{alias}={url}" for alias, url in used.databases.items()]
    return "\n".join([f"the database is kept until {until}", *urls, f"release it: pgstencil release {used.name}"])
