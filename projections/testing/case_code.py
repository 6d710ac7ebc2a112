"""Writes a case of the kit as Python code that can be pasted into a test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from eventstore.contracts import Event
from projections.testing.case_shrinking import has_plain_id
from projections.testing.events import event
from projections.testing.fold_cases import FoldCase


def code_of_case(case: FoldCase) -> str:
    """Return the lines that fold a case: the events, and the call of the kit."""
    by_id = sorted(case.events, key=lambda one: one.event_id)
    # Without event_ids, each event gets a greater one than those before it.
    plain = all(has_plain_id(one) for one in by_id)
    lines = [f"    {_code_of_event(one, with_id=not plain)}," for one in by_id]
    events = "\n".join(["events = [", *lines, "]", _code_of_call(case, by_id)])
    return f"from datetime import UTC, datetime\n\n{events}" if "datetime(" in events else events


def code_of_rows(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as comment lines."""
    return "\n".join(f"#     {row}" for row in rows) or "#     no rows"


def _code_of_call(case: FoldCase, by_id: Sequence[Event]) -> str:
    places = {one.event_id: place for place, one in enumerate(by_id)}
    order = [places[one.event_id] for one in case.events]
    arguments = ["events"]
    if order != sorted(order):
        arguments.append('order="reversed"' if order == sorted(order, reverse=True) else f"order={order}")
    sizes = case.sizes
    if len(sizes) > 1:
        first, last = sizes[0], sizes[-1]
        is_even = all(size == first for size in sizes[:-1]) and last <= first
        arguments.append(f"batch_size={first if is_even else sizes}")
    if not case.twice:
        arguments.append("twice=False")
    return f"await kit.given({', '.join(arguments)})"


def _code_of_event(one: Event, *, with_id: bool) -> str:
    arguments = [str(one.event_type)]
    if with_id:
        arguments.append(f"event_id={one.event_id!r}")
    default = event(one.event_type, event_id=one.event_id)
    without: list[str] = []
    for name in Event._fields:
        value = getattr(one, name)
        if name in ("event_id", "event_type") or value == getattr(default, name):
            continue
        if value is None and name in ("ppnum", "occurred_at"):
            without.append(name)
        else:
            arguments.append(f"{name}={_code_of_value(value)}")
    call = f"event({', '.join(arguments)})"
    return call + f"._replace({', '.join(f'{name}=None' for name in without)})" if without else call


def _code_of_value(value: object) -> str:
    if isinstance(value, datetime):
        return f"datetime({', '.join(map(str, _parts(value)))}, tzinfo=UTC)"
    return repr(value)


def _parts(value: datetime) -> Iterator[int]:
    at = value.astimezone(UTC)
    parts = [at.year, at.month, at.day, at.hour, at.minute, at.second, at.microsecond]
    while len(parts) > 3 and parts[-1] == 0:
        parts.pop()
    yield from parts
