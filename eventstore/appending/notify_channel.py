"""The NOTIFY channel: how an append wakes the workers.

NOTIFY is sent by :mod:`eventstore.appending.append`, :mod:`eventstore.appending.retrying` and
:mod:`eventstore.appending.restore`, in the transaction that stores new events. It is heard in one place,
:mod:`projections.running.wakeup`, which wakes the workers of its process. It carries no payload and is only a hint:
workers also poll.
"""

from __future__ import annotations

from psycopg import sql

CHANNEL = "eventstore"
NOTIFY = sql.SQL("NOTIFY {}").format(sql.Identifier(CHANNEL))
LISTEN = sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL))
