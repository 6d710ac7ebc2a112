"""``projections check``: checks a projection against its rules, and against the database at hand."""

from __future__ import annotations

from typing import TypedDict

import typer

from eventstore.waits import load_waits
from projections.checking.fold_plans import StatementPlan
from projections.checking.projection_check import ProjectionCheck, run_projection_check
from projections.cli.shared.common_options import JsonOption, ProjectionArgument
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.interruptible import NOTHING_CHANGED, run_interruptible
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.open_database import migrated_database
from projections.cli.shared.output import FAILED, counted, print_data, print_json, print_message
from projections.cli.shared.progress import shown_progress
from projections.cli.shared.typer_app import new_app
from projections.errors import InvalidProjection
from projections.registry import find_projections
from projections.settings import load_worker_settings

app = new_app()

SEED = 1
"""Of the sample of the log: the same log is checked alike each time."""


class ReadTable(TypedDict):
    """A table that a statement reads from end to end, or all of an app's rows in it.

    Attributes:
        table: the table, with its schema.
        of_app: whether it reads all rows of an app there, and not those of others.
        windows: for which windows: `one event`, `many events`, or `any window` (the plan that a session keeps).
        condition: what its rows are searched for, in SQL; null if all are used.

    """

    table: str
    of_app: bool
    windows: list[str]
    condition: str | None


class PlannedStatement(TypedDict):
    """How Postgres would run a statement of the fold.

    Attributes:
        number: its number in the fold, from 1.
        what: what it does, and to which table.
        costs: the planner's estimate of its cost, by window.
        whole_tables: the tables that it would read from end to end, or all of an app's rows.

    """

    number: int
    what: str
    costs: dict[str, float]
    whole_tables: list[ReadTable]


class TestedOrder(TypedDict):
    """What the fold did with events of the log, in many orders and windows.

    Attributes:
        stories: how many stories were folded: a few events each, of a person or of a request.
        events: how many events these have.
        problem: what is wrong, with code that shows it; null if the rows were always the same.

    """

    stories: int
    events: int
    problem: str | None


class CheckedProjection(TypedDict):
    """What is known about a projection.

    Attributes:
        name: the projection.
        ok: whether nothing wrong was found.
        broken_rule: which rule it breaks, why it can't be loaded, or why Postgres refuses a statement; null if neither.
        statements: the plans of its fold; null if they were left out.
        order: the test with events of the log; null if it was left out.
        left_out: why a part was left out, by `plans` and `order`.

    """

    name: str
    ok: bool
    broken_rule: str | None
    statements: list[PlannedStatement] | None
    order: TestedOrder | None
    left_out: dict[str, str]


@app.command()
@handles_errors
@writes_json(CheckedProjection)
def check(name: ProjectionArgument, *, as_json: JsonOption = False) -> None:
    """Check a projection: its rules, its plans here, and its fold in any order.

    Postgres plans each statement of the fold, without running it; a table that would be read from end to end is named.
    Then up to two hundred events of the log are folded in many orders and windows, in temporary tables: the rows must
    be the same each time. Nothing is changed.

    A part that the role or the database doesn't allow is left out, and the reason is printed.

    Exit code 1 when something is wrong.
    """
    registry = find_projections()
    if (broken := registry.broken.get(name)) is not None and name not in registry.projections:
        _print_broken(name, broken, as_json=as_json)
        raise typer.Exit(FAILED)
    projection = registry.select([name])[name]
    waits, window = load_waits(), load_worker_settings().batch_size
    url = migrated_database(waits, writes=False)
    with shown_progress(name, only_long=True) as progress:
        work = run_projection_check(url, waits, projection, window=window, seed=SEED, progress=progress)
        try:
            found = run_interruptible(work, if_interrupted=NOTHING_CHANGED)
        except InvalidProjection as error:
            _print_broken(name, str(error), as_json=as_json)
            raise typer.Exit(FAILED) from error
    if as_json:
        print_json(_describe(name, found))
    else:
        _print_check(name, found)
    if not found.is_ok:
        raise typer.Exit(FAILED)


def _print_broken(name: str, why: str, *, as_json: bool) -> None:
    if as_json:
        nothing: CheckedProjection = {
            "name": name,
            "ok": False,
            "broken_rule": why,
            "statements": None,
            "order": None,
            "left_out": {},
        }
        print_json(nothing)
    else:
        print_data(why)


def _print_check(name: str, found: ProjectionCheck) -> None:
    print_data(f"{name} keeps the rules")
    for plan in found.plans or ():
        _print_plan(plan)
    if found.order is not None:
        of = f"{counted(found.order.stories, 'story', 'stories')} of the log, {counted(found.order.events, 'event')}"
        if found.order.problem is None:
            print_data(f"order: {of}: the same rows in every order and cut that was tried")
        else:
            print_data(f"order: {of}:")
            for line in found.order.problem.splitlines():
                print_data(line)
    names = {"plans": "the plans", "order": "the test with events of the log"}
    for part, why in found.left_out.items():
        print_message(f"projections: left out {names[part]}: {why}")


def _print_plan(plan: StatementPlan) -> None:
    of = f"statement {plan.number} ({plan.what})"
    if plan.is_distributed:
        print_data(f"{of}: Citus can run it")
    elif not plan.scans:
        print_data(f"{of}: finds its rows by index")
    for scan in plan.scans:
        rows = "all rows of an app in" if scan.of_app else "the whole of"
        print_data(f"{of}: reads {rows} {scan.table}, for {', '.join(scan.windows)}")
        if scan.condition is not None:
            print_data(f"    it looks for {scan.condition}")
        print_data(
            "    let the statement look for columns with which an index of the table begins, such as its primary key's,"
            " or give the table such an index"
        )


def _describe(name: str, found: ProjectionCheck) -> CheckedProjection:
    return {
        "name": name,
        "ok": found.is_ok,
        "broken_rule": None,
        "statements": None if found.plans is None else [_describe_plan(plan) for plan in found.plans],
        "order": None
        if found.order is None
        else {"stories": found.order.stories, "events": found.order.events, "problem": found.order.problem},
        "left_out": found.left_out,
    }


def _describe_plan(plan: StatementPlan) -> PlannedStatement:
    return {
        "number": plan.number,
        "what": plan.what,
        "costs": {**plan.costs},
        "whole_tables": [
            {"table": scan.table, "of_app": scan.of_app, "windows": [*scan.windows], "condition": scan.condition}
            for scan in plan.scans
        ],
    }
