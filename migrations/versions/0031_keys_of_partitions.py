"""Each new partition of the log has a key of its own on event_id, so that an append need not write a row for each id.

Ids of archived events, and of partitions that were there before this revision, stay in ``eventstore.event_ids``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from projections.migrating.revision_files import read_text

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

# The key of a partition refuses an id that it has. The trigger looks for the id elsewhere: in partitions whose ids
# reach into those of the new events, and among those that are kept in event_ids. It reads new events back by position,
# because a trigger that is given the new rows as a table costs a copy of each, and lets COPY insert them one by one.
KEEP_EVENT_IDS = """
CREATE OR REPLACE FUNCTION eventstore.keep_event_ids() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before record;
    checked bigint;
    last_id text;
    part record;
    added record;
    other record;
    twice text;
    restored int8range := nullif(current_setting('eventstore.restored_positions', true), '');
BEGIN
    -- Each statement below must see what others committed before it, and the lock lets one session after another look.
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'events are added to a partitioned log by transactions that are READ COMMITTED'
            USING ERRCODE = 'feature_not_supported';
    END IF;
    SELECT u.position, u.event_id INTO STRICT before FROM eventstore.event_ids_up_to AS u FOR NO KEY UPDATE;
    checked := before.position;
    FOR part IN
        -- A restore may fill gaps before the position up to which ids are checked; it says which positions it stores.
        SELECT p.name, p.has_key, p.first_position, true AS is_restored,
               greatest(p.first_position, lower(restored)) - 1 AS lo,
               least(p.last_position, upper(restored) - 1, before.position) AS hi
        FROM eventstore.partitions AS p
        WHERE lower(restored) <= before.position
          AND p.first_position <= least(upper(restored) - 1, before.position) AND p.last_position >= lower(restored)
        UNION ALL
        SELECT p.name, p.has_key, p.first_position, false, 0, p.last_position
        FROM eventstore.partitions AS p WHERE p.last_position >= before.position
        ORDER BY 4 DESC, 3
    LOOP
        IF NOT part.is_restored THEN
            -- Those that were made ahead are empty, unless somebody left a gap.
            CONTINUE WHEN part.first_position > checked + 1
                AND pg_relation_size(format('eventstore.%I', part.name)::regclass) = 0;
            part.lo := checked;
        END IF;
        -- By the name of the partition: a statement that reads the log takes the longer the more partitions there are.
        -- With both bounds: without statistics, the planner takes an open range for a third of the table.
        EXECUTE format('SELECT of_new.*, last.position AS head, last.event_id AS last_id,'
                       ' (SELECT l.event_id FROM eventstore.%1$I AS l WHERE l.position = $3) AS id_before'
                       ' FROM (SELECT count(*) AS events, min(e.event_id) AS least_id, max(e.event_id) AS greatest_id'
                       ' FROM eventstore.%1$I AS e WHERE e.position > $1 AND e.position <= $2) AS of_new LEFT JOIN ('
                       'SELECT l.position, l.event_id FROM eventstore.%1$I AS l ORDER BY l.position DESC LIMIT 1'
                       ') AS last ON true', part.name)
        INTO added USING part.lo, part.hi, before.position;
        IF NOT part.is_restored THEN
            checked := checked + added.events;
            -- Whoever doesn't append at the end, without gaps, would add ids that nobody looks at. While a restore
            -- only fills gaps, the last events may still be missing.
            IF (added.head <> checked OR before.position >= part.first_position
                AND (added.id_before IS NULL OR added.id_before <> before.event_id))
               AND upper(restored) - 1 <= before.position IS NOT TRUE THEN
                RAISE EXCEPTION 'events can be added after position % only, without gaps; the last one would be %',
                    before.position, added.head
                    USING HINT = 'If events were deleted, restore them with projections import.';
            END IF;
        END IF;
        CONTINUE WHEN added.events = 0;
        last_id := added.last_id;
        IF NOT part.has_key THEN
            EXECUTE format('INSERT INTO eventstore.event_ids (event_id, position)'
                           ' SELECT e.event_id, e.position FROM eventstore.%I AS e'
                           ' WHERE e.position > $1 AND e.position <= $2', part.name)
                    || CASE WHEN part.is_restored THEN ' AND NOT EXISTS (SELECT FROM eventstore.event_ids AS i'
                                                       ' WHERE i.event_id = e.event_id AND i.position = e.position)'
                            ELSE '' END
            USING part.lo, part.hi;
        END IF;
        FOR other IN
            SELECT p.name, p.least_event_id AS least_id, p.greatest_event_id AS greatest_id
            FROM eventstore.partitions AS p
            WHERE p.has_key AND p.name <> part.name
              AND p.least_event_id <= added.greatest_id AND p.greatest_event_id >= added.least_id
            UNION ALL
            SELECT 'event_ids', added.least_id, added.greatest_id
            WHERE part.has_key AND added.greatest_id >= (
                SELECT min(i.event_id) FROM eventstore.event_ids AS i WHERE i.event_id >= added.least_id)
        LOOP
            -- OFFSET 0 keeps the planner from reading whole tables or keys, above all while it has no statistics: the
            -- new events are found by position, and each id is looked up in the other key.
            EXECUTE format('SELECT e.event_id FROM (SELECT n.event_id, n.position FROM eventstore.%I AS n'
                           ' WHERE n.position > $1 AND n.position <= $2 OFFSET 0) AS e, LATERAL ('
                           ' SELECT o.position FROM eventstore.%I AS o WHERE o.event_id = e.event_id OFFSET 0) AS o'
                           ' WHERE e.event_id >= $3 AND e.event_id <= $4 AND o.position <> e.position LIMIT 1',
                           part.name, other.name)
            INTO twice USING part.lo, part.hi, other.least_id, other.greatest_id;
            IF twice IS NOT NULL THEN
                RAISE unique_violation USING MESSAGE = format('event %s is stored already', twice),
                    SCHEMA = 'eventstore', TABLE = 'events', CONSTRAINT = 'events_pkey';
            END IF;
        END LOOP;
        IF part.has_key THEN
            UPDATE eventstore.partitions AS p
            SET least_event_id = least(p.least_event_id, added.least_id),
                greatest_event_id = greatest(p.greatest_event_id, added.greatest_id)
            WHERE p.name = part.name AND (p.least_event_id IS NULL OR p.least_event_id > added.least_id
                                          OR p.greatest_event_id < added.greatest_id);
        END IF;
    END LOOP;
    IF checked > before.position THEN
        UPDATE eventstore.event_ids_up_to SET position = checked, event_id = last_id;
    END IF;
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
    EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I PRIMARY KEY (event_id)', whole_name, made || '_pkey');
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
    -- For logical replication: partitions of earlier versions have no primary key, and all of them have this one.
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
    INSERT INTO eventstore.partitions (name, first_position, last_position, made_at, has_key)
    VALUES (made, last.begins, last.begins + size - 1, clock_timestamp(), true);
END
$$
"""

# The ids before the first partition with a key are in event_ids. Later ones may be there too: an archive copies the ids
# of a partition before it drops that.
IDS_OF_PARTITIONS = """CREATE OR REPLACE VIEW eventstore.event_positions AS
SELECT e.event_id, e.position FROM eventstore.events AS e WHERE e.position >= (
    SELECT coalesce(min(p.first_position), 9223372036854775807) FROM eventstore.partitions AS p WHERE p.has_key)
UNION ALL
SELECT i.event_id, i.position FROM eventstore.event_ids AS i WHERE i.position < (
    SELECT coalesce(min(p.first_position), 9223372036854775807) FROM eventstore.partitions AS p WHERE p.has_key)"""

COMMENTS = {
    "COLUMN eventstore.event_ids_up_to.position": "Nothing up to here has an id that occurs twice.",
    "TABLE eventstore.event_ids_up_to": "Up to which position the ids of a partitioned log were checked; without a row,"
    " the log is one table.",
    "TABLE eventstore.event_ids": "The ids of events before the first partition with a key: archived ones, and those of"
    " partitions that an earlier version made. Empty while the log is one table.",
}
COMMENTS_BEFORE = {
    "COLUMN eventstore.event_ids_up_to.position": "The ids of all events up to here are in event_ids.",
    "TABLE eventstore.event_ids_up_to": "Up to which position event_ids has the ids of a partitioned log; without a"
    " row, the log is one table.",
    "TABLE eventstore.event_ids": "The ids of all events of a partitioned log, archived ones included: no id is stored"
    " twice. Empty while the log is one table.",
}

IS_PARTITIONED = "SELECT EXISTS (SELECT FROM eventstore.partitions)"
# An earlier version partitioned a log in several steps; here an unfinished one begins again.
HAS_TRIGGER = """
SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'eventstore.events'::regclass AND tgname = 'keep_event_ids')
"""
# Whoever appends or makes a partition has read this table, so nobody does until the end of the transaction.
LOCK_APPENDS = "LOCK TABLE eventstore.partitions IN ACCESS EXCLUSIVE MODE"
# Those that were made ahead have no events, so their keys take no time.
ADD_KEYS = """
DO $$
DECLARE
    head bigint := (SELECT u.position FROM eventstore.event_ids_up_to AS u);
    part record;
BEGIN
    FOR part IN SELECT p.name FROM eventstore.partitions AS p WHERE p.first_position > head ORDER BY 1 LOOP
        EXECUTE format('ALTER TABLE eventstore.%I ADD CONSTRAINT %I PRIMARY KEY (event_id)',
                       part.name, part.name || '_pkey');
    END LOOP;
    UPDATE eventstore.partitions SET has_key = true WHERE first_position > head;
    UPDATE eventstore.event_ids_up_to AS u
    SET event_id = coalesce((SELECT e.event_id FROM eventstore.events AS e WHERE e.position = u.position),
                            (SELECT i.event_id FROM eventstore.event_ids AS i WHERE i.position = u.position));
END
$$
"""
COPY_IDS = """
DO $$
DECLARE
    part record;
BEGIN
    FOR part IN SELECT p.name FROM eventstore.partitions AS p WHERE p.has_key ORDER BY p.first_position LOOP
        EXECUTE format('INSERT INTO eventstore.event_ids (event_id, position)'
                       ' SELECT e.event_id, e.position FROM eventstore.%I AS e ON CONFLICT DO NOTHING', part.name);
    END LOOP;
END
$$
"""
# After all ids are copied, because readers of a partition wait from now on.
DROP_KEYS = """
DO $$
DECLARE
    part record;
BEGIN
    FOR part IN
        SELECT p.name, k.conname FROM eventstore.partitions AS p
        JOIN pg_constraint AS k ON k.conrelid = format('eventstore.%I', p.name)::regclass AND k.contype = 'p'
        WHERE p.has_key ORDER BY p.first_position
    LOOP
        EXECUTE format('ALTER TABLE eventstore.%I DROP CONSTRAINT %I', part.name, part.conname);
    END LOOP;
END
$$
"""


def upgrade() -> None:
    is_partitioned = ask(IS_PARTITIONED)
    if is_partitioned:
        op.execute(LOCK_APPENDS)
    op.add_column(
        "partitions",
        sa.Column(
            "has_key",
            sa.Boolean(),
            nullable=False,
            server_default=sa.text("false"),
            comment="Whether it has a key on event_id; if not, the ids of its events are in event_ids.",
        ),
        schema="eventstore",
    )
    for name, other in (("least_event_id", "less"), ("greatest_event_id", "greater")):
        op.add_column(
            "partitions",
            sa.Column(
                name,
                sa.Text(collation="C"),
                comment=f"No id in it is {other} than this; NULL while it has none, and without a key.",
            ),
            schema="eventstore",
        )
    op.add_column(
        "event_ids_up_to",
        sa.Column("event_id", sa.Text(collation="C"), comment="The event at that position; NULL while there is none."),
        schema="eventstore",
    )
    if is_partitioned:
        op.execute(ADD_KEYS)
        op.execute(IDS_OF_PARTITIONS)
    else:
        if ask(HAS_TRIGGER):
            op.execute("DROP TRIGGER keep_event_ids ON eventstore.events")
        op.execute("TRUNCATE eventstore.event_ids, eventstore.event_ids_up_to")
    op.execute(sa.text(KEEP_EVENT_IDS.replace(":", "\\:")))
    op.execute(sa.text(MAKE_PARTITION.replace(":", "\\:")))
    comment_on(COMMENTS)


def downgrade() -> None:
    if ask(IS_PARTITIONED):
        op.execute(LOCK_APPENDS)
        op.execute(COPY_IDS)
        op.execute(DROP_KEYS)
        op.execute(read_text("0024", "IDS_OF_PARTITIONS"))
    for revision_before, name in (("0029", "KEEP_EVENT_IDS"), ("0024", "MAKE_PARTITION")):
        op.execute(sa.text(read_text(revision_before, name).replace(":", "\\:")))
    op.drop_column("event_ids_up_to", "event_id", schema="eventstore")
    for column in ("greatest_event_id", "least_event_id", "has_key"):
        op.drop_column("partitions", column, schema="eventstore")
    comment_on(COMMENTS_BEFORE)


def ask(query: str) -> bool:
    """Return the answer of a query for one truth value."""
    return bool(op.get_bind().exec_driver_sql(query).scalar_one())


def comment_on(comments: dict[str, str]) -> None:
    """Set comments."""
    for what, text in comments.items():
        op.execute(f"COMMENT ON {what} IS '{text}'")
