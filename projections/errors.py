"""What can go wrong in the projections and their command.

::

    ProjectionsError
    ├── UnknownProjection         no projection has that name; also a UsageError
    ├── InvalidProjection         a projection breaks the rules; also a UsageError
    ├── MigrationRefused          this database can't be migrated as it is; also a UsageError
    ├── MigrationBlocked          others held a lock that a migration needs for too long
    ├── SchemaBroken              something that the schema promises is undone, and can't be restored
    ├── CannotFold                a replay met an event that can't be folded, or a gap
    ├── RebuildLost               another rebuild of the same projection began anew
    ├── RebuildRefused            a rebuild would change more than it may
    └── HandleFailed              a fold written in Python raised an error
        └── HandleTooSlow         it took longer for one event than it may

What the user has to change (a name, an option, a setting) is one class for both packages: ``UsageError``, exit code 2.
"""

from __future__ import annotations

from eventstore.errors import UsageError, describe, is_driver_error, unwrap_driver_error

__all__ = [
    "CannotFold",
    "HandleFailed",
    "HandleTooSlow",
    "InvalidProjection",
    "MigrationBlocked",
    "MigrationRefused",
    "ProjectionsError",
    "RebuildLost",
    "RebuildRefused",
    "SchemaBroken",
    "UnknownProjection",
    "UsageError",
    "describe_user_code_error",
    "may_be_caused_by_an_event",
]

_NOT_THE_EVENTS = ("40", "42", "53", "55", "57", "58")


class ProjectionsError(Exception):
    """Something in the projections went wrong."""


class UnknownProjection(ProjectionsError, UsageError):
    """No projection has that name; the message names those that exist."""


class MigrationRefused(ProjectionsError, UsageError):
    """The database can't be migrated as it is; the message says what to do."""


class InvalidProjection(ProjectionsError, UsageError):
    """A projection breaks the rules; the message says which, and how."""


class MigrationBlocked(ProjectionsError):
    """Others held a lock that a migration needs for too long; the message names one of them. Nothing was changed."""


class SchemaBroken(ProjectionsError):
    """Something that the schema promises is undone, and can't be restored; the message says what."""


class CannotFold(ProjectionsError):
    """A replay met an event that can't be folded, or a missing position; the message says which, and what to do."""


class RebuildLost(ProjectionsError):
    """Another rebuild of the same projection began anew, so this one's shadow is gone; nothing was applied."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name}: another rebuild took over; nothing was applied")


class RebuildRefused(ProjectionsError):
    """A rebuild would change more than it may; nothing was applied, and the message says what would let it."""


class HandleFailed(ProjectionsError):
    """A fold written in Python raised an error; the message repeats it, without the event's phone number."""


class HandleTooSlow(HandleFailed):
    """A fold written in Python took longer for one event than it may."""


_UNDEFINED = frozenset({"42883", "42704", "42P01", "3F000"})
"""SQLSTATEs of functions, operators, types, tables and schemas that aren't found."""


def describe_user_code_error(error: BaseException) -> str:
    """Say an error of code that others wrote, as :func:`describe` does, and what to do if a name wasn't found."""
    cause = unwrap_driver_error(error)
    if is_driver_error(cause) and cause.sqlstate in _UNDEFINED:
        return f"{describe(error)}; names outside pg_catalog need their schema, as public.name"
    return describe(error)


def may_be_caused_by_an_event(error: BaseException) -> bool:
    """Tell whether an event may be to blame for an error of a fold.

    None is for what tells of the database, of the statement or of whoever runs them, by its class of SQLSTATE:
    deadlocks, what a statement names or may do, resources, locks, an operator, the system.
    """
    sqlstate = error.sqlstate if is_driver_error(error) else None
    return not (sqlstate or "").startswith(_NOT_THE_EVENTS)
