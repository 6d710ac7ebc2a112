"""How ``rebuild`` and ``verify`` print which rows differ."""

from __future__ import annotations

from collections.abc import Sequence

from projections.cli.shared.output import print_data
from projections.cli.shared.value_text import format_value
from projections.rebuilding.row_changes import Changes, Sample


def print_changes(changes: Sequence[Changes], added: str, removed: str, changed: str) -> None:
    """Print a line for each table: how many rows differ, and in which way; the words are the caller's."""
    for one in changes:
        counts = f"{one.added:,} {added}, {one.removed:,} {removed}, {one.changed:,} {changed}"
        print_data(f"  {one.table}: {counts}, of {one.before:,}")


def print_samples(samples: Sequence[Sample], kinds: Sequence[str], events: Sequence[Sequence[str]] = ()) -> None:
    """Print some of the rows that differ, each with its kind of difference and the events behind it."""
    for number, (one, kind) in enumerate(zip(samples, kinds, strict=True)):
        key = ", ".join(f"{name}={value}" for name, value in one.key.items())
        print_data(f"  {one.table} ({key}): {kind}")
        if one.old is not None and one.new is not None:
            for name, value in one.old.items():
                print_data(f"    {name}: {format_value(value)} → {format_value(one.new[name])}")
        else:
            row = one.new or one.old or {}
            values = ", ".join(
                f"{name}={format_value(value)}"
                for name, value in row.items()
                if name not in one.key and value is not None
            )
            print_data(f"    no row → {values}" if one.old is None else f"    {values} → no row")
        for line in events[number] if number < len(events) else ():
            print_data(f"    {line}")
