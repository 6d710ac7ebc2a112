"""``projections migrate``: brings the database's schema to what this version needs."""

from __future__ import annotations

from typing import Annotated, TypedDict

import typer

from eventstore.errors import UsageError
from eventstore.waits import load_waits
from projections.cli.shared.common_options import JsonOption, YesOption
from projections.cli.shared.confirm import confirm
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.open_database import available_database
from projections.cli.shared.output import print_json, print_message
from projections.cli.shared.typer_app import new_app
from projections.migrating.distribute import Distributed, distribute
from projections.migrating.go_back import go_back
from projections.migrating.lock_patience import LockPatience
from projections.migrating.migrate import upgrade
from projections.migrating.partition_log import LEAST_EVENTS, MOST_EVENTS, partition_log, read_partitioning
from projections.migrating.sqlalchemy_connection import one_session
from projections.terminal_text import visible

app = new_app()

_CONSEQUENCES = (
    "Tables and columns of later revisions are dropped with their contents; events and their payloads stay.",
    "Stop every process of this version first. Then start the earlier version, and run its projections rebuild --all.",
)


class DistributedLog(TypedDict):
    """What --distribute did.

    Attributes:
        workers: how many servers hold the events and rows now.
        events: how many events were copied; null if the log was distributed before.
        tables: the read models that were distributed, and the column by which.
        locked_seconds: for how long the log and the read models were locked.

    """

    workers: int
    events: int | None
    tables: dict[str, str]
    locked_seconds: float


class MigratedSchema(TypedDict):
    """What migrate did.

    Attributes:
        revision_before: the schema's revision before; null for a database without our schema.
        revision: its revision now.
        partitions: how many partitions the log has; 0 if it is one table.
        partition_events: how many events a new partition takes; null if the log is one table.
        distributed: what --distribute did; null without it.

    """

    revision_before: str | None
    revision: str
    partitions: int
    partition_events: int | None
    distributed: DistributedLog | None


_UNITS = {"K": 1_000, "M": 1_000_000, "G": 1_000_000_000}


def _parse_count(text: str) -> int:
    """Return a number of events that may end with K, M or G.

    Raises:
        typer.BadParameter: it isn't one.

    """
    digits, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in _UNITS else (text, "")
    count = int(digits) * _UNITS.get(unit, 1) if digits.isascii() and digits.isdigit() else 0
    if not LEAST_EVENTS <= count <= MOST_EVENTS:
        raise typer.BadParameter(
            f"{visible(text)} is not a number of events from {LEAST_EVENTS:,} to {MOST_EVENTS:,}, such as 50M or 500000"
        )
    return count


@app.command()
@handles_errors
@writes_json(MigratedSchema)
def migrate(
    *,
    give_up_after: Annotated[
        float | None,
        typer.Option(
            envvar="PROJECTIONS_MIGRATE_GIVE_UP_AFTER",
            min=0.0,
            metavar="SECONDS",
            help="Give up after waiting this long for locks. Default: never.",
        ),
    ] = None,
    down_to: Annotated[
        str | None,
        typer.Option(
            metavar="REVISION",
            help="Go back to this revision of the schema, for an earlier version of this program.",
        ),
    ] = None,
    partition_events: Annotated[
        int | None,
        typer.Option(
            parser=_parse_count,
            metavar="EVENTS",
            help="Partition the log by position, so many events a partition, such as 50M.",
        ),
    ] = None,
    over_workers: Annotated[
        bool,
        typer.Option(
            "--distribute",
            help="Distribute the log and the read models over the workers of a Citus cluster.",
        ),
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Create, update or repair the schema in the database.

    The database is DATABASE_URL (or PGHOST and libpq's other variables); without them, an embedded PostgreSQL is
    started in this folder. Repairs whatever a restore or a person changed in the schema. Tries each lock for a short
    time only, again and again, because other sessions queue behind a waiting one.

    With --down-to the schema goes back to what an earlier version of this program needs. No event is lost; what later
    revisions added is dropped. Asks before that, unless --yes is given; see projections docs upgrading.

    With --partition-events the log becomes a partitioned table, whose first partition is the table that is there. No
    event is copied, and events are appended and folded meanwhile. Given again with another number, it decides how many
    events new partitions take. See projections docs partitions.

    With --distribute the log and the read models are distributed over the workers that the database has by Citus; what
    is stored already is copied there. The log is locked meanwhile. See projections docs scaling.

    Exit code 1 when it gave up, or when something can't be repaired.
    """
    waits = load_waits()
    patience = LockPatience(
        waits.migrate_lock, give_up_after=give_up_after, report=lambda line: print_message(f"projections: {line}")
    )
    if down_to is not None and partition_events is not None:
        raise UsageError("give --down-to or --partition-events, not both")
    if down_to is not None and over_workers:
        raise UsageError("give --down-to or --distribute, not both")
    if down_to is not None:
        url = available_database(waits)
        confirm([f"The schema goes back to revision {down_to}.", *_CONSEQUENCES], yes=yes)
        before, after = go_back(url, down_to, patience=patience)
        log = read_partitioning(url)
    else:
        url = available_database(waits, create=True)
        with one_session(url):
            before, after = upgrade(url, patience=patience, keep_unfinished=partition_events is not None)
            log = read_partitioning(url)
    if partition_events is not None:
        log = partition_log(url, partition_events, patience=patience, report=patience.report)
    done = distribute(url, patience=patience) if over_workers else None
    if as_json:
        document: MigratedSchema = {
            "revision_before": before,
            "revision": str(after),
            "partitions": log.partitions,
            "partition_events": log.events,
            "distributed": None if done is None else _describe_as_json(done),
        }
        print_json(document)
        return
    if done is not None:
        print_message(_describe(done))
    if before == after:
        print_message(f"the engine's schema is already at revision {after}")
    else:
        print_message(f"migrated the schema from {before or 'nothing'} to revision {after}")
    if partition_events is not None:
        print_message(f"the log has {log.partitions} partitions; new ones take {log.events:,} events each")


def _describe_as_json(done: Distributed) -> DistributedLog:
    return {
        "workers": done.servers,
        "events": done.events,
        "tables": done.tables,
        "locked_seconds": round(done.locked_seconds, 3),
    }


def _describe(done: Distributed) -> str:
    tables = ", ".join(f"{name} by {column}" for name, column in done.tables.items())
    if done.events is None and not tables:
        return f"the log and the read models are already distributed over {done.servers} workers"
    what = [f"{done.events:,} events by send_request_id"] if done.events is not None else []
    listed = ", ".join([*what, tables] if tables else what)
    return f"distributed over {done.servers} workers: {listed}; locked for {done.locked_seconds:.1f} s"
