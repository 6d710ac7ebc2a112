"""bash, zsh and fish complete commands, options and values: by the protocol, and in the shells that are here."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from eventstore.ingest import config
from projections.cli.lazy_commands import SUMMARIES
from projections.cli.shared import completed_values
from projections.cli.shared.completion_scripts import SHELLS
from tests.acceptance.command import COMMAND, Commands

APPS = '[apps.shop]\naddress = "https://a"\n[apps.clinic]\naddress = "https://a"\n'
BASH = """
source completion.bash
complete_line() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
    _projections_completion "$1"
    printf '%s\\n' "${COMPREPLY[@]}"
}
complete_line projections mig; echo @@
complete_line projections pause ''; echo @@
complete_line projections cursor show cl; echo @@
complete_line projections db stop --mode = s
"""
ZSH = """
autoload -Uz compinit; compinit -u
source completion.zsh
_describe() { print -l -- ${(P)2} }
complete_line() { words=("$@"); CURRENT=$#; _projections_completion }
complete_line projections mig; echo @@
complete_line projections pause ''; echo @@
complete_line projections cursor show cl; echo @@
complete_line projections db stop --mode s
"""
FISH = """
source completion.fish
complete -C 'projections mig'; echo @@
complete -C 'projections pause '; echo @@
complete -C 'projections cursor show cl'; echo @@
complete -C 'projections db stop --mode s'
"""
FOUND = [["migrate"], ["consent_registry", "poll_tallies", "request_status"], ["clinic"], ["smart"]]


async def candidates(commands: Commands, line: str, **variables: str) -> list[str]:
    """The candidates for the last word of a line, without their help."""
    *words, word = line.split(" ")
    result = await commands.run(_PROJECTIONS_COMPLETE="\n".join(words), _PROJECTIONS_COMPLETE_WORD=word, **variables)
    assert (result.code, result.err) == (0, ""), result.transcript
    return [candidate.partition("\t")[0] for candidate in result.out.splitlines()]


async def test_the_protocol_completes_commands_options_and_values(commands: Commands) -> None:
    (commands.folder / "projections.toml").write_text(APPS)
    # Nothing is asked of a database: this one can't be reached.
    nowhere = {"DATABASE_URL": "postgresql://localhost:1/none"}
    assert await candidates(commands, "", **nowhere) == list(SUMMARIES)
    expected: dict[str, list[str]] = {
        "ver": ["verify"],
        "cursor ": ["show", "reset"],
        "verify request_status ": ["consent_registry", "people", "poll_tallies"],
        "skip re": ["request_status"],
        "apps forget ": ["clinic", "shop"],
        "explain consent_r": ["consent_registry"],
        "explain consent_registry 1 --app s": ["shop"],
        "status --max": ["--max-behind"],
        "status --log-": ["--log-level", "--log-format"],
        "--log-format ": ["auto", "text", "json"],
        "status --log-level w": ["warning"],
        "--log-level debug cursor sh": ["show"],
        "db stop --mode=f": ["--mode=fast"],
        "run --config ": ["!files"],
        "import events ": ["!files"],
        "no-such-command ": [],
    }
    for line, values in expected.items():
        found = await candidates(commands, line, **nowhere)
        assert sorted(found) == sorted(values), line
    (commands.folder / "other.toml").write_text("[apps.kiosk]\n")
    assert await candidates(commands, "cursor show --config other.toml ") == ["kiosk"]
    (commands.folder / "projections.toml").write_text("not [ toml")
    assert await candidates(commands, "cursor show ") == []
    (commands.folder / "projections.toml").unlink()
    assert await candidates(commands, "cursor show ", PROJECTIONS_APP="kiosk") == ["kiosk"]
    assert {path.name for path in commands.folder.iterdir()} == {"other.toml"}, "completion writes nothing"
    assert completed_values.CONFIG_FILE == config.CONFIG_FILE


@pytest.mark.parametrize(("shell", "lines"), [("bash", BASH), ("zsh", ZSH), ("fish", FISH)])
async def test_a_shell_completes_with_the_script(commands: Commands, shell: str, lines: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (commands.folder / "projections.toml").write_text(APPS)
    script = await commands.run("--show-completion", shell)
    assert (script.code, script.err) == (0, ""), script.transcript
    (commands.folder / f"completion.{shell}").write_text(script.out)
    process = await asyncio.create_subprocess_exec(
        *(shell, "-c", lines),
        env={"PATH": f"{Path(COMMAND[0]).parent}:{os.environ['PATH']}", "HOME": str(commands.folder)},
        cwd=commands.folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    wanted = {value for values in FOUND for value in values}
    # A shell may print the meaning behind a value.
    words = [block.replace(":", " ").split() for block in out.decode().split("@@\n")]
    values = [[word for word in block if word in wanted] for block in words]
    assert values == FOUND, (out, err)


async def test_the_script_is_installed_once_for_each_shell(commands: Commands) -> None:
    home = commands.folder
    (home / ".bashrc").write_text("alias ll='ls -l'")
    for shell in SHELLS:
        for _ in range(2):
            result = await commands.run("--install-completion", shell)
            assert (result.code, result.out) == (0, ""), result.transcript
    scripts = [home / ".local/share/projections" / f"completion.{shell}" for shell in ("bash", "zsh")]
    assert (home / ".bashrc").read_text() == f"alias ll='ls -l'\nsource '{scripts[0]}'\n"
    assert (home / ".zshrc").read_text() == f"source '{scripts[1]}'\n"
    scripts.append(home / ".config/fish/completions/projections.fish")
    for shell, script in zip(SHELLS, scripts, strict=True):
        assert script.read_text() == (await commands.run("-v", f"--show-completion={shell}")).out
    by_login = await commands.run("--show-completion", SHELL="/usr/bin/fish")
    assert by_login.code == 0
    result = await commands.run("--show-completion", "tcsh")
    expected = "projections: 'tcsh' is not a shell that can complete; name one of them: "
    assert (result.code, result.stderr_line) == (2, f"{expected}projections --show-completion bash|zsh|fish")
