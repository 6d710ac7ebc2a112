"""Readers can read how far the read models are behind where Citus distributes the log."""

from __future__ import annotations

from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

# On other servers a view's rights don't count, but those of a function's owner do. So it runs with its owner's rights,
# and shows nothing but times. The view of a log on one server doesn't need it.
TIMES_OF_POSITIONS = """
CREATE OR REPLACE FUNCTION eventstore.times_of_positions(positions bigint[])
RETURNS TABLE (of_position bigint, received_at timestamptz) LANGUAGE plpgsql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT e.position, e.received_at FROM eventstore.events AS e WHERE e.position = ANY(positions);
END
$$
"""
# As revision 0027 made it.
FRESHNESS_BEFORE = """
CREATE OR REPLACE VIEW public.read_model_freshness AS
SELECT checkpoint.name AS read_model, checkpoint.position,
       greatest(head.position - checkpoint.position, 0) AS events_behind,
       CASE WHEN head.position <= checkpoint.position THEN 0
            ELSE coalesce(
                greatest(extract(epoch FROM clock_timestamp() - coalesce(next.received_at, head.received_at)), 0), 0
            )
       END::double precision AS seconds_behind,
       CASE WHEN checkpoint.position > head.position THEN 'waiting' ELSE checkpoint.state END AS state
FROM projections.checkpoints AS checkpoint
CROSS JOIN (
    SELECT coalesce(max(position), 0) AS position, max(received_at) AS received_at FROM eventstore.head
) AS head
LEFT JOIN (
    SELECT e.position, e.received_at FROM eventstore.events AS e
    WHERE e.position = ANY(ARRAY(SELECT position + 1 FROM projections.checkpoints))
) AS next ON next.position = checkpoint.position + 1
"""
NEXT_EVENTS = """LEFT JOIN (
    SELECT e.position, e.received_at FROM eventstore.events AS e
    WHERE e.position = ANY(ARRAY(SELECT position + 1 FROM projections.checkpoints))
) AS next ON next.position ="""
FRESHNESS_OF_DISTRIBUTED_LOG = FRESHNESS_BEFORE.replace(
    NEXT_EVENTS,
    """LEFT JOIN eventstore.times_of_positions(ARRAY(SELECT position + 1 FROM projections.checkpoints)) AS next
    ON next.of_position =""",
)


def upgrade() -> None:
    op.execute(TIMES_OF_POSITIONS)
    op.execute("REVOKE ALL ON FUNCTION eventstore.times_of_positions(bigint[]) FROM PUBLIC")
    if op.get_bind().exec_driver_sql("SELECT EXISTS (SELECT FROM eventstore.distributed_head)").scalar_one():
        op.execute(FRESHNESS_OF_DISTRIBUTED_LOG)
        op.execute("GRANT EXECUTE ON FUNCTION eventstore.times_of_positions(bigint[]) TO PUBLIC")


def downgrade() -> None:
    op.execute(FRESHNESS_BEFORE)
    op.execute("DROP FUNCTION eventstore.times_of_positions(bigint[])")
