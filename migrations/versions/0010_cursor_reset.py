"""Where a stream begins again after somebody reset its cursor."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

COLUMNS = (
    (
        "reset_to",
        sa.Text(collation="C"),
        "After a reset: the ULID that the stream begins at again; NULL for where a first contact begins.",
    ),
    (
        "reset_position",
        sa.BigInteger(),
        "The last position at the reset: only events stored later say where the stream goes on; NULL without a reset.",
    ),
)


def upgrade() -> None:
    for name, kind, comment in COLUMNS:
        op.add_column("cursors", sa.Column(name, kind, comment=comment), schema="eventstore")


def downgrade() -> None:
    for name, _, _ in reversed(COLUMNS):
        op.drop_column("cursors", name, schema="eventstore")
