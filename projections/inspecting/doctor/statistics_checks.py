"""Checks that the planner has statistics about our tables."""

from __future__ import annotations

from collections.abc import AsyncIterator

from psycopg import sql

from eventstore.postgres.queries import fetch_all
from projections.inspecting.doctor.examination import Examination
from projections.inspecting.finding import Finding

PAGES = 128
"""Pages of the smallest table that is mentioned: 1 MiB."""

# VACUUM and ANALYZE set reltuples; it is -1 until one of them has run.
_NEVER_ANALYZED = """
SELECT n.nspname, c.relname, pg_relation_size(c.oid)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.reltuples < 0 AND pg_relation_size(c.oid) >= %s * 8192
AND (n.nspname IN ('eventstore', 'projections') OR (n.nspname = 'public' AND c.relname = ANY(%s))) ORDER BY 1, 2
"""


async def check_statistics(exam: Examination) -> AsyncIterator[Finding]:
    """Find tables that were never analysed."""
    for schema, table, size in await fetch_all(exam.conn, _NEVER_ANALYZED, [PAGES, exam.read_model_tables]):
        sentence = f"{schema}.{table} has no statistics ({size / 2**20:,.0f} MiB), so plans may be bad"
        analyze = sql.SQL("ANALYZE {};").format(sql.Identifier(schema, table)).as_string()
        yield Finding("statistics_missing", sentence, analyze)
