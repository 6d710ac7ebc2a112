"""``projections migrate``: bring the database's schema to what this version needs."""

from __future__ import annotations

from projections.cli.output import say, says_errors


@says_errors
def migrate() -> None:
    """Create or update our schema in the database.

    The database is DATABASE_URL (or PGHOST and the like); without one, the embedded PostgreSQL is started.
    """
    from eventstore.waits import load_waits  # noqa: PLC0415 - loaded when it runs
    from projections.cli.database import available_database  # noqa: PLC0415
    from projections.migrate import upgrade  # noqa: PLC0415

    before, after = upgrade(available_database(load_waits()))
    if before == after:
        say(f"the schema is at revision {after} already")
    else:
        say(f"migrated the schema from {before or 'nothing'} to revision {after}")
