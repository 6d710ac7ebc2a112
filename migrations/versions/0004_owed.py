"""What a redecoding owes, and which tables an as-of made: both outlive the process that knew."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "checkpoints",
        sa.Column(
            "redecoded_at",
            sa.DateTime(timezone=True),
            comment="When columns of folded events were read otherwise; NULL when none were, or rebuilt since.",
        ),
        schema="projections",
    )
    op.add_column(
        "rebuilds",
        sa.Column(
            "into_table_oids",
            postgresql.ARRAY(postgresql.OID()),
            comment="The oids of the tables that it made there; NULL in rows of before that was noted.",
        ),
        schema="projections",
    )


def downgrade() -> None:
    op.drop_column("rebuilds", "into_table_oids", schema="projections")
    op.drop_column("checkpoints", "redecoded_at", schema="projections")
