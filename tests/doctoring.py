"""Shared by tests of doctor: examine a database in this process, find a finding by its code, and run its SQL."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from psycopg import AsyncConnection

from eventstore.appending.quarantine_limits import DEFAULT_LIMITS
from eventstore.postgres.connection import connect
from projections.inspecting.doctor.doctor_limits import DoctorLimits
from projections.inspecting.doctor.examination import DoctorOptions
from projections.inspecting.doctor.examine import Diagnosis, examine
from projections.inspecting.finding import Finding
from projections.registry import Registry, find_projections
from projections.settings import WorkerSettings
from tests import store

OF_TEST_SERVERS = frozenset({"not_durable", "autovacuum_off"})
"""What is wrong with every server of the tests, on purpose."""

OPTIONS = DoctorOptions(
    registry=find_projections(),
    waits=store.QUICK,
    worker=WorkerSettings(),
    quarantine=DEFAULT_LIMITS,
    limits=DoctorLimits(),
)


async def diagnose(url: str, *, limits: dict[str, float] | None = None, **options: Any) -> Diagnosis:  # noqa: ANN401 - of DoctorOptions
    """Examine a database, with some limits and options changed."""
    changed = OPTIONS.limits.model_copy(update=limits or {})
    return await examine(url, replace(OPTIONS, limits=changed, **options))


async def findings(url: str, *, limits: dict[str, float] | None = None, **options: Any) -> list[Finding]:  # noqa: ANN401 - of DoctorOptions
    """Return the findings of an examination, without those of every test server."""
    found = (await diagnose(url, limits=limits, **options)).findings
    return [one for one in found if one.code not in OF_TEST_SERVERS]


def codes(found: Collection[Finding]) -> list[str]:
    """Return the codes of findings, in their order, each once."""
    return list(dict.fromkeys(one.code for one in found))


def only(found: Collection[Finding], code: str) -> Finding:
    """Return the one finding of a code."""
    of_code = [one for one in found if one.code == code]
    assert len(of_code) == 1, [one.line for one in found]
    return of_code[0]


async def run_sql(conn: AsyncConnection, finding: Finding) -> None:
    """Run the SQL that mends a finding, statement by statement."""
    command = finding.command or ""
    assert command.endswith(";"), finding.line
    for statement in command.removesuffix(";").split("; "):
        await conn.execute(statement.encode())


@asynccontextmanager
async def session(url: str, name: str) -> AsyncIterator[AsyncConnection]:
    """Yield a session that is named as one of ours would be, or as somebody else's; it may be terminated."""
    conn = await connect(url, name=name, waits=store.QUICK)
    try:
        yield conn
    finally:
        await conn.close()


def registry_of(*projections: Any, broken: dict[str, str] | None = None) -> Registry:  # noqa: ANN401 - projections
    """Return a registry of these projections."""
    return Registry({one.name: one for one in projections}, broken or {})


HERE = f"here:{os.getpid()}"
"""The host and process in the names of sessions that tests open in place of a worker or a follower."""
