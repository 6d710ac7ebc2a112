"""The command ``archive``: partitions into files, and what a rebuild, an erase, status and doctor say afterwards."""

from __future__ import annotations

import pytest

from tests import store
from tests.acceptance.command import Commands
from tests.json_documents import read_documents

NEEDED = "positions 1 to 240 are archived, no longer in the log: set PROJECTIONS_ARCHIVE to the folder of its files"
FILE = "events-000000000001-000000000060"
pytestmark = [pytest.mark.folded, pytest.mark.partitioned(60)]


@pytest.mark.oldest
async def test_partitions_are_archived_and_read_again(commands: Commands, database_url: str) -> None:
    folder = commands.folder / "archive"
    folder.mkdir()
    here, elsewhere = {"DATABASE_URL": database_url, "PROJECTIONS_ARCHIVE": "archive"}, {"DATABASE_URL": database_url}
    nowhere = await commands.run("archive", "--before", "61", **elsewhere)
    assert (nowhere.code, nowhere.stderr_line) == (
        2,
        "projections: say where the files go: --to FILE or FOLDER, or set PROJECTIONS_ARCHIVE",
    )
    planned = await commands.run("archive", "--before", "125", "--dry-run", **here)
    assert planned.out.splitlines() == [
        f"positions 1 to 60: 60 events would be archived in {folder / FILE}.events",
        f"positions 61 to 120: 60 events would be archived in {folder}/events-000000000061-000000000120.events",
    ]
    unasked = await commands.run("archive", "--before", "61", **here)
    assert (unasked.code, "partitions before 61 will be written to archive" in unasked.err) == (2, True)
    done = await commands.run(
        "archive", "--before", "61", "--to", "archive", "--parquet", "--yes", "--json", **elsewhere
    )
    assert (done.code, f"set PROJECTIONS_ARCHIVE={folder}: rebuilds" in done.err) == (0, True), done.transcript
    (document,) = read_documents("archive", done.out)
    (one,) = document["archived"]
    assert (one["first"], one["last"], one["events"], document["held_back"]) == (1, 60, 60, [])
    assert sorted(path.name for path in folder.iterdir()) == [f"{FILE}.events", f"{FILE}.parquet"]
    again = await commands.run("archive", "--before", "61", "--yes", **here)
    assert (again.code, again.out) == (0, "")
    assert "no partition lies wholly before position 61; nothing was archived" in again.err
    two = await commands.run("archive", "--before", "181", "--to", "one.events", "--yes", **here)
    assert (two.code, "2 partitions lie before that, but" in two.err) == (2, True)
    more = await commands.run("archive", "--before", "100000", "--yes", **here)
    assert (more.code, more.out.count("archived in")) == (1, 3), more.transcript
    assert "the next partition stays in the log: the log ends at position 248, and its last event" in more.err
    refused = await commands.run("rebuild", "people", **elsewhere)
    assert (refused.code, refused.stderr_line) == (
        1,
        "projections: " + NEEDED,
    )
    rebuilt = await commands.run("rebuild", "people", **here)
    assert (rebuilt.code, rebuilt.out.splitlines()[0]) == (0, "people: rebuilt to position 248, 0 rows differed")
    shown = await commands.run("status", **here)
    assert "positions 1 to 240 are archived, in files of projections archive" in shown.out
    explained = await commands.run("explain", "people", "12300000000", **here)
    assert (explained.code, "positions 1 to 240 are archived and were not searched" in explained.err) == (0, True)
    async with store.connection(database_url) as conn:
        await conn.execute("UPDATE people SET requests = 77 WHERE ppnum = '12300000000'")
    differs = await commands.run("verify", "people", **here)
    sentence = "positions 1 to 240 are archived and were not searched for events behind rows"
    assert (differs.code, differs.err.count(sentence)) == (1, 1), differs.transcript
    examined = await commands.run("doctor", **elsewhere)
    assert "[archive_missing] positions 1 to 240 are archived, and no folder is set" in examined.out
    redecoded = await commands.run("redecode", **here)
    assert "positions 1 to 240 are archived: they are decoded when they are read" in redecoded.err


async def test_erasing_reaches_the_files_and_the_receipt_says_so(commands: Commands, database_url: str) -> None:
    number = "12300000000"
    folder = commands.folder / "archive"
    folder.mkdir()
    here = {"DATABASE_URL": database_url, "PROJECTIONS_ARCHIVE": "archive"}
    await commands.run("archive", "--before", "61", "--parquet", "--yes", **here)
    asked = ("erase", number, "--why", "asked", "--yes")
    refused = await commands.run(*asked, DATABASE_URL=database_url)
    assert (refused.code, "set PROJECTIONS_ARCHIVE to the folder of its files" in refused.err) == (1, True)
    done = await commands.run(*asked, "--json", "--receipt", "receipt.json", **here)
    assert done.code == 0, done.transcript
    (receipt,) = read_documents("erase", done.out)
    assert receipt["archives"] == [{"file": f"{FILE}.events", "events": 5}]
    assert receipt["rows"]["eventstore.archived_partitions"] == 5
    assert [one["equal"] for one in receipt["verified"]] == [True] * 4
    assert (
        f"5 events were erased from the file of archived events {FILE}.events."
        in (commands.folder / "receipt.html").read_text()
    )
    assert sorted(path.name for path in folder.iterdir()) == [f"{FILE}.e1.events", f"{FILE}.e1.parquet"]
    assert [path.name for path in folder.iterdir() if number.encode() in path.read_bytes()] == []
    finished = await commands.run("archive", "--yes", **here)
    assert (finished.code, finished.out) == (0, "")
