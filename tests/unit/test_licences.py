"""docs/licences.md lists every locked package with its licence, and the project declares its own."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_names_every_locked_package_and_its_licence() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "tools" / "licences.py", "--check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_the_licence_is_in_the_metadata_and_its_text_in_the_checkout() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = metadata(declared["name"])
    assert installed["License-Expression"] == "Apache-2.0"
    # The wheel has the licences of what is copied into the packages, too.
    copied = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("projections/**/LICENSE")}
    found = {path.relative_to(ROOT).as_posix() for each in declared["license-files"] for path in ROOT.glob(each)}
    assert found == {"LICENSE"} | copied
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n" in text
    assert "END OF TERMS AND CONDITIONS" in text
