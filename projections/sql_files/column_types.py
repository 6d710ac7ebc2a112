"""The types that a column of a ``.sql`` file may have, as SQLAlchemy's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import (
    ARRAY,
    CHAR,
    REAL,
    TIMESTAMP,
    BigInteger,
    Boolean,
    Date,
    Double,
    Integer,
    LargeBinary,
    Numeric,
    SmallInteger,
    String,
    Text,
    Time,
    Uuid,
)
from sqlalchemy.dialects.postgresql import INET, INTERVAL, JSON, JSONB
from sqlalchemy.types import TypeEngine

from projections.sql_files.postgres_parser import Node, strings
from projections.sql_files.sql_source import SqlSource

_TYPES: Mapping[str, Callable[..., TypeEngine[Any]]] = {
    "text": Text,
    "varchar": String,
    "bpchar": CHAR,
    "int2": SmallInteger,
    "int4": Integer,
    "int8": BigInteger,
    "float4": REAL,
    "float8": Double,
    "numeric": Numeric,
    "bool": Boolean,
    "date": Date,
    "timestamptz": lambda: TIMESTAMP(timezone=True),
    "timestamp": TIMESTAMP,
    "time": Time,
    "interval": INTERVAL,
    "uuid": Uuid,
    "bytea": LargeBinary,
    "json": JSON,
    "jsonb": JSONB,
    "inet": INET,
}
_WITH_LENGTH = ("varchar", "bpchar", "numeric")
_WITH_COLLATION = ("text", "varchar", "bpchar")


def read_column_type(source: SqlSource, column: Node) -> TypeEngine[Any]:
    """Return the type of a column.

    Args:
        source: its file.
        column: the definition of the column.

    Raises:
        InvalidProjection: no column of a read model can have that type; the message says which ones it can.

    """
    node = column.type_name
    *schema, name = strings(node.names)
    at = node.location
    if schema not in ([], ["pg_catalog"]) or name not in _TYPES:
        names = ", ".join(_TYPES)
        source.refuse(at, f"column {column.colname}: no column has type {name} here; types are {names}, and arrays")
    numbers = [one.a_const.ival.ival for one in node.typmods if one.HasField("a_const")]
    if numbers and name not in _WITH_LENGTH:
        source.refuse(at, f"column {column.colname}: leave out the precision of {name}")
    options: dict[str, Any] = {}
    if column.HasField("coll_clause"):
        collation = strings(column.coll_clause.collname)
        if len(collation) > 1 or name not in _WITH_COLLATION:
            source.refuse(at, f"column {column.colname}: only a text has a collation, of pg_catalog")
        options["collation"] = collation[0]
    made = _TYPES[name](*numbers, **options)
    if not node.array_bounds:
        return made
    return ARRAY(made, dimensions=len(node.array_bounds))


def is_event_id_without_collation(name: str, column_type: TypeEngine[Any]) -> bool:
    """Return whether a column holds event_ids, by its name, and doesn't compare them by bytes."""
    is_text = isinstance(column_type, Text | String)
    return name.endswith("event_id") and is_text and getattr(column_type, "collation", None) != "C"
