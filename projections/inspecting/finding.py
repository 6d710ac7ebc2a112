"""A finding: one thing that is wrong, or good to know, and what mends it.

``projections status --check`` and ``projections doctor`` are built on the same findings, so they can't contradict each
other. What each code means is in :mod:`projections.inspecting.finding_codes`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from projections.inspecting.finding_codes import CODES, Severity

_REMEDY = re.compile(r"(?s)(?P<what>.+)[;:] (?:run|start) (?P<command>projections(?: [\w.-]+)+)")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or good to know.

    Attributes:
        code: what it is, for machines; one of :data:`~projections.inspecting.finding_codes.CODES`.
        sentence: what it is, for people, without the remedy.
        command: a command of ours that mends it, or SQL, which ends with a semicolon; None if neither does.
        advice: what to do besides, or instead; None if the command is enough.

    """

    code: str
    sentence: str
    command: str | None = None
    advice: str | None = None

    @property
    def severity(self) -> Severity:
        """Whether it is wrong, or only good to know."""
        return CODES[self.code].severity

    @property
    def remedy(self) -> str | None:
        """What to do, as an imperative; None if nothing needs to be done."""
        if self.command is None:
            return self.advice
        if self.advice is not None:
            return f"{self.advice}: {self.command}"
        return f"run in psql: {self.command}" if self.command.endswith(";") else f"run {self.command}"

    @property
    def line(self) -> str:
        """The whole finding, as one line for people."""
        return f"{self.severity} [{self.code}] {self.sentence}" + (f"; {self.remedy}" if self.remedy else "")


def split_remedy(sentence: str) -> tuple[str, str | None]:
    """Split a sentence that ends with a command of ours: ``…; run projections migrate``. The command may be None."""
    found = _REMEDY.fullmatch(sentence)
    return (found["what"], found["command"]) if found else (sentence, None)
