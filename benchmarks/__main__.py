"""``python -m benchmarks [NAME … | --large]``: run the benchmarks, print a table, and write .projections/bench.json."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console
from rich.table import Table

from benchmarks import append, ingest, live
from benchmarks.folds import FOLDS
from benchmarks.harness import Benchmark, Result, server
from benchmarks.rebuilds import LARGE_ONES, REBUILDS

BENCHMARKS: dict[str, Benchmark] = {
    "append": append.append,
    "append_duplicates": append.append_duplicates,
    "ingest": ingest.ingest,
    "live_p99": live.live_p99,
    **FOLDS,
    **REBUILDS,
}
REPORT = Path(".projections") / "bench.json"
_CONDITIONS = ("events", "mix", "batch", "window", "rebuild_settings", "rebuild_session", "rebuild_tables", "settings")
"""Of a result's detail: what it was measured of, and with which settings on both sides."""


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; 2 for a name that is none."""
    every = BENCHMARKS | LARGE_ONES
    names = [*LARGE_ONES] if names == ["--large"] else names
    unknown = [name for name in names if name not in every]
    if unknown:
        print(f"no benchmark {unknown[0]!r}: there are {', '.join(every)}", file=sys.stderr)
        return 2
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    results: list[Result] = []
    with server() as postgres:
        for name in names or BENCHMARKS:
            print(f"{name} …", file=sys.stderr)
            results.append(every[name](postgres))
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps([result.as_dict() for result in results], indent=2) + "\n")
    _print(results)
    return 0


def shown(value: float) -> str:
    """Return a number with the digits that say something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"


def conditions(detail: dict[str, Any]) -> str:
    """Return in a line what a measurement was taken of and with."""
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
            shown(result.value),
            result.unit,
            result.reference,
            shown(result.reference_value),
            f"{result.ratio:.2f}",
        )
    Console(width=130).print(table)
    print("measured with:")
    for result in results:
        print(f"  {result.name}: {conditions(result.detail)}")
    print(f"every run, the references' statements and the versions: {REPORT}")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
