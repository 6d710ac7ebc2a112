"""Stop the embedded database of this checkout and remove its data, wherever it lies."""

from __future__ import annotations

import sys
from pathlib import Path

from eventstore.errors import EventStoreError
from projections.sandbox.embedded import EmbeddedPostgres

HOME = Path(__file__).resolve().parent.parent / ".projections"


def main() -> int:
    """Remove it; 1 when it can't be removed."""
    try:
        EmbeddedPostgres(HOME).destroy()
    except EventStoreError as error:
        print(f"clean: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
