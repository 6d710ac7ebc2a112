"""Limits of the quarantine: exact counts by app and reason, and how much of it each app uses."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

SCHEMA = "eventstore"
BEFORE = "Bytes that came over the wire and can't be an event, kept as they came."
NOW = "Bytes that came over the wire and can't be an event, kept as they came, up to a limit for each app."
COUNT_WHAT_IS_THERE = """
INSERT INTO eventstore.quarantine_counts (app, reason, messages, not_kept, first_seen, last_seen)
SELECT app, reason, sum(count), 0, min(first_seen), max(last_seen) FROM eventstore.quarantine GROUP BY app, reason
"""


def upgrade() -> None:
    op.add_column(
        "quarantine",
        sa.Column(
            "is_sample",
            sa.Boolean,
            nullable=False,
            server_default=sa.text("false"),
            comment="Kept as a sample while the quarantine was full; makes room for newer samples.",
        ),
        schema=SCHEMA,
    )
    op.create_table_comment("quarantine", NOW, existing_comment=BEFORE, schema=SCHEMA)
    _create_counts()
    _create_usage()
    op.execute(COUNT_WHAT_IS_THERE)


def _create_counts() -> None:
    time = sa.DateTime(timezone=True)
    op.create_table(
        "quarantine_counts",
        sa.Column("app", sa.Text, nullable=False, comment="Whose stream brought them."),
        sa.Column("reason", sa.Text, nullable=False, comment="Why they can't be events."),
        sa.Column(
            "messages",
            sa.BigInteger,
            nullable=False,
            comment="Messages that came, kept or not, repetitions included.",
        ),
        sa.Column(
            "not_kept",
            sa.BigInteger,
            nullable=False,
            comment="Those whose bytes were not kept: the quarantine was full.",
        ),
        sa.Column("first_seen", time, nullable=False, comment="When the first of them came."),
        sa.Column("last_seen", time, nullable=False, comment="When the last of them came."),
        sa.Column(
            "last_sample_at",
            time,
            comment="When a sample was last kept while the quarantine was full; NULL for never.",
        ),
        sa.PrimaryKeyConstraint("app", "reason", name="quarantine_counts_pkey"),
        schema=SCHEMA,
        comment="How many messages were quarantined, by app and reason; exact, whatever was kept of them.",
    )


def _create_usage() -> None:
    time = sa.DateTime(timezone=True)
    zero = sa.text("0")
    op.create_table(
        "quarantine_usage",
        sa.Column("app", sa.Text, nullable=False, comment="Whose stream is followed."),
        sa.Column(
            "kept_rows", sa.BigInteger, nullable=False, server_default=zero, comment="Rows kept, samples left out."
        ),
        sa.Column("kept_bytes", sa.BigInteger, nullable=False, server_default=zero, comment="Bytes of their payloads."),
        sa.Column(
            "counted_at", time, comment="When both were last counted in the table itself; NULL to count them next."
        ),
        sa.Column("full_since", time, comment="Since when messages have not fitted; NULL while there is room."),
        sa.PrimaryKeyConstraint("app", name="quarantine_usage_pkey"),
        schema=SCHEMA,
        comment="How much of each app's quarantine is used; the table quarantine itself is the truth.",
    )


def downgrade() -> None:
    op.drop_table("quarantine_usage", schema=SCHEMA)
    op.drop_table("quarantine_counts", schema=SCHEMA)
    op.drop_column("quarantine", "is_sample", schema=SCHEMA)
    op.create_table_comment("quarantine", BEFORE, existing_comment=NOW, schema=SCHEMA)
