"""Reads what a command wrote with ``--json``, and compares it with the shapes that the command names.

A test that runs a command with ``--json`` calls :func:`read_documents`; ``tests/acceptance/test_json_output.py``
requires that some test does so for each command.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from projections.cli.shared.json_documents import JsonDocuments
from tools.json_shapes import find_deviations
from tools.json_tables import documented_commands


@cache
def json_documents() -> dict[str, JsonDocuments]:
    """Return what each command that has ``--json`` writes, by the words of the command."""
    found = {" ".join(command.words): command.documents for command in documented_commands()}
    return {words: documents for words, documents in found.items() if isinstance(documents, JsonDocuments)}


def read_documents(words: str, out: str, seen: set[str] | None = None) -> list[Any]:
    """Return the documents that a command wrote to stdout, after comparing them with its shapes.

    Args:
        words: the words of the command, such as ``apps list``.
        out: its stdout.
        seen: gets the path of each key that had a value other than null, after the name of its shape.

    """
    documents = json_documents()[words]
    if documents.streams:
        values = [json.loads(line) for line in out.splitlines()]
    else:
        values = [json.loads(out)]
        if documents.is_list:
            (values,) = values
    for value in values:
        deviations: list[list[str]] = []
        for shape in documents.shapes:
            keys: set[str] = set()
            deviations.append([*find_deviations(value, shape, keys)])
            if not deviations[-1] and seen is not None:
                seen.update(f"{shape.__name__}: {key}" for key in keys)
        assert [] in deviations, f"projections {words}: {min(deviations, key=len)}"
    return values
