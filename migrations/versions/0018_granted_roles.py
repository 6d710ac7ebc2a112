"""Roles with few privileges: which there are, and how a worker removes the shadow that another role left."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

# With its owner's rights: only the owner of the schema may drop the tables of another role. It drops tables that are
# marked as shadows and nothing else, so that nobody can put a table of their own in the place of shadow_positions.
DROP_SHADOW_TABLES = """
CREATE OR REPLACE FUNCTION projections.drop_shadow_tables(names text[]) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found text;
BEGIN
    FOR found IN
        SELECT c.relname FROM pg_class AS c
        WHERE c.relnamespace = to_regnamespace('projections_shadow') AND c.relkind = 'r' AND c.relname = ANY (names)
          AND obj_description(c.oid, 'pg_class') LIKE 'projections: shadow of %'
        ORDER BY 1
    LOOP
        EXECUTE format('DROP TABLE IF EXISTS projections_shadow.%I', found);
    END LOOP;
END
$$
"""


def upgrade() -> None:
    op.create_table(
        "granted_roles",
        sa.Column("role", sa.Text(), primary_key=True, comment="The role of the database server."),
        sa.Column("kind", sa.Text(), primary_key=True, comment="What it may do: reader, worker, ingest or serve."),
        sa.Column(
            "granted_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When projections grant first granted it.",
        ),
        sa.CheckConstraint("kind IN ('reader', 'worker', 'ingest', 'serve')", name="granted_roles_kind_check"),
        schema="projections",
        comment="Roles that projections grant gave privileges; migrate grants them on the tables that it creates.",
    )
    op.execute(DROP_SHADOW_TABLES)
    op.execute("REVOKE ALL ON FUNCTION projections.drop_shadow_tables(text[]) FROM PUBLIC")
    # Nobody needs it to fire the triggers, and it showed the schema to everybody in information_schema.routines.
    op.execute("REVOKE ALL ON FUNCTION eventstore.refuse_change() FROM PUBLIC")


def downgrade() -> None:
    op.execute("GRANT EXECUTE ON FUNCTION eventstore.refuse_change() TO PUBLIC")
    op.execute("DROP FUNCTION projections.drop_shadow_tables(text[])")
    op.drop_table("granted_roles", schema="projections")
