"""``projections migrate``: bring the database's schema to what this version needs."""

from __future__ import annotations

from typing import Annotated

import typer

from projections.cli.shared.output import say, says_errors


@says_errors
def migrate(
    *,
    give_up_after: Annotated[
        float | None,
        typer.Option(
            envvar="PROJECTIONS_MIGRATE_GIVE_UP_AFTER",
            min=0.0,
            metavar="SECONDS",
            help="Give up when others hold a needed lock for this long. Default: never.",
        ),
    ] = None,
) -> None:
    """Create, update or repair the schema in the database.

    The database is DATABASE_URL (or PGHOST and libpq's other variables); without them, an embedded PostgreSQL is
    started in this folder. Whatever a restore or a person changed in the schema is set right again. Locks are waited
    for in short attempts, since other sessions queue behind a waiting one.

    Exit code 1 when it gave up, or when something can't be repaired.
    """
    from eventstore.waits import load_waits  # noqa: PLC0415 - loaded when it runs
    from projections.cli.shared.open_database import available_database  # noqa: PLC0415
    from projections.lock_retry import LockPatience  # noqa: PLC0415
    from projections.migrating.migrate import upgrade  # noqa: PLC0415

    waits = load_waits()
    patience = LockPatience(
        waits.migrate_lock, give_up_after=give_up_after, report=lambda sentence: say(f"projections: {sentence}")
    )
    before, after = upgrade(available_database(waits, create=True), patience=patience)
    if before == after:
        say(f"the schema is already at revision {after}")
    else:
        say(f"migrated the schema from {before or 'nothing'} to revision {after}")
