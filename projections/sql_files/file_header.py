"""Reads the header of a ``.sql`` file: comment lines before the first statement, such as ``-- version: 1``.

A line that ends in a comma goes on in the next comment line. Other comment lines are for people.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from sqlalchemy import Text

from eventstore.contracts import Contract
from eventstore.contracts.event_types import EventType
from eventstore.schema import events
from projections.sql_files.postgres_parser import pg
from projections.sql_files.sql_source import SqlSource

_EXAMPLES: Mapping[str, str] = {
    "name": "daily_costs",
    "version": "1",
    "handles": "RECIPIENT_DELIVERED",
    "partition_by": "app",
}
"""The lines that every file has, each with an example."""
_OPTIONAL = ("decided_by", "personal_columns", "absent_contracts")
_LISTS = ("handles", "partition_by", "decided_by", "absent_contracts")
_TEXT_COLUMNS = tuple(column.name for column in events.c if isinstance(column.type, Text))
_PERSONAL = re.compile(r"(?P<table>\w+)\.(?P<column>\w+)(?:\s*=\s*(?P<copied>\w+))?")
_NO_PERSONAL_COLUMNS = "none"
_LINE = re.compile(r"--\s*(?P<key>[a-z_]+)\s*:\s*(?P<value>.*?)\s*")
_ALMOST = re.compile(r"--\s*(?P<key>[A-Za-z_]+)\b.*")


class FileHeader(NamedTuple):
    """What a header says.

    ``at`` is where its lines are, by key. ``decided_by`` and ``personal_columns`` are None if it has no such line.
    """

    name: str
    version: int
    handles: frozenset[int]
    partition_by: tuple[str, ...]
    decided_by: Mapping[str, str] | None
    personal_columns: Mapping[str, Mapping[str, str]] | None
    absent_contracts: frozenset[str]
    at: Mapping[str, int]


def read_header(source: SqlSource) -> FileHeader:
    """Read the header of a file.

    Raises:
        InvalidProjection: a line is missing, or its value can't be used; the message has the line.

    """
    values: dict[str, str] = {}
    at: dict[str, int] = {}
    for key, value, start in _read_lines(source):
        if key in values:
            source.refuse(start, f"the header has two lines '{key}'; leave one out")
        values[key], at[key] = value, start
    missing = {key: f"-- {key}: {example}" for key, example in _EXAMPLES.items() if not values.get(key)}
    if missing:
        _refuse_other_forms(source, missing)
        lines = "; ".join(missing.values())
        source.refuse(0, f"the header has no {', '.join(missing)}; write, for example: {lines}")
    if not re.fullmatch(r"[0-9]{1,9}", values["version"]):
        source.refuse(at["version"], f"version must be a whole number, not {values['version']!r}")
    words = {key: _words(source, values[key], key, at[key]) for key in _LISTS if key in values}
    return FileHeader(
        name=values["name"],
        version=int(values["version"]),
        handles=frozenset(_event_type(source, word, at["handles"]) for word in words["handles"]),
        partition_by=tuple(_column(source, word, at["partition_by"]) for word in words["partition_by"]),
        decided_by=_deciding(source, words["decided_by"], at["decided_by"]) if "decided_by" in words else None,
        personal_columns=(
            _personal(source, values["personal_columns"], at["personal_columns"])
            if "personal_columns" in values
            else None
        ),
        absent_contracts=frozenset(
            _contract(source, word, at["absent_contracts"]) for word in words.get("absent_contracts", ())
        ),
        at=at,
    )


def _refuse_other_forms(source: SqlSource, missing: Mapping[str, str]) -> None:
    """Refuse a line that begins with the key of a missing one, but is written in another way."""
    for token in source.tokens:
        if token.kind != pg.SQL_COMMENT:
            return
        match = _ALMOST.fullmatch(token.text)
        if match and match["key"].lower() in missing:
            key = match["key"].lower()
            source.refuse(
                token.start, f"this line doesn't set {key}; write its name in small letters and a colon: {missing[key]}"
            )


def _read_lines(source: SqlSource) -> Iterator[tuple[str, str, int]]:
    """Yield each key and value, and where its line is."""
    known = (*_EXAMPLES, *_OPTIONAL)
    key, value, start = "", "", 0
    for token in source.tokens:
        if token.kind != pg.SQL_COMMENT:
            break
        if value.endswith(","):
            value = f"{value} {token.text.removeprefix('--').strip()}"
            continue
        if key:
            yield key, value, start
        match = _LINE.fullmatch(token.text)
        key = match["key"] if match else ""
        if match and key not in known:
            near = get_close_matches(key, known, n=1)
            if near:
                source.refuse(token.start, f"the header has no line '{key}'; did you mean {near[0]}?")
            key = ""  # a sentence for people
        value, start = (match["value"] if match and key else ""), token.start
    if key:
        yield key, value, start


def _names(value: str) -> list[str]:
    return [word.strip() for word in value.split(",") if word.strip()]


def _words(source: SqlSource, value: str, key: str, at: int) -> list[str]:
    words = _names(value)
    for word in words:
        if len(word.split()) > 1:
            source.refuse(at, f"{key}: separate names with commas: {', '.join(word.split())}")
    return words


def _column(source: SqlSource, word: str, at: int) -> str:
    if word not in events.c:
        near = get_close_matches(word, events.c.keys(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"text columns are {', '.join(_TEXT_COLUMNS)}"
        source.refuse(at, f"partition_by: events have no column {word}; {hint}")
    return word


def _event_type(source: SqlSource, word: str, at: int) -> int:
    if word.isdecimal():
        return int(word)
    names: dict[str, Any] = dict(EventType.__members__)
    if word.upper() not in names:
        near = get_close_matches(word.upper(), names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        source.refuse(at, f"handles: there is no event type {word}; {hint}")
    return int(names[word.upper()])


def _deciding(source: SqlSource, words: list[str], at: int) -> dict[str, str]:
    pairs = [word.split(".") for word in words]
    if not all(len(pair) == 2 for pair in pairs):
        source.refuse(at, "decided_by lists columns with their tables, such as first_contact.event_id")
    return {pair[0]: pair[1] for pair in pairs}


def _personal(source: SqlSource, value: str, at: int) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for word in _names(value) if value != _NO_PERSONAL_COLUMNS else ():
        match = _PERSONAL.fullmatch(word)
        if match is None:
            source.refuse(
                at,
                "personal_columns lists columns with their tables, and what they copy if the names differ, such as"
                f" first_contact.person = ppnum; or it is {_NO_PERSONAL_COLUMNS}",
            )
        found.setdefault(match["table"], {})[match["column"]] = match["copied"] or match["column"]
    return found


def _contract(source: SqlSource, word: str, at: int) -> str:
    if word not in {one.value for one in Contract}:
        source.refuse(at, f"absent_contracts: there is no contract {word}; there are {', '.join(Contract)}")
    return word
