"""The examples of docs/writing-a-projection.md for typed rows, .sql files and views run as the page says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from eventstore.contracts.event_types import EventType
from projections.migrating.migrate import upgrade
from projections.registry import find_valid_projections
from projections.testing import ProjectionKit, event
from tests.fake_package import install
from tests.integration.test_docs_projections import blocks

PAGE = "writing-a-projection.md"


def example(file: str, language: str = "python", comment: str = "#") -> str:
    (found,) = (block for block in blocks(PAGE, language) if block.startswith(f"{comment} {file}"))
    return found


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the page's examples, with the views of the page for one of them."""
    (view,) = (block for block in blocks(PAGE, "py") if "View(" in block)
    imported, _, views = view.partition("\n\nclass ErrorCounts(Projection):\n")
    head = "class ErrorCounts(Projection):\n"
    counts = example("error_counts.py").replace(head, f"{head}{views}")
    modules = {
        "error_counts": counts.replace("from projections import", f"{imported}\nfrom projections import", 1),
        "first_messages": example("first_messages.py"),
        "our_read_models": example("our_read_models.py"),
    }
    registered = dict(line.split(" = ") for line in "".join(blocks(PAGE, "ini")).splitlines()[1:])
    points = {name: value.strip('"') for name, value in registered.items()}
    points |= {"error_counts": "error_counts:ErrorCounts", "first_messages": "first_messages:FirstMessages"}
    folder = tmp_path / "theirs"
    folder.mkdir()
    install(folder, monkeypatch, modules, points)
    (folder / "deliveries_by_person.sql").write_text(example("deliveries_by_person.sql", "sql", "--"))


@pytest.mark.usefixtures("package")
async def test_the_examples_are_migrated_and_fold_the_same_rows_in_every_order(database_url: str) -> None:
    projections = find_valid_projections()
    upgrade(database_url)
    with psycopg.connect(database_url) as conn:
        views = conn.execute("SELECT name, projection FROM projections.views ORDER BY name").fetchall()
        comment = "SELECT col_description('public.failed_recipients'::regclass, 2)"
        assert conn.execute(comment).fetchall() == [("How many.",)]
    assert views == [("failed_recipients", "error_counts"), ("well_reached", "deliveries_by_person")]
    by_person = projections["deliveries_by_person"]
    assert by_person.decided_by == {"latest_deliveries": "event_id"}
    events = [
        event(1, ppnum="1", send_request_id="a"),
        event(2, ppnum="1", send_request_id="a"),
        event(1, ppnum="1", send_request_id="b"),
        event(1, ppnum="2", send_request_id="a"),
        event(1, ppnum="2", send_request_id="b"),
        event(2, ppnum="3", send_request_id="a"),
        event(1, ppnum="", send_request_id="a"),
    ]
    key: dict[str, Any] = {"app": "app"}
    async with ProjectionKit(database_url, by_person) as kit:
        counts = [{**key, "ppnum": "1", "requests": 1}, {**key, "ppnum": "2", "requests": 2}]
        await kit.assert_same_for_every_order(events, {"deliveries_by_person": counts})
        assert len(await kit.rows("latest_deliveries")) == 5
    first_messages = projections["first_messages"]
    answers = [
        event(1, ppnum="1", send_request_id="a"),
        event(1, ppnum="1", send_request_id="b"),
        event(EventType.POLL_RESPONSE_RECEIVED, ppnum="1", send_request_id="a", poll_options=["yes", "no"]),
    ]
    of_request: dict[str, Any] = {**key, "ppnum": "1", "send_request_id": "a"}
    expected = {
        "first_message": [{**of_request, "received_at": answers[0].occurred_at}],
        "latest_options": [{**of_request, "option": one} for one in ("yes", "no")],
    }
    async with ProjectionKit(database_url, first_messages) as kit:
        await kit.assert_same_for_every_order(answers, expected)
