"""The errors of the event store, and how an error is described in one safe line.

::

    EventStoreError
    ├── UsageError                the command line, a setting or a configuration file is wrong; exit code 2
    │   └── PoolerUnusable        a pooler in front of the database doesn't give each client a session of its own
    ├── EmbeddedError             the embedded PostgreSQL can't be started or queried
    ├── DatabaseError             Postgres refused something, or did not answer
    │   ├── DatabaseUnavailable   no connection is possible now; a later attempt may succeed
    │   ├── AppendLockBusy        another append held the lock for too long
    │   ├── LeadershipLost        another process follows the app now
    │   │   └── CommitsLost       the database lost events that this process had committed
    │   ├── AlreadyAppended       an earlier attempt to append the batch was committed
    │   ├── LockHeld              another process holds the lock that is needed
    │   ├── LockLost              the connection that held a lock was lost
    │   ├── MissingPositions      the log has no event at some of its positions
    │   ├── UnfinishedCommit      a server hasn't committed yet what was committed on the coordinator
    │   ├── EventsArchived        events that are needed were taken out of the log, into files
    │   ├── CheckpointNotInLog    a consumer's checkpoint names an event that the log doesn't have there
    │   ├── NotAcknowledged       a batch of a consumer can't be acknowledged any more; it is handed out again
    │   └── ForeignEventId        an event_id is stored under another app
    ├── ArchiveError              a file of events can't be read or written, or is damaged
    ├── OtherLog                  a file of events was exported from a different log
    ├── Undecodable               bytes that can't be an event
    ├── CredentialsError          no token could be obtained
    │   ├── CredentialsRefused    the issuer refused; a retry would be refused too
    │   └── IssuerUnavailable     the issuer did not answer; a retry may succeed
    └── UpstreamError             a stream ended with an error
        ├── UpstreamRefused       the upstream refuses; a retry would be refused too
        ├── TokenRefused          the upstream refuses the token
        ├── NoSuchService         the upstream has no such method under that path
        └── UpstreamUnavailable   the upstream is unavailable; a retry may succeed
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, TypeGuard

from eventstore.redaction.redact import hide_secrets, redact

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

_QUOTED = re.compile(r'"[^"]*"')
# Translated messages have the quotation marks of their language (angle, curved or corner ones). Everything from the
# first mark to the last is removed.
_MARKS = r"[\xab\xbb\u2018-\u201f\u2039\u203a\u300c-\u300f]"
_QUOTED_IN_OTHER_LANGUAGES = re.compile(rf"{_MARKS}.*{_MARKS}", re.DOTALL)
MAX_MESSAGE_CHARS = 1_000
_ADVICE = ("Is the server running", "This probably means the server", "before or while processing the request")
"""How the lines begin in which libpq guesses at a cause; they follow the reason."""
_NAMED_RANGES = 3
"""Ranges of positions that a message names; of the others it says how many there are."""


class EventStoreError(Exception):
    """Something in the event store went wrong."""


class UsageError(EventStoreError):
    """The command line, a setting or a configuration file is wrong; the message says what to change.

    The command ends with exit code 2.
    """


class PoolerUnusable(UsageError):
    """A pooler in front of the database doesn't give each client a session of its own; the message says what to set."""


class EmbeddedError(EventStoreError):
    """The embedded PostgreSQL can't be started or queried."""


class DatabaseError(EventStoreError):
    """Postgres refused something, or did not answer."""


class DatabaseUnavailable(DatabaseError):
    """No connection to the database is possible now; a later attempt may succeed. The message says why."""


class AppendLockBusy(DatabaseError):
    """Other appends held the append lock for the whole wait; nothing was written."""


class LeadershipLost(DatabaseError):
    """Another process follows this app now, or may, so this one must not move its cursor; nothing was written.

    Attributes:
        app: whose stream it is.

    """

    def __init__(self, app: str, why: str = "another process follows it now; this one stands by") -> None:
        super().__init__(f"app {app!r}: {why}")
        self.app = app


class CommitsLost(LeadershipLost):
    """The database lost transactions that this follower had committed, as after a failover or a restore.

    Nothing was written. The stream must be read again from the cursor that the database has now.
    """

    def __init__(self, app: str) -> None:
        super().__init__(
            app,
            "the database lost events that were committed (a failover or a restore); reading the stream again from the"
            " stored cursor",
        )


class AlreadyAppended(DatabaseError):
    """An earlier attempt to append this batch was committed, but its answer was lost; nothing was written twice."""

    def __init__(self, app: str) -> None:
        super().__init__(f"app {app!r}: the batch is stored already")


class LockHeld(DatabaseError):
    """Another process holds the lock that is needed; nothing was done.

    Attributes:
        what: what the lock is for.
        holder: the application_name of the session that holds it.

    """

    def __init__(self, what: str, holder: str, advice: str = "try again later") -> None:
        super().__init__(f"{what}: held by {holder}; {advice}")
        self.what = what
        self.holder = holder


class LockLost(DatabaseError):
    """The connection that held a lock was lost, so the work under the lock was stopped.

    Attributes:
        what: what the lock is for.

    """

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: the connection that held its lock was lost; run the command again")
        self.what = what


class MissingPositions(DatabaseError):
    """The log has no event at some of its positions, so nothing after them is handed out.

    Attributes:
        first: the first of the missing positions.
        last: the last of them.

    """

    def __init__(self, first: int, last: int) -> None:
        super().__init__(
            f"positions {first}..{last} are missing in the log; import an export of this log: projections import"
            " events FILE"
        )
        self.first = first
        self.last = last


class UnfinishedCommit(DatabaseError):
    """The log is distributed, and a server hasn't committed yet what was committed on the coordinator, or is down."""


class EventsArchived(DatabaseError):
    """Events that are needed were taken out of the log, into files; nothing was done with them or with later ones.

    Attributes:
        first: the first position that is needed.
        last: the last of the archived positions that are needed.
        ranges: the first and the last position of each range that is needed, in order; positions between two ranges
            are not needed.

    """

    def __init__(self, first: int, last: int, remedy: str, *, ranges: Sequence[tuple[int, int]] = ()) -> None:
        self.ranges = tuple(ranges) or ((first, last),)
        super().__init__(f"{_name_ranges(self.ranges)} archived, no longer in the log: {remedy}")
        self.first = first
        self.last = last


def _name_ranges(ranges: Sequence[tuple[int, int]]) -> str:
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return f"position {ranges[0][0]:,} is"
    names = [f"{first:,} to {last:,}" if first < last else f"{first:,}" for first, last in ranges[:_NAMED_RANGES]]
    if more := len(ranges) - len(names):
        names.append(f"{more:,} more range{'s' if more > 1 else ''}")
    *others, name = names
    return f"positions {', '.join(others)} and {name} are" if others else f"positions {name} are"


class CheckpointNotInLog(DatabaseError):
    """A consumer's checkpoint names an event that the log doesn't have at that position; nothing is handed out.

    The log was replaced, or lost events, without the checkpoint.

    Attributes:
        consumer: the consumer's name.
        position: its checkpoint.

    """

    def __init__(self, consumer: str, position: int, event_id: str | None, head: int) -> None:
        what = f"event {event_id} at position {position}" if event_id else f"position {position}"
        super().__init__(
            f"consumer {consumer}: its checkpoint ({what}) is not in the log, which ends at position {head}: the log"
            " was replaced or lost events; decide where it goes on:"
            f" projections consumers reset {consumer} --to POSITION"
        )
        self.consumer = consumer
        self.position = position


class NotAcknowledged(DatabaseError):
    """A batch can't be acknowledged any more; the events after the checkpoint are handed out again.

    Another process took the consumer over, somebody reset it, or the database lost events.

    Attributes:
        consumer: the consumer's name.

    """

    def __init__(self, consumer: str) -> None:
        super().__init__(
            f"consumer {consumer}: the batch can't be acknowledged any more, because another process took the consumer"
            " over, somebody reset it, or the database lost events; its events are handed out again"
        )
        self.consumer = consumer


class ForeignEventId(DatabaseError):
    """An event_id that was received for one app is stored under another; nothing was written.

    Attributes:
        app: the app for which it was received.
        other: the app under which it is stored.
        event_id: the id.

    """

    def __init__(self, app: str, other: str, event_id: str) -> None:
        super().__init__(
            f"app {app!r}: event {event_id} is already stored under app {other!r}; "
            f"two apps follow the same stream; give each app its own credentials, or follow the stream only once"
        )
        self.app = app
        self.other = other
        self.event_id = event_id


class ArchiveError(EventStoreError):
    """A file of events can't be read or written, or is damaged; the message says which."""


class OtherLog(EventStoreError):
    """A file was exported from a different log, or doesn't continue this one; the message says where they differ."""


class Undecodable(EventStoreError):
    """Bytes that can't be an event.

    Attributes:
        reason: why, in words that carry none of the values.
        event_id: the ULID, if it could be decoded nevertheless; else None.

    """

    def __init__(self, reason: str, event_id: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.event_id = event_id


class CredentialsError(EventStoreError):
    """No token could be obtained."""


class CredentialsRefused(CredentialsError):
    """The issuer refused the client; a retry would be refused too.

    Attributes:
        by_issuer: whether the issuer itself said so; False for a bare HTTP status, which a proxy may have sent, and for
            a local file, which may be about to be written.

    """

    def __init__(self, message: str, *, by_issuer: bool = True) -> None:
        super().__init__(message)
        self.by_issuer = by_issuer


class IssuerUnavailable(CredentialsError):
    """The issuer did not answer; a retry may succeed."""


class UpstreamError(EventStoreError):
    """A stream ended with an error.

    Attributes:
        status: the name of the gRPC status, or None when there was none.
        retry_after: seconds that the upstream wants us to wait, or None.
        by_platform: whether the platform itself said so; False for an HTTP status without a gRPC status, which a proxy
            may have sent.

    """

    def __init__(
        self,
        message: str,
        *,
        status: str | None = None,
        retry_after: float | None = None,
        by_platform: bool = True,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.by_platform = by_platform


class UpstreamRefused(UpstreamError):
    """The upstream refuses this call; a retry would be refused too."""


class TokenRefused(UpstreamError):
    """The upstream refuses the token."""


class NoSuchService(UpstreamError):
    """The upstream has no such method under that path."""


class UpstreamUnavailable(UpstreamError):
    """The upstream is unavailable; a retry may succeed."""


def is_connection_lost(error: psycopg.Error) -> bool:
    """Return whether the connection failed, or the server ended it: the next statement would fail too."""
    if error.sqlstate is None:
        return isinstance(error, _loaded("psycopg", "OperationalError"))
    return error.sqlstate.startswith(("08", "57P0"))


def describe(error: BaseException) -> str:
    """Describe an error in one line without row values, secrets or phone numbers.

    Postgres puts values into DETAIL and CONTEXT, so only its SQLSTATE and primary message are used; for data exceptions
    (class 22) the primary message quotes the value too, and the quoted part is removed. SQLAlchemy adds the parameters
    of the statement, so only the driver's error inside is used. Text from others is redacted strictly. In our own
    sentences the parts from outside are redacted already, and numbers are positions.
    """
    words = _words(error)
    return storable(hide_secrets(words) if isinstance(error, EventStoreError) else words)


def storable(text: str) -> str:
    """Return a text that Postgres can store: without U+0000 and lone surrogates, and not longer than people read."""
    clean = text.replace("\0", "\ufffd").encode(errors="replace").decode()
    return clean if len(clean) <= MAX_MESSAGE_CHARS else f"{clean[: MAX_MESSAGE_CHARS - 1]}…"


def unwrap_driver_error(error: BaseException) -> BaseException:
    """Return the driver's error that SQLAlchemy wrapped, or the error itself."""
    while isinstance(error, _loaded("sqlalchemy.exc", "DBAPIError")):
        wrapped = getattr(error, "orig", None)
        if not isinstance(wrapped, BaseException):
            break
        error = wrapped
    return error


def is_driver_error(error: BaseException) -> TypeGuard[psycopg.Error]:
    """Tell whether the database driver raised the error."""
    return isinstance(error, _loaded("psycopg", "Error"))


def _loaded(module: str, name: str) -> type[BaseException] | tuple[()]:
    """Return a class of a driver's module, or nothing while nobody has imported it: then no error can be of it.

    The drivers take most of the start-up time of a command, so this module doesn't import them.
    """
    found: type[BaseException] | tuple[()] = getattr(sys.modules.get(module), name, ())
    return found


def _words(error: BaseException) -> str:
    error = unwrap_driver_error(error)
    if is_driver_error(error):
        if error.sqlstate:
            message = error.diag.message_primary or type(error).__name__
            if error.sqlstate.startswith("22"):
                message = _QUOTED_IN_OTHER_LANGUAGES.sub('"…"', _QUOTED.sub('"…"', message))
            return f"{redact(message)} (SQLSTATE {error.sqlstate})"
        lines = [line for line in str(error).splitlines() if not line.lstrip().startswith(_ADVICE)]
        return redact(" ".join(" ".join(lines).split())) or type(error).__name__
    if isinstance(error, EventStoreError):
        return str(error)
    text = redact(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
