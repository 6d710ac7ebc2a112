"""Installs the version before this one, from the checkout's history, in a virtualenv that shares our dependencies."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OLD_COMMIT = "a3f7d87"
"""The last commit of the version before."""
OLD_REVISION = "0012"
"""The schema that it needs."""
OURS = ("projections", "eventstore", "_editable_impl_projections", "__editable__")


def install_old_version(folder: Path) -> tuple[str, ...]:
    """Build the old version's wheel, and install it in a virtualenv below a folder; return the program that runs it.

    The virtualenv has links to our dependencies, so nothing is downloaded. Skips the test without the history.
    """
    known = subprocess.run(
        ["git", "cat-file", "-e", f"{OLD_COMMIT}^{{commit}}"], cwd=ROOT, capture_output=True, check=False
    )
    if known.returncode:
        pytest.skip(f"the history of this checkout doesn't have commit {OLD_COMMIT}: the old version can't be built")
    source, environment = folder / "source", folder / "environment"
    source.mkdir()
    archive = subprocess.run(["git", "archive", OLD_COMMIT], cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "-x"], cwd=source, input=archive.stdout, check=True)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=source,
        capture_output=True,
        check=True,
    )
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    asked = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    packages = Path(asked.stdout.strip())
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(OURS):
            (packages / entry.name).symlink_to(entry)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(packages)
    return (str(python), "-m", "projections")
