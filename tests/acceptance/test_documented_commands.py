"""Every ``projections`` and ``make`` command in README, CONTRIBUTING and docs/ is valid."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.main import get_command

from projections.cli.app import app, common_options_first
from projections.cli.shared.completion_scripts import SHELLS, completion_arguments

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text()
BLOCK = re.compile(r"^```(?:sh|bash|shell|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


def commands(text: str) -> Iterator[list[str]]:
    """The simple commands in the shell blocks of a page, without leading assignments and without redirections."""
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
            words.whitespace_split = True
            command: list[str] = []
            for word in [*words, ";"]:
                if set(word) <= set("();<>|&"):
                    yield command
                    # The target of a redirection is yielded too; it never has the name of one of our programs.
                    command = []
                elif command or not ASSIGNMENT.match(word):
                    command.append(word)


def calls_of(text: str, name: str) -> list[list[str]]:
    """The arguments of each call of this program."""
    return [words[1:] for words in commands(text) if words and words[0].rpartition("/")[2] == name]


def parse(arguments: list[str]) -> None:
    """Parse the arguments as the command does before it runs; raises what it raises."""
    name, command, rest = "projections", get_command(app), common_options_first(arguments)
    if option := completion_arguments(rest):
        assert len(option) == 1 or (len(option) == 2 and option[1] in SHELLS)
        return
    try:
        while True:
            context = command.make_context(name, list(rest))
            if not isinstance(command, TyperGroup):
                return
            found, chosen, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            assert chosen is not None
            name, command = found or "", chosen
    except typer.Exit:
        return  # --help


def check_make(arguments: list[str]) -> None:
    """Assert that the Makefile has these targets and variables."""
    for argument in arguments:
        if ASSIGNMENT.match(argument):
            assert re.search(rf"\$\({argument.partition('=')[0]}\)", MAKEFILE), (
                f"the Makefile has no variable {argument}"
            )
        elif not argument.startswith("-"):
            assert re.search(rf"^{re.escape(argument)}:", MAKEFILE, re.MULTILINE), (
                f"the Makefile has no target {argument}"
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_on_a_page_are_valid(page: Path) -> None:
    text = page.read_text()
    invalid = []
    for arguments in calls_of(text, "projections"):
        try:
            parse(arguments)
        except Exception as error:  # noqa: BLE001 - any error makes the line invalid
            invalid.append(f"projections {shlex.join(arguments)}: {getattr(error, 'message', error)}")
    assert invalid == []
    for arguments in calls_of(text, "make"):
        check_make(arguments)


def test_commands_are_found_on_the_pages() -> None:
    readme, all_pages = PAGES[0].read_text(), "\n".join(page.read_text() for page in PAGES)
    assert calls_of(readme, "make")
    assert ["ingest"] in calls_of(readme, "projections")
    assert any(arguments[:1] == ["simulate"] for arguments in calls_of(all_pages, "projections"))


@pytest.mark.parametrize(
    "line",
    [
        "projections follow",
        "projections ingest --quiet",
        "projections migrate now",
        "A=b projections ingest --until-idle x",
        "projections migrate && projections db drop   # no",
        "projections simulate --fault",
        "projections ingest \\\n  --until-idel 3",
    ],
)
def test_an_invalid_command_is_detected(line: str) -> None:
    def check() -> None:
        for arguments in calls_of(f"```sh\n{line}\n```\n", "projections"):
            parse(arguments)

    with pytest.raises(Exception) as caught:  # noqa: PT011 - Typer's class is private
        check()
    assert type(caught.value).__name__ in {"UsageError", "NoSuchOption", "BadParameter", "BadOptionUsage"}


def test_an_unknown_make_target_or_variable_is_detected() -> None:
    check_make(["test", "T=tests/unit", "-k"])
    for arguments in (["tests"], ["test", "TESTS=x"]):
        with pytest.raises(AssertionError, match="the Makefile has no"):
            check_make(arguments)
