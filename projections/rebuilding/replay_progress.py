"""How a replay reports its progress: to whoever started it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of a replay."""

    def phase(self, name: str, *, position: int = 0, target: int | None = None) -> None:
        """Note that a phase begins; if it has a target, :meth:`at` reports positions up to it."""

    def at(self, position: int) -> None:
        """Note that every event up to this position is folded."""

    def note(self, line: str) -> None:
        """Show this line to the user now."""


class NoProgress:
    """Ignores all progress."""

    def phase(self, name: str, *, position: int = 0, target: int | None = None) -> None:
        """Do nothing."""

    def at(self, position: int) -> None:
        """Do nothing."""

    def note(self, line: str) -> None:
        """Do nothing."""
