"""The times from which the time to deliver is computed, and an index for the requests of a period."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

COLUMNS = (
    (
        "request_recipients",
        "created_at",
        "When the platform created the recipient, the earliest time stated; NULL when none is.",
    ),
    (
        "request_recipients",
        "first_event_at",
        "When the earliest event that reports a status of the recipient happened.",
    ),
    (
        "request_recipients",
        "delivered_at",
        "When the earliest event that reports the delivery happened; NULL without one.",
    ),
    (
        "request_status",
        "created_at",
        "When the request was created, the earliest time that a summary or recipient states; NULL when none does.",
    ),
)


def upgrade() -> None:
    for table, name, comment in COLUMNS:
        op.add_column(table, sa.Column(name, sa.DateTime(timezone=True), comment=comment), schema="public")
    op.create_index("request_status_first_event_idx", "request_status", ["app", "first_event_at"], schema="public")


def downgrade() -> None:
    op.drop_index("request_status_first_event_idx", "request_status", schema="public")
    for table, name, _ in reversed(COLUMNS):
        op.drop_column(table, name, schema="public")
