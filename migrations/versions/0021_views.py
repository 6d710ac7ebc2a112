"""The views of users' projections: which there are, so that migrate replaces and drops only its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "views",
        sa.Column("name", sa.Text(), primary_key=True, comment="The view, in schema public."),
        sa.Column("projection", sa.Text(), nullable=False, comment="The projection that it belongs to."),
        schema="projections",
        comment="Views of users' projections, which migrate created and may replace or drop.",
    )


def downgrade() -> None:
    # The views stay: an upgrade takes them over again if they still show what their projections declare.
    op.drop_table("views", schema="projections")
