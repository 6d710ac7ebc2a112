"""Describes other sessions and transactions in findings: who they are, what they do, since when, what ends them."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from psycopg import sql

from projections.inspecting.health import format_utc

TERMINATE = "SELECT pg_terminate_backend({});"

SESSION = sql.SQL(
    "{of}.pid, {of}.application_name, {of}.usename, host({of}.client_addr), {of}.state, {of}.xact_start,"
    " extract(epoch FROM clock_timestamp() - {of}.xact_start)::double precision"
)
"""The columns of a :class:`OtherSession`, of the row ``of`` of ``pg_stat_activity``."""


_OF_CITUS = "citus_"
"""What the names of the transactions begin with that Citus prepares."""
FINISH_COMMITS = "SELECT recover_prepared_transactions();"
"""Lets Citus commit what it prepared, or roll it back, as the coordinator did; only a superuser may."""
AS_SUPERUSER = "as a superuser, in psql on the coordinator"


def command_to_end_prepared(gid: str) -> tuple[str, str | None]:
    """Return the statement that ends a prepared transaction, and what else to know; only Citus ends its own."""
    if gid.startswith(_OF_CITUS):
        return FINISH_COMMITS, AS_SUPERUSER
    return sql.SQL("ROLLBACK PREPARED {};").format(sql.Literal(gid)).as_string(), None


class OtherSession(NamedTuple):
    """A session of ``pg_stat_activity``; what this role may not see is None.

    ``since`` is when its transaction began, ``seconds`` how long ago that was.
    """

    pid: int
    name: str | None
    role: str | None
    client: str | None
    state: str | None
    since: datetime | None
    seconds: float | None

    @property
    def is_ours(self) -> bool:
        """Whether it is a session of one of our commands."""
        return (self.name or "").startswith("projections ")

    @property
    def terminate(self) -> str:
        """The statement that ends it."""
        return TERMINATE.format(self.pid)

    @property
    def command_to_end(self) -> str | None:
        """The statement that ends it; None for one of ours, which is at work: see :attr:`advice`."""
        return None if self.is_ours else self.terminate

    @property
    def advice(self) -> str | None:
        """What to do about one of ours that is in the way: it ends by itself; None for others."""
        return "wait until that command of ours is done, or stop its process" if self.is_ours else None

    def __str__(self) -> str:
        known = (
            self.name or "no name",
            f"role {self.role}" if self.role else None,
            f"client {self.client}" if self.client else None,
            self.state,
        )
        since = f", in a transaction since {format_utc(self.since)}" if self.since else ""
        return f"backend {self.pid} ({', '.join(part for part in known if part)}{since})"
