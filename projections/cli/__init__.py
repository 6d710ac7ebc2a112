"""The command ``projections``, from its first moment: signals are handled before anything else is loaded."""

from __future__ import annotations

import os

from projections import signals


def main() -> None:
    """Run the command; exit code 0 (done), 1 (it failed), 2 (asked wrongly), or 130 and 143 (SIGINT, SIGTERM)."""
    signals.install()
    # Its lines would come in between, in a form of its own; what fails is said by those who called.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from projections import logs  # noqa: PLC0415 - after the signals' handlers, as all that takes long to load
    from projections.cli.app import app  # noqa: PLC0415

    logs.catch_everything()
    app()
