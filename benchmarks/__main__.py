"""``python -m benchmarks [NAME … | --large]``: runs the benchmarks, prints a table, writes .projections/bench.json."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console
from rich.table import Table

from benchmarks import append, erase, ingest, live, live_http, partitions
from benchmarks.folds import FOLDS
from benchmarks.harness import Benchmark, Result, server
from benchmarks.rebuilds import LARGE_ONES, REBUILDS
from benchmarks.startup import STARTUP

BENCHMARKS: dict[str, Benchmark] = {
    "append": append.append,
    "append_duplicates": append.append_duplicates,
    "ingest": ingest.ingest,
    "live_p99": live.live_p99,
    "live_p99_http": live_http.live_p99_http,
    **FOLDS,
    **REBUILDS,
    "erase": erase.erase,
    "append_partitioned": partitions.append_partitioned,
    "append_short_partitions": partitions.append_short_partitions,
    "live_partitioned": partitions.live_partitioned,
}
REPORT = Path(".projections") / "bench.json"
_CONDITIONS = (
    "command",
    "events",
    "mix",
    "batch",
    "partition_events",
    "window",
    "rebuild_settings",
    "rebuild_session",
    "rebuild_tables",
    "settings",
)
"""The keys of a result's detail that say what was measured, and with which settings on both sides."""


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; return 2 for an unknown name. ``startup`` names all startup benchmarks."""
    every = BENCHMARKS | LARGE_ONES | STARTUP
    names = [*LARGE_ONES] if names == ["--large"] else [*STARTUP] if names == ["startup"] else names
    unknown = [name for name in names if name not in every]
    if unknown:
        print(f"no benchmark {unknown[0]!r}; the names are startup, {', '.join(every)}", file=sys.stderr)
        return 2
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    results: list[Result] = []
    with ExitStack() as stack:
        postgres = cache(lambda: stack.enter_context(server()))  # started for the first benchmark that needs it
        for name in names or [*STARTUP, *BENCHMARKS]:
            print(f"{name} …", file=sys.stderr)
            done = STARTUP[name]() if name in STARTUP else (BENCHMARKS | LARGE_ONES)[name](postgres())
            print(f"  ratio {done.ratio:.2f}", file=sys.stderr)  # should a later one fail
            results.append(done)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps([result.as_dict() for result in results], indent=2) + "\n")
    _print(results)
    return 0


def format_number(value: float) -> str:
    """Return a number as text, without decimals from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"


def conditions(detail: dict[str, Any]) -> str:
    """Return one line: what was measured, and with which settings."""
    return "; ".join(f"{key.replace('_', ' ')}: {_plain(detail[key])}" for key in _CONDITIONS if key in detail)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(one)}" for key, one in value.items())
    if isinstance(value, list):
        return " and ".join(map(_plain, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _print(results: list[Result]) -> None:
    table = Table(title="median of interleaved runs")
    for heading in ("name", "value", "unit", "reference", "its value", "ratio"):
        table.add_column(heading, justify="right" if heading in {"value", "its value", "ratio"} else "left")
    for result in results:
        table.add_row(
            result.name,
            format_number(result.value),
            result.unit,
            result.reference,
            format_number(result.reference_value),
            f"{result.ratio:.2f}",
        )
    Console(width=130).print(table)
    print("measured with:")
    for result in results:
        print(f"  {result.name}: {conditions(result.detail)}")
    print(f"every run, the references' statements and the versions: {REPORT}")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
