"""What the quarantine commands print for people; ``quarantine_json.py`` has what they write for machines."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from eventstore.quarantined.message_fields import MessageReading
from eventstore.quarantined.messages import QuarantinedMessage, ReasonCount
from eventstore.quarantined.retry import StillQuarantined
from projections.cli.shared.output import counted
from projections.cli.shared.value_text import format_value
from projections.terminal_text import visible

SHOWN_BYTES = 4_096
"""How many bytes of a message are printed for people; JSON has all."""
SHOWN_IDS = 10
HEX_LINE = 64


def reasons_table(found: Sequence[ReasonCount]) -> Table:
    """Return one row for each app and reason."""
    table = Table(title="quarantined messages by app and reason", title_justify="left")
    table.add_column("app", overflow="fold")
    table.add_column("reason", overflow="fold")
    for heading in ("received", "kept", "bytes", "not kept"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("first received", "last received"):
        table.add_column(heading, no_wrap=True)
    for each in found:
        numbers = (each.received, each.kept, each.size, each.not_kept)
        times = (format_value(moment.replace(microsecond=0)) for moment in (each.first_seen, each.last_seen))
        table.add_row(visible(each.app), visible(each.reason), *(f"{number:,}" for number in numbers), *times)
    return table


def messages_table(found: Sequence[QuarantinedMessage]) -> Table:
    """Return one row for each kept message."""
    table = Table(title="kept messages", title_justify="left")
    table.add_column("id", justify="right", no_wrap=True)
    for heading in ("app", "event_id", "reason"):
        table.add_column(heading, overflow="fold")
    for heading in ("bytes", "times"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("last received", no_wrap=True)
    for each in found:
        sample = " (sample)" if each.is_sample else ""
        erased = " (erased)" if each.erased_at is not None else ""
        table.add_row(
            str(each.id),
            visible(each.app),
            visible(each.event_id or ""),
            visible(f"{each.reason}{sample}{erased}"),
            f"{each.size:,}",
            f"{each.times:,}",
            format_value(each.last_seen.replace(microsecond=0)),
        )
    return table


def message_lines(message: QuarantinedMessage, reading: MessageReading, verdict: str) -> list[str]:
    """Return everything about one message, for people."""
    lines = [
        f"message {message.id}",
        f"  app             {message.app}",
        f"  contract        {message.contract}",
        f"  event_id        {message.event_id or 'could not be read'}",
        f"  reason          {message.reason}",
        f"  with this code  {verdict}",
        f"  received        {counted(message.times, 'time')}, first at {format_value(message.first_seen)},"
        f" last at {format_value(message.last_seen)}" + (" (kept as a sample)" if message.is_sample else ""),
        f"  sha256          {message.sha256.hex() if message.erased_at is None else 'erased with the bytes'}",
        f"  fields          {len(reading.fields) or 'none can be read'}",
    ]
    lines += [f"    {field.at:>6}  {field.path} = {field.value}" for field in reading.fields]
    if reading.has_more:
        lines.append("            more fields are not shown")
    if reading.unreadable_at is not None:
        lines.append(f"    {reading.unreadable_at:>6}  the bytes from here are not a field")
    shown = reading.hex[: 2 * SHOWN_BYTES]
    lines.append(f"  bytes           {message.size:,}")
    lines += [f"    {at // 2:>6}  {shown[at : at + HEX_LINE]}" for at in range(0, len(shown), HEX_LINE)]
    if len(reading.hex) > len(shown):
        lines.append("            the rest is not shown; --json has all bytes")
    return lines


def still_lines(still: Sequence[StillQuarantined]) -> list[str]:
    """Return one line for each app and reason why messages stay, with what to do."""
    groups: dict[tuple[str, str, bool], list[int]] = {}
    for each in still:
        groups.setdefault((each.app, each.reason, each.is_forever), []).append(each.id)
    lines = []
    for (app, reason, is_forever), ids in sorted(groups.items()):
        numbers = ", ".join(map(str, ids[:SHOWN_IDS])) + (", …" if len(ids) > SHOWN_IDS else "")
        advice = "; no decoder can store them: export them if you need them, then drop them" if is_forever else ""
        lines.append(f"{app}: {counted(len(ids), 'message stays', 'messages stay')} ({numbers}): {reason}{advice}")
    return lines
