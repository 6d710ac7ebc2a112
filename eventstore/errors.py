"""What can go wrong in the event store.

::

    EventStoreError
    ├── UsageError                the command line, a setting or a configuration file is wrong; exit code 2
    ├── EmbeddedError             the embedded PostgreSQL can't be started, or asked
    ├── DatabaseError             Postgres said no, or did not answer
    │   ├── DatabaseUnavailable   no session can be had now; it may be later
    │   ├── AppendLockBusy        another append held the lock for too long
    │   ├── LeadershipLost        another process follows the app now
    │   │   └── CommitsLost       the database lost what this process had committed
    │   ├── AlreadyAppended       an earlier attempt at the batch was committed
    │   ├── LockHeld              another process is at work on the same
    │   ├── LockLost              the connection that held a lock is gone
    │   └── ForeignEventId        an event_id is stored under another app
    ├── ArchiveError              a file of events can't be written, or is not whole
    ├── OtherLog                  a file of events is of another log than this one
    ├── Undecodable               bytes that can't be an event
    ├── CredentialsError          no token could be had
    │   ├── CredentialsRefused    the issuer refused, and will again
    │   └── IssuerUnavailable     the issuer did not answer, and may later
    └── UpstreamError             a stream ended otherwise than normally
        ├── UpstreamRefused       the upstream refuses, and will again
        ├── TokenRefused          the upstream refuses the token
        ├── NoSuchService         the upstream has no such method under that path
        └── UpstreamUnavailable   the upstream can't now, and may later
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, TypeGuard

from eventstore.redaction.redact import hide_secrets, redact

if TYPE_CHECKING:
    import psycopg

_QUOTED = re.compile(r'"[^"]*"')
# Translated messages have the quotation marks of their language (angle, curved or corner ones): all goes from the
# first mark to the last.
_MARKS = r"[\xab\xbb\u2018-\u201f\u2039\u203a\u300c-\u300f]"
_QUOTED_IN_OTHER_LANGUAGES = re.compile(rf"{_MARKS}.*{_MARKS}", re.DOTALL)
MAX_MESSAGE_CHARS = 1_000
_ADVICE = ("Is the server running", "This probably means the server", "before or while processing the request")
"""How libpq begins what it guesses, on lines of their own behind the reason."""


class EventStoreError(Exception):
    """Something in the event store went wrong."""


class UsageError(EventStoreError):
    """The command line, a setting or a configuration file is wrong; the message says what to change.

    The command ends with exit code 2.
    """


class EmbeddedError(EventStoreError):
    """The embedded PostgreSQL can't be started, or asked."""


class DatabaseError(EventStoreError):
    """Postgres said no, or did not answer."""


class DatabaseUnavailable(DatabaseError):
    """No session of the database can be had now; a later attempt may succeed. The message says why."""


class AppendLockBusy(DatabaseError):
    """Another append held the append lock for longer than we wait; nothing was written."""


class LeadershipLost(DatabaseError):
    """Another process follows this app now, or may, so this one may not move its cursor; nothing was written.

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
    """An earlier attempt at this batch was committed, though its answer was lost; nothing was written again."""

    def __init__(self, app: str) -> None:
        super().__init__(f"app {app!r}: the batch is stored already")


class LockHeld(DatabaseError):
    """Another process is at work on the same; nothing was done.

    Attributes:
        what: what it is at work on.
        holder: its session's application_name.

    """

    def __init__(self, what: str, holder: str) -> None:
        super().__init__(f"{what}: held by {holder}; try again later")
        self.what = what
        self.holder = holder


class LockLost(DatabaseError):
    """The connection that held a lock is gone, so the work under it was given up.

    Attributes:
        what: what the work was on.

    """

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: the connection that held its lock was lost; run the command again")
        self.what = what


class ForeignEventId(DatabaseError):
    """An event_id that arrived for one app is stored under another; nothing was written.

    Attributes:
        app: whose stream brought it.
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
    """A file of events can't be written or read, or is not whole; the message says which."""


class OtherLog(EventStoreError):
    """A file of events does not fit this log; what of it was stored is right, and the message says where it ends."""


class Undecodable(EventStoreError):
    """Bytes that can't be an event.

    Attributes:
        reason: why, in words that carry none of the values.
        event_id: the ULID that could be read off them all the same, or None.

    """

    def __init__(self, reason: str, event_id: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.event_id = event_id


class CredentialsError(EventStoreError):
    """No token could be had."""


class CredentialsRefused(CredentialsError):
    """The issuer refused the client, and will again.

    Attributes:
        by_issuer: whether the issuer itself said so; False for a bare HTTP status, which a proxy may have sent, and for
            a local file, which may be about to be written.

    """

    def __init__(self, message: str, *, by_issuer: bool = True) -> None:
        super().__init__(message)
        self.by_issuer = by_issuer


class IssuerUnavailable(CredentialsError):
    """The issuer did not answer, and may later."""


class UpstreamError(EventStoreError):
    """A stream ended otherwise than normally.

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
    """The upstream refuses this call, and will again."""


class TokenRefused(UpstreamError):
    """The upstream refuses the token."""


class NoSuchService(UpstreamError):
    """The upstream has no such method under that path."""


class UpstreamUnavailable(UpstreamError):
    """The upstream can't now, and may later."""


def is_connection_lost(error: psycopg.Error) -> bool:
    """Whether the connection is what failed, or the server ended it: whatever is asked next would fail as well."""
    if error.sqlstate is None:
        return isinstance(error, _loaded("psycopg", "OperationalError"))
    return error.sqlstate.startswith(("08", "57P0"))


def describe(error: BaseException) -> str:
    """Say an error in one line that carries no row values, secrets or phone numbers.

    Postgres puts values in DETAIL and CONTEXT, so of its errors only the SQLSTATE and the primary message are told; for
    data exceptions (class 22) that message quotes the value too, which is left out. SQLAlchemy adds the statement's
    parameters, so of its errors only the driver's. Text of others is redacted strictly; in sentences of ours the parts
    that came from outside are redacted already, and numbers are positions.
    """
    words = _words(error)
    return storable(hide_secrets(words) if isinstance(error, EventStoreError) else words)


def storable(text: str) -> str:
    """Return a text as Postgres can keep it: without U+0000 and lone surrogates, and of a length that people read."""
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
