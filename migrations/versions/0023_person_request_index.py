"""An index by which the events of one person or of one request are found in milliseconds, at 4 bytes an event.

It is a BRIN index with bloom filters: for each 8 pages of the log, the filters say which persons and requests may be
there, and only those pages are read. Both filters have room for 256 different values, more than the events of 8 pages.
An append writes nothing to it until a range of pages is full; VACUUM then adds the filters of the full ranges, so it
runs each 100,000 events from now on. Pages without a filter are read.

The index of revision 0019 is dropped: it served one view only, and its entries, which each append put in random places
of it, cost a third of the append rate. That view, consent_history, has its app as an expression now. A condition on the
plain column would make the planner read the index on the app too, with all events of the app, because it expects more
pages of the new index than it gets.

Creating the index reads the whole log, and appends wait until the migration is done. On a big log the owner can create
it before, with CONCURRENTLY, which nobody waits for; it is then taken as it is, unless its creation was interrupted.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

NAME = "events_person_request_idx"
CREATE_INDEX = """
CREATE INDEX IF NOT EXISTS events_person_request_idx ON eventstore.events USING brin (
    ppnum text_bloom_ops (n_distinct_per_range = 256, false_positive_rate = 0.001),
    send_request_id text_bloom_ops (n_distinct_per_range = 256, false_positive_rate = 0.001)
) WITH (pages_per_range = 8)
"""
INTERRUPTED = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS k ON k.oid = i.indexrelid
               WHERE i.indrelid = 'eventstore.events'::regclass AND k.relname = :name AND NOT i.indisvalid)
"""
VACUUM_OFTEN = """
ALTER TABLE eventstore.events
SET (autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000)
"""
VACUUM_BY_DEFAULT = """
ALTER TABLE eventstore.events
RESET (autovacuum_vacuum_insert_scale_factor, autovacuum_vacuum_insert_threshold)
"""

CONSENT_HISTORY = """
CREATE OR REPLACE VIEW public.consent_history AS
SELECT app || '' AS app, ppnum,
       CASE
           WHEN event_type = 1 THEN 'granted'
           WHEN event_type = 3 THEN 'pending'
           WHEN event_type = 4 THEN 'granted'
           WHEN event_type = 5 THEN 'denied'
           WHEN error_code = 'consent_denied' THEN 'denied'
           ELSE 'expired'
       END AS status,
       CASE WHEN event_type = 1 THEN 'delivery' ELSE 'consent' END AS basis,
       occurred_at AS at, event_id, coalesce(send_request_id, '') AS send_request_id
FROM eventstore.events
WHERE ppnum <> ''
  AND (event_type IN (1, 3, 4, 5) OR (event_type = 2 AND error_code IN ('consent_denied', 'consent_expired')))
ORDER BY app, ppnum, event_id
"""

BEFORE = "events_consent_history_idx"
SHOWN_BEFORE = (
    "ppnum <> '' AND (event_type IN (1, 3, 4, 5)"
    " OR (event_type = 2 AND error_code IN ('consent_denied', 'consent_expired')))"
)


def upgrade() -> None:
    if op.get_bind().execute(sa.text(INTERRUPTED), {"name": NAME}).scalar_one():
        op.drop_index(NAME, "events", schema="eventstore")
    op.execute(CREATE_INDEX)
    op.execute(VACUUM_OFTEN)
    op.execute(CONSENT_HISTORY)
    op.drop_index(BEFORE, "events", schema="eventstore", if_exists=True)


def downgrade() -> None:
    op.create_index(
        BEFORE,
        "events",
        ["app", "ppnum"],
        schema="eventstore",
        postgresql_where=sa.text(SHOWN_BEFORE),
        if_not_exists=True,
    )
    op.execute(CONSENT_HISTORY.replace("app || '' AS app", "app"))
    op.execute(VACUUM_BY_DEFAULT)
    op.drop_index(NAME, "events", schema="eventstore", if_exists=True)
