"""Stops the embedded database of this checkout and removes its data, in whatever folder it is."""

from __future__ import annotations

import sys
from pathlib import Path

from eventstore.errors import EventStoreError
from projections.sandbox.embedded import EmbeddedPostgres

HOME = Path(__file__).resolve().parent.parent / ".projections"


def main() -> int:
    """Remove it; return 1 if it can't be removed."""
    try:
        EmbeddedPostgres(HOME).destroy()
    except EventStoreError as error:
        print(f"clean: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
