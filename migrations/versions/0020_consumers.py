"""The table of named consumers: programs that read the log from a durable checkpoint; and the kind of role for them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

OLD_KINDS = "kind IN ('reader', 'worker', 'ingest', 'serve')"
NEW_KINDS = "kind IN ('reader', 'worker', 'ingest', 'serve', 'consumer')"
OLD_MEANING = "What it may do: reader, worker, ingest or serve."
NEW_MEANING = "What it may do: reader, worker, ingest, serve or consumer."


def upgrade() -> None:
    op.create_table(
        "consumers",
        sa.Column("name", sa.Text(), comment="The name that the program gives to its consumer."),
        sa.Column(
            "position",
            sa.BigInteger(),
            nullable=False,
            comment="The checkpoint: every event up to here was handed out and acknowledged.",
        ),
        sa.Column(
            "event_id",
            sa.Text(collation="C"),
            comment="The event at that position, to notice a log that was replaced; NULL at position 0.",
        ),
        sa.Column(
            "epoch",
            sa.BigInteger(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Raised by each process that takes over; only its holder moves the checkpoint.",
        ),
        sa.Column(
            "attempts",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="How often the batch after the checkpoint was handed out; 0 while it has not been.",
        ),
        sa.Column(
            "handed_out_at",
            sa.DateTime(timezone=True),
            comment="When that batch was last handed out; NULL while it has not been.",
        ),
        sa.Column(
            "events",
            sa.BigInteger(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Events that were handed out and acknowledged, since the consumer was created.",
        ),
        sa.Column("moved_at", sa.DateTime(timezone=True), comment="When the checkpoint last moved; NULL for never."),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, comment="When the consumer first ran."),
        sa.PrimaryKeyConstraint("name", name="consumers_pkey"),
        sa.CheckConstraint("octet_length(name) BETWEEN 1 AND 63", name="consumers_name_check"),
        sa.CheckConstraint("position >= 0", name="consumers_position_check"),
        sa.CheckConstraint("(event_id IS NULL) = (position = 0)", name="consumers_event_id_check"),
        sa.CheckConstraint("attempts >= 0", name="consumers_attempts_check"),
        schema="eventstore",
        comment="How far each named consumer is: a program that reads events for something other than a read model.",
    )
    _replace_kinds(NEW_KINDS, NEW_MEANING, OLD_MEANING)


def downgrade() -> None:
    op.execute("DELETE FROM projections.granted_roles WHERE kind = 'consumer'")
    _replace_kinds(OLD_KINDS, OLD_MEANING, NEW_MEANING)
    op.drop_table("consumers", schema="eventstore")


def _replace_kinds(kinds: str, meaning: str, meaning_before: str) -> None:
    op.drop_constraint("granted_roles_kind_check", "granted_roles", schema="projections")
    op.create_check_constraint("granted_roles_kind_check", "granted_roles", kinds, schema="projections")
    op.alter_column(
        "granted_roles",
        "kind",
        schema="projections",
        existing_type=sa.Text(),
        existing_nullable=False,
        comment=meaning,
        existing_comment=meaning_before,
    )
