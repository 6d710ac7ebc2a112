"""The head of the log has a view of its own, so that it is read alike where Citus distributes the log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

HEAD = """
CREATE OR REPLACE VIEW eventstore.head AS
SELECT position, received_at, event_id FROM eventstore.events ORDER BY position DESC LIMIT 1
"""
HEAD_COMMENTS = {
    "VIEW eventstore.head": "The last event of the log; no row while the log is empty.",
    "COLUMN eventstore.head.position": "Its position.",
    "COLUMN eventstore.head.received_at": "When it was appended here.",
    "COLUMN eventstore.head.event_id": "Its ULID.",
}

# Checkpoints and events are joined, not looked up one by one: they may be on different servers.
FRESHNESS = """
CREATE OR REPLACE VIEW public.read_model_freshness AS
SELECT checkpoint.name AS read_model, checkpoint.position,
       greatest(head.position - checkpoint.position, 0) AS events_behind,
       CASE WHEN head.position <= checkpoint.position THEN 0
            ELSE coalesce(
                greatest(extract(epoch FROM clock_timestamp() - coalesce(next.received_at, head.received_at)), 0), 0
            )
       END::double precision AS seconds_behind,
       CASE WHEN checkpoint.position > head.position THEN 'waiting' ELSE checkpoint.state END AS state
FROM projections.checkpoints AS checkpoint
CROSS JOIN (
    SELECT coalesce(max(position), 0) AS position, max(received_at) AS received_at FROM eventstore.head
) AS head
LEFT JOIN (
    SELECT e.position, e.received_at FROM eventstore.events AS e
    WHERE e.position = ANY(ARRAY(SELECT position + 1 FROM projections.checkpoints))
) AS next ON next.position = checkpoint.position + 1
"""

# As revision 0005 made it.
FRESHNESS_BEFORE = """
CREATE OR REPLACE VIEW public.read_model_freshness AS
SELECT checkpoint.name AS read_model, checkpoint.position,
       greatest(head.position - checkpoint.position, 0) AS events_behind,
       CASE WHEN head.position <= checkpoint.position THEN 0
            ELSE coalesce(greatest(extract(epoch FROM clock_timestamp() - (
                SELECT received_at FROM eventstore.events WHERE position > checkpoint.position
                ORDER BY position LIMIT 1
            )), 0), 0)
       END::double precision AS seconds_behind,
       CASE WHEN checkpoint.position > head.position THEN 'waiting' ELSE checkpoint.state END AS state
FROM projections.checkpoints AS checkpoint,
     (SELECT coalesce(max(position), 0) AS position FROM eventstore.events) AS head
"""

# The table of permits is where the functions are that write it. Another server of a distributed log has none, and
# refuses every change.
REFUSE_ALL_BUT_PERMITTED = """
CREATE OR REPLACE FUNCTION eventstore.refuse_change() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    permitted text;
    kept eventstore.events;
BEGIN
    -- Only as the owner: the permit of a role that was merely granted INSERT on the table means nothing.
    IF TG_OP = 'UPDATE' AND current_user = (
        SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = to_regclass('eventstore.change_permits')
    ) THEN
        SELECT purpose INTO permitted FROM eventstore.change_permits
        WHERE transaction = pg_current_xact_id()::text::bigint;
    END IF;
    IF permitted IN ('redecode', 'erase') AND TG_LEVEL = 'STATEMENT' THEN
        RETURN NULL;
    END IF;
    IF permitted = 'redecode' THEN
        IF ROW(NEW.event_id, NEW.position, NEW.app, NEW.contract, NEW.received_at, NEW.payload)
           IS NOT DISTINCT FROM ROW(OLD.event_id, OLD.position, OLD.app, OLD.contract, OLD.received_at, OLD.payload)
        THEN
            RETURN NEW;
        END IF;
    ELSIF permitted = 'erase' THEN
        -- A token takes the place of a number, never of another token; whatever else the row has stays.
        kept := OLD;
        kept.ppnum := NEW.ppnum;
        kept.message_id := NULL;
        kept.payload := NEW.payload;
        IF NEW *= kept AND OLD.ppnum <> ''
           AND OLD.ppnum !~ '^erased:[0-7][0-9A-HJKMNP-TV-Z]{25}$'
           AND NEW.ppnum ~ '^erased:[0-7][0-9A-HJKMNP-TV-Z]{25}$'
           AND position(convert_to(NEW.ppnum, 'UTF8') IN NEW.payload) > 0
        THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION '% on eventstore.events is refused: events stay as they came', TG_OP
        USING ERRCODE = 'modifying_sql_data_not_permitted';
END
$$
"""
# What it has more than that of revision 0022.
_WHERE_PERMITS_ARE = ("to_regclass('eventstore.change_permits')", "'eventstore.change_permits'::regclass")

REFUSE_WHILE_DISTRIBUTED = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM eventstore.distributed_head) THEN
        RAISE EXCEPTION 'the log is distributed by Citus, which earlier revisions do not know';
    END IF;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "distributed_head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False, comment="Always 1: there is one head."),
        sa.Column("position", sa.BigInteger, nullable=False, comment="The head of the log: its last position, or 0."),
        sa.Column(
            "received_at",
            sa.DateTime(timezone=True),
            comment="When the last event was appended; NULL while there is none.",
        ),
        sa.Column("event_id", sa.Text(collation="C"), comment="The last event; NULL while there is none."),
        sa.CheckConstraint("id = 1", name="distributed_head_id_check"),
        sa.CheckConstraint("position >= 0", name="distributed_head_position_check"),
        schema="eventstore",
        comment="The head of a log that Citus distributes over several servers; without a row, it isn't distributed.",
    )
    op.execute(HEAD)
    for what, comment in HEAD_COMMENTS.items():
        op.execute(f"COMMENT ON {what} IS '{comment}'")
    op.execute(FRESHNESS)
    op.execute(REFUSE_ALL_BUT_PERMITTED)


def downgrade() -> None:
    op.execute(REFUSE_WHILE_DISTRIBUTED)
    op.execute(REFUSE_ALL_BUT_PERMITTED.replace(*_WHERE_PERMITS_ARE))
    op.execute(FRESHNESS_BEFORE)
    op.execute("DROP VIEW eventstore.head")
    op.drop_table("distributed_head", schema="eventstore")
