"""Builds read models as they were known at a position, into a schema of their own, beside the live ones.

Invariants. The tables are folded in the shadow schema and moved into their own in one transaction: all of them or none.
An as-of that fails or is killed leaves the schema as it was; its shadows are dropped, by itself or by the next run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import AsyncConnection

from eventstore.archiving.archived_events import open_archived_events
from eventstore.postgres.lock_retry import retry_on_lock
from eventstore.postgres.session_lock import session_name
from projections.projection import Projection
from projections.rebuilding import rebuild_history
from projections.rebuilding.as_of_position import find_position, received_at, remarks_on_time
from projections.rebuilding.as_of_schema import check_replaceable, check_schema_name, move_tables
from projections.rebuilding.exclusive_run import run_exclusively, start_over_after_erasures
from projections.rebuilding.replay_context import ReplayContext
from projections.rebuilding.shadow import Shadow
from projections.rebuilding.shadow_run import new_shadow
from projections.rebuilding.shadow_tables import SHADOW_SCHEMA


@dataclass(frozen=True, slots=True)
class AsOfResult:
    """What an as-of built.

    Attributes:
        position: the last position that it folded.
        received_at: when that event was received; None for position 0.
        rows: the number of rows by table.
        remarks: sentences about the time that was asked for.

    """

    position: int
    received_at: datetime | None
    rows: dict[str, int]
    remarks: tuple[str, ...] = ()


async def build_as_of(
    context: ReplayContext, projections: Sequence[Projection], moment: str, into: str, *, force: bool
) -> AsOfResult:
    """Build the tables of projections as they were known at a moment.

    Args:
        context: the database, settings, and who receives the progress.
        projections: whose tables.
        moment: an event_id, for the log up to and including its position; or an ISO time with a time zone, for the log
            up to the last position received by then.
        into: the schema to create.
        force: replace the schema, if an earlier as-of created it.

    Raises:
        UsageError: there is no such event, that is no time, or the schema can't be created or replaced.
        LockHeld: a rebuild, verify, as-of or redecode of one of the projections runs.
        CannotFold: an event can't be folded; the message says which.
        psycopg.Error: the database failed, or the connection.

    """
    check_schema_name(into)

    async def work() -> AsOfResult:
        async with context.connection(f"as-of {into}", values_in_text=True) as conn:
            position = await find_position(conn, moment)
            remarks = await remarks_on_time(conn, moment, position)
            await check_replaceable(conn, into, projections, force=force)
            await open_archived_events(conn)  # names all files that are missing
            received = await received_at(conn, position)

            async def attempt(*, is_first: bool) -> dict[str, int]:  # noqa: ARG001 - an as-of is never resumed
                return await _build(conn, context, projections, position, into, force=force)

            rows = await start_over_after_erasures(conn, context, f"as-of {into}", attempt)
            return AsOfResult(position, received, rows, remarks)

    return await run_exclusively(context, projections, f"as-of {into}", work)


async def _build(
    conn: AsyncConnection[Any],
    context: ReplayContext,
    projections: Sequence[Projection],
    position: int,
    into: str,
    *,
    force: bool,
) -> dict[str, int]:
    archived = await open_archived_events(conn)
    shadows: list[Shadow] = []
    holder = session_name(f"as-of {into}")

    async def note() -> None:
        context.progress.note(f"another session reads {into} or {SHADOW_SCHEMA}; trying again")

    try:
        for projection in projections:
            shadow = await new_shadow(conn, context, projection, archived=archived, logged=True)
            await rebuild_history.record_start(conn, shadow.run_id, projection, shadow.fingerprint, holder, into=into)
            shadows.append(shadow)
            await shadow.begin()
            context.progress.phase(f"folding {projection.name}", target=position)
            await shadow.fold_to(position, context.settings.window, context.progress.at)
        context.progress.phase(f"moving the tables into {into}")
        rows = await retry_on_lock(lambda: move_tables(conn, into, shadows, position, force=force), before_retry=note)
    except BaseException as error:
        for shadow in shadows:
            await rebuild_history.record_run_failure(conn, shadow.run_id, "failed", error)
            await _drop_if_possible(shadow)
        raise
    for shadow in shadows:
        await shadow.drop()
    return rows


async def _drop_if_possible(shadow: Shadow) -> None:
    """Drop the shadow of a failed as-of: it is never resumed."""
    with suppress(psycopg.Error, TimeoutError):
        async with asyncio.timeout(rebuild_history.RECORD_SECONDS):
            await shadow.drop()
