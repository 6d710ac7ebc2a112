"""``projections quarantine``: lists and shows messages that can't be events, retries, exports or drops them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from psycopg import AsyncConnection

from eventstore.appending.quarantine_limits import load_quarantine_limits
from eventstore.contracts.framing import NOT_A_FRAME
from eventstore.erasure.erasure_key import load_erasure_key
from eventstore.errors import ArchiveError, UsageError
from eventstore.ingest.since_setting import parse_moment
from eventstore.postgres.connection import connect
from eventstore.postgres.session_lock import session_name
from eventstore.quarantined.drop import drop_messages
from eventstore.quarantined.message_fields import read_fields
from eventstore.quarantined.message_file import write_messages
from eventstore.quarantined.messages import (
    SelectedReason,
    Selection,
    count_by_reason,
    read_message,
    read_messages,
    select_messages,
)
from eventstore.quarantined.retry import decode_again, retry_messages
from eventstore.transfer.new_file import check_output_path
from eventstore.waits import load_waits
from projections.cli.shared.argument_checks import storable_text
from projections.cli.shared.common_options import JsonOption, YesOption
from projections.cli.shared.confirm import confirm
from projections.cli.shared.console import new_console
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.interruptible import NOTHING_CHANGED, run_interruptible
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.open_database import migrated_database
from projections.cli.shared.output import FAILED, LogLevel, counted, print_data, print_json, print_message
from projections.cli.shared.progress_lines import progress_lines
from projections.cli.shared.quarantine_json import (
    DroppedMessages,
    QuarantinePage,
    RetriedMessages,
    ShownMessage,
    WrittenMessages,
    describe_listed_message,
    describe_message,
    describe_reason_count,
    describe_retry,
)
from projections.cli.shared.quarantine_output import message_lines, messages_table, reasons_table, still_lines
from projections.cli.shared.typer_app import new_app

app = new_app(no_args_is_help=True, help="Look at messages that can't be events; retry, export or drop them.")

T = TypeVar("T")
LARGEST_ID = 2**63 - 1

AppOption = Annotated[str | None, typer.Option("--app", callback=storable_text, help="Only this app's messages.")]
ReasonOption = Annotated[
    str | None, typer.Option(callback=storable_text, help="Only messages with this reason, or with this text in it.")
]
IdsArgument = Annotated[
    list[int] | None,
    typer.Argument(metavar="ID", min=1, max=LARGEST_ID, help="Numbers of messages: see projections quarantine list."),
]
RETRY_INTERRUPTED = "what was stored stays, and the other messages are still in quarantine; run it again"


@app.command("list")
@handles_errors
@writes_json(QuarantinePage)
def list_messages(
    *,
    app: AppOption = None,
    reason: ReasonOption = None,
    limit: Annotated[int, typer.Option(min=0, max=10_000, help="Kept messages to list, at the most.")] = 20,
    after: Annotated[
        int, typer.Option(min=0, max=LARGEST_ID, metavar="ID", help="List the kept messages after this one.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """List messages by app and reason, then those that are kept.

    "received" counts all messages that were ever quarantined, "kept" those that are in quarantine now, and "not kept"
    those that were only counted because the quarantine was full.
    """

    async def read(conn: AsyncConnection[Any]) -> tuple[Any, ...]:
        reasons = await count_by_reason(conn, app, reason)
        return reasons, await read_messages(conn, Selection(app=app, reason=reason), after=after, limit=limit + 1)

    reasons, messages = _with_connection("list", read, writes=False)
    page = messages[:limit]
    next_after = page[-1].id if page and len(messages) > limit else None
    if as_json:
        print_json(
            {
                "reasons": [describe_reason_count(each) for each in reasons],
                "messages": [describe_listed_message(each) for each in page],
                "next_after": next_after,
            }
        )
        return
    if not reasons:
        print_message("no quarantined message matches" if app or reason else "no message was ever quarantined")
        return
    new_console().print(reasons_table(reasons))
    if page:
        new_console().print(messages_table(page))
    if next_after is not None:
        print_message(f"there are more; the next page: --after {next_after}")


@app.command()
@handles_errors
@writes_json(ShownMessage)
def show(
    number: Annotated[
        int, typer.Argument(metavar="ID", min=1, max=LARGEST_ID, help="The number of the message, from list.")
    ],
    *,
    personal_data: Annotated[
        bool, typer.Option("--personal-data", help="Show phone numbers, in fields and in the bytes.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show everything about one quarantined message.

    That is its reason, its bytes in hexadecimal, and the fields that can be read. Phone numbers are hidden unless you
    give --personal-data; their bytes are then **.
    """
    message = _with_connection("show", lambda conn: read_message(conn, number), writes=False)
    if message is None:
        raise UsageError(f"no quarantined message has the number {number}; see projections quarantine list")
    payload = message.payload or b""
    reading = read_fields(payload, is_frame=message.reason == NOT_A_FRAME, personal_data=personal_data)
    again = decode_again(message)
    if as_json:
        print_json(describe_message(message, reading, again, personal_data=personal_data))
        return
    verdict = again if isinstance(again, str) else "it decodes: projections quarantine retry may store it"
    for line in message_lines(message, reading, verdict):
        print_data(line)


@app.command()
@handles_errors
@writes_json(RetriedMessages)
def retry(
    ids: IdsArgument = None,
    *,
    reason: ReasonOption = None,
    app: AppOption = None,
    every: Annotated[bool, typer.Option("--all", help="Retry all messages.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be stored.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Decode messages again, and store those that are events.

    Use it after an update of the decoder. The events get the next positions of the log, and projections fold them.
    Messages whose events are stored already leave the quarantine too. Others stay, and the answer says why. It works
    beside processes that follow the same app; it is refused while an import adds events after the head.

    Exit code 1 when a message stays in quarantine, or when a number is not there.
    """
    selection = _selection(ids, app, reason, None, every=every)
    waits, limits, key = load_waits(), load_quarantine_limits(), load_erasure_key()
    progress = progress_lines("retry")
    result = _with_connection(
        "retry",
        lambda conn: retry_messages(conn, selection, limits, waits, dry_run=dry_run, on_progress=progress, key=key),
        writes=not dry_run,
        if_interrupted=NOTHING_CHANGED if dry_run else RETRY_INTERRUPTED,
    )
    if as_json:
        print_json(describe_retry(result, dry_run=dry_run))
    else:
        stored = "would be stored" if dry_run else "stored"
        print_data(
            f"{counted(result.selected, 'message')}: {counted(result.stored, 'event')} {stored},"
            f" {counted(result.duplicates, 'duplicate')}, {len(result.still):,} still quarantined"
        )
        for line in still_lines(result.still):
            print_data(line)
    if result.gone:
        print_message(f"{counted(result.gone, 'message')} left the quarantine meanwhile, by another command")
    _print_missing(result.missing)
    if result.still or result.missing:
        raise typer.Exit(FAILED)


@app.command("export")
@handles_errors
@writes_json(WrittenMessages)
def export_messages(
    file: Annotated[Path, typer.Argument(help="The file to create; only its owner may read it.")],
    *,
    app: AppOption = None,
    reason: ReasonOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the kept messages to a file.

    The file has one JSON object a line, with the bytes in base64. The bytes contain phone numbers. Nothing is removed
    from the quarantine.
    """
    try:
        check_output_path(file)
    except ArchiveError as error:
        raise UsageError(str(error)) from error
    if file.exists() and not force:
        raise UsageError(f"{file} already exists; choose another name or use --force")
    done = _with_connection(
        "export",
        lambda conn: write_messages(conn, file, Selection(app=app, reason=reason), replace=force),
        writes=False,
        if_interrupted="the unfinished file was removed",
    )
    if as_json:
        print_json({"file": str(file), "messages": done.messages, "bytes": done.size})
    else:
        print_data(f"{file}: {counted(done.messages, 'message')}, {counted(done.size, 'byte')}")


@app.command()
@handles_errors
@writes_json(DroppedMessages)
def drop(
    ids: IdsArgument = None,
    *,
    before: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only messages last received before this time: a duration back from now (36h, 7d) or a time.",
        ),
    ] = None,
    reason: ReasonOption = None,
    app: AppOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete quarantined messages, which makes room for new ones.

    The numbers of received messages stay. Without --yes: asks on a terminal; elsewhere prints what would happen, and
    exits with 2.

    Exit code 1 when a number is not there.
    """
    moment = parse_moment(before, datetime.now(UTC), name="--before") if before is not None else None
    selection = _selection(ids, app, reason, moment, every=False)
    limits = load_quarantine_limits()
    chosen = _with_connection("drop", lambda conn: select_messages(conn, selection))
    if chosen:
        confirm([*map(_would_be_deleted, chosen), "their bytes can't be restored: export them first"], yes=yes)
    done = _with_connection(
        "drop",
        lambda conn: drop_messages(conn, selection, chosen, limits),
        if_interrupted="some messages may have been deleted: see projections quarantine list",
    )
    missing = sorted({*(ids or ())} - {number for each in chosen for number in each.ids})
    if as_json:
        print_json({"dropped": done.messages, "bytes": done.size, "missing": missing})
    else:
        print_data(f"{counted(done.messages, 'message')} dropped, {counted(done.size, 'byte')}")
    _print_missing(missing)
    if missing:
        raise typer.Exit(FAILED)


def _selection(
    ids: Sequence[int] | None, app: str | None, reason: str | None, before: datetime | None, *, every: bool
) -> Selection:
    is_filtered = app is not None or reason is not None or before is not None
    if ids and (is_filtered or every):
        raise UsageError("give numbers of messages or options that choose messages, not both")
    if every and is_filtered:
        raise UsageError("give --all or options that choose messages, not both")
    if not ids and not is_filtered and not every:
        raise UsageError("say which messages: give their numbers, or an option that chooses them (see --help)")
    return Selection(tuple(ids) if ids else None, app, reason, before)


def _would_be_deleted(each: SelectedReason) -> str:
    what = f"{counted(each.count, 'message')} ({counted(each.size, 'byte')})"
    return f"{what} of app {each.app!r} would be deleted: {each.reason}"


def _print_missing(missing: Sequence[int]) -> None:
    if missing:
        numbers = ", ".join(map(str, missing))
        print_message(f"projections: not in quarantine: {numbers}", level=LogLevel.ERROR)


def _with_connection(
    command: str,
    work: Callable[[AsyncConnection[Any]], Awaitable[T]],
    *,
    writes: bool = True,
    if_interrupted: str = NOTHING_CHANGED,
) -> T:
    waits = load_waits()
    url = migrated_database(waits, writes=writes)

    async def connected() -> T:
        name = session_name(f"quarantine {command}")
        async with await connect(url, name=name, waits=waits, lock_timeout=waits.lock) as conn:
            return await work(conn)

    return run_interruptible(connected(), if_interrupted=if_interrupted)
