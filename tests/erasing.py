"""Shared by tests of erasing: erases persons as the command does, and searches a database for their numbers."""

from __future__ import annotations

from pathlib import Path

from eventstore.appending.quarantine_limits import DEFAULT_LIMITS
from eventstore.erasure.erasure_key import ErasureKey
from projections.erasing.again import erase_again
from projections.erasing.erase import erase_persons
from projections.erasing.erase_request import ErasedPersons, EraseRequest
from projections.migrating.metadata import READ_MODELS
from projections.projection import Projection
from projections.rebuilding.replay_progress import Progress
from tests import rebuilding

KEY = ErasureKey(b"k" * 32)
OTHER_KEY = ErasureKey(b"o" * 32)
BUILT_IN: dict[str, Projection] = {one.name: one() for one in READ_MODELS}


async def erase(
    url: str,
    *numbers: str,
    app: str | None = None,
    key: ErasureKey | None = None,
    projections: dict[str, Projection] | None = None,
    dry_run: bool = False,
    drop_as_of: bool = False,
    progress: Progress | None = None,
) -> ErasedPersons:
    """Erase persons."""
    request = EraseRequest(numbers, why="asked", system_user="tester", app=app, key=key, drop_as_of=drop_as_of)
    context = rebuilding.replay_context(url, progress)
    return await erase_persons(context, projections or BUILT_IN, request, DEFAULT_LIMITS, dry_run=dry_run)


async def again(url: str, ledger: Path) -> ErasedPersons:
    """Erase the persons of a ledger again."""
    context = rebuilding.replay_context(url)
    return await erase_again(context, BUILT_IN, ledger, DEFAULT_LIMITS, system_user="tester", drop_as_of=False)
