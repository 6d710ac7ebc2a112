"""Checks of the projections: state, version, who folds them, how far behind they are, and interrupted rebuilds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from eventstore.event_reader import read_head
from eventstore.postgres.queries import fetch_all, fetch_column
from projections.inspecting.doctor.examination import Examination
from projections.inspecting.finding import Finding
from projections.inspecting.health import find_projection_problems
from projections.inspecting.read_live_status import read_running_rebuilds
from projections.inspecting.status import ProjectionStatus
from projections.migrating.metadata import READ_MODELS
from projections.projection import READ_MODEL_SCHEMA
from projections.running.checkpoint import ProjectionState

_FRESHNESS = "SELECT read_model, events_behind, seconds_behind FROM public.read_model_freshness WHERE state = 'running'"
_COLUMNS = """
SELECT schema || '.' || name, string_agg(of, ', ' ORDER BY number), to_regclass(format('%%I.%%I', schema, name)) IS NULL
FROM unnest(%s::text[], %s::text[], %s::text[]) WITH ORDINALITY AS owned (schema, name, of, number)
WHERE NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass(format('%%I.%%I', schema, name))
                  AND attname = of AND NOT attisdropped)
GROUP BY schema, name ORDER BY 1
"""
_MISSING_VIEWS = """
SELECT name FROM unnest(%s::text[]) AS declared (name)
WHERE to_regclass(format('%%I.%%I', %s::text, name)) IS NULL
"""


async def check_projections(exam: Examination) -> AsyncIterator[Finding]:
    """Find projections that stand still, that need a rebuild, or that nobody folds."""
    options, projections = exam.options, await exam.projections()
    head = await read_head(exam.conn)  # after the checkpoints, which move
    for problem in find_projection_problems(projections, head, options.max_behind):
        yield problem.finding
    for one in projections:
        for finding in _remarks(one):
            yield finding
        if options.max_behind is None and one.state == ProjectionState.RUNNING:
            for finding in _behind(one.name, one.events_behind, one.seconds_behind, options.limits.behind):
                yield finding


async def check_freshness(exam: Examination) -> AsyncIterator[Finding]:
    """Find projections that are behind, for a role that may see nothing but the view."""
    limit = exam.options.max_behind if exam.options.max_behind is not None else exam.options.limits.behind
    for name, events, seconds in await fetch_all(exam.conn, _FRESHNESS):
        for finding in _behind(name, events, seconds, limit):
            yield finding


async def check_tables(exam: Examination) -> AsyncIterator[Finding]:
    """Find tables and views of the projections that are missing, and columns of users'; drift has those of ours."""
    tables = [table for one in exam.options.registry.projections.values() for table in one.tables]
    columns = [column for table in tables for column in table.columns]
    ours = {f"{READ_MODEL_SCHEMA}.{table.name}" for one in READ_MODELS for table in one.tables}
    owned = [[c.table.schema for c in columns], [c.table.name for c in columns], [c.name for c in columns]]
    for table, missing, is_missing in await fetch_all(exam.conn, _COLUMNS, owned):
        if not is_missing and table in ours:
            continue
        what = f"table {table} is missing" if is_missing else f"table {table} is missing columns {missing}"
        yield Finding("table_missing", what, "projections migrate")
    views = [view.name for one in exam.options.registry.projections.values() for view in one.views]
    for view in await fetch_column(exam.conn, _MISSING_VIEWS, [views, READ_MODEL_SCHEMA]):
        yield Finding("view_missing", f"view {READ_MODEL_SCHEMA}.{view} is missing", "projections migrate")


async def check_rebuilds(exam: Examination) -> AsyncIterator[Finding]:
    """Find rebuilds whose process is gone."""
    for one in await read_running_rebuilds(exam.conn, await read_head(exam.conn)):
        if one.holder is not None:
            continue
        at = f"after position {one.position:,} of {one.target:,}"
        if one.into_schema is not None:
            sentence = f"the process of the rebuild of {one.name} into schema {one.into_schema} is gone, {at}"
            yield Finding("rebuild_interrupted", sentence, advice="run it again")
        else:
            sentence = f"the process of the rebuild of {one.name} is gone, {at}; the read model is as before"
            yield Finding("rebuild_interrupted", sentence, f"projections rebuild {one.name} --resume")


def _remarks(one: ProjectionStatus) -> Iterator[Finding]:
    if one.state == ProjectionState.PAUSED:
        sentence = f"{one.name} is paused at position {one.position:,}, {one.events_behind:,} events behind"
        yield Finding("projection_paused", sentence, f"projections resume {one.name}")
    if one.skipped:
        many = "1 event" if one.skipped == 1 else f"{one.skipped:,} events"
        yield Finding("projection_skips", f"{one.name} skips {many}", "projections status", "to see which, and why")


def _behind(name: str, events: int, seconds: float, limit: float) -> Iterator[Finding]:
    if seconds > limit:
        sentence = f"{name} is {seconds:,.0f} s behind ({events:,} events); the limit is {limit:g} s"
        yield Finding("projection_behind", sentence, "projections status")
