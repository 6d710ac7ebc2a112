"""The database and the projections that a command works with, made sure of before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eventstore.waits import Waits, load_waits
from projections.database import resolve_database_url
from projections.migrate import require_current_schema
from projections.projection import Projection
from projections.registry import installed
from projections.settings import ReplaySettings, load_replay_settings


@dataclass(frozen=True, slots=True)
class ReplayContext:
    """What every replay needs.

    ``left_out`` are, by name, those that are broken, and why; none when projections were named.
    """

    url: str
    projections: dict[str, Projection]
    left_out: dict[str, str]
    waits: Waits
    settings: ReplaySettings


def replay_context(names: Sequence[str]) -> ReplayContext:
    """Return it for the named projections, or for all that work when none is named.

    Raises:
        UsageError: a name is unknown, a setting is wrong, or the database isn't ready; the message says what to do.

    """
    waits, settings = load_waits(), load_replay_settings()
    registry = installed()
    projections = registry.chosen(names)
    left_out = {} if names else registry.broken
    url = resolve_database_url(start=True)
    require_current_schema(url, projections.values())
    return ReplayContext(url, projections, left_out, waits, settings)
