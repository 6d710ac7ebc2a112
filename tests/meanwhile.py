"""Lets something happen between two steps of the code, such as an attempt and the look that follows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

import pytest


def let_happen(
    monkeypatch: pytest.MonkeyPatch,
    action: Callable[[], Awaitable[object]],
    module: ModuleType,
    name: str,
    *,
    after: bool = False,
) -> None:
    """Let something happen once, directly before or after a function that a module calls."""
    real, actions = getattr(module, name), [action]

    async def function(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as the real one
        if actions and not after:
            await actions.pop()()
        result = await real(*arguments, **options)
        if actions:
            await actions.pop()()
        return result

    monkeypatch.setattr(module, name, function)
