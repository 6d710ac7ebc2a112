"""Runs the checks, one after another, each in a short read-only transaction of its own.

Invariants. A check that fails stops no other: what it could not examine becomes a finding. Nothing is changed, and no
check waits: statements and locks have short timeouts. If the connection is lost, that is the last finding.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
from psycopg import AsyncConnection

from eventstore.errors import DatabaseUnavailable, PoolerUnusable, UsageError, describe
from eventstore.event_reader import read_head
from eventstore.postgres.availability import wait_for_database
from eventstore.postgres.connection import connect
from projections.inspecting.doctor.app_checks import check_apps
from projections.inspecting.doctor.archive_file_checks import check_archives
from projections.inspecting.doctor.clock_checks import check_clocks, check_stored_times
from projections.inspecting.doctor.cluster_checks import check_changed_events, check_workers
from projections.inspecting.doctor.consumer_checks import check_consumers
from projections.inspecting.doctor.disk_checks import check_disk, format_bytes, read_database_size
from projections.inspecting.doctor.erasure_checks import check_erasures
from projections.inspecting.doctor.examination import DoctorOptions, Examination
from projections.inspecting.doctor.listener_checks import check_listeners
from projections.inspecting.doctor.lock_checks import check_checkpoint_holders, check_lock_waits
from projections.inspecting.doctor.log_checks import check_all_positions, check_positions
from projections.inspecting.doctor.partition_checks import check_partitions
from projections.inspecting.doctor.privilege_checks import check_reader_privileges, check_role_privileges
from projections.inspecting.doctor.projection_checks import (
    check_freshness,
    check_projections,
    check_rebuilds,
    check_tables,
)
from projections.inspecting.doctor.quarantine_checks import check_quarantine
from projections.inspecting.doctor.schema_checks import (
    check_drift,
    check_indexes,
    describe_schema_state,
    read_schema_state,
)
from projections.inspecting.doctor.server_checks import (
    check_autovacuum,
    check_durability,
    check_standby,
    check_version,
)
from projections.inspecting.doctor.session_checks import (
    check_connections,
    check_session_settings,
    check_synchronous_commit,
    read_session_settings,
)
from projections.inspecting.doctor.snapshot_checks import check_replication_slots, check_snapshots
from projections.inspecting.doctor.statistics_checks import check_statistics
from projections.inspecting.finding import Finding
from projections.inspecting.finding_codes import CODES, Severity

STATEMENT_MILLISECONDS = 2_000
LOCK_MILLISECONDS = 300
ANSWER_SECONDS = 15.0
"""How long a check may take altogether before the connection counts as lost."""
_NOT_PERMITTED = "42501"

_LIMITS = (
    "SELECT set_config('transaction_read_only', 'on', true), set_config('statement_timeout', %s, true),"
    " set_config('lock_timeout', %s, true)"
)


class Check(NamedTuple):
    """A check: what it examines, the function, and whether it needs our tables."""

    what: str
    find: Callable[[Examination], AsyncIterator[Finding]]
    needs_schema: bool = True


CHECKS: tuple[Check, ...] = (
    Check("the server's version", check_version, needs_schema=False),
    Check("whether the server is a standby", check_standby, needs_schema=False),
    Check("workers", check_workers),
    Check("changes of stored events", check_changed_events),
    Check("the schema", check_drift),
    Check("indexes", check_indexes),
    Check("tables of projections", check_tables),
    Check("apps", check_apps),
    Check("positions of the log", check_positions),
    Check("projections", check_projections),
    Check("rebuilds", check_rebuilds),
    Check("consumers", check_consumers),
    Check("who holds checkpoints", check_checkpoint_holders),
    Check("lock waits", check_lock_waits, needs_schema=False),
    Check("old transactions", check_snapshots, needs_schema=False),
    Check("replication slots", check_replication_slots, needs_schema=False),
    Check("listeners", check_listeners, needs_schema=False),
    Check("times of stored events", check_stored_times),
    Check("clocks", check_clocks, needs_schema=False),
    Check("the quarantine", check_quarantine),
    Check("erasures", check_erasures),
    Check("archives", check_archives),
    Check("the disk", check_disk, needs_schema=False),
    Check("durability", check_durability, needs_schema=False),
    Check("synchronous_commit", check_synchronous_commit, needs_schema=False),
    Check("autovacuum", check_autovacuum, needs_schema=False),
    Check("settings of our sessions", check_session_settings, needs_schema=False),
    Check("connections", check_connections, needs_schema=False),
    Check("statistics", check_statistics),
    Check("partitions", check_partitions),
    Check("privileges of writers", check_role_privileges),
    Check("privileges of readers", check_reader_privileges),
)
"""All checks but the thorough one, in the order in which they run."""


@dataclass(frozen=True)
class Diagnosis:
    """What an examination found; ``summary`` says how things stand if nothing is wrong."""

    findings: list[Finding]
    summary: str = ""

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong; there may be notes."""
        return all(one.severity is Severity.NOTE for one in self.findings)


async def examine(
    url: str, options: DoctorOptions, *, patience: float = 0.0, report: Callable[[str], None] = lambda _: None
) -> Diagnosis:
    """Examine an installation.

    Args:
        url: the database.
        options: what the examination depends on besides the database.
        patience: how long to wait for a database that isn't available yet, in seconds.
        report: is called with a sentence while it waits.

    """
    try:
        await (await wait_for_database(url, waits=options.waits, seconds=patience, writes=False, report=report)).close()
        async with await connect(url, name="projections doctor", waits=options.waits) as conn:
            return await _examine(Examination(conn, options, await read_session_settings(conn)))
    except PoolerUnusable as error:
        return Diagnosis([Finding("pooler_mode", str(error))])
    except UsageError as error:
        return Diagnosis([Finding("database_refuses", str(error))])
    except (DatabaseUnavailable, psycopg.Error, OSError, TimeoutError) as error:
        return Diagnosis([unavailable(error)])


def unavailable(error: BaseException) -> Finding:
    """Return the finding of a database that can't be reached."""
    sentence = describe(error) or type(error).__name__
    if not isinstance(error, DatabaseUnavailable):
        sentence = f"the connection to the database was lost: {sentence}"
    return Finding("database_unavailable", sentence, advice="start the server, or correct DATABASE_URL")


async def _examine(exam: Examination) -> Diagnosis:
    findings: list[Finding] = []
    refused: list[str] = []
    has_schema = False
    try:
        state = await read_schema_state(exam.conn)
        findings += describe_schema_state(state)
        has_schema = state.is_current
    except psycopg.errors.InsufficientPrivilege:
        refused.append("the schema's revision")
        has_schema = True  # as far as is known: each check finds out what it may read
    checks = [check for check in CHECKS if has_schema or not check.needs_schema]
    if refused:
        checks.append(Check("freshness", check_freshness))
    try:
        for check in checks:
            findings += await _run(exam, check, refused)
        if exam.options.thorough and has_schema:
            findings += await _run_thorough(exam)
        is_well = has_schema and Diagnosis(findings).is_well
        summary = await _summarise(exam) if is_well and not refused else ""
    except (psycopg.OperationalError, OSError, TimeoutError) as error:
        findings.append(unavailable(error))
        summary = ""
    if refused:
        sentence = f"role {exam.conn.info.user} may not read what is needed to examine {', '.join(refused)}"
        findings.append(
            Finding("not_permitted", sentence, advice="run projections doctor as the owner, or as a worker")
        )
    order = list(CODES)
    unique = list(dict.fromkeys(findings))
    return Diagnosis(sorted(unique, key=lambda one: (one.severity is Severity.NOTE, order.index(one.code))), summary)


async def _run(exam: Examination, check: Check, refused: list[str]) -> Sequence[Finding]:
    """Run a check; if it fails, return that as a finding, or add it to ``refused`` if this role may not read enough.

    Raises:
        psycopg.OperationalError: the connection is lost.
        TimeoutError: the server doesn't answer.

    """
    found: list[Finding] = []
    try:
        async with asyncio.timeout(ANSWER_SECONDS), exam.conn.transaction():
            await _limit(exam.conn)
            async for finding in check.find(exam):
                found.append(finding)  # noqa: PERF401 - kept if a later part of the check fails
    except psycopg.Error as error:
        if exam.conn.broken or exam.conn.closed:
            raise
        if error.sqlstate == _NOT_PERMITTED:
            refused.append(check.what)
        else:
            found.append(Finding("check_failed", f"{check.what} could not be examined: {describe(error)}"))
    return found


async def _run_thorough(exam: Examination) -> Sequence[Finding]:
    """Examine the whole log, in statements that are transactions of their own."""
    return [finding async for finding in check_all_positions(exam)]


async def _limit(conn: AsyncConnection[Any]) -> None:
    await conn.execute(_LIMITS, [f"{STATEMENT_MILLISECONDS}ms", f"{LOCK_MILLISECONDS}ms"])


async def _summarise(exam: Examination) -> str:
    """Return how things stand, in one sentence."""
    apps, projections = await exam.apps(), await exam.projections()
    at_head = sum(one.events_behind == 0 for one in projections)
    followed = sum(app.followed_by is not None for app in apps)
    size = format_bytes(await read_database_size(exam))
    behind = "" if at_head == len(projections) else f", {len(projections) - at_head} catching up"
    return (
        f"{_many(at_head, 'projection')} at the head (position {await read_head(exam.conn):,}){behind},"
        f" {_many(followed, 'app')} followed, {size} of database"
    )


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")
