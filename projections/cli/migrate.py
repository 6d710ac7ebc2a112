"""``projections migrate``: bring the database's schema to what this version needs."""

from __future__ import annotations

from typing import Annotated

import typer

from projections.cli.output import say, says_errors


@says_errors
def migrate(
    *,
    give_up_after: Annotated[
        float | None,
        typer.Option(
            envvar="PROJECTIONS_MIGRATE_GIVE_UP_AFTER",
            min=0.0,
            metavar="SECONDS",
            help="Give up when others hold a lock that it needs for so long. Default: never.",
        ),
    ] = None,
) -> None:
    """Create or update our schema in the database, and restore what a restore or a person undid in it.

    The database is DATABASE_URL (or PGHOST and the like); without one, the embedded PostgreSQL is started. It waits
    for locks in short attempts, since others wait behind it. Exit code 1 when it gave up, or when something can't be
    restored.
    """
    from eventstore.waits import load_waits  # noqa: PLC0415 - loaded when it runs
    from projections.cli.database import available_database  # noqa: PLC0415
    from projections.migrate import upgrade  # noqa: PLC0415
    from projections.patience import Patience  # noqa: PLC0415

    waits = load_waits()
    patience = Patience(
        waits.migrate_lock, give_up_after=give_up_after, tell=lambda sentence: say(f"projections: {sentence}")
    )
    before, after = upgrade(available_database(waits), patience=patience)
    if before == after:
        say(f"the schema is at revision {after} already")
    else:
        say(f"migrated the schema from {before or 'nothing'} to revision {after}")
