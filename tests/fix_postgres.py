"""Fixtures: a real server for each version, and a new database for each test.

``PROJECTIONS_TEST_POSTGRES`` chooses the newest server: ``embedded`` (PostgreSQL 18 from the wheel, the default),
``embedded:16``, ``container`` or ``container:VERSION`` (in Docker), or a superuser's URL of a running server.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest

from tests import fix_full_matrix
from tests.databases import Server
from tests.oldest_postgres import may_run_on_oldest, runs_on_oldest
from tests.servers import Source, newest_source, oldest_source

KEY = pytest.StashKey[list[Source]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "oldest: run on the oldest PostgreSQL too, see tests/oldest_postgres.py")
    config.addinivalue_line("markers", "folded: the database has sample events, and every read model has folded them")
    config.addinivalue_line("markers", "partitioned(size): the log has partitions of so many positions")
    config.addinivalue_line("markers", "newest: run on the newest PostgreSQL alone, see tests/oldest_postgres.py")
    newest = newest_source(os.environ.get("PROJECTIONS_TEST_POSTGRES") or "embedded")
    oldest = oldest_source() if newest.name == "18" and newest.kind == "embedded" else None
    config.stash[KEY] = [newest, *([oldest] if oldest else [])]


def pytest_report_header(config: pytest.Config) -> str:
    return "PostgreSQL: " + ", ".join(source.label for source in config.stash[KEY])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "postgres" not in metafunc.fixturenames:
        return
    sources = metafunc.config.stash[KEY]
    both = metafunc.config.getoption(fix_full_matrix.OPTION) or may_run_on_oldest(metafunc.definition)
    chosen = sources if both else sources[:1]
    metafunc.parametrize("postgres", chosen, indirect=True, ids=[source.name for source in chosen], scope="session")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the parameters that don't run on the oldest, where others of the same test do."""
    if not config.getoption(fix_full_matrix.OPTION):
        newest = config.stash[KEY][0]
        items[:] = [item for item in items if server_of(item) in {None, newest} or runs_on_oldest(item)]


def server_of(item: pytest.Item) -> Source | None:
    """Return the server that a test runs on; None if it takes none."""
    params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    found = params.get("postgres")
    return found if isinstance(found, Source) else None


@pytest.fixture(scope="session")
def _servers() -> Iterator[Callable[[Source], Server]]:
    """Return a function that starts a server when it is first needed; servers run until the last test has ended."""
    servers: dict[str, Server] = {}
    with ExitStack() as stack:

        def running(source: Source) -> Server:
            if source.name not in servers:
                server = Server(source.name, stack.enter_context(source.running()))
                server.prepare()
                stack.callback(server.tidy)
                servers[source.name] = server
            return servers[source.name]

        yield running


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest, _servers: Callable[[Source], Server]) -> Server:
    """The newest server; tests that tests/oldest_postgres.py chooses run a second time with the oldest."""
    return _servers(request.param)


@pytest.fixture(scope="session")
def _prepared(postgres: Server) -> Iterator[Callable[[int | None, bool], str]]:
    """Return a function that prepares a database, once, and returns its URL; tests get copies of it.

    It takes the size of partitions, None for a log of one table, and whether the log has the events of
    ``rebuilding.sample_records``, folded.
    """
    from projections.migrating.partition_log import partition_log  # noqa: PLC0415 - not every run needs it
    from tests import rebuilding  # noqa: PLC0415

    with ExitStack() as stack:

        @cache
        def prepared(size: int | None, is_folded: bool) -> str:
            url = stack.enter_context(postgres.database())
            if size is not None:
                partition_log(url, size)
            if is_folded:
                asyncio.run(rebuilding.append_and_fold_samples(url))
            return url

        yield prepared


@pytest.fixture
def database_url(request: pytest.FixtureRequest, postgres: Server) -> Iterator[str]:
    """The URL of a new migrated database, for its owner, who isn't a superuser.

    See also the marks ``folded`` and ``partitioned``.
    """
    is_folded = request.node.get_closest_marker("folded") is not None
    partitioned = request.node.get_closest_marker("partitioned")
    if is_folded or partitioned:
        original = request.getfixturevalue("_prepared")(partitioned.args[0] if partitioned else None, is_folded)
    with postgres.copy(original) if is_folded or partitioned else postgres.database() as url:
        yield url


@pytest.fixture
def elsewhere(postgres: Server) -> Iterator[str]:
    """The URL of another new migrated database."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def empty_database_url(postgres: Server) -> Iterator[str]:
    """The URL of a new empty database, for its owner, who isn't a superuser."""
    with postgres.database(migrated=False) as url:
        yield url
