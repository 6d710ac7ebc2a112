"""The command ``erase``: numbers in, tokens and a receipt out, and no number in anything that it prints or writes."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime

import pytest
from psycopg import AsyncConnection

from tests import folding, store
from tests.acceptance.command import COMMAND, CommandResult, Commands
from tests.databases import Server
from tests.json_documents import read_documents
from tests.queries import fetch_all

NUMBER, OTHER, UNKNOWN = "12300000000", "12300000001", "99900000000"


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    """Yield a connection to the log; the test's mark ``folded`` makes it one that is folded."""
    async with store.connection(database_url, "observer") as conn:
        yield conn


def assert_no_number(*texts: str) -> None:
    for number in (NUMBER, OTHER, UNKNOWN):
        assert not [text for text in texts if number in text]


@pytest.mark.folded
async def test_persons_are_erased_with_a_receipt(commands: Commands, database_url: str, conn: AsyncConnection) -> None:
    (commands.folder / "numbers").write_text(f"# asked in writing\n{NUMBER}\n\n {OTHER} \n{UNKNOWN}\n{NUMBER}\n")
    asked = ("erase", "--from", "numbers", "--why", "asked in writing")
    would = await commands.run(*asked, "--dry-run", "--json", DATABASE_URL=database_url)
    assert would.code == 0, would.err
    (planned,) = read_documents("erase", would.out)
    refused = await commands.run(*asked, DATABASE_URL=database_url)
    assert refused.code == 2
    assert "3 persons will be erased in every app, for good" in refused.err
    assert await store.value(conn, "SELECT count(*) FROM eventstore.erasures") == 0
    done = await commands.run(*asked, "--yes", "--json", "--receipt", "receipt.json", DATABASE_URL=database_url)
    assert done.code == 0, done.err
    (receipt,) = read_documents("erase", done.out)
    assert receipt["rows"] == planned["rows"]
    assert (receipt["asked"], len(receipt["persons"]), receipt["why"]) == (3, 2, "asked in writing")
    assert [one["equal"] for one in receipt["verified"]] == [True] * 4
    assert receipt["searched"]["left"] == []
    assert (receipt["need_rebuild"], receipt["not_vacuumed"]) == ([], [])
    file, page = commands.folder / "receipt.json", commands.folder / "receipt.html"
    assert json.loads(file.read_text()) == receipt
    assert receipt["persons"][0]["token"] in page.read_text()
    assert "4 read models equal the log" in page.read_text()
    assert [stat.S_IMODE(each.stat().st_mode) for each in (file, page)] == [0o600, 0o600]
    assert_no_number(would.out, would.err, refused.err, done.out, done.err)
    assert_no_number(file.read_text(), page.read_text())
    await folding.assert_rows_match_oracle(conn)
    again = await commands.run(*asked, "--yes", "--receipt", "receipt.json", DATABASE_URL=database_url)
    assert (again.code, "receipt.json already exists" in again.err) == (2, True)


@pytest.mark.folded
async def test_a_number_that_is_left_is_reported(commands: Commands, database_url: str, conn: AsyncConnection) -> None:
    await conn.execute("CREATE TABLE public.notes (note text)")
    await conn.execute("INSERT INTO public.notes VALUES (%s)", [f"called {NUMBER}"])
    done = await commands.run("erase", NUMBER, "--why", "x", "--yes", "--no-verify", DATABASE_URL=database_url)
    assert done.code == 1
    assert "left: public.notes.note: 1 row" in done.out
    assert "eventstore.events: " in done.out
    assert "verified" not in done.out
    assert_no_number(done.out, done.err)


@pytest.mark.folded
async def test_an_app_alone_and_numbers_that_no_event_has(
    commands: Commands, database_url: str, conn: AsyncConnection
) -> None:
    await folding.append(conn, *(folding.new_record(ppnum=number, app="other") for number in (NUMBER, "1234")))
    await folding.fold_all(database_url)
    (commands.folder / "numbers").write_bytes(f"\ufeff{NUMBER}\n{UNKNOWN}\n1234\n".encode())
    asked = ("erase", "--from", "numbers", "--app", "app", "--why", "x", "--yes", "--no-verify")
    done = await commands.run(*asked, DATABASE_URL=database_url)
    assert done.code == 0, done.transcript
    assert "1 person erased, of 3 asked for" in done.out
    assert "in app 'app', 0 left" in done.out
    assert "no event has number 2, 3, in the order in which they were given" in done.err
    assert "1 number too short to search for: such a text is in every table" in done.err
    assert await store.value(conn, "SELECT count(*) FROM people WHERE ppnum = %s", NUMBER) == 1
    assert_no_number(done.transcript)


@pytest.mark.folded
async def test_numbers_from_standard_input(commands: Commands, database_url: str, conn: AsyncConnection) -> None:
    (commands.folder / "numbers").write_text(f"{NUMBER}\n{OTHER}\n")
    piped = replace(commands.installed, program=("/bin/sh", "-c", '"$0" "$@" < numbers', *COMMAND))
    asked = ("erase", "--from", "-", "--why", "asked", "--no-verify", "--yes")
    done = await piped.run(*asked, DATABASE_URL=database_url)
    assert done.code == 0, done.err
    assert "2 persons erased, of 2 asked for" in done.out
    assert await store.value(conn, "SELECT count(DISTINCT token) FROM eventstore.erased_events") == 2
    assert_no_number(done.transcript)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give the numbers of the persons, --from a file with them, or --older-than"),
        ((NUMBER,), "give the reason with --why"),
        ((NUMBER, "--why", f"{NUMBER} asked"), "--why has one of the numbers"),
        ((NUMBER, "--why", "x" * 1001), "--why takes at most 1,000 characters"),
        ((NUMBER, "--older-than", "730d", "--why", "x"), "give numbers, --older-than or --again: one of them"),
        ((NUMBER, "--why", "x", "--dry-run", "--receipt", "r"), "a dry run erases nobody, so it has no receipt"),
        ((NUMBER, "--check", "--app", "app"), "--check takes numbers, --from and --json only"),
        (("--again", "ledger", "--app", "app"), "--again takes everything from the ledger"),
        (("--check", NUMBER), "--check needs the erasure key: set PROJECTIONS_ERASURE_KEY_FILE"),
        (("--older-than", "2y", "--why", "x"), "--older-than takes a number of days, such as 730d"),
        (("--from", "missing", "--why", "x"), "missing can't be read"),
        (
            ("erased:01KE0000000000000000000000", "--why", "x"),
            "argument 1: this is the token of a person who is erased",
        ),
    ],
)
async def test_usage_errors(commands: Commands, database_url: str, arguments: tuple[str, ...], message: str) -> None:
    done: CommandResult = await commands.run("erase", *arguments, DATABASE_URL=database_url)
    assert done.code == 2
    assert message in done.err
    assert_no_number(done.err)


@pytest.mark.folded
async def test_persons_whose_last_event_is_old(commands: Commands, database_url: str, conn: AsyncConnection) -> None:
    now = await store.value(conn, "SELECT clock_timestamp()")
    assert isinstance(now, datetime)
    await folding.append(conn, replace(folding.new_record(ppnum=NUMBER), occurred_at=now))
    persons = await store.value(conn, "SELECT count(DISTINCT ppnum) FROM eventstore.events")
    arguments = ("erase", "--older-than", "30d", "--why", "retention", "--yes", "--no-verify", "--json")
    done = await commands.run(*arguments, DATABASE_URL=database_url)
    assert done.code == 0, done.err
    (receipt,) = read_documents("erase", done.out)
    assert len(receipt["persons"]) == int(str(persons)) - 1
    left = "SELECT array_agg(DISTINCT ppnum) FROM eventstore.events WHERE ppnum !~ '^erased:'"
    assert await store.value(conn, left) == [NUMBER]
    again = await commands.run(*arguments, DATABASE_URL=database_url)
    (receipt,) = read_documents("erase", again.out)
    assert (again.code, receipt["asked"]) == (0, 0)
    assert_no_number(done.err, again.err)


@pytest.mark.folded
@pytest.mark.oldest
async def test_who_was_erased_is_known_with_the_key_only(
    commands: Commands, database_url: str, conn: AsyncConnection
) -> None:
    key = commands.folder / "key"
    key.write_text("k" * 64)
    variables = {"DATABASE_URL": database_url, "PROJECTIONS_ERASURE_KEY_FILE": str(key)}
    denied = str(await store.value(conn, "SELECT min(ppnum) FROM consent_registry WHERE status = 'denied'"))
    before = await commands.run("erase", "--check", denied, **variables)
    assert (before.code, before.out) == (1, "number 1: not erased\n")
    done = await commands.run("erase", denied, "--why", "asked", "--yes", "--no-verify", "--json", **variables)
    (receipt,) = read_documents("erase", done.out)
    (commands.folder / "numbers").write_text(f"{denied}\n{UNKNOWN}\n")
    checked = await commands.run("erase", "--check", "--from", "numbers", "--json", **variables)
    assert checked.code == 1
    (answers,) = read_documents("erase", checked.out)
    assert [answer["erased"] for answer in answers["checked"]] == [True, False]
    (erasure,) = answers["checked"][0]["erasures"]
    assert (erasure["token"], erasure["why"]) == (receipt["persons"][0]["token"], "asked")
    assert [each["status"] for each in erasure["consent"]] == ["denied"]
    other_key = commands.folder / "other"
    other_key.write_text("o" * 64)
    other = await commands.run(
        "erase", "--check", denied, **{**variables, "PROJECTIONS_ERASURE_KEY_FILE": str(other_key)}
    )
    assert (other.code, other.out) == (1, "number 1: not erased\n")
    assert "1 erasure can't be recognised with this key" in other.err
    text = await commands.run("erase", "--check", denied, **variables)
    assert text.code == 0
    assert "consent in app 'app': denied" in text.out
    assert not [one for one in (before, done, checked, text) if denied in one.transcript]
    short = commands.folder / "short"
    short.write_text("too short")
    refused = await commands.run(
        "erase", "--check", denied, **{**variables, "PROJECTIONS_ERASURE_KEY_FILE": str(short)}
    )
    assert refused.code == 2
    assert "short has 9 bytes, but a key needs 32" in refused.err


@pytest.mark.folded
@pytest.mark.oldest
async def test_a_restored_log_is_erased_again_by_the_ledger(
    commands: Commands, database_url: str, conn: AsyncConnection, postgres: Server
) -> None:
    exported = await commands.run("export", "events", "backup", DATABASE_URL=database_url)
    assert exported.code == 0, exported.err
    variables = {"PROJECTIONS_ERASURE_LEDGER_FILE": str(commands.folder / "ledger")}
    # The oracle compares the read models below.
    asked = ("erase", NUMBER, "--why", "x", "--yes", "--no-verify", "--json")
    done = await commands.run(*asked, DATABASE_URL=database_url, **variables)
    assert done.code == 0, done.err
    ledger = await commands.run("export", "erasures", "other", "--json", DATABASE_URL=database_url)
    (written,) = read_documents("export erasures", ledger.out)
    events = await store.value(conn, "SELECT count(*) FROM eventstore.erased_events")
    assert (written["erasures"], written["events"]) == (1, events)
    assert_no_number((commands.folder / "ledger").read_bytes().decode("latin-1"))
    with postgres.database() as restored:
        variables = {**variables, "DATABASE_URL": restored}
        assert (await commands.run("import", "events", "backup", **variables)).code == 0
        await folding.fold_all(restored)
        status = await commands.run("status", "--check", **variables)
        assert "has erased persons who are not erased in this database" in status.err
        doctor = await commands.run("doctor", **variables)
        assert "erasure_ledger_newer" in doctor.out
        before = (commands.folder / "ledger").read_bytes()
        refused = await commands.run("erase", OTHER, "--why", "x", "--yes", **variables)
        assert (refused.code, "has 1 erasure that this database doesn't have" in refused.err) == (1, True)
        refused = await commands.run("export", "erasures", "ledger", "--force", **variables)
        assert (refused.code, "first run projections erase --again" in refused.err) == (1, True)
        assert (commands.folder / "ledger").read_bytes() == before
        for options in (["--no-verify"], []):  # it can be run again, and verifies what the first run did
            again = await commands.run("erase", "--again", "ledger", "--yes", *options, **variables)
            assert again.code == 0, again.transcript
        async with store.connection(restored) as other:
            query = "SELECT position, ppnum, payload FROM eventstore.events ORDER BY position"
            assert await fetch_all(other, query) == await fetch_all(conn, query)
            await folding.assert_rows_match_oracle(other)
            assert await folding.read_model_rows(other) == await folding.read_model_rows(conn)
            assert not await store.value(other, "SELECT bool_or(awaited) FROM eventstore.erasures")
        assert "erasure_ledger_newer" not in (await commands.run("doctor", **variables)).out
        assert_no_number(again.transcript, status.transcript, doctor.transcript)
