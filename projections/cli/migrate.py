"""``projections migrate``: brings the database's schema to what this version needs."""

from __future__ import annotations

from typing import Annotated, TypedDict

import typer

from eventstore.waits import load_waits
from projections.cli.shared.common_options import JsonOption, YesOption
from projections.cli.shared.confirm import confirm
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.open_database import available_database
from projections.cli.shared.output import print_json, print_message
from projections.cli.shared.typer_app import new_app
from projections.migrating.go_back import go_back
from projections.migrating.lock_patience import LockPatience
from projections.migrating.migrate import upgrade

app = new_app()

_CONSEQUENCES = (
    "Tables and columns of later revisions are dropped with their contents; events and their payloads stay.",
    "Stop every process of this version first. Then start the earlier version, and run its projections rebuild --all.",
)


class MigratedSchema(TypedDict):
    """What migrate did.

    Attributes:
        revision_before: the schema's revision before; null for a database without our schema.
        revision: its revision now.

    """

    revision_before: str | None
    revision: str


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
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Create, update or repair the schema in the database.

    The database is DATABASE_URL (or PGHOST and libpq's other variables); without them, an embedded PostgreSQL is
    started in this folder. Repairs whatever a restore or a person changed in the schema. Tries each lock for a short
    time only, again and again, because other sessions queue behind a waiting one.

    With --down-to the schema goes back to what an earlier version of this program needs. No event is lost; what later
    revisions added is dropped. Asks before that, unless --yes is given; see projections docs upgrading.

    Exit code 1 when it gave up, or when something can't be repaired.
    """
    waits = load_waits()
    patience = LockPatience(
        waits.migrate_lock, give_up_after=give_up_after, report=lambda line: print_message(f"projections: {line}")
    )
    if down_to is not None:
        url = available_database(waits)
        confirm([f"The schema goes back to revision {down_to}.", *_CONSEQUENCES], yes=yes)
        before, after = go_back(url, down_to, patience=patience)
    else:
        before, after = upgrade(available_database(waits, create=True), patience=patience)
    if as_json:
        document: MigratedSchema = {"revision_before": before, "revision": str(after)}
        print_json(document)
    elif before == after:
        print_message(f"the engine's schema is already at revision {after}")
    else:
        print_message(f"migrated the schema from {before or 'nothing'} to revision {after}")
