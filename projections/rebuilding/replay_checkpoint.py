"""How a replay reads the checkpoint of its projection, and which checkpoints it refuses."""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection

from projections.errors import ProjectionsError
from projections.projection import Projection
from projections.running import checkpoint
from projections.running.checkpoint import Checkpoint
from projections.running.state_changes import describe_ahead_of_log


async def read_checkpoint(conn: AsyncConnection[Any], projection: Projection) -> Checkpoint:
    """Read the checkpoint of a projection whose rows are not newer than this code.

    Raises:
        ProjectionsError: there is none yet, or the rows are of a newer version.

    """
    at = await checkpoint.find_checkpoint(conn, projection.name)
    if at is None:
        raise ProjectionsError(
            f"{projection.name} has not run yet: start projections run, or run projections rebuild {projection.name}"
        )
    if at.version > projection.version:
        raise ProjectionsError(
            f"the rows of {projection.name} are of version {at.version}, this code is version {projection.version};"
            " upgrade this installation"
        )
    return at


async def read_checkpoint_in_log(conn: AsyncConnection[Any], projection: Projection) -> Checkpoint:
    """Read a checkpoint as :func:`read_checkpoint` does, and refuse one that is ahead of the log.

    Such rows were folded from events that the log no longer has.

    Raises:
        ProjectionsError: it is ahead; the message says what to do.

    """
    at = await read_checkpoint(conn, projection)
    if at.is_ahead:
        why = describe_ahead_of_log(projection.name, at.position, at.head)
        raise ProjectionsError(f"{projection.name}: {why}")
    return at


async def read_checkpoint_clamped_to_head(conn: AsyncConnection[Any], projection: Projection) -> Checkpoint:
    """Read a checkpoint as :func:`read_checkpoint` does; one that is ahead of the log counts as being at its head.

    A rebuild compares whole tables, so it finds the rows of events that the log lost.

    Raises:
        ProjectionsError: there is none yet, or the rows are of a newer version.

    """
    at = await read_checkpoint(conn, projection)
    return at._replace(position=at.within_log)
