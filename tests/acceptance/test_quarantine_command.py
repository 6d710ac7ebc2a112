"""``projections quarantine``, run as a process: list, show, retry, export and drop."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from psycopg import AsyncConnection

from eventstore.appending.quarantine import Rejected
from tests import store, wire
from tests.acceptance.command import CommandResult, Commands
from tests.json_documents import read_documents
from tests.store import APP, CHAT, conflicting_event, garbage, new_events

PPNUM = "49151234567"
REFUSED = "an older decoder refused it"


def one(documents: list[Any]) -> Any:  # noqa: ANN401 - any JSON
    (document,) = documents
    return document


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    """Four messages in quarantine: an event that decodes now, an unreadable one, a conflicting one, another app's."""
    async with store.connection(database_url, "observer") as conn, store.appender(database_url) as appender:
        (event,) = new_events(1)
        (new,) = new_events(1, ppnum=PPNUM)
        await appender.append([event])
        broken = wire.event("not a ULID", recipient=wire.recipient(PPNUM, error_code=f"call {PPNUM}")) + b"\xff"
        conflicting = conflicting_event(event)
        await appender.append(
            [conflicting],
            rejected=[
                Rejected(APP, CHAT.value, new.payload, REFUSED, new.event_id),
                Rejected(APP, CHAT.value, broken, "the bytes are not a SendRequestEvent"),
                garbage(app="other"),
            ],
        )
        yield conn


@pytest.mark.oldest
@pytest.mark.usefixtures("conn")
async def test_list_pages_through_messages_and_show_hides_phone_numbers(commands: Commands, database_url: str) -> None:
    async def run(*arguments: str, code: int = 0) -> CommandResult:
        result = await commands.run("quarantine", *arguments, DATABASE_URL=database_url)
        assert result.code == code, result.transcript
        return result

    text = await run("list", "--app", APP)
    assert REFUSED in text.out
    assert "different bytes under an event_id" in text.out
    assert "other" not in text.out.replace("another", "")
    ids: list[int] = []
    after = 0
    while True:
        page = one(
            read_documents("quarantine list", (await run("list", "--limit", "2", "--after", str(after), "--json")).out)
        )
        ids += [each["id"] for each in page["messages"]]
        after = page["next_after"]
        if after is None:
            break
    assert len(ids) == len({*ids}) == 4
    assert sum(each["received"] for each in page["reasons"]) == 4
    chosen = json.loads((await run("list", "--reason", "not a SendRequest", "--app", APP, "--json")).out)
    (broken,) = chosen["messages"]

    number = str(broken["id"])
    shown = one(read_documents("quarantine show", (await run("show", number, "--json")).out))
    fields = {field["path"]: field["value"] for field in shown["fields"]}
    assert fields["event_id"] == "not a ULID"
    assert fields["recipient.ppnum"] == "[hidden] (11 bytes)"
    assert fields["recipient.error_code"] == "call [hidden]"
    assert shown["unreadable_at"] == broken["bytes"] - 1
    assert shown["decodes_now"] is False
    for digits in (PPNUM, PPNUM.encode().hex()):
        assert digits not in json.dumps(shown) + (await run("show", number)).out
    full = json.loads((await run("show", number, "--personal-data", "--json")).out)
    assert PPNUM in (await run("show", number, "--personal-data")).out
    assert len(bytes.fromhex(full["payload_hex"])) == broken["bytes"]
    assert PPNUM.encode() in bytes.fromhex(full["payload_hex"])
    assert "no quarantined message has the number 999" in (await run("show", "999", code=2)).stderr_line


async def test_retry_export_and_drop(commands: Commands, database_url: str, conn: AsyncConnection) -> None:
    async def run(*arguments: str, code: int = 0) -> CommandResult:
        result = await commands.run("quarantine", *arguments, DATABASE_URL=database_url)
        assert result.code == code, result.transcript
        return result

    before = await store.quarantine_rows(conn)
    dry: dict[str, Any] = one(
        read_documents("quarantine retry", (await run("retry", "--all", "--dry-run", "--json", code=1)).out)
    )
    assert (dry["dry_run"], dry["stored"], len(dry["still_quarantined"])) == (True, 1, 3)
    assert await store.quarantine_rows(conn) == before
    (never,) = [each for each in dry["still_quarantined"] if each["can_never_be_stored"]]
    assert "say which messages" in (await run("retry", code=2)).stderr_line
    assert "not both" in (await run("retry", "1", "--all", code=2)).stderr_line

    await run("export", "all.jsonl")
    file = commands.folder / "all.jsonl"
    assert file.stat().st_mode & 0o777 == 0o600
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [base64.b64decode(line["payload"]) for line in lines] == [row.payload for row in before]
    assert "already exists" in (await run("export", "all.jsonl", code=2)).stderr_line
    exported = await run("export", "all.jsonl", "--app", "other", "--force", "--json")
    assert one(read_documents("quarantine export", exported.out))["messages"] == 1

    retried = await run("retry", "--reason", REFUSED)
    assert "1 message: 1 event stored, 0 duplicates, 0 still quarantined" in retried.out
    assert len(await store.positions(conn)) == 2
    stays = await run("retry", "--all", code=1)
    assert "no decoder can store them" in stays.out
    assert "1 message stays" in stays.out

    asked = await run("drop", str(never["id"]), code=2)
    assert "1 message" in asked.err
    assert "give --yes to do it" in asked.err
    assert len(await store.quarantine_rows(conn)) == 3
    dropped = await run("drop", str(never["id"]), "999", "--yes", "--json", code=1)
    assert one(read_documents("quarantine drop", dropped.out))["dropped"] == 1
    assert "not in quarantine: 999" in dropped.err
    assert json.loads((await run("drop", "--before", "1h", "--yes", "--json")).out)["dropped"] == 0
    assert "2 messages dropped" in (await run("drop", "--reason", "not a", "--yes")).out
    assert await store.quarantine_rows(conn) == []
