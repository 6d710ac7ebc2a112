"""The receipt of an erasure: what was done, what was checked, and what is out of reach; never a number."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypedDict

from eventstore.transfer.new_file import NewFile
from projections.erasing.clean_up import OUT_OF_REACH
from projections.erasing.erase_request import ErasedPersons, EraseRequest
from projections.erasing.final_checks import FinalChecks
from projections.erasing.leftovers import Leftover
from projections.erasing.receipt_page import render_receipt_page
from projections.json_value import json_value


class ErasedPersonRows(TypedDict):
    """An erased person.

    Attributes:
        token: what stands in place of the number.
        rows: how many rows of the person were changed, by table.

    """

    token: str
    rows: Mapping[str, int]


class VerifiedReadModel(TypedDict):
    """Whether a read model equals the log after the erasure.

    Attributes:
        name: the projection.
        equal: whether it does; null if that couldn't be checked.
        position: up to which position; null unless it is equal.
        why: why it couldn't be checked; null if it was.

    """

    name: str
    equal: bool | None
    position: int | None
    why: str | None


class ColumnWithNumber(TypedDict):
    """A column in which a number is left.

    Attributes:
        table: its table.
        column: the column.
        rows: in how many rows.

    """

    table: str
    column: str
    rows: int


class SearchedDatabase(TypedDict):
    """What was searched for the numbers.

    Attributes:
        tables: how many tables.
        columns: how many columns of them.
        left: the columns that have a number.
        shared: the columns that have one in a table without a column app, with --app: the rows may be those of the same
            person in another app.
        too_short: how many numbers were not searched, because they are so short that they would be found everywhere.
        unreadable: the columns that this role may not read, all or some of their rows, or that another session had
            locked.

    """

    tables: int
    columns: int
    left: list[ColumnWithNumber]
    shared: list[ColumnWithNumber]
    too_short: int
    unreadable: list[str]


class ErasedFile(TypedDict):
    """A file of archived events that was written anew.

    Attributes:
        file: its name before.
        events: how many of its events were erased.

    """

    file: str
    events: int


class ErasureReceipt(TypedDict):
    """What an erasure did, or with ``--dry-run`` would do.

    Attributes:
        dry_run: whether nothing was changed.
        at: when it ended; the clock of this machine.
        erased_by: the database role and the system user.
        why: the reason.
        app: the app in which the persons were erased; null for every app.
        position: the head of the log when the last person was erased.
        asked: how many persons were given, or chosen by --older-than.
        erased: how many of them had rows.
        persons: those that had rows, each with the token; one who got new events meanwhile has another token for these.
        active: how many were left alone, because they had new events meanwhile.
        rows: how many rows were changed in all, by table.
        not_erased: why persons could not be erased, by a sentence for each; nothing of theirs was changed.
        without_events: the places of numbers that have no event, among the different numbers given, beginning with 1.
        need_rebuild: projections whose rows have the numbers until they are rebuilt: they don't declare their personal
            columns, or have rows of another version.
        dropped_as_of: as-of schemas that were dropped.
        not_vacuumed: tables whose dead rows couldn't be removed, because another session had them locked.
        verified: whether the read models equal the log.
        searched: what was searched for the numbers; null with --dry-run, if nobody was chosen, and if it failed.
        archives: the files of archived events that were written anew without the numbers; their names before.
        consumers: the named consumers, which may have read the events and kept the numbers.
        out_of_reach: where the numbers may still be, whatever this command does.

    """

    dry_run: bool
    at: datetime
    erased_by: str
    why: str
    app: str | None
    position: int
    asked: int
    erased: int
    persons: list[ErasedPersonRows]
    active: int
    rows: Mapping[str, int]
    not_erased: list[str]
    without_events: list[int]
    need_rebuild: list[str]
    dropped_as_of: list[str]
    not_vacuumed: list[str]
    verified: list[VerifiedReadModel]
    searched: SearchedDatabase | None
    archives: list[ErasedFile]
    consumers: list[str]
    out_of_reach: Sequence[str]


def describe_erasure(
    request: EraseRequest, done: ErasedPersons, checks: FinalChecks | None, *, at: datetime
) -> ErasureReceipt:
    """Return the receipt; without checks, of a dry run."""
    verified: list[VerifiedReadModel] = []
    searched: SearchedDatabase | None = None
    if checks is not None:
        verified += [_verdict(name, equal=True, position=position) for name, position in checks.equal.items()]
        verified += [_verdict(name, equal=False) for name in checks.different]
        verified += [_verdict(name, equal=None, why=why) for name, why in checks.not_verified.items()]
        if checks.search is not None:
            searched = {
                "tables": checks.search.tables,
                "columns": checks.search.columns,
                "left": [_column(one) for one in checks.search.found],
                "shared": [_column(one) for one in checks.search.shared],
                "too_short": checks.search.too_short,
                "unreadable": checks.search.unreadable,
            }
    return {
        "dry_run": checks is None,
        "at": at,
        "erased_by": done.erased_by,
        "why": request.why,
        "app": request.app,
        "position": done.position,
        "asked": done.asked,
        "erased": done.erased,
        "persons": [
            {"token": done.persons[index].token, "rows": dict(rows)} for index, rows in sorted(done.rows.items())
        ],
        "active": len(done.active),
        "rows": {table: rows for table, rows in sorted(done.tables.items()) if rows},
        "not_erased": [reason for _, reason in sorted(done.not_erased.items())],
        "without_events": [] if request.numbers is None else done.without_rows,
        "need_rebuild": sorted(done.need_rebuild),
        "dropped_as_of": done.dropped_as_of,
        "not_vacuumed": [] if checks is None else checks.not_vacuumed,
        "verified": verified,
        "searched": searched,
        "archives": [{"file": name, "events": count} for name, count in sorted(done.archives.items())],
        "consumers": done.consumers,
        "out_of_reach": OUT_OF_REACH,
    }


def _column(one: Leftover) -> ColumnWithNumber:
    return {"table": one.table, "column": one.column, "rows": one.rows}


def _verdict(
    name: str, *, equal: bool | None, position: int | None = None, why: str | None = None
) -> VerifiedReadModel:
    return {"name": name, "equal": equal, "position": position, "why": why}


def receipt_files(path: Path) -> tuple[Path, Path]:
    """Return the names of a receipt's two files: the JSON, and the page to print."""
    return path, path.with_suffix(".html") if path.suffix != ".html" else path.with_suffix(".page.html")


def write_receipt(path: Path, receipt: ErasureReceipt) -> None:
    """Write a receipt as JSON, and beside it as a page to print; only their owner can read them.

    Raises:
        ArchiveError: a file can't be written, or exists already.

    """
    document: dict[str, Any] = json_value(receipt)
    texts = (json.dumps(document, indent=2) + "\n", render_receipt_page(document))
    for name, text in zip(receipt_files(path), texts, strict=True):
        with NewFile(name, replace=False) as file:
            file.write(text.encode())
