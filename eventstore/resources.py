"""Finds folders that have one name in an installed wheel and another in a checkout."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def resource_folder(package: str, installed: str, source: str) -> Path:
    """Return a folder of this project, in an installed wheel or in a checkout.

    Args:
        package: the package that contains it in the wheel.
        installed: its name there.
        source: its name beside the package in a checkout.

    Raises:
        FileNotFoundError: the installation is broken.

    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"package {package} is not installed")
    home = Path(spec.origin).parent
    for folder in (home / installed, home.parent / source):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"{package} is installed without its {source} folder: install it again")


def migrations_folder() -> Path:
    """Return the folder of the Alembic migrations."""
    return resource_folder("projections", "_migrations", "migrations")
