"""Who is to be erased, and what was: the values that the steps of an erasure pass on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from eventstore.erasure.erasure_key import ErasureKey
from eventstore.erasure.person_events import Person
from projections.errors import ProjectionsError


@dataclass(frozen=True, slots=True)
class EraseRequest:
    """Who is to be erased, and how.

    Attributes:
        numbers: the persons' numbers; None to choose persons by ``older_than``.
        older_than: erase every person whose last event is older than that.
        app: only in this app; None for every app.
        why: the reason.
        system_user: who runs the command on this machine.
        key: the erasure key; None without one.
        drop_as_of: drop as-of schemas that have rows of the persons, instead of refusing.

    """

    numbers: Sequence[str] | None = field(repr=False)
    why: str
    system_user: str
    app: str | None = None
    older_than: timedelta | None = None
    key: ErasureKey | None = field(default=None, repr=False)
    drop_as_of: bool = False


@dataclass(slots=True)
class ErasedPersons:
    """What was erased, or with a dry run would be.

    Attributes:
        persons: every person who was asked for, or chosen; one who got new events after that is there once more, with
            another token.
        erased_by: the database role and the system user.
        rows: of each person that had any: the rows that were changed, by table.
        active: how many of the chosen persons got new events meanwhile, so that they were left alone.
        position: the head of the log when the last of them was erased.
        others: rows that don't belong to one person: quarantined messages, and saved answers.
        not_erased: by index, why a person could not be erased; nothing of them was changed.
        need_rebuild: the projections that don't declare their personal columns.
        consumers: the named consumers, which may have read the events.
        came_back: numbers that have events besides those of a ledger, which stay.
        dropped_as_of: the as-of schemas that were dropped, or would be.
        archives: how many events were erased from files of archived events, by file; the files have new names.
        is_distributed: whether the log is.

    """

    persons: list[Person] = field(repr=False)
    erased_by: str = ""
    rows: dict[int, Counter[str]] = field(default_factory=dict)
    active: set[int] = field(default_factory=set)
    position: int = 0
    others: Counter[str] = field(default_factory=Counter)
    not_erased: dict[int, str] = field(default_factory=dict)
    need_rebuild: set[str] = field(default_factory=set)
    consumers: list[str] = field(default_factory=list)
    came_back: set[str] = field(default_factory=set, repr=False)
    dropped_as_of: list[str] = field(default_factory=list)
    archives: Counter[str] = field(default_factory=Counter)
    is_distributed: bool = False

    @property
    def tables(self) -> Counter[str]:
        """The rows by table, of all persons together."""
        return sum(self.rows.values(), Counter(self.others))

    @property
    def numbers(self) -> list[str]:
        """The different numbers of the persons who are erased now."""
        stay = self.active | self.not_erased.keys()
        return list(dict.fromkeys(person.ppnum for index, person in enumerate(self.persons) if index not in stay))

    @property
    def gone(self) -> list[str]:
        """The numbers that nothing should have any more."""
        return [number for number in self.numbers if number not in self.came_back]

    @property
    def asked(self) -> int:
        """How many persons were asked for, or chosen."""
        return len({person.ppnum for person in self.persons})

    @property
    def without_rows(self) -> list[int]:
        """The places of the numbers that have no row, among the different numbers that were given, from 1."""
        with_rows = {self.persons[index].ppnum for index in (*self.rows, *self.not_erased, *self.active)}
        different = dict.fromkeys(person.ppnum for person in self.persons)
        return [place for place, number in enumerate(different, 1) if number not in with_rows]

    @property
    def erased(self) -> int:
        """How many of them had rows."""
        return len({self.persons[index].ppnum for index in self.rows})


class AsOfInTheWay(ProjectionsError):
    """Schemas that as-ofs created have rows of the persons; nothing was erased."""

    def __init__(self, schemas: Sequence[str]) -> None:
        super().__init__(
            f"as-of schemas have rows of these persons: {', '.join(schemas)}; give --drop-as-of to drop them, or drop"
            " them yourself"
        )
