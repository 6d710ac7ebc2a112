"""Checks of what the invariants rest on: positions, ids, counts, and the sets that states and contracts come from.

They hold for new rows from here on, and no row that is there is read, so no table is locked for long. ``migrate`` then
proves them for all rows, each in a transaction of its own (VALIDATE, which lets others read and write meanwhile).
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

CONTRACT = "contract IN ('chat.external', 'pcs.external.v1')"
CHECKS = (
    ("eventstore", "events", "position", "position > 0"),
    ("eventstore", "events", "event_id", "octet_length(event_id) = 26"),
    ("eventstore", "events", "contract", CONTRACT),
    ("eventstore", "cursors", "contract", CONTRACT),
    ("eventstore", "cursors", "last_event_id", "last_event_id ~ '^[0-7][0-9A-HJKMNP-TV-Z]{25}$'"),
    ("eventstore", "cursors", "holes", "jsonb_typeof(holes) = 'array'"),
    ("eventstore", "cursors", "went_back", "jsonb_typeof(went_back) = 'array'"),
    ("eventstore", "cursors", "epoch", "epoch >= 0"),
    ("eventstore", "quarantine", "sha256", "octet_length(sha256) = 32"),
    ("eventstore", "quarantine", "count", "count > 0"),
    ("projections", "checkpoints", "position", "position >= 0"),
    ("projections", "checkpoints", "version", "version >= 0"),
    ("projections", "checkpoints", "state", "state IN ('running', 'paused', 'waiting', 'failed')"),
    ("projections", "checkpoints", "failures", "failures >= 0"),
    ("projections", "skips", "event_id", "octet_length(event_id) = 26"),
    ("projections", "skips", "version", "version > 0"),
    ("projections", "rebuilds", "position", "position >= 0"),
    ("projections", "rebuilds", "state", "state IN ('running', 'done', 'refused', 'failed', 'abandoned')"),
)


def upgrade() -> None:
    for schema, table, name, condition in CHECKS:
        constraint = f"{table}_{name}_check"
        op.execute(f"ALTER TABLE {schema}.{table} ADD CONSTRAINT {constraint} CHECK ({condition}) NOT VALID")


def downgrade() -> None:
    for schema, table, name, _ in reversed(CHECKS):
        op.execute(f"ALTER TABLE {schema}.{table} DROP CONSTRAINT {table}_{name}_check")
