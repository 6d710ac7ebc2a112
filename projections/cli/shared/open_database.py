"""Checks the database and the projections that a command needs, before its work starts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from psycopg import AsyncConnection

from eventstore.errors import UsageError
from eventstore.postgres.availability import wait_for_database
from eventstore.waits import Waits, load_waits
from projections.cli.shared.output import print_message, wait_for_database_seconds
from projections.database import resolve_database_url
from projections.migrating.schema_revision import check_schema
from projections.projection import Projection
from projections.rebuilding.job_slots import JobSlots
from projections.rebuilding.replay_context import ReplayContext
from projections.rebuilding.replay_progress import Progress
from projections.registry import find_projections
from projections.settings import ReplaySettings, load_replay_settings

WAIT_SECONDS = 60.0
"""How long commands wait for a database that isn't available yet, unless the command is given another time."""


@dataclass(frozen=True, slots=True)
class ReplayTargets:
    """The projections that a command replays, and what their replay needs.

    If no projection was named, ``broken`` has those that can't be loaded, by name with the reason, and ``not_migrated``
    those whose tables are missing.
    """

    url: str
    projections: dict[str, Projection]
    broken: dict[str, str]
    not_migrated: dict[str, str]
    waits: Waits
    settings: ReplaySettings

    @property
    def left_out(self) -> dict[str, str]:
        """The projections that are left out, and why."""
        return self.broken | self.not_migrated

    def context(self, progress: Progress, slots: JobSlots | None = None) -> ReplayContext:
        """Return the context of one replay, which reports its progress there.

        Args:
            progress: receives the progress.
            slots: those of all replays that run side by side; None for a replay that has all of them.

        """
        return ReplayContext(self.url, self.waits, self.settings, progress, slots or self.slots())

    def slots(self) -> JobSlots:
        """Return the slots for sessions that work at the same time; they are for one event loop."""
        return JobSlots(self.settings.job_count)


def replay_targets(names: Sequence[str], jobs: int | None = None) -> ReplayTargets:
    """Return the named projections, or all that can be replayed when none is named.

    Args:
        names: the projections.
        jobs: how many sessions work at the same time; None for what the settings say.

    Raises:
        UsageError: a name is unknown, a setting is wrong, or the database isn't ready; the message says what to do.

    """
    waits, settings = load_waits(), load_replay_settings(jobs)
    registry = find_projections()
    chosen = registry.select(names)
    url, not_migrated = _checked_database(waits, chosen.values())
    refuse_named(names, not_migrated)
    projections = {name: projection for name, projection in chosen.items() if name not in not_migrated}
    broken = {} if names else registry.broken
    return ReplayTargets(url, projections, broken, not_migrated, waits, settings)


def refuse_named(names: Sequence[str], not_migrated: Mapping[str, str]) -> None:
    """Refuse a command for a projection that isn't migrated; where none was named, it stops itself only.

    Raises:
        UsageError: names were given, and one of these projections isn't migrated.

    """
    for name, why in not_migrated.items():
        if names:
            raise UsageError(f"{name}: {why}")


def migrated_database(waits: Waits, *, writes: bool = True, patience: float = WAIT_SECONDS) -> str:
    """Return the URL of the database that is meant, available and at the revision that this version needs.

    Raises:
        UsageError: it is at another revision, or as :func:`available_database` raises it.
        DatabaseUnavailable: as :func:`available_database` raises it.

    """
    return _checked_database(waits, writes=writes, patience=patience)[0]


def available_database(
    waits: Waits, *, writes: bool = True, patience: float = WAIT_SECONDS, create: bool = False
) -> str:
    """Return the URL of the database that is meant, once it is available; an embedded one is started.

    Args:
        waits: for connections.
        writes: whether the command writes, which a standby doesn't allow.
        patience: seconds to wait unless --wait-for-database says otherwise.
        create: whether to create an embedded database where this folder has none.

    Raises:
        UsageError: there is no such database, or waiting can't help.
        DatabaseUnavailable: time is up.

    """
    url = resolve_database_url(start=True, create=create)
    asyncio.run(wait_until_available(url, waits, writes=writes, patience=patience))
    return url


async def wait_until_available(url: str, waits: Waits, *, writes: bool = True, patience: float = WAIT_SECONDS) -> None:
    """Wait as :func:`available_database` does, inside a running event loop."""
    await (await _first_session(url, waits, writes=writes, patience=patience)).close()


def _checked_database(
    waits: Waits, projections: Iterable[Projection] = (), *, writes: bool = True, patience: float = WAIT_SECONDS
) -> tuple[str, dict[str, str]]:
    """Return the URL of the database once its schema is checked, and why some projections can't fold."""
    url = resolve_database_url(start=True)

    async def check() -> dict[str, str]:
        # One session for both: opening another one takes as long as most commands' work.
        async with await _first_session(url, waits, writes=writes, patience=patience) as conn:
            return await check_schema(conn, projections)

    return url, asyncio.run(check())


async def _first_session(url: str, waits: Waits, *, writes: bool, patience: float) -> AsyncConnection:
    given = wait_for_database_seconds()
    seconds = patience if given is None else given
    return await wait_for_database(url, waits=waits, seconds=seconds, writes=writes, report=_print_wait)


def _print_wait(sentence: str) -> None:
    print_message(f"projections: {sentence}")


def migrated_database_and_waits(*, writes: bool) -> tuple[str, Waits]:
    """Return the database's URL and the waits, for commands that need no projection.

    Raises:
        UsageError, DatabaseUnavailable: as :func:`migrated_database` raises them.

    """
    waits = load_waits()
    return migrated_database(waits, writes=writes), waits
