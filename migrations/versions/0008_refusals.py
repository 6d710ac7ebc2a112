"""Since when an app is refused, and when it is tried again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SCHEMA = "eventstore"


def upgrade() -> None:
    op.add_column(
        "cursors",
        sa.Column(
            "refused_at",
            sa.DateTime(timezone=True),
            comment="Since when the platform or issuer refuses the app; NULL unless refused.",
        ),
        schema=SCHEMA,
    )
    op.add_column(
        "cursors",
        sa.Column(
            "retry_at",
            sa.DateTime(timezone=True),
            comment="When a refused app is tried again; NULL for never, or while it is tried.",
        ),
        schema=SCHEMA,
    )


def downgrade() -> None:
    op.drop_column("cursors", "retry_at", schema=SCHEMA)
    op.drop_column("cursors", "refused_at", schema=SCHEMA)
