"""The examples in docs/ run, and do what the pages say."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from datetime import UTC, date, datetime
from pathlib import Path
from textwrap import indent
from typing import Any

import grpc
import psycopg
import pytest
from sqlalchemy.schema import CreateTable

from eventstore import Contract
from projections.folding.sql_text import DIALECT
from projections.migrating.metadata import READ_MODELS
from projections.migrating.migrate import upgrade
from projections.registry import find_valid_projections
from projections.running.window_step import Step
from projections.testing import Simulator, event
from tests import folding, rebuilding, store
from tests.fake_package import install
from tests.fix_simulator import final_status, open_stream, read_events

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make the page's modules importable, and register their projections as the page does."""
    found = blocks("writing-a-projection.md", "python")
    sources = {block.split("\n", 1)[0].removeprefix("# ").removesuffix(".py"): block for block in found}
    assert len(sources) == len(found)
    registration, _ = blocks("writing-a-projection.md", "toml")
    points = tomllib.loads(registration)["project"]["entry-points"]["projections"]
    folder = tmp_path / "theirs"
    folder.mkdir()
    install(folder, monkeypatch, sources, points)
    return list(sources)


async def test_the_pages_own_tests_pass(modules: list[str], database_url: str) -> None:
    ran = []
    for name in modules:
        for function in vars(importlib.import_module(name)).values():
            if inspect.iscoroutinefunction(function) and function.__name__.startswith("test_"):
                await function(database_url)
                ran.append(function.__name__)
    assert ran == [
        "test_a_recipient_is_counted_by_the_latest_error",
        "test_a_recipient_counts_on_the_day_of_the_latest_delivery",
        "test_who_consents_again_is_no_opt_out",
    ]


@pytest.mark.oldest
async def test_the_pages_projections_are_registered_migrated_and_folded(modules: list[str], database_url: str) -> None:
    assert modules
    projections = find_valid_projections()
    assert {"error_counts", "opt_outs", "request_status"} <= set(projections)
    upgrade(database_url)
    events = [
        event(2, ppnum="4179", error_code="blocked"),
        event(5, ppnum="4378"),
        event(2, ppnum="4378", error_code="blocked"),
        event(5, ppnum="4379"),
        event(4, ppnum="4379"),
    ]
    async with store.appender(database_url) as appender:
        await appender.append(events)
    for name in ("error_counts", "opt_outs"):
        worker = folding.worker(database_url, projections[name], batch_size=2)
        async with folding.worker_connection(worker) as conn:
            assert await folding.fold(worker, conn) is Step.AT_HEAD
        assert worker.windows == 3
    with psycopg.connect(database_url) as look:
        assert look.execute("SELECT error_code, recipients FROM error_counts").fetchall() == [("blocked", 2)]
        assert look.execute("SELECT ppnum, country FROM opt_outs WHERE NOT deleted").fetchall() == [("4378", "AT")]


def test_the_first_read_models_of_the_page_are_short() -> None:
    sources = {block.split("\n", 1)[0]: block for block in blocks("writing-a-projection.md", "python")}
    lines = [line for name in ("first_contact", "daily_costs") for line in sources[f"# {name}.py"].splitlines()[1:]]
    assert len([line for line in lines if line]) < 30


@pytest.mark.oldest
async def test_the_first_read_models_of_the_page_are_folded_rebuilt_and_verified(
    modules: list[str], database_url: str
) -> None:
    assert modules
    projections = [find_valid_projections()[name] for name in ("first_contact", "daily_costs")]
    upgrade(database_url)
    evening, morning = datetime(2026, 3, 1, 22, tzinfo=UTC), datetime(2026, 3, 2, 7, tzinfo=UTC)
    first, *others = [
        event(1, ppnum="4179", occurred_at=morning),
        event(1, ppnum="4378", occurred_at=evening),
        event(3, ppnum="4377", occurred_at=evening),
        event(1, ppnum="4179", occurred_at=evening),
    ]
    async with store.appender(database_url) as appender:
        await appender.append(others)
        for projection in projections:
            await folding.fold_all(database_url, [type(projection)])
        await appender.append([first])  # its event_id is less than all the others
    for projection in projections:
        await folding.fold_all(database_url, [type(projection)])
        assert (await rebuilding.verify(database_url, projection)).equal
        assert rebuilding.total_differences(await rebuilding.rebuild(database_url, projection)) == 0
    with psycopg.connect(database_url) as look:
        contacts = look.execute("SELECT ppnum, at FROM first_contact ORDER BY ppnum").fetchall()
        assert contacts == [("4179", morning), ("4377", evening), ("4378", evening)]
        costs = look.execute("SELECT day, messages, cents FROM daily_costs").fetchall()
        assert costs == [(date(2026, 3, 1), 2, 13)]


@pytest.mark.parametrize("had_tables", [False, pytest.param(True, marks=pytest.mark.oldest)])
def test_a_package_with_the_layout_of_the_page_runs_its_own_migrations(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, had_tables: bool
) -> None:
    page = "writing-a-projection.md"
    (layout,), (_, settings) = blocks(page, "text"), blocks(page, "toml")
    (code,) = (block for block in blocks(page, "python") if block.startswith("# error_counts.py"))
    shown = {block.split("\n", 1)[0]: block for block in blocks(page, "py")}
    files = {
        "__init__.py": "",
        "error_counts.py": code.replace("from sqlalchemy", "from pathlib import Path\nfrom sqlalchemy", 1).replace(
            "class ErrorCounts(Projection):\n", shown["class ErrorCounts(Projection):"]
        ),
        "error_counts_migrations/versions/0001_tables.py": shown["# 0001_tables.py"],
    }
    package, *inside, project = layout.splitlines()
    assert ([line.strip() for line in inside], project) == ([*files], "pyproject.toml")
    folder = tmp_path / "theirs"
    for name, source in files.items():
        (folder / package / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / package / name).write_text(source)
    project_file = tomllib.loads(settings)
    (pattern,) = project_file["tool"]["setuptools"]["package-data"]["our_projections"]
    assert [found.name for found in (folder / package).glob(pattern)] == ["0001_tables.py"]
    for name in ("our_projections", "our_projections.error_counts"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)
    install(folder, monkeypatch, {}, project_file["project"]["entry-points"]["projections"])
    if had_tables:
        with psycopg.connect(database_url) as conn:
            for table in importlib.import_module("our_projections.error_counts").metadata.sorted_tables:
                conn.execute(str(CreateTable(table).compile(dialect=DIALECT)).encode())
    upgrade(database_url)
    upgrade(database_url)
    with psycopg.connect(database_url) as look:
        assert look.execute("SELECT version_num FROM projections.version_error_counts").fetchall() == [("0001",)]
        assert look.execute("SELECT count(*) FROM error_counts").fetchall() == [(0,)]


@pytest.mark.parametrize("query", blocks("read-models.md", "sql"))
def test_each_query_of_the_page_on_read_models_runs(database_url: str, query: str) -> None:
    with psycopg.connect(database_url) as conn:
        for statement in query.split(";"):
            if statement.strip():
                conn.execute(statement.encode())


def test_the_page_on_read_models_names_every_table_and_view(database_url: str) -> None:
    page = (DOCS / "read-models.md").read_text()
    with psycopg.connect(database_url) as conn:
        names = conn.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        ).fetchall()
    assert len(names) == 11
    assert [name for (name,) in names if name not in page] == []


def test_the_page_on_read_models_names_every_column() -> None:
    page = (DOCS / "read-models.md").read_text()
    columns = {column.name for each in READ_MODELS for table in each.tables for column in table.c}
    assert len(columns) >= 30
    assert sorted(name for name in columns if f"`{name}`" not in page) == []


async def test_the_script_of_the_page_on_the_api_prints_each_stored_event(database_url: str, tmp_path: Path) -> None:
    (code,) = blocks("api.md", "python")
    script = tmp_path / "script.py"
    script.write_text(code)
    events = [event(1), event(2), event(3)]
    async with store.appender(database_url) as appender:
        await appender.append(events)
    program = await asyncio.create_subprocess_exec(
        sys.executable, script, env={"DATABASE_URL": database_url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, errors = await program.communicate()
    assert program.returncode == 0, errors.decode()
    assert output.decode().splitlines() == [
        f"{position} {each.event_id}" for position, each in enumerate(events, start=1)
    ]


async def test_the_example_of_the_page_on_the_simulator_runs() -> None:
    (code,) = blocks("simulator.md", "python")
    imports, _, body = code.partition("\n\n")
    connecting = "    ...  # start the program under test; it connects to simulator.address\n"
    assert connecting in body
    body = body.replace(connecting, "    program = asyncio.create_task(follow(simulator))\n")
    body += "    seen = (call.ended, await program)\n"
    source = f"{imports}\n\nasync def example():\n{indent(body, '    ')}\n    return seen\n"
    names: dict[str, Any] = {"asyncio": asyncio, "follow": follow}
    exec(compile(source, "simulator.md", "exec"), names)  # noqa: S102 - the page's own code
    assert await names["example"]() == (grpc.StatusCode.UNAVAILABLE, ([b"any bytes"], grpc.StatusCode.UNAVAILABLE))


async def follow(simulator: Simulator) -> tuple[list[bytes], grpc.StatusCode]:
    """Read one event, then read to the end of the stream."""
    async with open_stream(simulator, Contract.CHAT_EXTERNAL) as call:
        return await read_events(call, Contract.CHAT_EXTERNAL, 1), await final_status(call)
