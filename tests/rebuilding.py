"""Shared by tests of rebuild and verify: calls both, damages rows, and runs actions during a phase."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, ClassVar, LiteralString, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from psycopg import AsyncConnection, sql
from psycopg.rows import class_row
from sqlalchemy import Boolean, Column, DateTime, Executable, MetaData, Table, Text, insert, literal, select

from eventstore.contracts import Event
from projections.folding.python_projection import PythonProjection, Row, Tombstone
from projections.migrating.metadata import READ_MODELS
from projections.projection import Projection, Window
from projections.rebuilding.job_slots import JobSlots
from projections.rebuilding.rebuild import Limits, Rebuilt
from projections.rebuilding.rebuild import rebuild as run_rebuild
from projections.rebuilding.replay_context import ReplayContext
from projections.rebuilding.replay_progress import NoProgress, Progress
from projections.rebuilding.verify import Verified
from projections.rebuilding.verify import verify as run_verify
from projections.settings import ReplaySettings
from tests import folding, oracle, store
from tests.databases import Server
from tests.folding import QUICK, Watched, append, new_record, watched
from tests.oracle import Record, Summary
from tests.queries import fetch_all

SETTINGS = ReplaySettings(window=100, lock_timeout=0.2, rest=0, jobs=1)
ANY_REMOVAL = Limits(removal=True)

CHANGED, MISSING, EXTRA = DAMAGES = ("changed", "missing", "extra")
NOBODY = "nobody's app"
CHANGES: dict[str, LiteralString] = {
    "request_recipients": "status = 'damaged'",
    "request_status": "delivered = delivered + 7",
    "consent_registry": "delivery_request_id = 'damaged'",
    "poll_responses": "options = '{damaged}'",
    "poll_tallies": "responses = responses + 7",
    "person_requests": "status = 'damaged'",
    "people": "delivered = delivered + 7",
    "opt_outs": "since = '2000-01-01'",
}

opt_outs = Table(
    "opt_outs",
    MetaData(schema="public"),
    Column("app", Text, primary_key=True, comment="The app."),
    Column("ppnum", Text, primary_key=True, comment="The person's phone number."),
    Column("since", DateTime(timezone=True), comment="When consent was denied."),
    Column("event_id", Text(collation="C"), nullable=False, comment="The event that decides the row."),
    Column("deleted", Boolean, nullable=False, comment="Whether the row is deleted."),
    comment="People who must not get messages.",
)


class OptOuts(PythonProjection):
    """A denial adds a row, and a grant removes it."""

    name: ClassVar[str] = "opt_outs"
    version: ClassVar[int] = 1
    handles: ClassVar[frozenset[int]] = frozenset({oracle.GRANTED, oracle.DENIED})
    tables: ClassVar[tuple[Table, ...]] = (opt_outs,)
    partition_by: ClassVar[tuple[str, ...]] = ("app", "ppnum")

    def handle(self, event: Event) -> Iterable[Row | Tombstone]:
        key = {"app": event.app, "ppnum": event.ppnum}
        if event.event_type == oracle.GRANTED:
            yield Tombstone(opt_outs, key)
        else:
            yield Row(opt_outs, {**key, "since": event.occurred_at})


class Lenient(Watched):
    """Returns the rows of ``Watched`` without the failures, like a corrected fold."""

    def fold(self, window: Window) -> Sequence[Executable]:
        e = window.events
        rows = select(e.c.app, e.c.event_id, e.c.ppnum, literal(0))
        return [insert(watched).from_select(["app", "event_id", "ppnum", "value"], rows)]


class NewerLenient(Lenient):
    version: ClassVar[int] = 2


# Events


def sample_records(requests: int = 12, people: int = 4, *, app: str = store.APP) -> list[Record]:
    """Return events for every read model; each person has several consent facts and deliveries."""
    found: list[Record] = []
    for number in range(requests):
        request = f"request {number}"
        for person in range(people):
            ppnum = f"1230000{number:02}{person:02}"
            found += [
                new_record(oracle.PENDING_CONSENT, ppnum, app=app, request=request),
                new_record(oracle.DENIED if person == 1 else oracle.GRANTED, ppnum, app=app, request=request),
                new_record(oracle.FAILED if person == 1 else oracle.DELIVERED, ppnum, app=app, request=request),
                new_record(oracle.POLL_RESPONSE, ppnum, app=app, request=request, options=("first",)),
                new_record(
                    oracle.POLL_RESPONSE, ppnum, app=app, request=request, options=(f"option {person % 3}", "all")
                ),
            ]
        if number % 3:
            summary = Summary(3, people, people - 1, 1, 0)
            found.append(new_record(oracle.COMPLETED, None, app=app, request=request, summary=summary))
    return found


async def append_and_fold(url: str, conn: AsyncConnection, projection: type[Projection] | None = None) -> int:
    """Append events for every read model and fold them; returns their number."""
    records = sample_records()
    await append(conn, *records)
    await folding.fold_all(url, [projection] if projection else READ_MODELS)
    return len(records)


SAMPLES = len(sample_records())
"""How many events the database of a test with the mark ``folded`` has."""


async def append_and_fold_samples(url: str) -> None:
    """Append the events of :func:`sample_records`, and fold them into every read model."""
    async with store.connection(url, "preparing") as conn:
        assert await append_and_fold(url, conn) == SAMPLES


# Rebuild and verify


def replay_context(url: str, progress: Progress | None = None, **settings: float) -> ReplayContext:
    """Return the context of a replay with short timeouts and these settings.

    Sessions of several jobs wait for each other when they attach tables, for longer than usual on a slow machine.
    """
    patient = {"lock_timeout": store.GIVE_UP} if settings.get("jobs", 1) > 1 else {}
    own = SETTINGS.model_copy(update={**patient, **settings})
    return ReplayContext(url, QUICK, own, progress or NoProgress(), JobSlots(own.job_count))


async def rebuild(
    url: str,
    projection: Projection,
    *,
    progress: Progress | None = None,
    limits: Limits | None = None,
    dry_run: bool = False,
    resume: bool = False,
    **settings: float,
) -> Rebuilt:
    """Rebuild with short timeouts and these settings."""
    context = replay_context(url, progress, **settings)
    return await run_rebuild(context, projection, limits=limits, dry_run=dry_run, resume=resume)


async def verify(url: str, projection: Projection, *, progress: Progress | None = None, **settings: float) -> Verified:
    """Verify with short timeouts and these settings."""
    return await run_verify(replay_context(url, progress, **settings), projection)


def total_differences(done: Rebuilt | Verified) -> int:
    """Return the number of rows that differed."""
    return sum(one.total for one in done.changes)


class RecordedProgress(NoProgress):
    """Records the progress that is reported."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.notes: list[str] = []
        self.positions: list[int] = []

    def phase(self, name: str, *, position: int = 0, target: int | None = None) -> None:
        assert target is None or position <= target
        self.phases.append(name)

    def at(self, position: int) -> None:
        self.positions.append(position)

    def note(self, line: str) -> None:
        self.notes.append(line)


def run_elsewhere(action: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Run an action to its end in another event loop, because this one is blocked until then."""
    with ThreadPoolExecutor(1) as other:
        other.submit(lambda: asyncio.run(action())).result()


class During(RecordedProgress):
    """Runs an action when a phase begins, once; the rebuild waits until it has ended.

    Args:
        actions: the actions, by the phase's name.

    """

    def __init__(self, **actions: Callable[[], Coroutine[Any, Any, object]]) -> None:
        super().__init__()
        self._actions = {name.replace("_", " "): action for name, action in actions.items()}

    def phase(self, name: str, *, position: int = 0, target: int | None = None) -> None:
        super().phase(name, position=position, target=target)
        action = self._actions.pop(name, None)
        if action is not None:
            run_elsewhere(action)

    @property
    def is_done(self) -> bool:
        """Whether every action has run."""
        return not self._actions


class Interrupted(Exception):
    """The error with which a test interrupts a rebuild."""


class Interrupting(RecordedProgress):
    """Interrupts a rebuild when it has folded up to a position."""

    def __init__(self, at: int, error: BaseException | None = None) -> None:
        super().__init__()
        self._at = at
        self._error = error or Interrupted()

    def at(self, position: int) -> None:
        super().at(position)
        if position >= self._at:
            raise self._error


# Damage


async def damage(conn: AsyncConnection[Any], table: Table, kind: str, share: float = 0.1) -> int:
    """Change, delete or add at least a share of a table's rows; returns how many."""
    name = sql.Identifier("public", table.name)
    key = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.primary_key.columns)
    existing = await folding.count_rows(conn, table.name)
    count = max(1, -int(-existing * share // 1))
    # Other rows are deleted than are changed.
    offset = {CHANGED: 0, MISSING: count, EXTRA: 0}[kind]
    chosen = sql.SQL("SELECT ctid FROM {} WHERE app <> {} ORDER BY {} LIMIT {} OFFSET {}").format(
        name, NOBODY, key, count, offset
    )
    if kind == CHANGED:
        what = sql.SQL(CHANGES[table.name])
        statement = sql.SQL("UPDATE {} SET {} WHERE ctid IN ({})").format(name, what, chosen)
    elif kind == MISSING:
        statement = sql.SQL("DELETE FROM {} WHERE ctid IN ({})").format(name, chosen)
    else:
        columns = [column.name for column in table.c if column.name != "app" and column.computed is None]
        rest = sql.SQL(", ").join(map(sql.Identifier, columns))
        # Rows of two apps may be equal except for the app.
        words = "INSERT INTO {} (app, {}) SELECT {}, {} FROM {} WHERE ctid IN ({}) ON CONFLICT DO NOTHING"
        statement = sql.SQL(words).format(name, rest, NOBODY, rest, name, chosen)
    done = (await conn.execute(statement)).rowcount
    assert done == count or (kind == EXTRA and 0 < done < count), f"{table.name}: too few rows to damage"
    return done


async def damage_all(conn: AsyncConnection[Any], projection: type[Projection], share: float = 0.1) -> int:
    """Do every kind of damage to every table of a projection; returns the number of damaged rows."""
    return sum([await damage(conn, table, kind, share) for table in projection.tables for kind in DAMAGES])


# Roles, and appends during a test


class Role(NamedTuple):
    """A role without privileges, its URL, and a superuser's connection to the same database."""

    name: str
    url: str
    superuser: AsyncConnection[Any]

    async def grant(self, *privileges: LiteralString) -> None:
        """Grant privileges; each is the part of a GRANT statement before TO."""
        for each in privileges:
            await self.superuser.execute(sql.SQL("GRANT " + each + " TO {}").format(sql.Identifier(self.name)))


@asynccontextmanager
async def role(postgres: Server, url: str) -> AsyncIterator[Role]:
    """Create a role for a test's database; it is dropped afterwards."""
    parts, superuser_parts = urlsplit(url), urlsplit(postgres.superuser_url)
    name = f"role_{secrets.token_hex(4)}"
    place = parts.netloc.rpartition("@")[2]
    own = urlunsplit(parts._replace(netloc=f"{name}:made-up@{place}"))
    superuser_url = urlunsplit(superuser_parts._replace(path=parts.path))
    async with store.connection(superuser_url, "superuser") as superuser:
        await superuser.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'made-up'").format(sql.Identifier(name)))
        try:
            yield Role(name, own, superuser)
        finally:
            await superuser.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))


class Load:
    """Counts what a live load has appended."""

    def __init__(self) -> None:
        self.batches = 0

    async def wait_for_batches(self, by: int = 2) -> None:
        """Wait until this many more batches are appended."""
        wanted = self.batches + by

        async def is_reached() -> bool:
            return self.batches >= wanted

        await store.wait_until(is_reached, "more batches")


@asynccontextmanager
async def live_load(url: str, projection: Projection, app: str = "live") -> AsyncIterator[Load]:
    """Append and fold events of one app while the block runs."""
    load = Load()

    async def appending() -> None:
        async with store.connection(url, "load") as conn:
            while True:
                await folding.append(conn, *sample_records(1, 2, app=app))
                load.batches += 1
                # Each replay under load folds the whole log, which would get too long at full speed.
                await asyncio.sleep(0.02)

    async with folding.running_workers(url, folding.worker(url, projection)) as (folds,):
        appends = asyncio.create_task(appending())
        try:
            await load.wait_for_batches(1)
            yield load
            assert not folds.done()
            assert not appends.done()
        finally:
            appends.cancel()
            await asyncio.gather(appends, return_exceptions=True)


# What a run records and leaves behind


class Run(NamedTuple):
    """A row of ``projections.rebuilds``."""

    state: str
    version: int
    dry_run: bool
    position: int
    rows_before: int | None
    rows_added: int | None
    rows_removed: int | None
    rows_changed: int | None
    error: str | None
    is_over: bool


async def recorded_runs(conn: AsyncConnection[Any], name: str) -> list[Run]:
    """Return a projection's rows in ``projections.rebuilds``, in order."""
    async with conn.cursor(row_factory=class_row(Run)) as cursor:
        query = (
            "SELECT state, version, dry_run, position, rows_before, rows_added, rows_removed, rows_changed, error,"
            " finished_at IS NOT NULL AS is_over FROM projections.rebuilds WHERE name = %s ORDER BY id"
        )
        return await fetch_all(cursor, query, [name])


async def shadow_tables(conn: AsyncConnection[Any]) -> list[str]:
    """Return the names of the tables in the shadow schema, without the table of positions."""
    query = (
        "SELECT tablename FROM pg_tables WHERE schemaname = 'projections_shadow' AND tablename <> 'shadow_positions'"
        " ORDER BY 1"
    )
    return [name for (name,) in await fetch_all(conn, query)]


async def all_rows(conn: AsyncConnection[Any], projection: Projection | type[Projection]) -> dict[str, list[Any]]:
    """Return all rows of a projection's tables, with all columns, by table."""
    found = {}
    for table in projection.tables:
        query = sql.SQL("SELECT * FROM public.{} ORDER BY {}").format(
            sql.Identifier(table.name),
            sql.SQL(", ").join(sql.Identifier(column.name) for column in table.primary_key.columns),
        )
        found[table.name] = await fetch_all(conn, query)
    return found
