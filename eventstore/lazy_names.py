"""Lets a package offer public names without importing their modules until somebody asks for one.

Importing a package root then costs next to nothing: the database driver, gRPC and SQLAlchemy are loaded by the first
name that needs them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def load_on_demand(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package, which imports a name's module when the name is first used.

    Args:
        package: the package's ``__name__``.
        modules: the public names, by the module that defines them.

    """
    homes = {name: module for module, names in modules.items() for name in names}

    def load(name: str) -> Any:  # noqa: ANN401 - an attribute may be anything
        if name not in homes:
            # Python then looks for a submodule of that name.
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return load
