"""Runs a command for several projections, one after another: an error of one does not stop the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from eventstore.errors import LockHeld, LockLost, UsageError, is_connection_lost
from projections.cli.shared.output import print_error
from projections.errors import ProjectionsError


@contextmanager
def continue_after_error(name: str, failed: list[str]) -> Iterator[None]:
    """Print one projection's error and add its name to ``failed``, unless the database connection is lost."""
    try:
        yield
    except (ProjectionsError, UsageError, LockHeld, LockLost) as error:
        print_error(error)
        failed.append(name)
    except psycopg.Error as error:
        if is_connection_lost(error):
            raise
        print_error(error, of=name)
        failed.append(name)
