"""Rebuilds fold slices: how many are folded is recorded, and partitioned tables of shadows can be dropped too."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

# As in revision 0018, and of partitioned tables too. A partition is gone already if its table was dropped before it.
DROP_SHADOW_TABLES = """
CREATE OR REPLACE FUNCTION projections.drop_shadow_tables(names text[]) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found text;
BEGIN
    FOR found IN
        SELECT c.relname FROM pg_class AS c
        WHERE c.relnamespace = to_regnamespace('projections_shadow') AND c.relkind IN ('r', 'p')
          AND c.relname = ANY (names) AND obj_description(c.oid, 'pg_class') LIKE 'projections: shadow of %'
        ORDER BY 1
    LOOP
        EXECUTE format('DROP TABLE IF EXISTS projections_shadow.%I', found);
    END LOOP;
END
$$
"""

DROP_PLAIN_SHADOW_TABLES = """
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

SLICES = "Slices into which the log was divided; NULL if it was folded window by window."
SLICES_FOLDED = "How many of them are folded."


def upgrade() -> None:
    for name, comment in (("slices", SLICES), ("slices_folded", SLICES_FOLDED)):
        op.add_column("rebuilds", sa.Column(name, sa.Integer(), comment=comment), schema="projections")
    op.execute(DROP_SHADOW_TABLES)


def downgrade() -> None:
    op.execute(DROP_PLAIN_SHADOW_TABLES)
    for name in ("slices_folded", "slices"):
        op.drop_column("rebuilds", name, schema="projections")
