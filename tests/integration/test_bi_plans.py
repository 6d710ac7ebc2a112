"""On a log of 500,000 events, the questions on docs/bi.md read no whole table, but an index; one reads the log.

The log has a fifth of these events, and Postgres is told to plan as for five times as many (see ``PLAN_FOR_ALL``). The
rows are made by a few statements, not by appends and folds, which would take longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import LiteralString

import psycopg
import pytest

from tests.integration.test_bi_answers import POLLED, questions
from tests.integration.test_plans import full_reads

APPS, RECIPIENTS = 50, 20
EVENTS = 100_000

# Costs of indexes and tables grow alike with the rows, so only what doesn't grow has to shrink with the log: the sizes
# from which Postgres reads a table with more processes (8 MB, 512 kB), and what starting them costs (1000).
PLAN_FOR_ALL: tuple[LiteralString, ...] = (
    "SET min_parallel_table_scan_size = '1638 kB'",
    "SET min_parallel_index_scan_size = '102 kB'",
    "SET parallel_setup_cost = 200",
)

# 5,000 requests of 50 apps in a hundred days, each with 19 of two hundred people as recipients, and a completion.
# Messages to the same people always fail, or always wait for consent. One request in a hundred has not ended.
_EVENTS: LiteralString = """
INSERT INTO eventstore.events (event_id, position, app, contract, event_type, send_request_id, ppnum, error_code,
    recipient_created_at, occurred_at, received_at, payload)
SELECT lpad(p::text, 26, '0'), p,
       CASE request % %(apps)s WHEN 0 THEN 'shop' WHEN 1 THEN 'clinic' ELSE 'app ' || request % %(apps)s END,
       'chat.external', type, CASE request WHEN 0 THEN %(polled)s ELSE 'request ' || request END,
       CASE WHEN type <> 6 THEN '4179' || lpad(person::text, 7, '0') END,
       CASE WHEN type = 2 THEN 'no_route' END, at, at, at, ''
FROM (SELECT p, (p - 1) / %(recipients)s AS request, p * 7919 % 199 AS person,
             CASE WHEN p % %(recipients)s = 0 THEN 6 WHEN p * 7919 % 199 % 12 = 1 THEN 2
                  WHEN p * 7919 % 199 % 12 = 2 THEN 3 ELSE 1 END AS type,
             '2025-10-06Z'::timestamptz + p * interval '85 s' AS at
      FROM generate_series(1, %(events)s::bigint) AS p) AS made
"""
_READ_MODELS: tuple[LiteralString, ...] = (
    """INSERT INTO request_recipients (app, send_request_id, ppnum, status, error_code, last_event_id, last_event_at,
           created_at, first_event_at, delivered_at)
       SELECT app, send_request_id, ppnum,
              CASE event_type WHEN 1 THEN 'delivered' WHEN 2 THEN 'failed' ELSE 'pending_consent' END, error_code,
              event_id, occurred_at, occurred_at, occurred_at, CASE event_type WHEN 1 THEN occurred_at END
       FROM eventstore.events WHERE event_type < 6""",
    """INSERT INTO request_status (app, send_request_id, state, recipients, delivered, failed, pending_consent,
           reported_total, reported_delivered, reported_failed, reported_pending_consent, first_event_at,
           last_event_at, last_event_id, created_at)
       SELECT app, send_request_id, CASE WHEN min(position) / 20 % 101 = 50 THEN 'in_progress' ELSE 'completed'
              END, count(ppnum), count(*) FILTER (WHERE event_type = 1), count(*) FILTER (WHERE event_type = 2),
              count(*) FILTER (WHERE event_type = 3), 19, 19, 0, 0, min(occurred_at), max(occurred_at), max(event_id),
              min(occurred_at)
       FROM eventstore.events GROUP BY app, send_request_id""",
    """INSERT INTO people (app, ppnum, requests, delivered, failed, pending_consent, last_outcome, last_event_id)
       SELECT app, ppnum, count(*), count(*) FILTER (WHERE event_type = 1), count(*) FILTER (WHERE event_type = 2),
              count(*) FILTER (WHERE event_type = 3), CASE min(event_type) WHEN 2 THEN 'failed' ELSE 'delivered' END,
              max(event_id)
       FROM eventstore.events WHERE event_type < 6 GROUP BY app, ppnum""",
    """INSERT INTO consent_registry (app, ppnum, first_asked_at, consent_status, consent_event_id, consent_at,
           consent_request_id)
       SELECT DISTINCT ON (app, ppnum) app, ppnum, occurred_at,
              CASE event_type WHEN 1 THEN 'granted' ELSE 'pending' END, event_id, occurred_at, ''
       FROM eventstore.events WHERE event_type < 6 ORDER BY app, ppnum, event_id""",
    """INSERT INTO poll_responses (app, send_request_id, poll_id, ppnum, options, event_id, responded_at)
       SELECT app, send_request_id, 'poll', ppnum, '{yes}', event_id, occurred_at
       FROM eventstore.events WHERE event_type < 6 AND position % 100 < 20""",
    """INSERT INTO poll_tallies (app, send_request_id, poll_id, option, responses, last_response_at)
       SELECT app, send_request_id, 'poll', option, 1, max(responded_at)
       FROM poll_responses, unnest('{yes,no,maybe}'::text[]) AS option GROUP BY app, send_request_id, option""",
)
READ_ON_PURPOSE = {"Growth of the consent list": {"events"}}
TABLES = {
    *("events", "request_recipients", "request_status", "people", "consent_registry", "poll_responses"),
    "poll_tallies",
}


_INDEXES: LiteralString = """
SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
FROM pg_index AS i JOIN pg_class AS t ON t.oid = i.indrelid
WHERE t.relname = ANY(%s) AND NOT i.indisprimary
AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid)
"""


@contextmanager
def without_indexes(conn: psycopg.Connection) -> Iterator[None]:
    """Drop the indexes that are no keys for the time of the block; they are built faster than they grow."""
    indexes = conn.execute(_INDEXES, [list(TABLES)]).fetchall()
    assert len(indexes) > len(TABLES)
    for name, _ in indexes:
        conn.execute(f"DROP INDEX {name}".encode())
    yield
    for _, definition in indexes:
        conn.execute(definition.encode())


def test_no_question_reads_a_whole_table(database_url: str, subtests: pytest.Subtests) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        values = {"events": EVENTS, "apps": APPS, "recipients": RECIPIENTS, "polled": POLLED}
        with without_indexes(conn):
            conn.execute(_EVENTS.replace(" % ", " %% "), values)
            for statement in _READ_MODELS:
                conn.execute(statement)
        conn.execute("ANALYZE")
        for setting in PLAN_FOR_ALL:
            conn.execute(setting)
        for title, query in questions().items():
            with subtests.test(title):
                assert conn.execute(query.encode()).fetchall(), "the question finds nothing"
                row = conn.execute(b"EXPLAIN (FORMAT JSON) " + query.encode()).fetchone()
                assert row is not None
                assert full_reads(row[0][0]["Plan"], TABLES - READ_ON_PURPOSE.get(title, set())) == []
