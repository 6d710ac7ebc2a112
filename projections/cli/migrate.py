"""``projections migrate``: brings the database's schema to what this version needs."""

from __future__ import annotations

from typing import Annotated

import typer

from eventstore.waits import load_waits
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.open_database import available_database
from projections.cli.shared.output import print_message
from projections.cli.shared.typer_app import new_app
from projections.migrating.lock_patience import LockPatience
from projections.migrating.migrate import upgrade

app = new_app()


@app.command()
@handles_errors
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
) -> None:
    """Create, update or repair the schema in the database.

    The database is DATABASE_URL (or PGHOST and libpq's other variables); without them, an embedded PostgreSQL is
    started in this folder. Repairs whatever a restore or a person changed in the schema. Tries each lock for a short
    time only, again and again, because other sessions queue behind a waiting one.

    Exit code 1 when it gave up, or when something can't be repaired.
    """
    waits = load_waits()
    patience = LockPatience(
        waits.migrate_lock, give_up_after=give_up_after, report=lambda line: print_message(f"projections: {line}")
    )
    before, after = upgrade(available_database(waits, create=True), patience=patience)
    if before == after:
        print_message(f"the schema is already at revision {after}")
    else:
        print_message(f"migrated the schema from {before or 'nothing'} to revision {after}")
