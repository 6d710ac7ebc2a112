"""What benchmarks share: a server of their own, new databases, and the form of a result."""

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
"""The server's settings, the same for both sides: no checkpoint falls into one of two runs. fsync and commits are
Postgres's defaults."""

ROUNDS = 3


@dataclass(frozen=True)
class Result:
    """One line of the report: our value, the reference's in the same unit, and how both were measured."""

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
    """The benchmarks' server, by its superuser's URL."""

    url: str

    def create(self) -> str:
        """Make a migrated database; returns its URL."""
        name = f"bench_{uuid4().hex}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        url = make_url(self.url).set(database=name).render_as_string(hide_password=False)
        upgrade(url)
        return url

    @contextmanager
    def database(self) -> Iterator[str]:
        """Make a migrated database, and drop it afterwards; yields its URL."""
        url = self.create()
        try:
            yield url
        finally:
            name = make_url(url).database or ""
            with psycopg.connect(self.url, autocommit=True) as connection:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def settings(self) -> dict[str, str]:
        """Return what the server has of the settings that this one would be given."""
        with psycopg.connect(self.url) as connection:
            rows = connection.execute(
                "SELECT name, current_setting(name) FROM unnest(%s::text[]) AS name", [[*SETTINGS, "fsync"]]
            ).fetchall()
        return dict(rows)

    def versions(self) -> dict[str, str]:
        """Return the versions that a result depends on."""
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
    """Run a server for the benchmarks: BENCH_POSTGRES (a superuser's URL), or an embedded one of their own."""
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
    """Run both in turn, each given the round's number; which begins changes with the round."""
    a: list[float] = []
    b: list[float] = []
    for number in range(ROUNDS):
        for run, into in ((ours, a), (reference, b))[:: 1 if number % 2 == 0 else -1]:
            into.append(run(number))
    return a, b


def result(
    name: str, unit: str, reference: str, ours: list[float], theirs: list[float], detail: dict[str, Any]
) -> Result:
    """Make a result of interleaved runs: medians, and their ratio."""
    value, reference_value = statistics.median(ours), statistics.median(theirs)
    rounds = {"runs": [round(run, 3) for run in ours], "reference_runs": [round(run, 3) for run in theirs]}
    return Result(name, value, unit, reference, reference_value, value / reference_value, detail | rounds)
