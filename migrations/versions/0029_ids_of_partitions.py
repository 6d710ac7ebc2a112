"""A partitioned log keeps the ids of new events by reading them back, which takes less than a table of all new rows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

# A trigger that is given the new rows as a table costs a copy of each row, and lets COPY insert them one by one.
KEEP_EVENT_IDS = """
CREATE OR REPLACE FUNCTION eventstore.keep_event_ids() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before bigint;
    kept bigint;
    added bigint;
    head bigint;
    part record;
    is_kept boolean;
    restored int8range := nullif(current_setting('eventstore.restored_positions', true), '');
BEGIN
    SELECT u.position INTO STRICT before FROM eventstore.event_ids_up_to AS u;
    kept := before;
    -- A restore may fill gaps before the position up to which ids are kept; it says which positions it stores.
    IF lower(restored) <= kept THEN
        INSERT INTO eventstore.event_ids (event_id, position)
        SELECT e.event_id, e.position FROM eventstore.events AS e
        WHERE e.position >= lower(restored) AND e.position < upper(restored) AND e.position <= kept
          AND NOT EXISTS (
              SELECT FROM eventstore.event_ids AS i WHERE i.event_id = e.event_id AND i.position = e.position
          );
    END IF;
    -- Each partition by its name: a statement that reads the log takes the longer the more partitions there are.
    FOR part IN
        SELECT p.name, p.first_position, p.last_position, row_number() OVER (ORDER BY p.last_position DESC) AS from_end
        FROM eventstore.partitions AS p WHERE p.last_position >= before
        UNION ALL
        SELECT 'events', 1, 9223372036854775807, 1 WHERE NOT EXISTS (SELECT FROM eventstore.partitions)
        ORDER BY 2
    LOOP
        -- After the end, only those are looked at that were made ahead. They are empty, unless somebody left a gap.
        IF part.first_position > kept + 1 THEN
            CONTINUE WHEN part.from_end > 3;
            CONTINUE WHEN pg_relation_size(format('eventstore.%I', part.name)::regclass) = 0;
        END IF;
        -- With both bounds: without statistics, the planner takes an open range for a third of the table.
        EXECUTE format('INSERT INTO eventstore.event_ids (event_id, position)'
                       ' SELECT e.event_id, e.position FROM eventstore.%I AS e'
                       ' WHERE e.position > $1 AND e.position <= $2', part.name)
        USING kept, part.last_position;
        GET DIAGNOSTICS added = ROW_COUNT;
        kept := kept + added;
        EXECUTE format('SELECT max(e.position), EXISTS ('
                       ' SELECT FROM eventstore.%1$I AS e JOIN eventstore.event_ids AS i ON i.event_id = e.event_id'
                       ' WHERE e.position = $1 AND i.position = $1) FROM eventstore.%1$I AS e', part.name)
        INTO head, is_kept USING before;
        -- Whoever doesn't append at the end, without gaps, would leave ids out.
        IF head <> kept OR before >= part.first_position AND NOT is_kept THEN
            RAISE EXCEPTION 'events can be added after position % only, without gaps; the last one would be %',
                before, head USING HINT = 'If events were deleted, restore them with projections import.';
        END IF;
    END LOOP;
    IF kept > before THEN
        UPDATE eventstore.event_ids_up_to SET position = kept;
    END IF;
    RETURN NULL;
END
$$
"""

KEEP_GIVEN_EVENT_IDS = """
CREATE OR REPLACE FUNCTION eventstore.keep_event_ids() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO eventstore.event_ids (event_id, position) SELECT event_id, position FROM added_events;
    RETURN NULL;
END
$$
"""

HAS_TRIGGER = """
SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'eventstore.events'::regclass AND tgname = 'keep_event_ids')
"""
TRIGGER = """
CREATE OR REPLACE TRIGGER keep_event_ids AFTER INSERT ON eventstore.events
FOR EACH STATEMENT EXECUTE FUNCTION eventstore.keep_event_ids()
"""
TRIGGER_WITH_ROWS = TRIGGER.replace("FOR EACH", "REFERENCING NEW TABLE AS added_events FOR EACH")
ALWAYS = "ALTER TABLE eventstore.events ENABLE ALWAYS TRIGGER keep_event_ids"
BEGIN_AT_HEAD = (
    "INSERT INTO eventstore.event_ids_up_to (id, position) SELECT 1, coalesce(max(position), 0) FROM eventstore.events"
)
# If the log is only being partitioned, the ids of earlier events may not be there yet.
KEEP_LAST_ID = """
INSERT INTO eventstore.event_ids (event_id, position) SELECT e.event_id, e.position FROM eventstore.events AS e
JOIN eventstore.event_ids_up_to AS u ON u.position = e.position ON CONFLICT DO NOTHING
"""


def upgrade() -> None:
    op.create_table(
        "event_ids_up_to",
        sa.Column(
            "id", sa.Integer(), primary_key=True, autoincrement=False, comment="Always 1: there is one position."
        ),
        sa.Column(
            "position", sa.BigInteger(), nullable=False, comment="The ids of all events up to here are in event_ids."
        ),
        sa.CheckConstraint("id = 1", name="event_ids_up_to_id_check"),
        sa.CheckConstraint("position >= 0", name="event_ids_up_to_position_check"),
        schema="eventstore",
        comment="Up to which position event_ids has the ids of a partitioned log; without a row, the log is one table.",
    )
    if has_trigger():
        for statement in (TRIGGER, ALWAYS, BEGIN_AT_HEAD, KEEP_LAST_ID):
            op.execute(statement)
    op.execute(KEEP_EVENT_IDS)


def downgrade() -> None:
    if has_trigger():
        for statement in (TRIGGER_WITH_ROWS, ALWAYS):
            op.execute(statement)
    op.execute(KEEP_GIVEN_EVENT_IDS)
    op.drop_table("event_ids_up_to", schema="eventstore")


def has_trigger() -> bool:
    """Return whether the log is partitioned, or is being partitioned."""
    return bool(op.get_bind().exec_driver_sql(HAS_TRIGGER).scalar_one())
