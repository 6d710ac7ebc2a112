"""Let the log be partitioned by position: which partitions there are, the ids of their events, and who makes the next.

``projections migrate --partition-events`` partitions a log; this revision changes no row. Until then the table of
partitions is empty, and the ids are those of the events.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

# Readers find events by id in this view, whatever the form of the log.
IDS_OF_TABLE = "CREATE OR REPLACE VIEW eventstore.event_positions AS SELECT event_id, position FROM eventstore.events"
IDS_OF_PARTITIONS = (
    "CREATE OR REPLACE VIEW eventstore.event_positions AS SELECT event_id, position FROM eventstore.event_ids"
)

KEEP_EVENT_IDS = """
CREATE OR REPLACE FUNCTION eventstore.keep_event_ids() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO eventstore.event_ids (event_id, position) SELECT event_id, position FROM added_events;
    RETURN NULL;
END
$$
"""

# ATTACH locks the log against other changes of its definition only; events are read and appended meanwhile.
MAKE_PARTITION = """
CREATE OR REPLACE FUNCTION eventstore.make_partition(size bigint) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last record;
    made text;
    whole_name text;
    one text;
BEGIN
    PERFORM pg_advisory_xact_lock(1972750433999478362);
    SELECT p.name, p.last_position + 1 AS begins INTO STRICT last
    FROM eventstore.partitions AS p ORDER BY p.last_position DESC LIMIT 1;
    made := format('events_from_%s', last.begins);
    whole_name := format('eventstore.%I', made);
    EXECUTE format('CREATE TABLE %s (LIKE eventstore.events INCLUDING ALL)', whole_name);
    FOR one IN SELECT unnest(reloptions) FROM pg_class WHERE oid = to_regclass(format('eventstore.%I', last.name)) LOOP
        EXECUTE format('ALTER TABLE %s SET (%s)', whole_name, one);
    END LOOP;
    -- Events are reached through the log, so nobody but the owner needs privileges here.
    FOR one IN
        SELECT DISTINCT CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END
        FROM pg_class AS c, aclexplode(c.relacl) AS x WHERE c.oid = whole_name::regclass AND x.grantee <> c.relowner
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', whole_name, one);
    END LOOP;
    -- For logical replication: a partition has no primary key.
    SELECT c.relname INTO STRICT one
    FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] AND a.attname = 'position'
    WHERE i.indrelid = whole_name::regclass AND i.indisunique AND i.indnatts = 1;
    EXECUTE format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I', whole_name, one);
    EXECUTE format('CREATE TRIGGER refuse_change_statement BEFORE UPDATE OR DELETE OR TRUNCATE ON %s'
                   ' FOR EACH STATEMENT EXECUTE FUNCTION eventstore.refuse_change()', whole_name);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER refuse_change_statement', whole_name);
    EXECUTE format('ALTER TABLE eventstore.events ATTACH PARTITION %s FOR VALUES FROM (%s) TO (%s)',
                   whole_name, last.begins, last.begins + size);
    FOR one IN
        SELECT tgname FROM pg_trigger
        WHERE tgrelid = 'eventstore.events'::regclass AND NOT tgisinternal AND tgenabled = 'A' AND tgtype & 1 = 1
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', whole_name, one);
    END LOOP;
    EXECUTE format('COMMENT ON TABLE %s IS %L', whole_name, 'A partition of eventstore.events; read that.');
    INSERT INTO eventstore.partitions (name, first_position, last_position, made_at)
    VALUES (made, last.begins, last.begins + size - 1, clock_timestamp());
END
$$
"""

# For whoever appends: partitions like the last one, until a whole one follows the one that a position belongs into.
MAKE_PARTITIONS = """
CREATE OR REPLACE FUNCTION eventstore.make_partitions(reach bigint) RETURNS integer LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last record;
BEGIN
    PERFORM pg_advisory_xact_lock(1972750433999478362);
    FOR made IN 0..1000 LOOP
        SELECT p.first_position AS begins, p.last_position - p.first_position + 1 AS size INTO last
        FROM eventstore.partitions AS p ORDER BY p.last_position DESC LIMIT 1;
        IF NOT FOUND OR last.begins > reach THEN
            RETURN made;
        END IF;
        PERFORM eventstore.make_partition(last.size);
    END LOOP;
    RAISE EXCEPTION 'position % is more than a thousand partitions after the last one', reach
        USING ERRCODE = 'program_limit_exceeded';
END
$$
"""

# An append that meets the check of an unfinished partitioning drops it; the partitioning begins that step again.
ABANDON_PARTITIONING = """
CREATE OR REPLACE FUNCTION eventstore.abandon_partitioning() RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    ALTER TABLE eventstore.events DROP CONSTRAINT IF EXISTS events_first_partition_check;
END
$$
"""

COMMENT_ON_VIEW = (
    "COMMENT ON VIEW eventstore.event_positions IS 'The position of each event_id: where to look an event up by its id,"
    " partitioned or not. It keeps the ids of archived events.'"
)
VIEW_COLUMNS = {
    "event_id": "The event.",
    "position": "Its position in the log.",
}


def upgrade() -> None:
    op.create_table(
        "partitions",
        sa.Column("name", sa.Text(), primary_key=True, comment="The partition: a table of this schema."),
        sa.Column(
            "first_position", sa.BigInteger(), nullable=False, comment="The first position that belongs into it."
        ),
        sa.Column("last_position", sa.BigInteger(), nullable=False, comment="The last position that belongs into it."),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False, comment="When it was made."),
        sa.UniqueConstraint("last_position", name="partitions_last_position_key"),
        sa.CheckConstraint("0 < first_position AND first_position <= last_position", name="partitions_positions_check"),
        schema="eventstore",
        comment="The partitions of the log; empty while eventstore.events is one table.",
    )
    op.create_table(
        "event_ids",
        sa.Column("event_id", sa.Text(collation="C"), primary_key=True, comment="The event."),
        sa.Column("position", sa.BigInteger(), nullable=False, comment="Its position in the log."),
        schema="eventstore",
        comment="The ids of all events of a partitioned log, archived ones included: no id is stored twice. Empty while"
        " the log is one table.",
    )
    op.execute(IDS_OF_TABLE)
    op.execute(COMMENT_ON_VIEW)
    for name, comment in VIEW_COLUMNS.items():
        op.execute(f"COMMENT ON COLUMN eventstore.event_positions.{name} IS '{comment}'")
    for function, signature in (
        (KEEP_EVENT_IDS, "keep_event_ids()"),
        (MAKE_PARTITION, "make_partition(bigint)"),
        (MAKE_PARTITIONS, "make_partitions(bigint)"),
        (ABANDON_PARTITIONING, "abandon_partitioning()"),
    ):
        op.execute(sa.text(function.replace(":", "\\:")))
        op.execute(f"REVOKE ALL ON FUNCTION eventstore.{signature} FROM PUBLIC")
    op.execute(GRANT_AS_ON_EVENTS)


def downgrade() -> None:
    # projections migrate --down-to has made one table of the partitions before it comes here.
    op.execute(REFUSE_PARTITIONED)
    op.execute("DROP TRIGGER IF EXISTS keep_event_ids ON eventstore.events")
    op.execute("ALTER TABLE eventstore.events DROP CONSTRAINT IF EXISTS events_first_partition_check")
    op.execute("DROP VIEW eventstore.event_positions")
    for function in ("abandon_partitioning()", "make_partitions(bigint)", "make_partition(bigint)", "keep_event_ids()"):
        op.execute(f"DROP FUNCTION eventstore.{function}")
    op.drop_table("event_ids", schema="eventstore")
    op.drop_table("partitions", schema="eventstore")


# Whoever reads or appends events, by whichever grant, goes on without another one.
GRANT_AS_ON_EVENTS = """
DO $$
DECLARE
    role text;
    action text;
BEGIN
    FOR role, action IN
        SELECT CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END, x.privilege_type
        FROM pg_class AS c, aclexplode(c.relacl) AS x
        WHERE c.oid = 'eventstore.events'::regclass AND x.grantee <> c.relowner
    LOOP
        IF action IN ('SELECT', 'INSERT') THEN
            EXECUTE format('GRANT SELECT ON eventstore.event_positions, eventstore.partitions TO %s', role);
        END IF;
        IF action = 'INSERT' THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION eventstore.make_partitions(bigint),'
                           ' eventstore.abandon_partitioning() TO %s', role);
        END IF;
    END LOOP;
END
$$
"""

REFUSE_PARTITIONED = """
DO $$
BEGIN
    IF EXISTS (SELECT FROM eventstore.partitions) THEN
        RAISE EXCEPTION 'eventstore.events is partitioned; an earlier revision has one table'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
END
$$
"""
