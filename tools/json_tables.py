"""Generates the tables of JSON documents in docs/api.md from the shapes that the commands name: no key is missing.

They are between ``<!-- json documents -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from typer.core import TyperGroup
from typer.main import get_command

from projections.cli.app import app
from projections.cli.shared.json_documents import JsonDocuments, documents_of
from tools.json_shapes import keys_of

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "api.md"
_BLOCK = re.compile(r"(<!-- json documents -->\n).*?(<!-- end -->)", re.DOTALL)


class DocumentedCommand(NamedTuple):
    """A command that does something: its words, whether it has ``--json``, and what it says about its documents."""

    words: tuple[str, ...]
    has_option: bool
    documents: JsonDocuments | str | None


def documented_commands(command: Any = None, words: tuple[str, ...] = ()) -> Iterator[DocumentedCommand]:  # noqa: ANN401 - of a private class of Typer's
    """Yield every command and subcommand, also a group that does something when it is called by itself."""
    command = get_command(app) if command is None else command
    is_group = isinstance(command, TyperGroup)
    if words and (not is_group or command.invoke_without_command):
        has_option = any("--json" in parameter.opts for parameter in command.params)
        yield DocumentedCommand(words, has_option, documents_of(command.callback))
    if is_group:
        for name, one in command.commands.items():
            yield from documented_commands(one, (*words, name))


def tables() -> str:
    """Return a table of keys for each command, and the list of commands that write none."""
    parts: list[str] = []
    without: list[str] = []
    described: dict[tuple[type, ...], tuple[str, bool]] = {}
    for words, _, documents in documented_commands():
        name = f"`projections {' '.join(words)}`"
        if not isinstance(documents, JsonDocuments):
            without.append(f"- {name}: {documents}")
            continue
        parts.append(f"#### {name}")
        if documents.shapes in described:
            other, is_list = described[documents.shapes]
            of_list = "one object of the list" if is_list and not documents.is_list else "the same"
            parts.append(f"As `{other} --json`: {of_list}.")
            continue
        described[documents.shapes] = " ".join(("projections", *words)), documents.is_list
        for number, shape in enumerate(documents.shapes):
            parts.append(_form(documents, _subject(shape), is_second=number > 0))
            rows = [f"| `{key.path}` | {key.type} | {key.meaning} |" for key in keys_of(shape)]
            parts.append("\n".join(["| key | type | meaning |", "|---|---|---|", *rows]))
    parts += ["#### Commands without `--json`", "\n".join(without)]
    return "\n\n".join(parts)


def with_json_tables(page: str) -> str:
    """Return a page with its tables brought up to date."""
    made: Callable[[re.Match[str]], str] = lambda found: f"{found[1]}\n{tables()}\n\n{found[2]}"  # noqa: E731 - a name for the one replacement
    return _BLOCK.sub(made, page)


def _form(documents: JsonDocuments, subject: str, *, is_second: bool) -> str:
    if is_second:
        return f"Or an object: {subject}."
    if documents.is_list:
        return f"A list of objects: {subject}."
    if documents.streams:
        return f"One object a line, each when it is known: {subject}."
    return f"An object: {subject}."


def _subject(shape: type) -> str:
    first = (shape.__doc__ or "").strip().partition("\n")[0].rstrip(".")
    return (first[:1].lower() + first[1:]).replace("``", "`")


def main() -> int:
    """Write the tables, or with ``--check`` compare them; 1 when they differ."""
    text = PAGE.read_text()
    wanted = with_json_tables(text)
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(wanted)
    elif text != wanted:
        print(f"{PAGE.relative_to(ROOT)} differs from the commands: run make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
