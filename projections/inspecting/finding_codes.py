"""Every code of a finding: how serious it is, what it means, and what mends it; docs/doctor.md is made of this table.

A code never changes its meaning. The order is that of the findings: what hides or causes other things comes first.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple


class Severity(StrEnum):
    """How serious a finding is."""

    WRONG = "wrong"  # something doesn't work, or soon won't: exit code 1
    NOTE = "note"  # good to know


class FindingCode(NamedTuple):
    """What a code stands for: a severity, the meaning, and what mends it (Markdown)."""

    severity: Severity
    meaning: str
    mend: str


_WRONG, _NOTE = Severity.WRONG, Severity.NOTE

_DATABASE = {
    "database_unavailable": FindingCode(
        _WRONG,
        "No session could be opened, or the connection was lost. Nothing else was examined.",
        "Start the server (`projections db start` for the embedded one), or correct `DATABASE_URL`.",
    ),
    "database_refuses": FindingCode(
        _WRONG,
        "The server or a pooler refuses our sessions, and would refuse the next one too. Nothing else was examined.",
        "Do what the sentence says: the role, the password, the database, or the pooler's startup parameters.",
    ),
    "pooler_mode": FindingCode(
        _WRONG,
        "A pooler in front of the database gives each transaction another session, or has a single one: locks and"
        " wake-ups, which belong to a session, would not work. Nothing else was examined.",
        "`pool_mode = session` and a larger `default_pool_size` in PgBouncer, or a `DATABASE_URL` of Postgres itself.",
    ),
    "server_unsupported": FindingCode(
        _WRONG, "The server is older than the oldest supported PostgreSQL.", "Upgrade the server."
    ),
    "server_untested": FindingCode(
        _NOTE, "The server is newer than the newest PostgreSQL that this version was tested with.", "Upgrade us."
    ),
    "standby": FindingCode(
        _NOTE,
        "The server is a standby: it can be read, but events can't be stored or folded here.",
        "For `projections run`, a `DATABASE_URL` of the primary.",
    ),
}
_CLUSTER = {
    "worker_unavailable": FindingCode(
        _WRONG,
        "The log is distributed by Citus, and a worker doesn't answer the coordinator, or refuses this role. Appends,"
        " folds and queries that need it fail, and are tried again.",
        "Start it, or mend the network between them, or let the role log in there.",
    ),
    "commit_unfinished": FindingCode(
        _WRONG,
        "A worker has had prepared transactions for longer than `PROJECTIONS_DOCTOR_SNAPSHOT`. Citus finishes them"
        " within `citus.recover_2pc_interval`, unless its maintenance daemon doesn't run.",
        "The `SELECT` of the line, as a superuser on the coordinator; see the coordinator's log.",
    ),
    "events_changed": FindingCode(
        _WRONG,
        "An `erase` or a `redecode` of a distributed log was interrupted: until that is ended, each fold asks all"
        " workers for unfinished commits, which makes it slower.",
        "The `UPDATE` of the line, as the owner, or another `erase` or `redecode`.",
    ),
}
_SCHEMA = {
    "schema_missing": FindingCode(
        _WRONG, "The database has no schema of ours. Tables were not examined.", "`projections migrate`"
    ),
    "schema_older": FindingCode(
        _WRONG, "The schema is older than this code needs. Tables were not examined.", "`projections migrate`"
    ),
    "schema_newer": FindingCode(
        _WRONG, "A newer version migrated the database. Tables were not examined.", "Upgrade this installation."
    ),
    "schema_damaged": FindingCode(
        _WRONG,
        "A trigger, function, view, key, check, column, table or sequence was changed or dropped since the migration.",
        "`projections migrate`, or a backup where the sentence says so.",
    ),
    "index_missing": FindingCode(_WRONG, "An index was dropped.", "The `CREATE INDEX CONCURRENTLY` of the line."),
    "index_invalid": FindingCode(
        _WRONG,
        "An index is invalid, as after an interrupted `CREATE INDEX CONCURRENTLY`: no query uses it.",
        "The `REINDEX` of the line.",
    ),
    "partition_missing": FindingCode(
        _WRONG,
        "A partitioned log has no partition after the one that its newest event is in. Appends make it, unless a lock"
        " or a privilege prevents them; when the last one is full, they fail until it is there.",
        "The `SELECT` of the line, as the owner; the log of `projections run` says what prevented it.",
    ),
    "table_missing": FindingCode(
        _WRONG, "A table or a column of a projection is missing, so it can't fold.", "`projections migrate`"
    ),
    "view_missing": FindingCode(_WRONG, "A view of a projection is missing.", "`projections migrate`"),
}
_APPS = {
    "app_refused": FindingCode(
        _WRONG,
        "The platform or the issuer refuses the app.",
        "Correct its credentials or its configuration; a running process tries again by itself.",
    ),
    "app_not_followed": FindingCode(
        _WRONG, "No process follows a configured app, or one that was followed before.", "`projections run`"
    ),
    "app_failing": FindingCode(
        _WRONG,
        "The app is followed, but its stream fails.",
        "What the error names: the address, the network, a certificate. The process tries again by itself.",
    ),
    "app_silent": FindingCode(
        _WRONG,
        "An app has sent no event for longer than `--max-silence`.",
        "Ask the platform; `projections cursor show` tells where the stream resumes.",
    ),
    "app_quiet": FindingCode(
        _NOTE,
        "An app is followed and its stream works, but it has sent no event for an hour (`PROJECTIONS_DOCTOR_QUIET`).",
        "Nothing, if nothing was sent. `--max-silence` makes it wrong.",
    ),
    "app_held": FindingCode(
        _NOTE,
        "Another command has the app's lock (an import, a reset), so no process can follow the app now.",
        "Wait for its end.",
    ),
    "app_gap": FindingCode(
        _NOTE,
        "The upstream could no longer replay some events: these are not in the log.",
        "`projections reconcile` asks the platform about the requests of that time; `projections cursor show` names the"
        " gaps.",
    ),
    "log_went_back": FindingCode(
        _NOTE,
        "The database lost committed events (a failover, a restore), and a follower noticed. They were received again,"
        " at other positions.",
        "Readers of positions beyond the one named must read again from there.",
    ),
}
_LOG = {
    "missing_positions": FindingCode(
        _WRONG,
        "The log lacks positions. Examined are the first position, the last 10,000, and 10,000 after each checkpoint:"
        " a fold has counted those before it. `--thorough` examines all.",
        "`projections import events FILE`, with an export of this log.",
    ),
}
_PROJECTIONS = {
    "projection_failed": FindingCode(
        _WRONG,
        "A projection stopped at an event that it can't fold, or for the reason given.",
        "Mend the cause and `projections resume NAME`, or `projections skip NAME --event-id ID --why REASON`.",
    ),
    "projection_waiting": FindingCode(_WRONG, "A projection waits for a rebuild.", "`projections rebuild NAME`"),
    "checkpoint_ahead": FindingCode(
        _WRONG, "A projection folded events that the log no longer has.", "`projections rebuild NAME`"
    ),
    "rows_older": FindingCode(_WRONG, "The rows are of an older version than this code.", "`projections rebuild NAME`"),
    "code_older": FindingCode(
        _WRONG, "The rows are of a newer version than this code, which leaves them alone.", "Upgrade this installation."
    ),
    "redecoded": FindingCode(
        _WRONG, "`redecode` or `erase` changed events that the projection has folded.", "`projections rebuild NAME`"
    ),
    "projection_broken": FindingCode(
        _WRONG,
        "A projection can't be loaded, or isn't installed here and folded by nobody.",
        "Correct or install its package.",
    ),
    "projection_new": FindingCode(_WRONG, "A projection has not run yet.", "`projections run`"),
    "projection_not_folded": FindingCode(_WRONG, "No process folds a projection.", "`projections run`"),
    "projection_behind": FindingCode(
        _WRONG,
        "A projection is further behind the log than the limit: `--max-behind`, or for one that runs"
        " `PROJECTIONS_DOCTOR_BEHIND`.",
        "What the other lines say; `projections status` shows whether it is catching up.",
    ),
    "projection_paused": FindingCode(_NOTE, "Somebody paused a projection.", "`projections resume NAME`"),
    "projection_skips": FindingCode(
        _NOTE, "A projection skips events because somebody decided so.", "A rebuild under a new version forgets them."
    ),
    "rebuild_interrupted": FindingCode(
        _NOTE,
        "The process of a rebuild is gone. The read model is as before; the shadow is kept.",
        "`projections rebuild NAME --resume`",
    ),
}
_CONSUMERS = {
    "consumer_lost": FindingCode(
        _WRONG,
        "The log doesn't have the event at the checkpoint of a named consumer: it was replaced, or lost events. The"
        " consumer is handed nothing.",
        "`projections consumers reset NAME --to POSITION`, once you know what it has done.",
    ),
    "consumer_stuck": FindingCode(
        _WRONG,
        "A process has a named consumer and events wait for longer than `PROJECTIONS_DOCTOR_CONSUMER_BEHIND`, but its"
        " checkpoint has not moved for as long; or it was handed the same events three times or more.",
        "See the log of its program, and restart it. `projections consumers reset NAME --to EVENT_ID` passes over an"
        " event that it can't handle.",
    ),
    "consumer_not_running": FindingCode(
        _WRONG,
        "No process has a named consumer, and events wait for it for longer than `PROJECTIONS_DOCTOR_CONSUMER_BEHIND`.",
        "Start its program, or `projections consumers drop NAME` if nothing needs it.",
    ),
    "consumer_behind": FindingCode(
        _NOTE,
        "Events wait for a named consumer for longer than `PROJECTIONS_DOCTOR_CONSUMER_BEHIND`, and its checkpoint"
        " moves.",
        "Nothing if it is catching up; `projections consumers list` shows whether it is.",
    ),
}
_SESSIONS = {
    "checkpoint_held": FindingCode(
        _WRONG,
        "A session has locked a checkpoint for longer than a window may take, so nobody folds the projection.",
        "End the session: the `pg_terminate_backend` of the line.",
    ),
    "lock_wait": FindingCode(
        _WRONG,
        "Sessions have waited for a lock on our tables for longer than `PROJECTIONS_APPEND_LOCK`.",
        "End the session that holds the lock: the `pg_terminate_backend` of the line. For a command of ours the line"
        " has none: wait until it is done, or stop its process.",
    ),
    "old_snapshot": FindingCode(
        _WRONG,
        "A transaction has been open for too long (`PROJECTIONS_DOCTOR_SNAPSHOT`): meanwhile VACUUM can't remove dead"
        " rows, and our tables grow.",
        "Wait for its end, or end it: the `pg_terminate_backend` of the line. For a command of ours the line has none:"
        " wait, or stop its process.",
    ),
    "prepared_transaction": FindingCode(
        _WRONG,
        "A prepared transaction has been left for too long (`PROJECTIONS_DOCTOR_SNAPSHOT`): it keeps its locks and"
        " keeps VACUUM from removing dead rows.",
        "`COMMIT PREPARED` or the `ROLLBACK PREPARED` of the line.",
    ),
    "replication_slot": FindingCode(
        _WRONG,
        "A replication slot that nobody uses keeps dead rows, or a slot keeps more write-ahead log than"
        " `PROJECTIONS_DOCTOR_WAL_KEPT`.",
        "Start its consumer, or drop it: the `pg_drop_replication_slot` of the line.",
    ),
    "listener_dead": FindingCode(
        _WRONG,
        "A process folds, but has no session that listens for new events: it finds them only when it polls.",
        "It reconnects by itself within seconds, unless connections are refused: see the server's log.",
    ),
}
_CLOCK = {
    "clock_behind_events": FindingCode(
        _WRONG,
        "Stored events have times that are ahead of the database server's clock; new events get the same time.",
        "Synchronise the server's clock.",
    ),
    "clock_differs": FindingCode(
        _WRONG,
        "This machine's clock and the database server's differ by more than `PROJECTIONS_DOCTOR_CLOCK`.",
        "Synchronise both clocks.",
    ),
}
_QUARANTINE = {
    "quarantine_full": FindingCode(
        _WRONG,
        "An app's quarantine is full: further messages are counted, but not kept.",
        "`projections quarantine list`; make room, or raise `PROJECTIONS_QUARANTINE_MAX_ROWS` or `…_MAX_BYTES`.",
    ),
    "quarantine_filling": FindingCode(
        _NOTE, "An app's quarantine is 80% full, by the limits of this environment.", "`projections quarantine list`"
    ),
    "quarantine_not_empty": FindingCode(
        _NOTE, "Messages that can't be events are kept.", "`projections quarantine list`"
    ),
}
_ERASURES = {
    "erasure_ledger_newer": FindingCode(
        _WRONG,
        "The ledger that `PROJECTIONS_ERASURE_LEDGER_FILE` names has erased persons who are not erased in this"
        " database, as after a restore of an older backup.",
        "`projections erase --again FILE`",
    ),
    "erasure_ledger_older": FindingCode(
        _WRONG,
        "The ledger that `PROJECTIONS_ERASURE_LEDGER_FILE` names lacks erasures of this database: a restored backup"
        " would bring these persons back.",
        "`projections export erasures FILE --force`",
    ),
    "erasure_unfinished": FindingCode(
        _WRONG,
        "`projections erase --again` was begun after a restore and has not ended: persons are in the log with their"
        " numbers.",
        "`projections erase --again FILE`",
    ),
    "erasure_ledger_unreadable": FindingCode(
        _WRONG,
        "The ledger that `PROJECTIONS_ERASURE_LEDGER_FILE` names can't be read, so nobody would notice that a restore"
        " brought erased persons back.",
        "`projections export erasures FILE --force`, if this database was not restored.",
    ),
    "erasure_key_missing": FindingCode(
        _WRONG,
        "Persons were erased with a key that this process doesn't have: late events of theirs would be stored with"
        " their numbers.",
        "`PROJECTIONS_ERASURE_KEY_FILE`, for every process that stores events.",
    ),
    "erasure_key_other": FindingCode(
        _NOTE,
        "Some persons were erased with another key than this one: late events of theirs would be stored with their"
        " numbers.",
        "That key, if it is not lost.",
    ),
}
_ARCHIVES = {
    "archive_missing": FindingCode(
        _WRONG,
        "Events are archived, and their files aren't in the folder that `PROJECTIONS_ARCHIVE` names, or have another"
        " size than when they were written: no read model can be rebuilt or verified from here, and nobody erased.",
        "`PROJECTIONS_ARCHIVE`, or put the files back.",
    ),
    "archive_has_erased": FindingCode(
        _WRONG,
        "Files of archived events may have events of persons who were erased since they were written, or earlier files"
        " are left over. Replays read these events with their tokens, but the files may have the numbers.",
        "`projections archive`, which writes such files anew",
    ),
    "archive_unfinished": FindingCode(
        _NOTE,
        "A partition was written to a file, but is still in the log: `projections archive` was interrupted.",
        "The same command once more.",
    ),
}
_SERVER = {
    "disk_low": FindingCode(
        _WRONG,
        "The disk with the data folder has less room than `PROJECTIONS_DOCTOR_DISK_FREE`. Known only if the server runs"
        " on this machine.",
        "Make room.",
    ),
    "not_durable": FindingCode(
        _WRONG,
        "`fsync` or `full_page_writes` is off: a crash of the machine can damage the whole database.",
        "The `ALTER SYSTEM` of the line.",
    ),
    "standby_missing": FindingCode(
        _WRONG,
        "Commits wait for a synchronous standby, and none is connected: appends hang.",
        "Start the standby, or the `ALTER SYSTEM` of the line.",
    ),
    "commit_not_durable": FindingCode(
        _NOTE,
        "`synchronous_commit` is set to less than `on`. Our appends set it to `on`; other programs' commits can be"
        " lost in a crash.",
        "The `ALTER … RESET` of the line.",
    ),
    "autovacuum_off": FindingCode(
        _WRONG, "Autovacuum is off, for the server or for a table of ours.", "The `ALTER` of the line."
    ),
    "setting_not_ours": FindingCode(
        _WRONG,
        "A setting of the role or the database changes what our sessions do, and they may not change it back.",
        "The `ALTER … RESET` of the line.",
    ),
    "url_options": FindingCode(
        _WRONG,
        "The options in `DATABASE_URL` or `PGOPTIONS` end our sessions or statements, or make them read-only.",
        "Remove the option.",
    ),
    "connections_few": FindingCode(
        _WRONG,
        "Fewer than `PROJECTIONS_DOCTOR_CONNECTIONS` connections are left.",
        "End idle sessions, or raise the limit that the line names.",
    ),
    "statistics_missing": FindingCode(
        _NOTE, "A table was never analysed, as after a restore: plans may be bad.", "The `ANALYZE` of the line."
    ),
    "role_privilege": FindingCode(
        _WRONG,
        "A role that stores or folds events may not do something that it must.",
        "The `GRANT` of the line, or `projections grant`.",
    ),
    "reader_privilege": FindingCode(
        _NOTE,
        "A role may read some read models, but not all: after a `REVOKE`, or after one was dropped and created again.",
        "Nothing if that was meant; else the `GRANT` of the line.",
    ),
}
_EXAMINATION = {
    "check_failed": FindingCode(
        _WRONG, "Something could not be examined: the sentence says what, and why.", "What the other lines say."
    ),
    "not_permitted": FindingCode(
        _NOTE,
        "This role may not read what some checks need.",
        "Run it as a role that follows or folds; `pg_monitor` shows the sessions of other roles.",
    ),
}

CODES: MappingProxyType[str, FindingCode] = MappingProxyType(
    _DATABASE
    | _CLUSTER
    | _SCHEMA
    | _APPS
    | _LOG
    | _PROJECTIONS
    | _CONSUMERS
    | _SESSIONS
    | _CLOCK
    | _QUARANTINE
    | _ERASURES
    | _ARCHIVES
    | _SERVER
    | _EXAMINATION
)
"""Every code, in the order in which findings are printed."""
