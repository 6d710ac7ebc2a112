"""``python -m projections`` is the command ``projections``."""

from projections.cli import main

main()
