"""The rules that a projection must satisfy before it is accepted; each refusal says what to change.

The registry applies them to every projection that it finds, and the test kit to the one under test. The rules for a
projection's tables and columns are in :mod:`projections.table_rules`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from sqlalchemy import Table, Text

from eventstore.redaction.redact import redact
from eventstore.schema import events
from projections.errors import InvalidProjection
from projections.folding.sql_text import compile_statement
from projections.folding.view_text import compose_view_query
from projections.folding.window_fold import build_fold
from projections.projection import Projection, number_keys
from projections.read_models.common_columns import VIEWS
from projections.table_rules import check_table
from projections.views import View

NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
"""The name of a projection; use ``fullmatch``."""
NAME_RULE = "a name has 1 to 48 lower-case letters, digits and '_', and begins with a letter"
_VIEW_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_REQUIRED = ("name", "version", "handles", "tables", "partition_by")


def check_projection(projection: Projection) -> None:
    """Check one projection against the rules.

    Raises:
        InvalidProjection: it breaks one.

    """
    missing = [name for name in _REQUIRED if getattr(projection, name, None) is None]
    if missing:
        blocks = ", or blocks, from which these follow" if getattr(projection, "blocks", None) == () else ""
        raise InvalidProjection(
            f"projection class {type(projection).__name__} must define {', '.join(missing)}{blocks}"
        )
    _check_attribute_types(projection)
    name = projection.name
    if not NAME.fullmatch(name):
        raise InvalidProjection(f"projection {name!r}: {NAME_RULE}")
    if projection.version < 1:
        raise InvalidProjection(f"projection {name!r}: the version must be 1 or higher")
    if not projection.tables or not projection.handles or not projection.partition_by:
        raise InvalidProjection(f"projection {name!r}: tables, handles and partition_by must not be empty")
    _check_partition(projection)
    for table in projection.tables:
        check_table(projection, table)
    _check_views(projection)
    _check_deciding_columns(projection)
    _check_personal_columns(projection)
    if projection.migrations is not None and not (projection.migrations / "versions").is_dir():
        raise InvalidProjection(
            f"projection {name!r}: folder {projection.migrations / 'versions'} does not exist; install the migrations"
            " with the package, as package data"
        )
    try:
        build_fold(projection)
        if projection.status_query is not None:
            compile_statement(projection.status_query)
    except Exception as error:
        reason = redact(f"{type(error).__name__}: {error}")
        raise InvalidProjection(
            f"projection {name!r}: its fold or its status_query can't be built: {reason}"
        ) from error


def check_conflicts(projection: Projection, accepted: Mapping[str, Projection]) -> None:
    """Check that a projection shares no name, no table, no view and no migrations folder with those accepted before.

    Raises:
        InvalidProjection: it does; the message names the other one.

    """
    name = projection.name
    if name in accepted:
        raise InvalidProjection(f"two projections are named {name!r}; rename one")
    owners = {owned: other.name for other in accepted.values() for owned in _relations(other)}
    for owned, kind in _relations(projection).items():
        if owned in owners:
            raise InvalidProjection(f"{kind} {owned} belongs to two projections: {owners[owned]} and {name}")
    if projection.migrations is None:
        return
    folder = projection.migrations.resolve()
    for other in accepted.values():
        if other.migrations is not None and other.migrations.resolve() == folder:
            raise InvalidProjection(
                f"projections {other.name!r} and {name!r} share their migrations folder, which would then run for each"
                " of them; give each its own folder"
            )


def _relations(projection: Projection) -> dict[str, str]:
    """Return the names of a projection's tables and views, each with what it is."""
    return dict.fromkeys((one.name for one in projection.tables), "table") | dict.fromkeys(
        (one.name for one in projection.views), "view"
    )


def _check_attribute_types(projection: Projection) -> None:
    """Explain a forgotten comma, and other wrong types, before Python fails on them."""
    of = f"projection class {type(projection).__name__}"
    if not isinstance(projection.name, str):
        raise InvalidProjection(f"{of}: name must be a string")
    if not isinstance(projection.version, int):
        raise InvalidProjection(f"{of}: version must be an integer")
    kinds = (
        ("tables", Table, "tables"),
        ("views", View, "views"),
        ("handles", int, "numbers of event types"),
        ("partition_by", str, "column names"),
    )
    for name, kind, words in kinds:
        value = getattr(projection, name)
        if isinstance(value, str | Table | View) or not isinstance(value, Iterable):
            raise InvalidProjection(f"{of}: {name} must be a collection of {words}, such as a tuple: (…,)")
        if not all(isinstance(one, kind) for one in value):
            raise InvalidProjection(f"{of}: {name} must contain only {words}")


def _check_partition(projection: Projection) -> None:
    for column in projection.partition_by:
        of_column = f"projection {projection.name!r}: partition_by names {column!r}"
        if column not in events.c:
            raise InvalidProjection(f"{of_column}, which is not a column of events")
        if not isinstance(events.c[column].type, Text):
            raise InvalidProjection(f"{of_column}, which is not a text column")


def _check_views(projection: Projection) -> None:
    taken = {table.name for table in projection.tables}
    for view in projection.views:
        of_view = f"projection {projection.name!r}: view {view.name}"
        if not _VIEW_NAME.fullmatch(view.name):
            raise InvalidProjection(
                f"{of_view}: a name has 1 to 63 lower-case letters, digits and '_', and begins with a letter"
            )
        if view.name in VIEWS:
            raise InvalidProjection(f"{of_view} has the name of a built-in view; choose another name")
        if view.name in taken:
            raise InvalidProjection(f"{of_view} has the name of another of its tables or views; rename one")
        taken.add(view.name)
        compose_view_query(view)


def _check_deciding_columns(projection: Projection) -> None:
    for table_name, column in projection.decided_by.items():
        owned = {table.name: table for table in projection.tables}.get(table_name)
        if owned is None or column not in owned.c:
            raise InvalidProjection(
                f"projection {projection.name!r}: decided_by names {table_name}.{column}, which is not a column of its"
                " tables"
            )


def _check_personal_columns(projection: Projection) -> None:
    tables = {table.name: table for table in projection.tables}
    for table_name, columns in (projection.personal_columns or {}).items():
        of = f"projection {projection.name!r}: personal_columns of {table_name}"
        if table_name not in tables:
            raise InvalidProjection(f"{of}: it has no such table")
        for column, copied in columns.items():
            if column not in tables[table_name].c or not isinstance(tables[table_name].c[column].type, Text):
                raise InvalidProjection(f"{of}: {column} is not a text column of the table")
            if copied not in ("ppnum", "message_id"):
                raise InvalidProjection(f"{of}: {column} must be a copy of ppnum or message_id")
            if copied == "message_id" and not tables[table_name].c[column].nullable:
                raise InvalidProjection(f"{of}: {column} must be nullable, since an erased event has no message_id")
        if "ppnum" not in columns.values():
            raise InvalidProjection(f"{of}: without a copy of ppnum, the rows of a person can't be found")
        if "message_id" in columns.values() and len(number_keys(tables[table_name], columns)) != 1:
            raise InvalidProjection(
                f"{of}: with a copy of message_id, the table's key must have one copy of ppnum, which tells whose it is"
            )
