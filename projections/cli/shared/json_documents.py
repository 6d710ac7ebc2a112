"""Which JSON a command writes with ``--json``: each command names the shapes of its documents, or why it has none.

A shape is a ``TypedDict`` or a dataclass whose docstring describes every key under "Attributes:". ``make docs`` makes
the tables in docs/api.md of the shapes, and a test compares what each command really writes with its shapes. So a shape
is written once, beside the command that fills it.

Invariants. Every command has ``@writes_json(…)`` or ``@writes_text("why")`` below its other decorators.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

_ATTRIBUTE = "writes"

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class JsonDocuments:
    """What a command writes with ``--json``.

    Attributes:
        shapes: one shape, or several if the arguments decide which of them is written.
        streams: whether the command writes one object a line, each when it is known.
        is_list: whether the document is a list of such objects.

    """

    shapes: tuple[type, ...]
    streams: bool = False
    is_list: bool = False


def writes_json(*shapes: type, streams: bool = False, is_list: bool = False) -> Callable[[_Command], _Command]:
    """Decorate a command that has ``--json``; see :class:`JsonDocuments`."""
    return _with(JsonDocuments(shapes, streams=streams, is_list=is_list))


def writes_text(why: str) -> Callable[[_Command], _Command]:
    """Decorate a command without ``--json``; the reason is printed in docs/api.md: "it writes logs"."""
    return _with(why)


def documents_of(command: Callable[..., Any] | None) -> JsonDocuments | str | None:
    """Return what a command was decorated with: its documents, or why it has none; None without either."""
    found: JsonDocuments | str | None = getattr(command, _ATTRIBUTE, None)
    return found


def _with(value: JsonDocuments | str) -> Callable[[_Command], _Command]:
    def decorate(command: _Command) -> _Command:
        setattr(command, _ATTRIBUTE, value)
        return command

    return decorate
