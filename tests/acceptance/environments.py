"""Makes virtualenvs that share our dependencies, and installs wheels in them: this version's, and the one before.

Nothing is downloaded: the virtualenvs have links to the packages of the current one.
"""

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


def make_environment(folder: Path) -> Path:
    """Make a virtualenv with everything that the current one has, but without our packages; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    packages = site_packages(python)
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(OURS):
            (packages / entry.name).symlink_to(entry)
    return python


def make_environment_with_pip(folder: Path) -> None:
    """Make such a virtualenv with a pip that installs a wheel and nothing else."""
    python = make_environment(folder)
    uv = Path(sysconfig.get_path("scripts")) / "uv"
    options = f"--no-cache --no-deps --no-index --python {python}"
    pip = folder / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec {uv} --quiet --no-config --offline pip "$@" {options}\n')
    pip.chmod(0o755)


def site_packages(python: Path) -> Path:
    """Return where a virtualenv has its packages."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip())


def build_wheel(source: Path, folder: Path) -> Path:
    """Build the wheel of a checkout in a folder; return its path."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=source, capture_output=True, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install_old_version(folder: Path) -> tuple[str, ...]:
    """Build the old version from the checkout's history and install it below a folder; return the program that runs it.

    Skips the test if the history is missing.
    """
    known = subprocess.run(
        ["git", "cat-file", "-e", f"{OLD_COMMIT}^{{commit}}"], cwd=ROOT, capture_output=True, check=False
    )
    if known.returncode:
        pytest.skip(f"the history of this checkout doesn't have commit {OLD_COMMIT}: the old version can't be built")
    source = folder / "source"
    source.mkdir()
    archive = subprocess.run(["git", "archive", OLD_COMMIT], cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "-x"], cwd=source, input=archive.stdout, check=True)
    python = make_environment(folder / "environment")
    with zipfile.ZipFile(build_wheel(source, folder)) as files:
        files.extractall(site_packages(python))
    return (str(python), "-m", "projections")


if __name__ == "__main__":
    make_environment_with_pip(Path(sys.argv[1]))
