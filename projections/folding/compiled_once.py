"""Compiles what belongs to a projection's class once in a process, whatever the number of its workers and shadows.

Compiling a fold takes tens of milliseconds, longer than folding a small window. A fold is a function of its class, and
the result is kept with the class. It is compiled again for an instance with attributes of its own, on which its fold
may depend, and when an attribute of the class that it depends on was replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from projections.projection import Projection

T = TypeVar("T")

_RESULTS: WeakKeyDictionary[type[Projection], dict[Hashable, Any]] = WeakKeyDictionary()


def compile_once(projection: Projection, what: Hashable, compile_it: Callable[[], T]) -> T:
    """Return what ``compile_it`` returned for the projection's class before, or else call it.

    Args:
        projection: the projection.
        what: tells this result from others of the same class.
        compile_it: compiles it; if it raises, nothing is kept.

    """
    of = type(projection)
    key = (what, of.fold, of.name, of.version, of.handles, of.tables)
    try:
        hash(key)
    except TypeError:  # an attribute that can't be compared with an earlier one
        return compile_it()
    if getattr(projection, "__dict__", True):
        return compile_it()
    results = _RESULTS.setdefault(of, {})
    if key not in results:
        results[key] = compile_it()
    return cast("T", results[key])
