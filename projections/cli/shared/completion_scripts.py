"""Prints and installs the script that makes bash, zsh or fish complete the command."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from eventstore.errors import UsageError
from projections.cli.shared.completion import FILES, WORD_VARIABLE, WORDS_VARIABLE
from projections.cli.shared.output import print_data, print_message
from projections.stderr_style import VALUE_OPTIONS

SHOW, INSTALL = "--show-completion", "--install-completion"

_BASH = """\
_projections_completion() {
    local IFS=$$'\\n' line
    COMPREPLY=()
    while IFS= read -r line; do
        if [[ $$line == '$files' ]]; then
            compopt -o default
        else
            COMPREPLY+=("$$(printf '%q' "$${line%%$$'\\t'*}")")
        fi
    done < <($words="$${COMP_WORDS[*]:1:COMP_CWORD-1}" $word="$${COMP_WORDS[COMP_CWORD]}" "$$1" 2>/dev/null)
}
complete -F _projections_completion projections
"""
_ZSH = """\
#compdef projections
_projections_completion() {
    local line value
    local -a lines described
    lines=("$${(@f)$$(
        $words="$${(pj:\\n:)words[2,CURRENT-1]}" $word="$$words[CURRENT]" $$words[1] 2>/dev/null
    )}")
    for line in $$lines; do
        if [[ $$line == '$files' ]]; then
            _files
            return
        fi
        value="$${line%%$$'\\t'*}"
        described+=("$${value//:/\\\\:}$${$${line#$$value}/$$'\\t'/:}")
    done
    (( $$#described )) && _describe 'projections' described
}
if [[ $$funcstack[1] == _projections ]]; then
    _projections_completion  # zsh has loaded this file by the name in its first line
else
    (( $$+functions[compdef] )) || { autoload -Uz compinit && compinit }
    compdef _projections_completion projections
fi
"""
_FISH = """\
function __projections_completion
    set -l words (commandline -opc)
    set -l command $$words[1]
    set -e words[1]
    set -lx $words (string join \\n -- $$words | string collect)
    set -lx $word (commandline -ct)
    set -l lines ($$command 2>/dev/null)
    if test "$$lines[1]" = '$files'
        __fish_complete_path (commandline -ct)
    else if set -q lines[1]
        printf '%s\\n' $$lines
    end
end
complete -c projections -f -a '(__projections_completion)'
"""
_SCRIPTS: Mapping[str, str] = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
SHELLS = tuple(_SCRIPTS)


def completion_script(shell: str) -> str:
    """Return the script for one of :data:`SHELLS`."""
    return Template(_SCRIPTS[shell]).substitute(words=WORDS_VARIABLE, word=WORD_VARIABLE, files=FILES)


def completion_arguments(arguments: Sequence[str]) -> Sequence[str]:
    """Return the command line from one of the two options on; nothing if a command comes first, or none of them."""
    left = arguments
    while left and left[0].startswith("-"):
        if left[0].partition("=")[0] in (SHOW, INSTALL):
            return left
        left = left[2 if left[0] in VALUE_OPTIONS else 1 :]
    return ()


def run_completion_option(arguments: Sequence[str]) -> None:
    """Print the script, or install it, for the named shell or else for the one that runs this process.

    Raises:
        UsageError: the shell isn't known.
        OSError: a file can't be written.

    """
    option, _, shell = arguments[0].partition("=")
    shell = shell or (arguments[1] if len(arguments) > 1 else "") or _running_shell() or ""
    if shell not in SHELLS:
        what = f"{shell!r} is not a shell that can complete" if shell else "can't tell which shell this is"
        raise UsageError(f"{what}; name one of them: projections {option} {'|'.join(SHELLS)}")
    if option == SHOW:
        for line in completion_script(shell).splitlines():
            print_data(line)
    else:
        _install(shell)


def _install(shell: str) -> None:
    home = Path.home()
    if shell == "fish":
        script = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "fish/completions/projections.fish"
    else:
        script = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share") / f"projections/completion.{shell}"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(completion_script(shell))
    print_message(f"wrote {script}")
    if shell != "fish":  # which loads the file by its name
        startup = home / f".{shell}rc"
        line = f"source '{script}'"
        before = startup.read_text() if startup.exists() else ""
        if line not in before.splitlines():
            separator = "" if before.endswith("\n") or not before else "\n"
            with startup.open("a") as file:
                file.write(f"{separator}{line}\n")
            print_message(f"added a line to {startup} that loads it")
    print_message(f"new sessions of {shell} complete projections")


def _running_shell() -> str | None:
    """Return the shell among the parents of this process (on Linux), or else the user's login shell."""
    pid = os.getppid()
    try:
        while pid > 1:
            status = Path(f"/proc/{pid}/stat").read_text()
            name = status[status.index("(") + 1 : status.rindex(")")]
            if name in SHELLS:
                return name
            pid = int(status[status.rindex(")") + 2 :].split()[1])
    except (OSError, ValueError):
        pass
    login = Path(os.environ.get("SHELL", "")).name
    return login if login in SHELLS else None
