"""Finds where in a user's code an error was raised: the file's name and the line, and never a value."""

from __future__ import annotations

from pathlib import Path
from traceback import walk_tb

_NOT_THEIRS = ("eventstore", "projections", "importlib")


def find_code_place(error: BaseException, module: str) -> str | None:
    """Return the place of the last call in a user's package that led to an error, such as ``read_models.py:31``.

    Args:
        error: the error.
        module: a module of the user's package.

    Returns:
        The place; the first call outside of our packages if none is in the user's, and None if there is none either.

    """
    package = module.partition(".")[0]
    calls = [
        (str(frame.f_globals.get("__name__")).partition(".")[0], f"{Path(frame.f_code.co_filename).name}:{line}")
        for frame, line in walk_tb(error.__traceback__)
    ]
    theirs = [(of, place) for of, place in calls if of not in _NOT_THEIRS]
    in_package = [place for of, place in theirs if of == package]
    return in_package[-1] if in_package else next((place for _, place in theirs), None)
