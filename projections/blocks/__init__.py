"""Building blocks: a read model is declared by its keys and values, and the engine writes its statements.

The names below are public; docs/writing-a-projection.md says which block suits which question.
"""

from typing import TYPE_CHECKING

from eventstore.lazy_names import load_on_demand

__all__ = [
    "BlockProjection",
    "Rows",
    "Tally",
    "computed",
    "count",
    "day",
    "each",
    "event",
    "ever",
    "first",
    "greatest",
    "key",
    "latest",
    "least",
    "month",
    "prefix",
    "rows",
    "tally",
    "total",
    "week",
]

if TYPE_CHECKING:
    from projections.blocks.block_projection import BlockProjection
    from projections.blocks.block_values import day, each, event, month, prefix, week
    from projections.blocks.column_functions import computed, count, ever, first, greatest, key, latest, least, total
    from projections.blocks.row_block import Rows, rows
    from projections.blocks.tally_block import Tally, tally
else:
    __getattr__ = load_on_demand(
        __name__,
        {
            "projections.blocks.column_functions": (
                "computed",
                "count",
                "ever",
                "first",
                "greatest",
                "key",
                "latest",
                "least",
                "total",
            ),
            "projections.blocks.block_projection": ("BlockProjection",),
            "projections.blocks.block_values": ("day", "each", "event", "month", "prefix", "week"),
            "projections.blocks.row_block": ("Rows", "rows"),
            "projections.blocks.tally_block": ("Tally", "tally"),
        },
    )


def __dir__() -> list[str]:
    return [*globals(), *__all__]
