"""Writes the data dictionary in docs/bi.md from the comments of a migrated database, those in the schema ``public``.

It starts an embedded PostgreSQL in a temporary folder, migrates it, reads the comments, and removes it again. A test
compares the page with the database's comments, so a new column or comment fails it until ``make docs`` has run.
"""

from __future__ import annotations

import re
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Any, LiteralString, NamedTuple

import psycopg

from projections.migrating.migrate import upgrade
from projections.sandbox.embedded import EmbeddedPostgres

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "bi.md"
_DICTIONARY = re.compile(r"(<!-- data dictionary -->\n)(.*?)(<!-- end -->)", re.DOTALL)

_COLUMNS: LiteralString = """
SELECT c.relname, c.relkind = 'v', coalesce(obj_description(c.oid, 'pg_class'), ''), a.attname,
       format_type(a.atttypid, a.atttypmod),
       coalesce(array_position(k.conkey::integer[], a.attnum::integer), 0),
       coalesce(col_description(c.oid, a.attnum), '')
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_catalog.pg_constraint AS k ON k.conrelid = c.oid AND k.contype = 'p'
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v')
ORDER BY c.relname, a.attnum
"""


class DescribedColumn(NamedTuple):
    """A column as the database describes it; ``key`` is its place in the primary key, 0 for none."""

    table: str
    is_view: bool
    table_comment: str
    name: str
    type: str
    key: int
    comment: str


def read_columns(conn: psycopg.Connection[Any]) -> list[DescribedColumn]:
    """Return the columns of all tables and views in ``public``, in the order of the dictionary."""
    return [DescribedColumn(*row) for row in conn.execute(_COLUMNS)]


def render(columns: list[DescribedColumn]) -> str:
    """Return the dictionary as Markdown."""
    parts = []
    for table, group in groupby(columns, key=lambda column: column.table):
        of_table = list(group)
        key = [column.name for column in sorted(of_table, key=lambda one: one.key) if column.key]
        kind = "A view." if of_table[0].is_view else f"Key: {', '.join(f'`{name}`' for name in key)}."
        rows = [f"| `{column.name}` | {column.type} | {_cell(column.comment)} |" for column in of_table]
        head = (
            f"### {table}",
            "",
            f"{of_table[0].table_comment} {kind}",
            "",
            "| column | type | meaning |",
            "|---|---|---|",
        )
        parts.append("\n".join([*head, *rows]))
    return "\n\n".join(parts) + "\n"


def _cell(comment: str) -> str:
    return comment.replace("|", "\\|")


def dictionary_of(page: str) -> str:
    """Return the dictionary that a page has; empty if it has none."""
    found = _DICTIONARY.search(page)
    return found[2] if found else ""


def with_dictionary(page: str, dictionary: str) -> str:
    """Return a page with its dictionary replaced."""
    return _DICTIONARY.sub(lambda found: f"{found[1]}{dictionary}{found[3]}", page)


def main() -> int:
    """Write the dictionary."""
    with tempfile.TemporaryDirectory(prefix="data-dictionary-") as folder:
        postgres = EmbeddedPostgres(Path(folder) / "postgres")
        try:
            url = postgres.start()
            upgrade(url, projections=[])
            with psycopg.connect(url) as conn:
                dictionary = render(read_columns(conn))
        finally:
            postgres.destroy()
    PAGE.write_text(with_dictionary(PAGE.read_text(), dictionary))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
