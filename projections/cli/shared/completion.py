"""Finds what could complete a command line; a shell's completion function asks for it at each press of Tab.

The function starts ``projections`` without arguments and with two variables: the words before the cursor's word, one a
line, and the cursor's word. The answer has a line for each candidate, with its help after a tab, or the one line
:data:`FILES`.

Invariants. Nothing is connected, started or written. Names of commands come from their table, so no command is loaded
for them; an error leaves the answer empty.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from typer.core import TyperGroup

from projections.cli.lazy_commands import SUMMARIES
from projections.cli.shared.output import print_candidate
from projections.stderr_style import VALUE_OPTIONS

if TYPE_CHECKING:
    from typer._click import Command

WORDS_VARIABLE = "_PROJECTIONS_COMPLETE"
WORD_VARIABLE = "_PROJECTIONS_COMPLETE_WORD"
FILES = "!files"
"""Printed instead of candidates where the name of a file is expected."""
_NOT_THE_COMMANDS = ("-v", "--verbose", "=")


class Completion(NamedTuple):
    """What could stand in place of the word, and what it means."""

    value: str
    help: str = ""


def print_candidates(root: TyperGroup) -> None:
    """Print what could complete the command line that the environment describes."""
    words = os.environ.get(WORDS_VARIABLE, "").split("\n")
    try:
        found = [*find_completions(root, [word for word in words if word], os.environ.get(WORD_VARIABLE, ""))]
    except Exception:  # noqa: BLE001 - whoever presses Tab doesn't want to read an error
        found = []
    for one in found:
        print_candidate(one.value, one.help)


def find_completions(root: TyperGroup, words: Sequence[str], word: str) -> Iterator[Completion]:
    """Yield what could stand in place of a word.

    Args:
        root: all commands.
        words: the words before it, without the program's name.
        word: what is typed of it.

    """
    command, given = _find_command(root, words)
    word = "" if word == "=" else word  # bash makes a word of it
    prefix = ""
    if word.startswith("--") and "=" in word:
        option, _, word = word.partition("=")
        given, prefix = [*given, option], f"{option}="
    everywhere = [one for one in root.params if command is root or {*one.opts} & {*VALUE_OPTIONS, "--verbose"}]
    own = [] if command is root else command.params
    options = [one for one in (*own, *everywhere) if one.param_type_name == "option"]
    last = given[-1] if given else ""
    pending = next((one for one in options if last in one.opts and not getattr(one, "is_flag", False)), None)
    if pending is not None:
        yield from _values(pending, command, given[:-1], word, prefix)
    elif word.startswith("-"):
        for one in options:
            for name in (*one.opts, *one.secondary_opts):
                if name.startswith(word) and not getattr(one, "hidden", False):
                    yield Completion(name, _first_sentence(getattr(one, "help", None)))
    elif isinstance(command, TyperGroup):
        helps = SUMMARIES if command is root else {name: one.help for name, one in command.commands.items()}
        yield from (Completion(name, _first_sentence(text)) for name, text in helps.items() if name.startswith(word))
    else:
        context = command.make_context(command.name, [*given], resilient_parsing=True)
        for one in command.params:
            is_open = one.nargs == -1 or getattr(context.get_parameter_source(one.name), "name", "") != "COMMANDLINE"
            if one.param_type_name == "argument" and is_open:
                yield from _values(one, command, given, word, "")
                break


def _find_command(root: TyperGroup, words: Sequence[str]) -> tuple[Command, list[str]]:
    """Return the command that the words name, and the words behind its name without the options of every command."""
    command: Command = root
    given: list[str] = []
    left = iter(words)
    for word in left:
        if word in _NOT_THE_COMMANDS or word.startswith(tuple(f"{name}=" for name in VALUE_OPTIONS)):
            continue
        if word in VALUE_OPTIONS:
            value = next((each for each in left if each != "="), None)
            given += [word] if value is None else []
        elif isinstance(command, TyperGroup) and not word.startswith("-"):
            command, given = command.commands[word], []
        else:
            given.append(word)
    return command, given


def _first_sentence(text: str | None) -> str:
    return (text or "").partition("\n")[0].partition(". ")[0]


def _values(parameter: Any, command: Command, given: list[str], word: str, prefix: str) -> Iterator[Completion]:  # noqa: ANN401 - of a private class of Typer's
    if parameter.type_descriptor.is_path:
        yield Completion(FILES)
        return
    context = command.make_context(command.name, [*given], resilient_parsing=True)
    for one in parameter.shell_complete(context, word):
        yield Completion(f"{prefix}{one.value}", one.help or "")
