"""Reads the shapes of JSON documents: which keys they have, and whether a document has exactly these.

A shape is a ``TypedDict`` or a dataclass whose docstring has a line for each key under "Attributes:"; see
:mod:`projections.cli.shared.json_documents`.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Literal, NamedTuple, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

_ATTRIBUTES = re.compile(r"^ *Attributes:\n(.*?)(?:\n *\n|\Z)", re.DOTALL | re.MULTILINE)
_WORDS: Mapping[object, str] = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "boolean",
    datetime: "time",
    Any: "any value",
}
_CHECKS: Mapping[object, Callable[[Any], bool]] = {
    str: lambda value: isinstance(value, str),
    int: lambda value: isinstance(value, int) and not isinstance(value, bool),
    float: lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    bool: lambda value: isinstance(value, bool),
    datetime: lambda value: isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None,
    Any: lambda _: True,
}


class DocumentKey(NamedTuple):
    """A key of a document: its path (``apps[].app``), its type and its meaning in words."""

    path: str
    type: str
    meaning: str


class Form(NamedTuple):
    """What an annotation says.

    Attributes:
        kind: a scalar, a list, an object with any keys, or a shape.
        of: the scalar or the shape; the annotation of the items of a list or an object.
        nullable: whether it may be null.
        may_be_missing: whether the key may be missing.

    """

    kind: Literal["scalar", "list", "object", "shape"]
    of: Any
    nullable: bool
    may_be_missing: bool


def form_of(annotation: Any) -> Form:  # noqa: ANN401 - an annotation
    """Return what an annotation says."""
    may_be_missing = get_origin(annotation) is NotRequired
    if may_be_missing:
        (annotation,) = get_args(annotation)
    nullable = False
    if get_origin(annotation) in (Union, types.UnionType):
        nullable = True
        (annotation,) = (each for each in get_args(annotation) if each is not types.NoneType)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (list, tuple, Sequence):
        return Form("list", args[0], nullable, may_be_missing)
    if origin in (dict, Mapping):
        return Form("object", args[1], nullable, may_be_missing)
    is_shape = isinstance(annotation, type) and (is_typeddict(annotation) or is_dataclass(annotation))
    return Form("shape" if is_shape else "scalar", annotation, nullable, may_be_missing)


def fields_of(shape: Any) -> dict[str, Any]:  # noqa: ANN401 - a TypedDict or a dataclass
    """Return the annotations of a shape by key."""
    return get_type_hints(shape, include_extras=True)


def keys_of(shape: Any, path: str = "") -> Iterator[DocumentKey]:  # noqa: ANN401 - a TypedDict or a dataclass
    """Yield every key of a shape, also those of the objects in it, in the order of the code.

    Raises:
        SystemExit: a key has no meaning.

    """
    meanings = meanings_of(shape)
    for name, annotation in fields_of(shape).items():
        here = f"{path}.{name}".removeprefix(".")
        if name not in meanings:
            raise SystemExit(f"{shape.__name__}.{name} has no meaning: add a line under Attributes in its docstring")
        yield DocumentKey(here, words_for(annotation), meanings[name])
        form = form_of(annotation)
        while form.kind in ("list", "object"):
            here += "[]" if form.kind == "list" else ".*"
            form = form_of(form.of)
        if form.kind == "shape":
            yield from keys_of(form.of, here)


def words_for(annotation: object) -> str:
    """Return the words for a type: ``list of text, or null``."""
    form = form_of(annotation)
    if form.kind == "list":
        words = f"list of {words_for(form.of)}"
    elif form.kind == "object":
        words = "object" if form.of is Any else f"object of {words_for(form.of)}"
    elif form.kind == "shape":
        words = "object"
    else:
        values = _values(form.of)
        words = " or ".join(f"`{value}`" for value in values) if values else _WORDS[form.of]
    return f"{words}{' or null' if form.nullable else ''}{'; may be missing' if form.may_be_missing else ''}"


def meanings_of(shape: Any) -> dict[str, str]:  # noqa: ANN401 - a TypedDict or a dataclass
    """Return what a shape's docstring says about each of its keys."""
    section = _ATTRIBUTES.search(shape.__doc__ or "")
    lines = section[1].splitlines() if section else []
    indent = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    meanings: dict[str, str] = {}
    name = ""
    for line in lines:
        if line[indent] != " ":
            name, _, meaning = line.strip().partition(": ")
            meanings[name] = meaning
        else:
            meanings[name] += f" {line.strip()}"
    return {key: _in_markdown(meaning) for key, meaning in meanings.items()}


def _in_markdown(meaning: str) -> str:
    return meaning.replace("``", "`").replace("None", "null").replace("|", "\\|")


def find_deviations(
    value: Any,  # noqa: ANN401 - any JSON
    annotation: object,
    seen: set[str],
    path: str = "",
) -> Iterator[str]:
    """Yield a sentence for each place where a JSON value isn't what an annotation says.

    Args:
        value: a document, or a part of it.
        annotation: its type.
        seen: gets the path of each key that has a value other than null.
        path: the path of the value.

    """
    form = form_of(annotation)
    if value is None and form.nullable:
        return
    wanted: Any = {"list": list, "object": dict, "shape": dict}.get(form.kind, object)
    if not isinstance(value, wanted):
        yield f"{path}: not of type {words_for(annotation)}: {value!r}"
    elif form.kind == "list":
        for item in value:
            yield from find_deviations(item, form.of, seen, f"{path}[]")
    elif form.kind == "object":
        for item in value.values():
            yield from find_deviations(item, form.of, seen, f"{path}.*")
    elif form.kind == "shape":
        yield from _find_in_shape(value, form.of, seen, path)
    elif not _is_scalar(value, form.of):
        yield f"{path}: not of type {words_for(annotation)}: {value!r}"


def _find_in_shape(
    value: Mapping[str, Any],
    shape: Any,  # noqa: ANN401 - a TypedDict or a dataclass
    seen: set[str],
    path: str,
) -> Iterator[str]:
    expected = fields_of(shape)
    for name in sorted(value.keys() - expected.keys()):
        yield f"{path}.{name}: not in {shape.__name__}".removeprefix(".")
    for name, annotation in expected.items():
        here = f"{path}.{name}".removeprefix(".")
        if name in value:
            seen.update({here} if value[name] is not None else ())
            yield from find_deviations(value[name], annotation, seen, here)
        elif not form_of(annotation).may_be_missing:
            yield f"{here}: missing"


def _values(annotation: Any) -> list[Any]:  # noqa: ANN401 - an annotation
    """Return the values of a ``Literal`` or an ``Enum``; an empty list for other types."""
    if get_origin(annotation) is Literal:
        return [*get_args(annotation)]
    is_enum = isinstance(annotation, type) and issubclass(annotation, Enum)
    return [one.value for one in annotation] if is_enum else []


def _is_scalar(value: Any, annotation: Any) -> bool:  # noqa: ANN401 - any JSON, an annotation
    values = _values(annotation)
    return value in values if values else _CHECKS[annotation](value)
