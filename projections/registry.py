"""Finds the projections: every entry point of the group ``projections``, the built-in ones among them.

Each one that is found is checked against :mod:`projections.rules`. One that can't be loaded or breaks a rule is left
out with a sentence that says why; the others still run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from eventstore.redaction.redact import redact
from projections.code_place import find_code_place
from projections.errors import InvalidProjection, UnknownProjection
from projections.projection import Projection
from projections.rules import check_conflicts, check_projection

GROUP = "projections"
_BUILT_IN = "projections.read_models."


@dataclass(frozen=True, slots=True)
class Registry:
    """The projections that are installed.

    Attributes:
        projections: the valid ones by name, in alphabetical order.
        broken: by name, why a projection can't be loaded or which rule it breaks.

    """

    projections: dict[str, Projection]
    broken: dict[str, str]

    def select(self, names: Iterable[str]) -> dict[str, Projection]:
        """Return the named projections, or all valid ones if no name is given.

        Raises:
            UnknownProjection: no projection has that name; the message lists the names.
            InvalidProjection: a named one is broken; the message says why.

        """
        wanted = list(dict.fromkeys(names)) or list(self.projections)
        for name in wanted:
            if name in self.projections:
                continue
            if name in self.broken:
                raise InvalidProjection(self.broken[name])
            raise UnknownProjection(f"unknown projection {name!r}; known projections: {', '.join(self.projections)}")
        return {name: self.projections[name] for name in wanted}


def find_projections() -> Registry:
    """Find the installed projections, valid and broken."""
    found: dict[str, Projection] = {}
    broken: dict[str, str] = {}
    # A set: two distributions may register the same class, such as this one and what an update of it left behind.
    points = sorted({*entry_points(group=GROUP)}, key=lambda point: (point.name, point.value))
    # Built-in ones first: if a user's projection has the same name or table, the built-in one is kept.
    for point in sorted(points, key=lambda point: not point.value.startswith(_BUILT_IN)):
        try:
            projection = _load(point)
            check_conflicts(projection, found)
        except InvalidProjection as error:
            broken.setdefault(point.name, str(error))
        else:
            found[point.name] = projection
    return Registry({name: found[name] for name in sorted(found)}, broken)


def find_valid_projections() -> dict[str, Projection]:
    """Find the installed projections and insist that none is broken; returns them by name, in alphabetical order.

    Raises:
        InvalidProjection: one can't be loaded or breaks a rule; the message says which and why.

    """
    registry = find_projections()
    for why in registry.broken.values():
        raise InvalidProjection(why)
    return registry.projections


def select_projections(names: Iterable[str]) -> dict[str, Projection]:
    """Find the named projections, or all valid ones if no name is given; see :meth:`Registry.select`."""
    return find_projections().select(names)


def _load(point: EntryPoint) -> Projection:
    try:
        projection = point.load()()
    except Exception as error:
        reason = redact(str(error))
        if isinstance(error, AttributeError | LookupError):  # their texts are only names, such as a column's
            place = find_code_place(error, point.module)
            reason = (
                f"{type(error).__name__}: {reason}" if place is None else f"{place}: {type(error).__name__}: {reason}"
            )
        raise InvalidProjection(f"projection {point.name!r} can't be loaded from {point.value}: {reason}") from error
    if not isinstance(projection, Projection):
        raise InvalidProjection(f"projection {point.name!r}: {point.value} is not a Projection")
    try:
        if not point.value.startswith(_BUILT_IN):  # tests check those; each command would compile all their folds
            check_projection(projection)
    except InvalidProjection:
        raise
    except Exception as error:  # an attribute of an unexpected type can make a rule fail with any error
        reason = redact(f"{type(error).__name__}: {error}")
        raise InvalidProjection(f"projection {point.name!r}: an attribute has a wrong type: {reason}") from error
    if projection.name != point.name:
        raise InvalidProjection(
            f"projection {projection.name!r} is registered as {point.name!r}; the two names must be equal"
        )
    return projection
