"""Shared code of the benchmarks: a server, new databases, interleaved runs, and the form of a result."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from projections.migrating.migrate import upgrade
from projections.sandbox.embedded import EmbeddedPostgres

SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "1h"}
"""The server's settings, the same for both sides. They keep a checkpoint from slowing one of two runs. fsync and
synchronous_commit have Postgres's defaults."""

ROUNDS = 3


@dataclass(frozen=True)
class Result:
    """One line of the report: our value, the reference's value in the same unit, and how both were measured."""

    name: str
    value: float
    unit: str
    reference: str
    reference_value: float
    ratio: float
    detail: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the result for JSON, with rounded numbers."""
        fields = asdict(self)
        return fields | {
            "value": round(self.value, 3),
            "reference_value": round(self.reference_value, 3),
            "ratio": round(self.ratio, 3),
        }


@dataclass(frozen=True)
class Postgres:
    """The benchmarks' server, with its superuser's URL."""

    url: str

    def create(self) -> str:
        """Create a migrated database and return its URL."""
        name = f"bench_{uuid4().hex}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        url = make_url(self.url).set(database=name).render_as_string(hide_password=False)
        upgrade(url)
        return url

    @contextmanager
    def database(self) -> Iterator[str]:
        """Create a migrated database, yield its URL, and drop it afterwards."""
        url = self.create()
        try:
            yield url
        finally:
            name = make_url(url).database or ""
            with psycopg.connect(self.url, autocommit=True) as connection:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def settings(self) -> dict[str, str]:
        """Return the server's values of the settings in ``SETTINGS``, and of fsync."""
        with psycopg.connect(self.url) as connection:
            rows = connection.execute(
                "SELECT name, current_setting(name) FROM unnest(%s::text[]) AS name", [[*SETTINGS, "fsync"]]
            ).fetchall()
        return dict(rows)

    def versions(self) -> dict[str, str]:
        """Return the versions of Postgres, Python and libraries on which a result depends."""
        with psycopg.connect(self.url) as connection:
            number = connection.info.server_version
        libraries = ("psycopg", "grpcio", "protobuf", "sqlalchemy")
        return {
            "postgres": f"{number // 10_000}.{number % 10_000}",
            "python": platform.python_version(),
            **{name: version(name) for name in libraries},
        }


Benchmark = Callable[[Postgres], Result]


@contextmanager
def server() -> Iterator[Postgres]:
    """Yield the server that BENCH_POSTGRES names (a superuser's URL), or run an embedded one for the benchmarks."""
    if given := os.environ.get("BENCH_POSTGRES"):
        yield Postgres(given)
        return
    embedded = EmbeddedPostgres(Path(".projections") / "bench", settings=SETTINGS)
    embedded.start()
    try:
        yield Postgres(embedded.superuser_url() or "")
    finally:
        embedded.destroy()


def interleaved(ours: Callable[[int], float], reference: Callable[[int], float]) -> tuple[list[float], list[float]]:
    """Run both in each round, with the round's number as argument; they take turns at running first."""
    a: list[float] = []
    b: list[float] = []
    for number in range(ROUNDS):
        for run, into in ((ours, a), (reference, b))[:: 1 if number % 2 == 0 else -1]:
            into.append(run(number))
    return a, b


def result(
    name: str, unit: str, reference: str, ours: list[float], theirs: list[float], detail: dict[str, Any]
) -> Result:
    """Return the result of interleaved runs: the medians, and their ratio."""
    value, reference_value = statistics.median(ours), statistics.median(theirs)
    rounds = {"runs": [round(run, 3) for run in ours], "reference_runs": [round(run, 3) for run in theirs]}
    return Result(name, value, unit, reference, reference_value, value / reference_value, detail | rounds)
