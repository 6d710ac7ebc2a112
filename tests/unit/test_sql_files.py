"""Read models as .sql files: what a file declares, and the sentence for each thing that a file can't have."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from sqlalchemy.schema import CreateIndex, CreateTable

from eventstore.contracts.event_types import EventType
from projections.errors import InvalidProjection
from projections.folding.sql_text import compile_ddl, compile_fold_statement, compile_plpgsql_step
from projections.projection import Window
from projections.sql_files.sql_projection import SqlFile, sql_projection

ROOT = Path(__file__).resolve().parents[2]
HEADER = """\
-- Who was written to first.
-- name: contacts
-- version: 3
-- handles: RECIPIENT_DELIVERED,
--   recipient_failed, 77
-- partition_by: app, ppnum
"""
TABLE = """\
CREATE TABLE contacts (
    app text, ppnum text, at timestamptz NOT NULL, n int, event_id text COLLATE "C" NOT NULL, PRIMARY KEY (app, ppnum)
);
"""
UPSERT = """\
INSERT INTO contacts (app, ppnum, at, event_id)
SELECT DISTINCT ON (app, ppnum) app, ppnum, occurred_at, event_id FROM window ORDER BY app, ppnum, event_id
ON CONFLICT (app, ppnum) DO UPDATE SET at = excluded.at, event_id = excluded.event_id
WHERE contacts.event_id > excluded.event_id;
"""


def write(folder: Path, text: str) -> SqlFile:
    (folder / "contacts.sql").write_text(text)
    return sql_projection(folder / "contacts.sql")


def test_the_page_has_the_numbers_of_the_event_types() -> None:
    page = " ".join((ROOT / "docs" / "writing-a-projection.md").read_text().split())
    assert ", ".join(f"{one.value} {one.name}" for one in EventType) in page


def test_a_file_declares_everything_that_a_projection_has(tmp_path: Path) -> None:
    declared = """
        CREATE TABLE costs (
            "Day" date, app text, ppnum varchar(20) COLLATE "C", amount numeric(10, 2) DEFAULT -1.5 NOT NULL,
            note text DEFAULT 'a:b%', options text[], more jsonb, twice numeric GENERATED ALWAYS AS (amount * 2) STORED,
            CONSTRAINT positive CHECK (amount > 0 OR note = ':x'), UNIQUE (app, note), PRIMARY KEY (app, ppnum, "Day")
        );
        CREATE INDEX costs_note_idx ON costs (lower(note) DESC, amount) WHERE amount > 1;
        CREATE UNIQUE INDEX costs_more_idx ON costs USING btree (note, more text_ops);
        COMMENT ON TABLE costs IS 'What it cost.'; COMMENT ON COLUMN costs."Day" IS 'When.';
        CREATE VIEW totals AS WITH c AS (SELECT * FROM costs) SELECT app, sum(amount) AS total FROM c
            JOIN public.request_status AS window_ USING (app) GROUP BY app;
        COMMENT ON VIEW totals IS 'All of it.'; COMMENT ON COLUMN totals.total IS 'In all.';
        CREATE VIEW more AS SELECT * FROM totals;
    """
    made = write(tmp_path, f"{HEADER}{TABLE}{declared}{UPSERT}")
    projection = made()
    assert type(made()) is type(projection)  # the file is read once
    assert (projection.name, projection.version, projection.handles) == ("contacts", 3, frozenset({1, 2, 77}))
    assert projection.partition_by == ("app", "ppnum")
    assert projection.decided_by == {"contacts": "event_id"}
    contacts, costs = projection.tables
    assert (contacts.comment, costs.comment, costs.c.Day.comment) == (None, "What it cost.", "When.")
    assert [line.strip(" ,\t\n") for line in compile_ddl(CreateTable(costs)).strip().splitlines()] == [
        "CREATE TABLE public.costs (",
        '"Day" DATE NOT NULL',
        "app TEXT NOT NULL",
        'ppnum VARCHAR(20) COLLATE "C" NOT NULL',
        "amount NUMERIC(10, 2) DEFAULT -1.5 NOT NULL",
        "note TEXT DEFAULT 'a:b%'",
        "options TEXT[]",
        "more JSONB",
        "twice NUMERIC GENERATED ALWAYS AS (amount * 2) STORED",
        'PRIMARY KEY (app, ppnum, "Day")',
        "CONSTRAINT positive CHECK (amount > 0 OR note = ':x')",
        "UNIQUE (app, note)",
        ")",
    ]
    assert sorted(compile_ddl(CreateIndex(index)) for index in costs.indexes) == [
        "CREATE INDEX costs_note_idx ON public.costs (lower(note) DESC, amount) WHERE amount > 1",
        "CREATE UNIQUE INDEX costs_more_idx ON public.costs (note, more text_ops)",
    ]
    totals, more = projection.views
    assert (totals.name, totals.comment, dict(totals.columns)) == ("totals", "All of it.", {"total": "In all."})
    assert " ".join(str(totals.query).split()) == (
        "WITH c AS (SELECT * FROM public.costs) SELECT app, sum(amount) AS total FROM c"
        " JOIN public.request_status AS window_ USING (app) GROUP BY app"
    )
    assert more.query == "SELECT * FROM public.totals"


def test_tables_and_the_window_are_filled_in_wherever_they_stand(tmp_path: Path) -> None:
    text = """
        WITH w AS (SELECT app FROM window), numbered AS (
            SELECT app, row_number() OVER window_ AS n FROM contacts WINDOW window_ AS (ORDER BY app)
        )
        DELETE FROM contacts /* not FROM window */ AS c USING window, w AS "window2" -- nor window.app
        WHERE c.app = window.app AND "window2".app = c.app AND c.n %(2) = 1 AND c.app <> 'FROM window, 100%'
          AND EXISTS (SELECT FROM ONLY contacts, window AS e, numbered WHERE e.ppnum = contacts.ppnum);
    """
    projection = write(tmp_path, f"{HEADER}{TABLE}{UPSERT}{text}")()
    _, delete = projection.fold(Window(projection.handles))
    schemas = {"public": "Shadow", "eventstore": "elsewhere"}
    found, parameters = compile_fold_statement(delete, schemas)
    assert parameters == ("lo", "hi", "skipped")
    events = re.compile(r"\(SELECT elsewhere\.events.*?event_type IN \(1, 2, 77\)\)", re.DOTALL)
    assert " ".join(events.sub("(…)", found).split()) == (
        'WITH w AS (SELECT app FROM (…) AS "window"), numbered AS ( SELECT app, row_number() OVER window_ AS n'
        ' FROM "Shadow".contacts WINDOW window_ AS (ORDER BY app) ) DELETE FROM "Shadow".contacts AS c'
        ' USING (…) AS "window", w AS "window2" WHERE c.app = "window".app AND "window2".app = c.app'
        " AND c.n % (2) = 1 AND c.app <> 'FROM window, 100%' AND EXISTS (SELECT FROM ONLY"
        ' "Shadow".contacts, (…) AS e, numbered WHERE e.ppnum = contacts.ppnum)'
    )
    # It is planned once per session: not through EXECUTE.
    assert compile_plpgsql_step(delete).as_string().startswith("WITH w AS (SELECT app FROM (SELECT")


def test_a_window_has_the_columns_that_are_the_same_in_every_log(tmp_path: Path) -> None:
    text = "DELETE FROM contacts USING (window AS w CROSS JOIN (TABLE window) AS x) WHERE x.app = 'now is the moment';"
    projection = write(tmp_path, f"{HEADER}{TABLE}{UPSERT}{text}")()
    for statement in projection.fold(Window(projection.handles)):
        found, _ = compile_fold_statement(statement)
        assert "event_id" in found
        assert "received_at" not in found
        assert not re.search(r"SELECT [^()]*position[^()]*FROM", found)


def test_an_expression_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    text = "DELETE FROM contacts WHERE n = " + "1 + " * 99 + "1;"
    with pytest.raises(InvalidProjection, match=r"contacts\.sql: an expression is nested too deeply"):
        write(tmp_path, f"{HEADER}{TABLE}{UPSERT}{text}")()


@pytest.mark.parametrize(
    ("statement", "line", "message"),
    [
        # The clock, chance, the session, the catalogs.
        ("DELETE FROM contacts\nWHERE at < now();", 11, "now() depends on the clock, on chance or on the session"),
        ("DELETE FROM contacts WHERE at < pg_catalog.clock_timestamp();", 10, "clock_timestamp() depends on the"),
        ("DELETE FROM contacts WHERE\n at < current_date;", 11, "current_date depends on the clock or on the session"),
        ("DELETE FROM contacts WHERE ppnum = current_user;", 10, "current_user depends on the clock or on the"),
        ("DELETE FROM contacts WHERE n = random();", 10, "random() depends on"),
        ("DELETE FROM contacts WHERE age(at) > '1 day';", 10, "age() depends on"),
        ("DELETE FROM contacts WHERE at < ' Now '::timestamptz;", 10, "'now' may be read as a time of the clock"),
        ("DELETE FROM contacts WHERE at < timestamptz 'today';", 10, "'today' may be read as a time of the clock"),
        ("DELETE FROM contacts WHERE at < 'today 10:00 CET';", 10, "'today' may be read as a time of the clock"),
        (
            "DELETE FROM contacts USING window AS w WHERE at < w.received_at;",
            10,
            "window has no received_at: it differs",
        ),
        ("DELETE FROM contacts USING window WHERE n < position;", 10, "window has no position: it differs in another"),
        ('DELETE FROM contacts\nUSING "window";', 11, "write window without quotes: it is the window's events"),
        ("WITH pg_class AS (SELECT 1) DELETE FROM contacts;", 10, "WITH names a query as a table, pg_class; choose"),
        ("DELETE FROM contacts WHERE ppnum = '\0';", 10, "a NUL character can't be in SQL; remove it"),
        ("DELETE FROM contacts USING window TABLESAMPLE system (1);", 10, "TABLESAMPLE takes rows by chance"),
        ("DELETE FROM contacts WHERE n = (SELECT n FROM contacts LIMIT 1);", 10, "LIMIT or OFFSET without ORDER BY"),
        ("DELETE FROM contacts WHERE n = ALL (SELECT DISTINCT ON (n) n FROM contacts);", 10, "DISTINCT ON without"),
        ("DELETE FROM contacts WHERE n = 'contacts'::regclass::int;", 10, "type regclass looks names up in the cat"),
        # Other schemas.
        ("DELETE FROM contacts USING eventstore.events e;", 10, "eventstore.events: a fold reads only window and the"),
        ("DELETE FROM contacts USING request_status;", 10, "request_status is neither window nor a table that this"),
        ("DELETE FROM public.contacts;", 10, "public.contacts: a fold reads only window and the tables of its file"),
        (
            "DELETE FROM contacts WHERE public.contacts.n = 1;",
            10,
            "public.contacts.n: name the table without",
        ),
        ("DELETE FROM contacts WHERE n = public.f(1);", 10, "function public.f: a fold may only use what is in pg_cat"),
        ("DELETE FROM contacts WHERE n OPERATOR(public.%) 1;", 10, "operator public.%: a fold may only use"),
        ("DELETE FROM contacts WHERE n = 1::public.num;", 10, "type public.num: a fold may only use"),
        ("DELETE FROM contacts WHERE app COLLATE public.\"x\" < '';", 10, "collation public.x: a fold may only use"),
        # Order and repetition.
        (
            UPSERT.replace("SET at", "SET n = contacts.n + excluded.n, at"),
            12,
            "n is computed from its own stored value, so an event that is folded again counts again",
        ),
        ("UPDATE contacts AS c SET n = c.n + 1 FROM window;", 10, "n is computed from its own stored value"),
        ("UPDATE contacts SET n = coalesce(n - 1, 0);", 10, "n is computed from its own stored value"),
        (
            "INSERT INTO contacts (app, ppnum, at) SELECT app, ppnum, occurred_at FROM window\nON CONFLICT DO NOTHING;",
            11,
            "DO NOTHING keeps the at of the event that arrived first; write DO UPDATE SET … WHERE contacts.event_id <",
        ),
        # Statements.
        ("MERGE INTO contacts AS c USING window ON true WHEN MATCHED THEN DELETE;", 10, "a fold has INSERT, UPDATE"),
        ("SELECT 1 FROM window;", 10, "a fold has INSERT, UPDATE and DELETE statements only"),
        ("TRUNCATE contacts;", 10, "a fold has INSERT, UPDATE and DELETE statements only"),
        (
            "WITH d AS (DELETE FROM contacts RETURNING *) INSERT INTO contacts SELECT * FROM d;",
            10,
            "WITH may contain queries only; make this a statement of its own",
        ),
        ("DELETE FROM contacts RETURNING app;", 10, "nobody reads the rows of RETURNING; leave it out"),
        ("DELETE FROM window;", 10, "a fold can't change window"),
        ("DELETE FROM contacts WHERE n = $1;", 10, "a fold has no parameters; the events are in the table window"),
        ("DELETE FROM contacts WHERE n = (SELECT n FROM contacts FOR UPDATE);", 10, "a fold needs no FOR UPDATE"),
        ("WITH contacts AS (SELECT 1) DELETE FROM contacts;", 10, "WITH names a query as a table, contacts"),
        ("DELETE FROM contacts WHERE app = '%(x)s';", 10, "write '%' || '(' for '%('"),
        # Names.
        (
            "DELETE FROM contacts WHERE n IN (SELECT 1 FROM window\nWHERE occured_at < at);",
            11,
            "no table of this statement has a column occured_at; did you mean occurred_at?",
        ),
        ("DELETE FROM contacts WHERE ctid IS NULL;", 10, "no table of this statement has a column ctid"),
        (
            UPSERT.replace("(app, ppnum) DO", "(app, pnum) DO"),
            12,
            "table contacts has no column pnum; did you mean ppnum?",
        ),
        ("DELETE FROM contacts WHERE contacts.m = 1;", 10, "contacts has no column m"),
        ("DELETE FROM contacts USING window AS w WHERE w.phone = '';", 10, "w has no column phone"),
        ("DELETE FROM contacts USING window AS w WHERE window.app = '';", 10, "window is no table or alias of this"),
        ("INSERT INTO contacts (app, pnum) SELECT app, ppnum FROM window;", 10, "table contacts has no column pnum"),
        ("UPDATE contacts SET m = 1;", 10, "table contacts has no column m"),
        # What Postgres itself refuses.
        ("DELETE FROM contacts\n\nWHERE WHERE;", 12, 'Postgres can\'t parse this: syntax error at or near "WHERE"'),
        ("DELETE FROM contacts WHERE app = 'ü;", 10, "Postgres can't parse this: unterminated quoted string"),
        (
            "DELETE FROM contacts",
            11,
            'Postgres can\'t parse this: syntax error at or near "INTO"; is a ; missing before INS',
        ),
        (
            "DELETE FROM contacts AS c\nCREATE TABLE t (a int);",
            11,
            'Postgres can\'t parse this: syntax error at or near "CREATE"; is a ; missing before CREATE?',
        ),
        (
            "SELECT 1 FROM contacts\nCOMMENT ON TABLE contacts IS '';",
            11,
            'Postgres can\'t parse this: syntax error at or near "ON"; is a ; missing before COMMENT?',
        ),
        # Tables.
        ("CREATE TABLE t (app text, ppnum text);", 10, "table t needs a PRIMARY KEY: the columns that are the key"),
        ("CREATE TABLE t (app text PRIMARY KEY);", 10, "table t must have ppnum of partition_by in its primary key"),
        ("CREATE TABLE contacts (app text PRIMARY KEY);", 10, "contacts is created twice; rename one"),
        ("CREATE TABLE s.t (app text PRIMARY KEY);", 10, "write t without a schema; it is created in public"),
        ("CREATE UNLOGGED TABLE t (app text PRIMARY KEY);", 10, "table t: leave out UNLOGGED or TEMPORARY"),
        ("CREATE TABLE t (app text PRIMARY KEY) INHERITS (contacts);", 10, "table t: inh_relations can't be used in a"),
        ("CREATE TABLE t (LIKE contacts);", 10, "table t: write its columns; LIKE can't be used here"),
        ("CREATE TABLE t (app text PRIMARY KEY,\n n serial);", 11, "column n: no column has type serial here; types"),
        ("CREATE TABLE t (app text PRIMARY KEY, n int REFERENCES contacts);", 10, "FOREIGN constraint: pktable"),
        ("CREATE TABLE t (app text PRIMARY KEY, last_event_id text);", 10, 'column last_event_id: write COLLATE "C"'),
        ("CREATE TABLE t (app text, app text, PRIMARY KEY (app));", 10, "table t: "),
        ("CREATE TABLE t (app text, PRIMARY KEY (apps));", 10, "table t: "),
        (
            "CREATE TABLE t (app text, ppnum text, d int DEFAULT length('a'), PRIMARY KEY (app, ppnum));",
            10,
            "table t has column d, whose default must be a constant",
        ),
        (
            "CREATE TABLE t (app text PRIMARY KEY,\n at timestamptz DEFAULT 'now');",
            11,
            "'now' may be read as a time of",
        ),
        (
            "CREATE TABLE t (app text PRIMARY KEY, CHECK (app <> current_user));",
            10,
            "current_user depends on the clock",
        ),
        (
            "CREATE INDEX i ON contacts (public.f(n));",
            10,
            "function public.f: a fold may only use what is in pg_catalog",
        ),
        ("CREATE INDEX ON contacts (n);", 10, "give the index a name: CREATE INDEX contacts_…_idx ON contacts"),
        ("CREATE INDEX i ON others (n);", 10, "others is no table that this file creates above"),
        ("CREATE INDEX i ON contacts (m);", 10, "table contacts has no column m"),
        ("CREATE INDEX CONCURRENTLY i ON contacts (n);", 10, "index i: concurrent can't be used in a .sql file"),
        ("COMMENT ON COLUMN contacts.m IS 'x';", 10, "this file creates no contacts.m above"),
        ("COMMENT ON INDEX i IS 'x';", 10, "only tables, views and their columns have comments here"),
        # Views.
        ("CREATE VIEW v (a) AS SELECT 1;", 10, "view v: write CREATE VIEW v AS SELECT …, with names of columns by AS"),
        ("CREATE VIEW v AS SELECT app FROM window;", 10, "a view reads tables; only a fold has the window"),
        ("CREATE VIEW v AS\nSELECT app FROM others;", 11, "this file creates no others above; name a table of another"),
        ("CREATE VIEW contacts AS SELECT 1;", 10, "contacts is created twice; rename one"),
        ("CREATE VIEW poll_results AS SELECT 1;", 2, "view poll_results has the name of a built-in view; choose"),
    ],
)
def test_each_thing_that_a_file_cant_have_is_refused_with_its_line(
    tmp_path: Path, statement: str, line: int, message: str
) -> None:
    made = write(tmp_path, f"{HEADER}{TABLE}{statement}\n{UPSERT}")
    with pytest.raises(InvalidProjection) as caught:
        made()
    assert str(caught.value).startswith(f"contacts.sql:{line}: {message}"), caught.value


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("-- version: 3\n", "", "contacts.sql:1: the header has no version; write, for example: -- version: 1"),
        ("version: 3", "version: new", "contacts.sql:3: version must be a whole number, not 'new'"),
        ("handles:", "handels:", "contacts.sql:4: the header has no line 'handels'; did you mean handles?"),
        (
            "77",
            "RECIPIENT_DELIVRED",
            "contacts.sql:4: handles: there is no event type RECIPIENT_DELIVRED; did",
        ),
        (
            "-- name: contacts\n",
            "-- name: a\n-- name: b\n",
            "contacts.sql:3: the header has two lines 'name'; leave",
        ),
        (
            "version: 3",
            "version 3",
            "contacts.sql:3: this line doesn't set version; write its name in small letters and",
        ),
        (
            "name:",
            "NAME =",
            "contacts.sql:2: this line doesn't set name; write its name in small letters and a colon: --",
        ),
        (
            "recipient_failed, 77",
            "recipient_failed 77",
            "contacts.sql:4: handles: separate names with commas: recipient_failed, 77",
        ),
        ("by: app, ppnum", "by: app ppnum", "contacts.sql:6: partition_by: separate names with commas: app, ppnum"),
        ("by: app,", "by: apps,", "contacts.sql:6: partition_by: events have no column apps; did you mean app?"),
        ("by: app,", "by: day,", "contacts.sql:6: partition_by: events have no column day; text columns are event_id,"),
        (
            "by: app, ppnum",
            "by: app, poll_id",
            "contacts.sql:7: table contacts must have poll_id of partition_by in its",
        ),
        ("name: contacts", "name: Contacts", "contacts.sql:2: a name has 1 to 48 lower-case letters, digits and"),
        (
            "-- partition",
            "-- decided_by: x\n-- partition",
            "contacts.sql:6: decided_by lists columns with their",
        ),
        (
            "-- partition",
            "-- decided_by: contacts.m\n-- partition",
            "contacts.sql:2: decided_by names contacts.m, which is not a column of its tables",
        ),
        (
            "-- partition",
            "-- personal_columns: ppnum\n-- partition",
            "contacts.sql:6: personal_columns lists columns with their tables, and what they copy if the names differ",
        ),
        (
            "-- partition",
            "-- personal_columns: contacts.absent = ppnum\n-- partition",
            "contacts.sql:2: personal_columns of contacts: absent is not a text column of the table",
        ),
        (
            "-- partition",
            "-- absent_contracts: mail\n-- partition",
            "contacts.sql:6: absent_contracts: there is no contract mail; there are chat.external, pcs.external.v1",
        ),
    ],
)
def test_a_wrong_header_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in HEADER
    made = write(tmp_path, f"{HEADER.replace(old, new)}{TABLE}{UPSERT}")
    with pytest.raises(InvalidProjection) as caught:
        made()
    assert str(caught.value).startswith(message), caught.value


@pytest.mark.parametrize(
    "condition",
    [
        "n IN (WITH c AS (SELECT app, count(*), n AS m FROM contacts GROUP BY app, m) SELECT m + count FROM c)",
        "app = ANY (SELECT o FROM window, unnest(poll_options) AS u (o) WHERE o = app)",
        "app = ANY (SELECT value FROM window, jsonb_each_text('{}') WHERE key = app)",
        "n = (SELECT max(x) FROM (VALUES (1)) AS v (x))",
        "n = (SELECT a FROM jsonb_to_record('{}') AS r (a int, b text) WHERE b = '')",
        "EXISTS (SELECT FROM (SELECT n::bigint, coalesce(n, 1) FROM contacts) AS s WHERE int8 = coalesce)",
        "to_jsonb(contacts) <> to_jsonb(contacts) OR (SELECT count(w) FROM window AS w) = 0",
    ],
)
def test_a_column_that_a_statement_may_have_is_not_refused(tmp_path: Path, condition: str) -> None:
    statement = condition.join(("DELETE FROM contacts WHERE ", ";"))
    projection = write(tmp_path, f"{HEADER}{TABLE}{UPSERT}{statement}")()
    assert len(projection.fold(Window(projection.handles))) == 2


def test_a_file_without_tables_or_fold_or_without_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidProjection, match=r"contacts.sql:1: the file declares no table; write CREATE TABLE"):
        write(tmp_path, HEADER)()
    with pytest.raises(InvalidProjection, match=r"contacts.sql:1: the file folds nothing; write INSERT INTO"):
        write(tmp_path, f"{HEADER}{TABLE}")()
    with pytest.raises(InvalidProjection, match=r"absent.sql: there is no such file in the folder of unit; install it"):
        sql_projection("absent.sql")()


def test_header_lines_of_the_explicit_kind_replace_what_the_statements_say(tmp_path: Path) -> None:
    lines = (
        "-- decided_by: contacts.ppnum\n-- personal_columns: contacts.ppnum\n-- absent_contracts: pcs.external.v1\n"
        "-- partition"
    )
    projection = write(tmp_path, f"{HEADER.replace('-- partition', lines)}{TABLE}{UPSERT}")()
    assert projection.decided_by == {"contacts": "ppnum"}
    assert projection.personal_columns == {"contacts": {"ppnum": "ppnum"}}
    for line, expected in (("none", {}), ("contacts.ppnum = ppnum", {"contacts": {"ppnum": "ppnum"}})):
        header = HEADER.replace("-- partition", f"-- personal_columns: {line}\n-- partition")
        assert write(tmp_path, f"{header}{TABLE}{UPSERT}")().personal_columns == expected
    assert write(tmp_path, f"{HEADER}{TABLE}{UPSERT}")().personal_columns is None
    assert projection.absent_contracts == {"pcs.external.v1"}
    # Only a column that compares by bytes is taken for an event_id.
    other = UPSERT.replace("WHERE contacts.event_id > excluded.event_id", "WHERE contacts.at > excluded.at")
    assert write(tmp_path, f"{HEADER}{TABLE}{other}")().decided_by == {}


def test_the_extra_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("projections.sql_files.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "postgast", None)
    with pytest.raises(
        InvalidProjection, match=r"needs postgast, the parser of Postgres; install projections-engine\[sql"
    ):
        write(tmp_path, HEADER)()
