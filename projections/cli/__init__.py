"""The command ``projections``, from its first moment: signals are handled before anything else is loaded."""

from __future__ import annotations

import gc
import os

from projections import signals


def main() -> None:
    """Run the command; exit code 0 (success), 1 (failure), 2 (usage error), 130 or 143 (SIGINT, SIGTERM)."""
    signals.install()
    # gRPC's own lines would stand between ours, in another format; our code reports what fails.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Modules stay until the end: to look for garbage among them takes a quarter of the start. LazyCommands enables it.
    gc.disable()
    from projections.cli.app import app  # noqa: PLC0415 - loading takes time, so the signal handlers come first

    app()
