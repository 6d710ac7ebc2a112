"""Generates the tables of metrics in docs/monitoring.md from their definitions: none is missing.

A table is between ``<!-- metrics: NAME -->`` and ``<!-- end -->``. Everything else on the page is written by hand.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from projections.http import database_metrics, process_metrics
from projections.http.metric_catalogue import MetricCatalogue

PAGE = Path(__file__).resolve().parent.parent / "docs" / "monitoring.md"
CATALOGUES: dict[str, MetricCatalogue] = {
    "database": database_metrics.CATALOGUE,
    "process": process_metrics.CATALOGUE,
}
_TABLE = re.compile(r"(<!-- metrics: ([a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table_of(catalogue: MetricCatalogue) -> str:
    """Return the table of some metrics: name, type, labels, meaning."""
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    rows += [
        f"| `{one.name}` | {one.kind} | {', '.join(f'`{label}`' for label in one.labels)} | {one.meaning} |"
        for one in catalogue.definitions
    ]
    return "\n".join(rows)


def with_metrics(page: str) -> str:
    """Return a page with its tables brought up to date."""
    return _TABLE.sub(lambda found: f"{found[1]}{table_of(CATALOGUES[found[2]])}\n{found[3]}", page)


def main() -> int:
    """Write the tables, or with ``--check`` compare them; 1 when one differs."""
    text = PAGE.read_text()
    wanted = with_metrics(text)
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(wanted)
        return 0
    if text != wanted:
        print("docs/monitoring.md differs from the metrics: run make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
