"""Fencing tokens of cursors, and the record of a log that went back; read models ahead of the log wait."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

FRESHNESS = """
CREATE OR REPLACE VIEW public.read_model_freshness AS
SELECT checkpoint.name AS read_model, checkpoint.position,
       greatest(head.position - checkpoint.position, 0) AS events_behind,
       CASE WHEN head.position <= checkpoint.position THEN 0
            ELSE coalesce(greatest(extract(epoch FROM clock_timestamp() - (
                SELECT received_at FROM eventstore.events WHERE position > checkpoint.position
                ORDER BY position LIMIT 1
            )), 0), 0)
       END::double precision AS seconds_behind,
       {state} AS state
FROM projections.checkpoints AS checkpoint,
     (SELECT coalesce(max(position), 0) AS position FROM eventstore.events) AS head
"""
STATE = "checkpoint.state"
WAITING_WHEN_AHEAD = "CASE WHEN checkpoint.position > head.position THEN 'waiting' ELSE checkpoint.state END"

NEW_FRESHNESS = FRESHNESS.format(state=WAITING_WHEN_AHEAD)


def upgrade() -> None:
    op.add_column(
        "cursors",
        sa.Column(
            "fence",
            sa.BigInteger(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Fencing token: a random number, new with every move; a follower moves on only from its own last "
            "one.",
        ),
        schema="eventstore",
    )
    op.add_column(
        "cursors",
        sa.Column(
            "went_back",
            postgresql.JSONB(),
            nullable=False,
            server_default=sa.text("'[]'::jsonb"),
            comment="When the database lost committed events (failover, restore): a list of {noticed_at, from, to}; "
            "who has read past position to must read again from there.",
        ),
        schema="eventstore",
    )
    op.execute(NEW_FRESHNESS)


def downgrade() -> None:
    op.execute(FRESHNESS.format(state=STATE))
    op.drop_column("cursors", "went_back", schema="eventstore")
    op.drop_column("cursors", "fence", schema="eventstore")
