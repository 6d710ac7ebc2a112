"""``projections docs`` on a terminal: a page is laid out, and shown in a pager if it has more lines than fit."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.command import COMMAND

HEADING = "One app, from the environment"
ESCAPE = "\x1b["


def on_a_terminal(folder: Path, *arguments: str, lines: int) -> str:
    """Run a command on a terminal of so many lines; return what it shows. Its pager keeps its input in ``paged``."""
    pager = folder / "pager"
    pager.write_text(f"#!/bin/sh\ncat > {folder}/paged\necho the pager was here\n")
    pager.chmod(0o755)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PAGER": str(pager),
        "TERM": "xterm-256color",
        "LINES": str(lines),
        "COLUMNS": "100",
        "LANG": "C.UTF-8",
    }
    code = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    with (folder / "screen").open("w+b") as screen:
        process = subprocess.run(
            [sys.executable, "-c", code, *COMMAND, *arguments], env=environment, cwd=folder, stdout=screen, check=False
        )
        screen.seek(0)
        shown = screen.read().decode()
    assert process.returncode == 0, shown
    return shown


@pytest.mark.parametrize(("lines", "is_paged"), [(40, True), (5_000, False)])
async def test_a_long_page_is_shown_in_the_pager(tmp_path: Path, lines: int, is_paged: bool) -> None:
    shown = await asyncio.to_thread(on_a_terminal, tmp_path, "docs", "configuration", lines=lines)
    paged = tmp_path / "paged"
    assert paged.exists() == is_paged == ("the pager was here" in shown)
    text = paged.read_text() if is_paged else shown
    assert HEADING in text
    assert f"## {HEADING}" not in text, "it is laid out"
    assert ESCAPE in text, "it has colours"


async def test_a_file_is_printed_as_it_is_on_a_terminal_too(tmp_path: Path) -> None:
    shown = await asyncio.to_thread(on_a_terminal, tmp_path, "docs", "deploy/projections.service", lines=5)
    assert "Type=notify\r\n" in shown
    assert ESCAPE not in shown
    assert not (tmp_path / "paged").exists()
