"""A projection that is made of building blocks: what its blocks imply need not be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

from sqlalchemy import Executable, Table

from projections.blocks.block_columns import EVERY_EVENT, FactColumn
from projections.blocks.fact_counts import count_with_fact, single_fact
from projections.blocks.personal_columns import derive_personal_columns
from projections.blocks.row_block import Rows
from projections.blocks.row_counts import count_rows
from projections.blocks.row_fold import fold_events
from projections.blocks.tally_block import NARROW, Tally
from projections.blocks.tally_fold import count_fixed_groups, count_moved_groups
from projections.errors import InvalidProjection
from projections.projection import Projection, Window

Block: TypeAlias = Rows | Tally
_DERIVED = ("tables", "handles", "decided_by", "partition_by")


class BlockProjection(Projection):
    """A read model made of building blocks.

    A class defines ``name``, ``version`` and ``blocks``. From the blocks follow ``tables``, ``handles``,
    ``partition_by``, ``decided_by``, ``personal_columns`` and ``fold``. A class may define these too: its tables come
    after those of the blocks, its handled types and deciding columns are added to theirs, and its ``partition_by`` and
    ``personal_columns`` replace those of the blocks. Its ``fold`` may return ``super().fold(window)`` and more
    statements.

    Attributes:
        blocks: what it is made of; a block that others count comes before them.

    """

    blocks: ClassVar[tuple[Block, ...]] = ()
    _declares_personal_columns: ClassVar[bool] = False

    def __init_subclass__(cls, **arguments: Any) -> None:  # noqa: ANN401 - whatever other base classes take
        super().__init_subclass__(**arguments)
        if not cls.blocks:
            return
        cls._check_blocks()
        # What this class defines, or a base class that defined it beside the same blocks.
        given = {**({} if "blocks" in cls.__dict__ else _defined_by(cls.__mro__[1:])), **cls.__dict__}
        tables = [block.table for block in cls.blocks]
        cls.tables = (*tables, *(table for table in given.get("tables", ()) if table not in tables))
        cls.handles = frozenset().union(given.get("handles", ()), *(block.handles for block in cls.blocks))
        decided = {block.table.name: block.deciding_column for block in cls.blocks}
        cls.decided_by = {
            **{table: column for table, column in decided.items() if column is not None},
            **given.get("decided_by", {}),
        }
        if "partition_by" not in given:
            cls.partition_by = cls._partition()
        if "personal_columns" in cls.__dict__:
            cls._declares_personal_columns = True
        elif not cls._declares_personal_columns:
            is_all = not cls.has_own_statements() and len(cls.tables) == len(tables)
            cls.personal_columns = derive_personal_columns(cls.blocks) if is_all else None

    def fold(self, window: Window) -> Sequence[Executable]:
        """Fold the blocks in their order."""
        statements: list[Executable] = []
        for block in self.blocks:
            if isinstance(block, Tally):
                if block.fixed_columns:
                    statements += count_fixed_groups(block, window)
            else:
                statements += self._fold_rows(block, window)
        return statements

    @classmethod
    def has_own_statements(cls) -> bool:
        """Return whether its fold has statements beside those of its blocks, which may write the blocks' tables too."""
        return cls.fold is not BlockProjection.fold

    def partition_of(self, table: Table) -> Sequence[str]:
        """Return the columns that begin the key of a block's rows, up to the request or person, if events name them."""
        for block in () if self.has_own_statements() else self.blocks:
            if block.table is table and isinstance(block, Rows):
                named: list[str] = []
                for column in block.table.primary_key.columns:
                    if column.name not in block.named_by_events:
                        break
                    named.append(column.name)
                    if column.name in NARROW:
                        return named
        return super().partition_of(table)

    def _fold_rows(self, block: Rows, window: Window) -> Sequence[Executable]:
        moving = [one for one in self.blocks if isinstance(one, Tally) and one.of is block and not one.fixed_columns]
        if block.counting is not None and (fact := single_fact(block)) is not None:
            write = count_with_fact(block, block.counting, fact, window)
            return [count_moved_groups(moving, write) if moving else write]
        writes = []
        for source in block.sources:
            has_facts = any(isinstance(column, FactColumn) for column in block.folded_from(source))
            # A block that counts rows folds the aggregates of its events in the statement that counts.
            if block.counting is None or has_facts or not source.is_same(EVERY_EVENT):
                writes.append(fold_events(block, source, window))
        if block.counting is not None:
            writes.append(count_rows(block, block.counting, window))
        if not writes:  # nothing but a key
            writes.append(fold_events(block, EVERY_EVENT, window))
        return [count_moved_groups(moving, write) for write in writes] if moving else writes

    @classmethod
    def _check_blocks(cls) -> None:
        if isinstance(cls.blocks, Rows | Tally):
            raise InvalidProjection(f"{cls.__name__}: blocks is a tuple; write blocks = (…,), with the comma")
        seen: list[Block] = []
        for block in cls.blocks:
            if not isinstance(block, Rows | Tally):
                raise InvalidProjection(f"{cls.__name__}: blocks must contain only rows(…) and tally(…)")
            needed = block.of if isinstance(block, Tally) else block.counting
            if needed is not None and needed not in seen:
                raise InvalidProjection(
                    f"{cls.__name__}: {block.table.name} counts rows of {needed.table.name}, which must come before it"
                    " in blocks"
                )
            seen.append(block)

    @classmethod
    def _partition(cls) -> tuple[str, ...]:
        begins, *others = [block.named_by_events for block in cls.blocks]
        own = [[column.name for column in table.primary_key.columns] for table in cls.tables[len(cls.blocks) :]]
        common = tuple(name for name in begins if all(name in names for names in (*others, *own)))
        if not common:
            raise InvalidProjection(
                f"{cls.__name__}: the keys of its tables have no column of events in common; add key('app') to each"
            )
        return common


def _defined_by(bases: Sequence[type]) -> dict[str, Any]:
    """Return what the nearest base class that is made of blocks defines, or got from its blocks."""
    nearest: Mapping[str, Any] = next((base.__dict__ for base in bases if getattr(base, "blocks", ())), {})
    return {name: nearest[name] for name in _DERIVED if name in nearest}
