"""What ``projections erase`` is asked to do: the persons, and how, checked before anything is opened."""

from __future__ import annotations

import getpass
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from eventstore.erasure.erasure_key import load_erasure_key
from eventstore.erasure.number_finder import MIN_LETTERS
from eventstore.errors import MAX_MESSAGE_CHARS, UsageError
from projections.cli.shared.output import counted
from projections.erasing.erase_request import EraseRequest
from projections.erasing.number_list import read_numbers

_AGE = re.compile(r"(\d{1,5})d")


@dataclass(frozen=True, slots=True)
class GivenPersons:
    """Where the persons come from, as the command line says: one of the four."""

    numbers: Sequence[str] = field(repr=False)
    source: Path | None
    older_than: str | None
    ledger: Path | None


@dataclass(frozen=True, slots=True)
class EraseJob:
    """What to do.

    Attributes:
        request: who is erased, and how; with a ledger it names nobody.
        ledger: erase the persons of this ledger again; None to erase those of the request.
        dry_run: only count.

    """

    request: EraseRequest
    ledger: Path | None
    dry_run: bool

    @property
    def consequence(self) -> str:
        """What the user has to agree to."""
        request = self.request
        if self.ledger is not None:
            return f"the persons of {self.ledger} will be erased again, for good"
        where = "every app" if request.app is None else f"app {request.app!r}"
        if request.older_than is not None:
            age = counted(request.older_than.days, "day")
            return f"every person whose last event is older than {age} will be erased in {where}, for good"
        return f"{counted(len(request.numbers or ()), 'person', 'persons')} will be erased in {where}, for good"


def new_erase_job(
    given: GivenPersons, *, app: str | None, why: str | None, dry_run: bool, drop_as_of: bool, receipt: bool
) -> EraseJob:
    """Return what to do.

    Raises:
        UsageError: the options contradict each other, one is missing, or the numbers can't be read.

    """
    ways = [bool(given.numbers) or given.source is not None, given.older_than is not None, given.ledger is not None]
    if sum(ways) != 1:
        raise UsageError(
            "give the numbers of the persons, --from a file with them, or --older-than"
            if not any(ways)
            else "give numbers, --older-than or --again: one of them"
        )
    if given.ledger is not None and (app is not None or dry_run):
        raise UsageError("--again takes everything from the ledger: leave out --app and --dry-run")
    if not (why or "").strip() and not dry_run and given.ledger is None:
        raise UsageError("give the reason with --why; it is kept with the erasure")
    if dry_run and receipt:
        raise UsageError("a dry run erases nobody, so it has no receipt; its numbers are printed, with --json as JSON")
    if why is not None and len(why) > MAX_MESSAGE_CHARS:
        raise UsageError(f"--why takes at most {MAX_MESSAGE_CHARS:,} characters")
    by_number = given.older_than is None and given.ledger is None
    numbers = read_numbers(given.numbers, given.source) if by_number else None
    if numbers == []:
        raise UsageError(f"{given.source} has no number")
    if any(number in (why or "") for number in numbers or () if len(number) >= MIN_LETTERS):
        raise UsageError("--why has one of the numbers; it is kept for good, so write the reason without it")
    request = EraseRequest(
        numbers=numbers,
        why=why or (f"again, by {given.ledger.name}" if given.ledger is not None else ""),
        system_user=_system_user(),
        app=app,
        older_than=None if given.older_than is None else _age(given.older_than),
        key=load_erasure_key(),
        drop_as_of=drop_as_of,
    )
    return EraseJob(request, given.ledger, dry_run)


def _age(text: str) -> timedelta:
    match = _AGE.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise UsageError("--older-than takes a number of days, such as 730d")
    return timedelta(days=int(match[1]))


def _system_user() -> str:
    with suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return "unknown user"
