"""What ``projections archive`` is asked for, and what it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from projections.errors import ProjectionsError


@dataclass(frozen=True, slots=True)
class ArchiveRequest:
    """What to archive, and where to.

    Attributes:
        before: a position, an event_id, or a time: partitions that lie wholly before it are archived; None for none.
        folder: the folder for the files.
        file_name: the name of the only file; None for a name by positions, for each partition.
        parquet: whether Parquet files are written too.
        archive: the folder of the files that were written before.
        system_user: the user of this machine, for the record.

    """

    before: str | None
    folder: Path
    file_name: str | None
    parquet: bool
    archive: Path
    system_user: str


@dataclass(frozen=True, slots=True)
class ArchivedRange:
    """A partition that was archived, or would be.

    Attributes:
        first: its first position.
        last: its last position.
        file: the file.
        parquet_file: the Parquet file; None without one.
        size: the bytes of both; 0 if nothing was written.

    """

    first: int
    last: int
    file: Path
    parquet_file: Path | None
    size: int = 0

    @property
    def events(self) -> int:
        """How many events it has."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class ArchiveResult:
    """What was archived, and what keeps the other partitions that were asked for in the log.

    Attributes:
        archived: the partitions that are archived now, or would be.
        before: the position that was asked for: the first one that isn't archived; None if none was.
        held_back: sentences: who still needs events of the next partition; empty if nobody does.
        rewritten: how many events of erased persons were erased from earlier files, by file.

    """

    archived: Sequence[ArchivedRange]
    before: int | None
    held_back: Sequence[str]
    rewritten: Mapping[str, int] = field(default_factory=dict)


class CannotArchive(ProjectionsError):
    """A partition can't be archived now; nothing of it was dropped, and the message says why."""
