"""Which projections there are: those that the entry-point group ``projections`` names, ours among them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from sqlalchemy import ARRAY, DefaultClause, Enum, FetchedValue, Table, Text
from sqlalchemy.dialects.postgresql import NamedType

from eventstore.redaction.redact import redact
from eventstore.schema import events
from projections.errors import InvalidProjection, UnknownProjection
from projections.folding.python_projection import PythonProjection, check_tables
from projections.folding.sql_text import DIALECT
from projections.folding.table_copies import check_table
from projections.folding.window_fold import build_fold
from projections.projection import READ_MODEL_SCHEMA, SHADOW_POSITIONS, Projection
from projections.read_models.common_columns import VIEWS

GROUP = "projections"
_OURS = "projections.read_models."

_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
# What may stand in a constant default: texts, and casts to a type that may have a length.
_CONSTANTS = re.compile(
    r"'(?:[^']|'')*'|::\s*\w+(?: \w+)*(?:\s*\([\d, ]*\))?|\bCAST\b\s*\(|\bAS \w+\s*\([\d, ]*\)", re.IGNORECASE
)
_CALL = re.compile(r"\w\s*\(|\b(?:current|local|session)_?(?:date|time|timestamp|user|role)\b|\buser\b", re.IGNORECASE)
_NEEDED = ("name", "version", "handles", "tables", "partition_by")


@dataclass(frozen=True, slots=True)
class Registry:
    """The projections that are installed.

    Attributes:
        projections: those that work, by name, in alphabetical order.
        broken: by name, why one can't be loaded or breaks the rules. They hold up no other.

    """

    projections: dict[str, Projection]
    broken: dict[str, str]

    def chosen(self, names: Iterable[str]) -> dict[str, Projection]:
        """Return the named projections, or all that work when none is named.

        Raises:
            UnknownProjection: there is none of that name; the message names those there are.
            InvalidProjection: a named one is broken; the message says how.

        """
        wanted = list(dict.fromkeys(names)) or list(self.projections)
        for name in wanted:
            if name in self.projections:
                continue
            if name in self.broken:
                raise InvalidProjection(self.broken[name])
            raise UnknownProjection(f"there is no projection {name!r}: there are {', '.join(self.projections)}")
        return {name: self.projections[name] for name in wanted}


def installed() -> Registry:
    """Return the projections that are installed, the broken ones apart."""
    found: dict[str, Projection] = {}
    broken: dict[str, str] = {}
    owners: dict[str, str] = {}
    points = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    # Ours first: of two that quarrel over a name or a table, the one that comes along stands.
    for point in sorted(points, key=lambda point: not point.value.startswith(_OURS)):
        try:
            projection = _load(point)
            _check_alone(projection, found, owners)
        except InvalidProjection as error:
            broken.setdefault(point.name, str(error))
        else:
            found[point.name] = projection
    return Registry({name: found[name] for name in sorted(found)}, broken)


def registered() -> dict[str, Projection]:
    """Return the projections by name, in alphabetical order, when none is broken.

    Raises:
        InvalidProjection: one can't be loaded, or breaks the rules; the message says which and how.

    """
    registry = installed()
    for why in registry.broken.values():
        raise InvalidProjection(why)
    return registry.projections


def chosen(names: Iterable[str]) -> dict[str, Projection]:
    """Return the named projections, or all that work when none is named, as :meth:`Registry.chosen` does."""
    return installed().chosen(names)


def check(projection: Projection) -> None:
    """Hold a projection to the rules.

    Raises:
        InvalidProjection: it breaks one.

    """
    lacking = [name for name in _NEEDED if getattr(projection, name, None) is None]
    if lacking:
        raise InvalidProjection(f"projection class {type(projection).__name__} lacks {', '.join(lacking)}")
    _check_types(projection)
    name = projection.name
    if not _NAME.fullmatch(name):
        raise InvalidProjection(f"projection {name!r}: a name has 1 to 48 lower-case letters, digits and '_'")
    if projection.version < 1:
        raise InvalidProjection(f"projection {name!r}: versions begin with 1")
    if not projection.tables or not projection.handles or not projection.partition_by:
        raise InvalidProjection(f"projection {name!r}: it needs tables, handled types and partition_by")
    _check_partition(projection)
    for table in projection.tables:
        _check_table(projection, table)
    _check_deciders(projection)
    if projection.migrations is not None and not (projection.migrations / "versions").is_dir():
        raise InvalidProjection(
            f"projection {name!r}: there is no folder {projection.migrations / 'versions'}: its migrations must be"
            " installed with it, as package data"
        )
    if isinstance(projection, PythonProjection):
        check_tables(projection)
    try:
        build_fold(projection)
    except Exception as error:
        said = redact(f"{type(error).__name__}: {error}")
        raise InvalidProjection(f"projection {name!r}: its fold can't be built: {said}") from error


def _check_types(projection: Projection) -> None:
    """Say in words what Python would say of a forgotten comma."""
    of = f"projection class {type(projection).__name__}"
    if not isinstance(projection.name, str):
        raise InvalidProjection(f"{of}: name must be a text")
    if not isinstance(projection.version, int):
        raise InvalidProjection(f"{of}: version must be a whole number")
    kinds = (("tables", Table, "tables"), ("handles", int, "numbers of event types"), ("partition_by", str, "names"))
    for name, kind, words in kinds:
        value = getattr(projection, name)
        if isinstance(value, str | Table) or not isinstance(value, Iterable):
            raise InvalidProjection(f"{of}: {name} must be several {words}, as a tuple is: (…,)")
        if not all(isinstance(one, kind) for one in value):
            raise InvalidProjection(f"{of}: {name} must hold {words}")


def _check_partition(projection: Projection) -> None:
    for column in projection.partition_by:
        of_column = f"projection {projection.name!r}: partition_by names {column!r}"
        if column not in events.c:
            raise InvalidProjection(f"{of_column}, which events don't have")
        if not isinstance(events.c[column].type, Text):
            raise InvalidProjection(f"{of_column}, which isn't a text")


def _check_table(projection: Projection, table: Table) -> None:
    name = projection.name
    if table.schema != READ_MODEL_SCHEMA:
        raise InvalidProjection(f"projection {name!r}: table {table.name} must lie in schema {READ_MODEL_SCHEMA}")
    if table.name in VIEWS:
        raise InvalidProjection(f"projection {name!r}: {table.name} is the name of a view that comes along")
    if table.name == SHADOW_POSITIONS:
        raise InvalidProjection(f"projection {name!r}: {table.name} is a name that rebuilds need: choose another")
    check_table(projection, table)
    for column in table.c:
        if column.default is not None or column.onupdate is not None:
            raise InvalidProjection(
                f"projection {name!r}: table {table.name}: the default of {column.name} must be a server_default"
            )
        if column.identity is not None or not _is_constant(column.server_default):
            raise InvalidProjection(
                f"projection {name!r}: table {table.name}: the default of {column.name} must be a constant, or else a"
                " rebuild's rows are never those that are there"
            )
        kind = column.type.item_type if isinstance(column.type, ARRAY) else column.type
        if isinstance(kind, NamedType) or (isinstance(kind, Enum) and kind.native_enum):
            raise InvalidProjection(
                f"projection {name!r}: column {column.name} of {table.name} has a type that was made by name, which a"
                " rebuild's tables can't have: make it Text, or an Enum with native_enum=False"
            )
    missing = [column for column in projection.partition_by if column not in table.primary_key.columns]
    if missing:
        raise InvalidProjection(
            f"projection {name!r}: the primary key of {table.name} lacks {', '.join(missing)} of partition_by"
        )


def _is_constant(default: FetchedValue | None) -> bool:
    """Tell whether a server default, as far as it says what it is, is the same for every row and at any time."""
    if not isinstance(default, DefaultClause):  # none; or what Postgres computes from the row's other columns
        return True
    if isinstance(default.arg, str):
        return True
    text = str(default.arg.compile(dialect=DIALECT))
    return not _CALL.search(_CONSTANTS.sub("", text))


def _check_deciders(projection: Projection) -> None:
    for table_name, column in projection.decided_by.items():
        owned = {table.name: table for table in projection.tables}.get(table_name)
        if owned is None or column not in owned.c:
            raise InvalidProjection(
                f"projection {projection.name!r}: decided_by names {table_name}.{column}, which it doesn't own"
            )


def _load(point: EntryPoint) -> Projection:
    try:
        projection = point.load()()
    except Exception as error:
        said = redact(str(error))
        raise InvalidProjection(f"projection {point.name!r} can't be loaded from {point.value}: {said}") from error
    if not isinstance(projection, Projection):
        raise InvalidProjection(f"projection {point.name!r}: {point.value} is not a Projection")
    try:
        check(projection)
    except InvalidProjection:
        raise
    except Exception as error:  # whatever an attribute of another type than it should be makes of a rule
        said = redact(f"{type(error).__name__}: {error}")
        raise InvalidProjection(f"projection {point.name!r}: an attribute is not what it should be: {said}") from error
    if projection.name != point.name:
        raise InvalidProjection(f"projection {projection.name!r} is registered as {point.name!r}: the names must agree")
    return projection


def _folder(projection: Projection) -> Path | None:
    return projection.migrations.resolve() if projection.migrations is not None else None


def _check_alone(projection: Projection, found: Mapping[str, Projection], owners: dict[str, str]) -> None:
    if projection.name in found:
        raise InvalidProjection(f"two projections are called {projection.name!r}: rename one")
    for table in projection.tables:
        owner = owners.get(table.name, projection.name)
        if owner != projection.name:
            raise InvalidProjection(f"table {table.name} has two owners: {owner} and {projection.name}")
    shared = [one.name for one in found.values() if _folder(one) and _folder(one) == _folder(projection)]
    if shared:
        raise InvalidProjection(
            f"projections {shared[0]!r} and {projection.name!r} share their migrations folder, which would be run for"
            " each: give each its own"
        )
    owners.update({table.name: projection.name for table in projection.tables})
