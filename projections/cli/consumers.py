"""``projections consumers``: lists the named consumers of the log, resets the checkpoint of one, or drops one."""

from __future__ import annotations

from typing import Annotated, TypedDict

import typer

from eventstore.consuming.consumers import (
    ConsumerStatus,
    drop_consumer,
    find_reset_position,
    read_consumer,
    read_consumers,
    refuse_held,
    reset_consumer,
)
from eventstore.postgres.connection import connect
from eventstore.waits import Waits
from projections.cli.shared.argument_checks import storable_text
from projections.cli.shared.common_options import JsonOption, YesOption
from projections.cli.shared.confirm import confirm
from projections.cli.shared.console import new_console
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.interruptible import NOTHING_CHANGED, run_interruptible
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.open_database import migrated_database_and_waits
from projections.cli.shared.output import counted, print_data, print_json, print_message
from projections.cli.shared.status_tables import consumer_lines, consumers_table
from projections.cli.shared.typer_app import is_alone, new_app

app = new_app(invoke_without_command=True)

IF_INTERRUPTED = "the consumer may have been changed: see projections consumers"

ConsumerArgument = Annotated[str, typer.Argument(metavar="NAME", callback=storable_text, help="The consumer.")]


class ResetConsumer(TypedDict):
    """A consumer whose checkpoint was set.

    Attributes:
        name: the consumer.
        position_before: its checkpoint before.
        position: its checkpoint now; the next event that it is handed is after it.

    """

    name: str
    position_before: int
    position: int


class DroppedConsumer(TypedDict):
    """A consumer that was removed.

    Attributes:
        name: the consumer.
        position: its checkpoint, which is forgotten.

    """

    name: str
    position: int


@app.callback(help="List the named consumers of the log; reset or drop one.")
@handles_errors
@writes_json(ConsumerStatus, is_list=True)
def consumers(context: typer.Context, *, as_json: JsonOption = False) -> None:
    """List the consumers, when no subcommand is named."""
    if is_alone(context, as_json=as_json):
        _print_consumers(as_json=as_json)


@app.command("list")
@handles_errors
@writes_json(ConsumerStatus, is_list=True)
def list_(*, as_json: JsonOption = False) -> None:
    """List the named consumers of the log.

    These are programs that read events with eventstore.consumer: how far each is, and which process has it.
    """
    _print_consumers(as_json=as_json)


@app.command()
@handles_errors
@writes_json(ResetConsumer)
def reset(
    name: ConsumerArgument,
    *,
    to: Annotated[
        str,
        typer.Option(
            callback=storable_text,
            help="beginning, now, a position, or the event_id of a stored event. Events up to there count as done.",
        ),
    ],
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Set where a consumer goes on.

    Further back hands events out again, further on leaves some out. No process may have it meanwhile (exit code 1 names
    the one that has it). Without --yes: asks on a terminal; elsewhere prints what would happen, and exits with 2.
    """
    url, waits = migrated_database_and_waits(writes=True)
    before, position = run_interruptible(_read_reset(url, waits, name, to), if_interrupted=NOTHING_CHANGED)
    confirm([_describe_reset(before, position)], yes=yes)
    run_interruptible(reset_consumer(url, waits, name, position), if_interrupted=IF_INTERRUPTED)
    if as_json:
        done: ResetConsumer = {"name": name, "position_before": before.position, "position": position}
        print_json(done)
    else:
        print_data(f"{name}: goes on after position {position:,}")


@app.command()
@handles_errors
@writes_json(DroppedConsumer)
def drop(name: ConsumerArgument, *, yes: YesOption = False, as_json: JsonOption = False) -> None:
    """Remove a consumer that is no longer needed.

    Its checkpoint is forgotten: a program that uses the name again begins as a new consumer, where its code says. No
    process may have it meanwhile (exit code 1 names the one that has it). Without --yes: asks on a terminal; elsewhere
    prints what would happen, and exits with 2.
    """
    url, waits = migrated_database_and_waits(writes=True)
    before = run_interruptible(_read_free(url, waits, name), if_interrupted=NOTHING_CHANGED)
    confirm([f"consumer {name} and its checkpoint (position {before.position:,}) would be removed"], yes=yes)
    run_interruptible(drop_consumer(url, waits, name), if_interrupted=IF_INTERRUPTED)
    if as_json:
        dropped: DroppedConsumer = {"name": name, "position": before.position}
        print_json(dropped)
    else:
        print_message(f"consumer {name} is dropped; its checkpoint was position {before.position:,}")


def _print_consumers(*, as_json: bool) -> None:
    url, waits = migrated_database_and_waits(writes=False)
    found = run_interruptible(_read_all(url, waits), if_interrupted=NOTHING_CHANGED)
    if as_json:
        print_json(found)
        return
    if not found:
        print_message("no consumer has run yet; projections docs consuming explains how to write one")
        return
    new_console().print(consumers_table(found))
    for line in consumer_lines(found):
        print_data(line)


def _describe_reset(before: ConsumerStatus, position: int) -> str:
    begin = f"consumer {before.name} would go on after position {position:,} instead of {before.position:,}:"
    events = counted(abs(position - before.position), "event")
    if position < before.position:
        return f"{begin} {events} would be handed out again"
    return f"{begin} {events} would never be handed out" if position > before.position else f"{begin} nothing changes"


async def _read_all(url: str, waits: Waits) -> list[ConsumerStatus]:
    async with await connect(url, name="projections consumers", waits=waits) as conn:
        return await read_consumers(conn)


async def _read_free(url: str, waits: Waits, name: str) -> ConsumerStatus:
    """Return a consumer that no process has."""
    async with await connect(url, name="projections consumers", waits=waits) as conn:
        found = await read_consumer(conn, name)
    if found.held_by is not None:
        raise refuse_held(name, found.held_by)
    return found


async def _read_reset(url: str, waits: Waits, name: str, to: str) -> tuple[ConsumerStatus, int]:
    """Return a consumer that no process has, and the position that a text names."""
    found = await _read_free(url, waits, name)
    async with await connect(url, name="projections consumers", waits=waits) as conn:
        return found, await find_reset_position(conn, to)
