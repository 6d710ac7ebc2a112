"""The errors of the package ``projections``, its command line included.

::

    ProjectionsError
    ├── UnknownProjection         no projection has that name; also a UsageError
    ├── InvalidProjection         a projection breaks the rules; also a UsageError
    ├── SchemaNotCurrent          the database has another schema revision; also a UsageError
    ├── GrantRefused              a role can't be granted what was asked; also a UsageError
    ├── RoleMayNot                this role lacks the privileges that a command needs; also a UsageError
    ├── MigrationRefused          the database can't be migrated in its current state; also a UsageError
    ├── MigrationBlocked          another session held a lock that a migration needs for too long
    ├── SchemaBroken              the schema was changed in a way that can't be repaired
    ├── CannotFold                a rebuild found an event that can't be folded, or missing positions
    ├── RebuildLost               another rebuild of the same projection took over
    ├── RebuildRefused            a rebuild would change more than its limits allow
    └── HandleFailed              a fold written in Python raised an error
        └── HandleTooSlow         it took too long for one event

Both packages have one class for errors that the user can correct (a name, an option, a setting): ``UsageError``. The
command's exit code is then 2, else 1.
"""

from __future__ import annotations

import re
from typing import Final

from eventstore.errors import UnfinishedCommit, UsageError, describe, is_driver_error, unwrap_driver_error

__all__ = [
    "CannotFold",
    "GrantRefused",
    "HandleFailed",
    "HandleTooSlow",
    "InvalidProjection",
    "MigrationBlocked",
    "MigrationRefused",
    "ProjectionsError",
    "RebuildLost",
    "RebuildRefused",
    "RoleMayNot",
    "SchemaBroken",
    "SchemaNotCurrent",
    "UnknownProjection",
    "UsageError",
    "describe_user_code_error",
    "may_be_caused_by_an_event",
]

_NO_EVENTS_FAULT = ("40", "42", "53", "55", "57", "58")
"""SQLSTATE classes of errors that no event causes: deadlocks and other rollbacks, unknown names and missing privileges,
lack of resources, locks, cancelled statements, and system errors."""


class ProjectionsError(Exception):
    """Something in the projections went wrong."""


class UnknownProjection(ProjectionsError, UsageError):
    """No projection has that name; the message names those that exist."""


class SchemaNotCurrent(ProjectionsError, UsageError):
    """The database has another schema revision than this version needs; the message says what to do."""


class MigrationRefused(ProjectionsError, UsageError):
    """The database can't be migrated in its current state; the message says what to do."""


class GrantRefused(ProjectionsError, UsageError):
    """A role can't be granted what was asked, or not by this role; the message says what to do."""


class RoleMayNot(ProjectionsError, UsageError):
    """The role has none of the privileges that a command needs; the message says how it gets them."""


class InvalidProjection(ProjectionsError, UsageError):
    """A projection breaks a rule; the message says what to change."""


class MigrationBlocked(ProjectionsError):
    """Another session held a lock for too long; nothing was changed, and the message names one such session."""


class SchemaBroken(ProjectionsError):
    """The schema was changed in a way that can't be repaired; the message says how."""


class CannotFold(ProjectionsError):
    """A rebuild or verify found an event that can't be folded, or missing positions; the message says which."""


class RebuildLost(ProjectionsError):
    """Another rebuild of the same projection replaced this one's shadow; nothing was applied."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name}: another rebuild took over; nothing was applied")


class PersonErased(ProjectionsError):
    """A person was erased during a rebuild, verify or as-of, which may have folded the old events; it starts over."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name}: a person was erased meanwhile; nothing was applied; run it again")


class RebuildRefused(ProjectionsError):
    """A rebuild would exceed its limits; nothing was applied, and the message names the option that allows it."""


class HandleFailed(ProjectionsError):
    """A fold written in Python raised an error; the message says where, and repeats it without phone numbers."""


class HandleTooSlow(HandleFailed):
    """A fold written in Python took too long for one event."""


_UNDEFINED = frozenset({"42883", "42704", "42P01", "3F000"})
"""SQLSTATEs for a function, operator, type, table or schema that is not found."""

_HAS_SCHEMA: Final = re.compile(r"(relation|function|type) \"?\w+\"?\.\"?\w")
"""How an error begins whose name has its schema."""


def describe_user_code_error(error: BaseException) -> str:
    """Describe an error in a user's code, as :func:`describe` does; adds advice if a name was not found."""
    cause = unwrap_driver_error(error)
    if is_driver_error(cause) and cause.sqlstate in _UNDEFINED and not _HAS_SCHEMA.match(str(cause)):
        return f"{describe(error)}; names outside pg_catalog need their schema, such as public.name"
    return describe(error)


def may_be_caused_by_an_event(error: BaseException) -> bool:
    """Return whether an event may have caused an error of a fold, judging by the class of its SQLSTATE."""
    if isinstance(error, UnfinishedCommit):
        return False
    sqlstate = error.sqlstate if is_driver_error(error) else None
    return not (sqlstate or "").startswith(_NO_EVENTS_FAULT)
