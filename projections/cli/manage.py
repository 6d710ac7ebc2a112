"""The commands that look at projections and steer them: status, list, pause, resume, wait, skip."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from projections.cli.shared.argument_checks import seconds, text
from projections.cli.shared.long_running import ConfigOption
from projections.cli.shared.output import (
    ASKED_WRONGLY,
    FAILED,
    LogLevel,
    console,
    counted,
    echo,
    echo_json,
    say,
    says_errors,
)
from projections.errors import UsageError
from projections.terminal_text import visible

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from projections.inspecting.status import Status
    from projections.projection import Projection

T = TypeVar("T")

Name = Annotated[str, typer.Argument(help="The projection.")]
EventId = Annotated[str, typer.Option("--event-id", help="The event's ULID.")]


@says_errors
def status(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with code 1 and say why on stderr, unless all is well.")
    ] = False,
    max_behind: Annotated[
        float | None,
        typer.Option(
            min=0.0, callback=seconds, metavar="SECONDS", help="With --check: how far behind a projection may be."
        ),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Show upstreams, projections, who runs them, and quarantine.

    With --check the exit code is 1 when a projection is failed, waiting, missing or folded by nobody, an app (of the
    configuration, or followed before) is followed by nobody, is refused, its stream fails or its quarantine is full,
    something is behind, or the schema is not current, or undone in part. A paused projection is no reason.
    """
    from eventstore.ingest.config import configured_names  # noqa: PLC0415 - loaded when it runs
    from projections.inspecting.health import find_problems  # noqa: PLC0415
    from projections.inspecting.read_status import read_status  # noqa: PLC0415
    from projections.registry import find_projections  # noqa: PLC0415

    if max_behind is not None and not check:
        raise UsageError("--max-behind goes with --check")
    configured = configured_names(config) if check else ()
    registry = find_projections()
    with _schema_checked() if check else nullcontext():
        found = _with_database(lambda conn: read_status(conn, registry), writes=False)
    if as_json:
        echo_json(found.as_dict())
    else:
        _show(found)
    wrong = find_problems(found, configured, max_behind) if check else []
    for sentence in wrong:
        say(f"projections: {sentence}", level=LogLevel.ERROR)
    if wrong:
        raise typer.Exit(FAILED)


@contextmanager
def _schema_checked() -> Iterator[None]:
    """Turn a schema that is not current from something asked wrongly into something found wrong."""
    try:
        yield
    except UsageError as error:
        say(f"projections: {error}", level=LogLevel.ERROR)
        raise typer.Exit(FAILED) from None


def _show(found: Status) -> None:
    from projections.cli.shared.status_tables import (  # noqa: PLC0415 - loaded when it runs
        ahead_of_clock,
        app_lines,
        apps_table,
        folder_lines,
        projection_lines,
        projections_table,
    )

    tables = console()
    if found.apps:
        tables.print(apps_table(found))
        for line in app_lines(found):
            echo(line)
    for sentence in found.schema:
        echo(f"the schema is damaged: {sentence}")
    tables.print(projections_table(found))
    for line in [*folder_lines(found), *projection_lines(found)]:
        echo(line)
    if found.without_request:
        said = counted(found.without_request, "event names", "events name")
        echo(f"{said} no request: tables keyed by it leave such out.")
    if found.unknown_types:
        said = counted(found.unknown_types, "event is of a type", "events are of types")
        echo(f"{said} that no read model knows.")
    for sentence in found.remarks:
        echo(sentence)
    if found.ahead_of_clock is not None:
        echo(ahead_of_clock(found.ahead_of_clock))


@says_errors
def list_() -> None:
    """List the installed projections.

    These are the built-in ones and those that other packages register.
    """
    from rich.table import Table  # noqa: PLC0415 - loaded when it runs

    from eventstore.contracts.event_types import EventType  # noqa: PLC0415
    from projections.registry import find_projections  # noqa: PLC0415

    table = Table()
    for heading in ("name", "version", "event types", "tables"):
        table.add_column(heading, overflow="fold")
    names = {int(known): known.name for known in EventType}
    registry = find_projections()
    for one in registry.projections.values():
        types = ", ".join(names.get(number, str(number)) for number in sorted(map(int, one.handles)))
        tables = ", ".join(owned.name for owned in one.tables)
        table.add_row(*map(visible, (one.name, str(one.version), types, tables)))
    console().print(table)
    for why in registry.broken.values():
        say(f"projections: {why}")
    if registry.broken:
        raise typer.Exit(ASKED_WRONGLY)


@says_errors
def pause(name: Name) -> None:
    """Pause a projection, in whatever process it runs."""
    from projections.running import control  # noqa: PLC0415 - loaded when it runs

    _steer(name, lambda conn: control.pause(conn, name))
    say(f"{name} is paused; to continue: projections resume {name}")


@says_errors
def resume(name: Name) -> None:
    """Resume a paused or failed projection immediately."""
    from projections.running import control  # noqa: PLC0415 - loaded when it runs

    _steer(name, lambda conn: control.resume(conn, name))
    say(f"{name} is resumed")


@says_errors
def wait(
    *,
    event_id: Annotated[str | None, typer.Option("--event-id", help="The event's ULID.")] = None,
    head: Annotated[bool, typer.Option("--head", help="Wait for the last event stored now.")] = False,
    timeout: Annotated[
        float, typer.Option(min=0.0, callback=seconds, metavar="SECONDS", help="Give up after this long.")
    ] = 60.0,
) -> None:
    """Wait until every projection has folded an event.

    Exit code 1 when the event is in quarantine, when a projection stopped before it, or when the time is up.
    """
    from projections.errors import ProjectionsError  # noqa: PLC0415
    from projections.migrating.user_tables import not_migrated  # noqa: PLC0415
    from projections.registry import select_projections  # noqa: PLC0415
    from projections.running.control import find_last_event_id, wait_until_folded  # noqa: PLC0415 - loaded when it runs

    if (event_id is None) != head:
        raise UsageError("give --event-id ULID, or --head for the last stored event")
    projections = select_projections([])
    versions = {name: projection.version for name, projection in projections.items()}

    async def waited(conn: AsyncConnection[Any]) -> tuple[str, int]:
        for projection in projections.values():
            if (why := await not_migrated(conn, projection)) is not None:
                raise ProjectionsError(f"{projection.name} can't fold: {why}")
        wanted = event_id or await find_last_event_id(conn)
        return wanted, await wait_until_folded(conn, versions, wanted, timeout)

    folded, position = _with_database(waited, writes=False, patience=timeout)
    say(f"event {folded} (position {position:,}) is folded by {', '.join(versions)}")


@says_errors
def skip(
    name: Name,
    *,
    event_id: EventId,
    why: Annotated[str, typer.Option(callback=text, help="The reason; it is recorded.")],
) -> None:
    """Let a projection skip an event that it can't fold.

    The projection's error names the event. The skip is recorded, and rebuilds honour it too, until the projection's
    version changes.
    """
    from projections.running import control  # noqa: PLC0415 - loaded when it runs

    version = _known(name).version
    position = _with_database(lambda conn: control.skip(conn, name, event_id, why, version))
    say(f"{name} skips event {event_id} (position {position:,})")


def _steer(name: str, change: Callable[[AsyncConnection[Any]], Awaitable[bool]]) -> None:
    from projections.running import checkpoint  # noqa: PLC0415 - loaded when it runs

    async def steered(conn: AsyncConnection[Any]) -> bool | None:
        return await change(conn) or (None if await checkpoint.exists(conn, name) else False)

    done = _with_database(steered, known=name)
    if done is None:
        raise UsageError(f"projection {name} waits for a rebuild: run projections rebuild {name}")
    if not done:
        raise UsageError(f"projection {name} has not run yet: start projections run first")


def _known(name: str) -> Projection:
    from projections.registry import select_projections  # noqa: PLC0415 - loaded when it runs

    return select_projections([name])[name]


def _with_database(
    work: Callable[[AsyncConnection[Any]], Awaitable[T]],
    known: str | None = None,
    *,
    writes: bool = True,
    patience: float = 0.0,
) -> T:
    from psycopg.errors import LockNotAvailable  # noqa: PLC0415 - loaded when it runs

    from eventstore.postgres.connection import connect  # noqa: PLC0415
    from eventstore.waits import load_waits  # noqa: PLC0415
    from projections.cli.shared.open_database import migrated_database  # noqa: PLC0415
    from projections.errors import ProjectionsError  # noqa: PLC0415
    from projections.registry import find_projections  # noqa: PLC0415

    if known is not None and known not in find_projections().broken:  # a broken one may be paused all the same
        _known(known)
    waits = load_waits()
    url = migrated_database(waits, writes=writes, patience=patience)

    async def connected() -> T:
        async with await connect(url, name="projections", waits=waits, lock_timeout=waits.append_lock) as conn:
            return await work(conn)

    try:
        return asyncio.run(connected())
    except LockNotAvailable as error:
        raise ProjectionsError(
            f"the checkpoint is held for longer than {waits.append_lock:g} s, by a window that is being folded or by a"
            " rebuild: try again"
        ) from error
