"""What the search has to know of tables that Citus distributes: how large their parts on other servers are.

Invariants. The rows of a distributed table are read through the coordinator, from all servers, by the same statements
as others: a slice of pages then is that slice of each part. Parts that Citus has left behind and will remove, as after
a table was moved to other servers, can't be read so: they are reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from eventstore.postgres.queries import fetch_all, fetch_column

_SIZES = """
SELECT n.nspname, c.relname,
       max(split_part(s.result, ' ', 1)::bigint) / current_setting('block_size')::bigint,
       sum(split_part(s.result, ' ', 2)::bigint)::bigint
FROM pg_catalog.pg_dist_partition AS d
JOIN pg_catalog.pg_class AS c ON c.oid = d.logicalrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL run_command_on_shards(
    d.logicalrelid, $$SELECT pg_relation_size('%1$s') || ' ' || pg_table_size('%1$s')$$) AS s
WHERE s.success GROUP BY n.nspname, c.relname
"""
# Type 1 is a part of a table.
_LEFT_BEHIND = "SELECT object_name FROM pg_catalog.pg_dist_cleanup WHERE object_type = 1 ORDER BY record_id"


class TableSize(NamedTuple):
    """The pages of a table, of its largest part if it is distributed; and its bytes, with long values."""

    pages: int
    size: int


async def read_shard_sizes(conn: AsyncConnection[Any]) -> Mapping[tuple[str, str], TableSize]:
    """Return the sizes of all distributed tables, by schema and name.

    Raises:
        psycopg.Error: the database failed, or the connection, or another server.

    """
    return {(schema, name): TableSize(*sizes) for schema, name, *sizes in await fetch_all(conn, _SIZES)}


async def find_parts_left_behind(conn: AsyncConnection[Any]) -> list[str]:
    """Return the names of parts of tables that Citus has yet to remove, and that hold rows as they were."""
    return await fetch_column(conn, _LEFT_BEHIND)
