"""The table of partitions of the event table that were written to files and dropped."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "archived_partitions",
        sa.Column("first", sa.BigInteger(), autoincrement=False, comment="The first position in the file."),
        sa.Column("last", sa.BigInteger(), nullable=False, comment="The last position in the file."),
        sa.Column(
            "events", sa.BigInteger(), nullable=False, comment="How many events the file has: one for each position."
        ),
        sa.Column("first_event_id", sa.Text(collation="C"), nullable=False, comment="The event at the first position."),
        sa.Column("last_event_id", sa.Text(collation="C"), nullable=False, comment="The event at the last position."),
        sa.Column("first_received_at", TIME, nullable=False, comment="When the first of them was received."),
        sa.Column("last_received_at", TIME, nullable=False, comment="When the last of them was received."),
        sa.Column("file", sa.Text(), nullable=False, comment="The name of the file, without its folder."),
        sa.Column("file_bytes", sa.BigInteger(), nullable=False, comment="The size of the file."),
        sa.Column("sha256", sa.LargeBinary(), nullable=False, comment="SHA-256 of the file."),
        sa.Column("parquet_file", sa.Text(), comment="The name of the Parquet file; NULL without one."),
        sa.Column("parquet_bytes", sa.BigInteger(), comment="The size of the Parquet file; NULL without one."),
        sa.Column("parquet_sha256", sa.LargeBinary(), comment="SHA-256 of the Parquet file; NULL without one."),
        sa.Column(
            "erasure",
            sa.BigInteger(),
            nullable=False,
            comment="The greatest id of the erasures that the files have; 0 for none.",
        ),
        sa.Column(
            "archived_at", TIME, nullable=False, comment="When the files were complete and compared with the events."
        ),
        sa.Column(
            "archived_by", sa.Text(), nullable=False, comment="Who ran it: the database role and the system user."
        ),
        sa.Column(
            "dropped_at", TIME, comment="When the partition was dropped; NULL while its events are still in the log."
        ),
        sa.Column(
            "to_delete",
            postgresql.ARRAY(sa.Text()),
            nullable=False,
            server_default=sa.text("'{}'"),
            comment="Earlier files that an erasure replaced and that must still be deleted.",
        ),
        sa.PrimaryKeyConstraint("first", name="archived_partitions_pkey"),
        sa.CheckConstraint("first > 0", name="archived_partitions_first_check"),
        sa.CheckConstraint("last = first + events - 1", name="archived_partitions_last_check"),
        sa.CheckConstraint("octet_length(sha256) = 32", name="archived_partitions_sha256_check"),
        sa.CheckConstraint(
            "(parquet_file IS NULL) = (parquet_sha256 IS NULL) AND (parquet_file IS NULL) = (parquet_bytes IS NULL)",
            name="archived_partitions_parquet_file_check",
        ),
        schema="eventstore",
        comment="Partitions of the event table that projections archive wrote to files: which positions are where.",
    )


def downgrade() -> None:
    op.drop_table("archived_partitions", schema="eventstore")
