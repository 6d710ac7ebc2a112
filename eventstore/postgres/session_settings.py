"""The Postgres settings of our sessions: which we set, and which we leave to the role, the database or the URL.

Invariants. What a session reads, writes, casts or waits for never depends on settings of the role, the database, the
environment or the URL. Every new connection sends one statement that sets ours (:func:`pin`). It names each function
with its schema, because until it has run, the search path is not ours. Settings that are needed by that statement too
are sent at startup (:func:`startup_settings`), where the options of the URL may override some of them.

Every setting that an ordinary role can change is either set here or named in ``LEFT_TO_OTHERS``; a test compares both
with the list of settings that a server has.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from psycopg import sql

from eventstore.waits import Waits

SEARCH_PATH = "pg_catalog, pg_temp"
"""Only the catalog. Temporary objects come last, or else they would hide the catalog's tables."""

_TEXT_FORMS = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "timezone_abbreviations": "Default",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmlbinary": "base64",
    "xmloption": "content",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    "quote_all_identifiers": "off",  # first, for it decides how the next is written
    "default_text_search_config": "pg_catalog.simple",
}
_MEANING = {
    "search_path": SEARCH_PATH,
    "standard_conforming_strings": "on",
    "backslash_quote": "safe_encoding",
    "escape_string_warning": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    # Raises an error where a policy would otherwise hide rows from a fold or from a comparison.
    "row_security": "off",
    "restrict_nonsystem_relation_kind": "",
    "gin_fuzzy_search_limit": "0",
    "check_function_bodies": "on",
    "default_table_access_method": "heap",
    "session_replication_role": "origin",
    "plpgsql.extra_errors": "none",
    "plpgsql.extra_warnings": "none",
    "plpgsql.variable_conflict": "error",
}
_TRANSACTIONS = {
    # An append reads the head after it acquires the lock; a snapshot of the whole transaction would prevent that.
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "transaction_timeout": "0",
    "exit_on_error": "off",
}
_MESSAGES = {
    "client_min_messages": "warning",
    # Otherwise errors quote the parameters of a statement, phone numbers among them.
    "log_parameter_max_length_on_error": "0",
}
_PLANS = {
    **dict.fromkeys(
        (
            "enable_async_append",
            "enable_bitmapscan",
            "enable_distinct_reordering",
            "enable_gathermerge",
            "enable_group_by_reordering",
            "enable_hashagg",
            "enable_hashjoin",
            "enable_incremental_sort",
            "enable_indexonlyscan",
            "enable_indexscan",
            "enable_material",
            "enable_memoize",
            "enable_mergejoin",
            "enable_nestloop",
            "enable_parallel_append",
            "enable_parallel_hash",
            "enable_partition_pruning",
            "enable_presorted_aggregate",
            "enable_self_join_elimination",
            "enable_seqscan",
            "enable_sort",
            "enable_tidscan",
        ),
        "on",
    ),
    "enable_partitionwise_aggregate": "off",
    "enable_partitionwise_join": "off",
    # Our statements are many and short: compiling one takes longer than running it.
    "jit": "off",
    "plan_cache_mode": "auto",
    "constraint_exclusion": "partition",
    "cursor_tuple_fraction": "0.1",
    "from_collapse_limit": "8",
    "join_collapse_limit": "8",
    "recursive_worktable_factor": "10",
    "geqo": "on",
    "geqo_threshold": "12",
    "geqo_effort": "5",
    "geqo_pool_size": "0",
    "geqo_generations": "0",
    "geqo_selection_bias": "2",
    "geqo_seed": "0",
    "debug_parallel_query": "off",
    "force_parallel_mode": "off",  # what the same was called before PostgreSQL 16
}

EVERY_SESSION: Mapping[str, str] = MappingProxyType({**_TEXT_FORMS, **_MEANING, **_TRANSACTIONS, **_MESSAGES, **_PLANS})
"""The settings of every session. ``synchronous_commit`` is set too, see :func:`pin`."""

_PRIVILEGED = ("session_replication_role", "plpgsql.variable_conflict")
"""Settings that only a superuser can change, unless the right was granted; they are set where we may."""

FOLDING: Mapping[str, str] = MappingProxyType({"synchronous_commit": "off", "enable_seqscan": "off"})
"""For sessions that fold.

Derived rows are committed together with their position. After a crash of the server both are there or neither is, so
waiting for the disk would make nothing safer. Folds find their rows by index; a plan that was made while a table was
empty must not scan it when it is large.
"""

SEARCHING: Mapping[str, str] = MappingProxyType({"enable_seqscan": "off", "max_parallel_workers_per_gather": "0"})
"""For sessions that look for single rows and events: starting a worker takes longer than finding them by index."""

LEFT_TO_OTHERS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                "backend_flush_after",
                "cpu_index_tuple_cost",
                "cpu_operator_cost",
                "cpu_tuple_cost",
                "default_statistics_target",
                "effective_cache_size",
                "effective_io_concurrency",
                "file_copy_method",
                "file_extend_method",
                "gin_pending_list_limit",
                "hash_mem_multiplier",
                "io_combine_limit",
                "jit_above_cost",
                "jit_expressions",
                "jit_inline_above_cost",
                "jit_optimize_above_cost",
                "jit_tuple_deforming",
                "logical_decoding_work_mem",
                "maintenance_io_concurrency",
                "maintenance_work_mem",
                "max_parallel_maintenance_workers",
                "max_parallel_workers",
                "max_parallel_workers_per_gather",
                "min_parallel_index_scan_size",
                "min_parallel_table_scan_size",
                "parallel_leader_participation",
                "parallel_setup_cost",
                "parallel_tuple_cost",
                "random_page_cost",
                "seq_page_cost",
                "synchronize_seqscans",
                "temp_buffers",
                "wal_skip_threshold",
                "work_mem",
            ),
            "what the machine is like: memory, disks and processors",
        ),
        **dict.fromkeys(
            ("default_tablespace", "default_toast_compression", "temp_tablespaces"), "where and how bytes are stored"
        ),
        **dict.fromkeys(
            (
                "debug_pretty_print",
                "debug_print_parse",
                "debug_print_plan",
                "debug_print_raw_parse",
                "debug_print_rewritten",
                "trace_notify",
                "trace_sort",
            ),
            "what the server writes into its own log",
        ),
        **dict.fromkeys(
            (
                "commit_siblings",
                "createrole_self_grant",
                "debug_logical_replication_streaming",
                "icu_validation_level",
                "local_preload_libraries",
                "md5_password_warnings",
                "password_encryption",
                "scram_iterations",
                "stats_fetch_consistency",
                "wal_sender_timeout",
            ),
            "nothing that our statements do depends on it",
        ),
        **dict.fromkeys(
            (
                "vacuum_buffer_usage_limit",
                "vacuum_cost_delay",
                "vacuum_cost_limit",
                "vacuum_cost_page_dirty",
                "vacuum_cost_page_hit",
                "vacuum_cost_page_miss",
                "vacuum_failsafe_age",
                "vacuum_freeze_min_age",
                "vacuum_freeze_table_age",
                "vacuum_max_eager_freeze_failure_rate",
                "vacuum_multixact_failsafe_age",
                "vacuum_multixact_freeze_min_age",
                "vacuum_multixact_freeze_table_age",
                "vacuum_truncate",
            ),
            "VACUUM, which our sessions don't run",
        ),
        **dict.fromkeys(
            ("transaction_deferrable", "transaction_isolation", "transaction_read_only"),
            "of the transaction that is open, not of the session",
        ),
    }
)
"""Settings that are left to the role, the database and the URL, each with the reason."""


def startup_settings(
    waits: Waits, *, idle_session_timeout: float | None = None, lock_timeout: float | None = None
) -> dict[str, str]:
    """Return the settings that are sent at startup, before the options of the URL, which may override them.

    Args:
        waits: the timeouts.
        idle_session_timeout: seconds without a query after which Postgres ends the session; None for never.
        lock_timeout: seconds after which a statement that waits for a lock fails; None for never.

    """
    return {
        # The server's own keepalives, besides the client's: it is the server that holds locks for a dead machine.
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": "0",
        "client_connection_check_interval": milliseconds(waits.leader_heartbeat),
        "idle_in_transaction_session_timeout": milliseconds(waits.idle_in_transaction),
        # Zero means never, whatever a role or a database has.
        "idle_session_timeout": milliseconds(idle_session_timeout or 0),
        "lock_timeout": milliseconds(lock_timeout or 0),
        "statement_timeout": "0",
        "default_transaction_read_only": "off",
        # The URL can't change these two. They are sent here because a serializable, deferrable, read-only transaction
        # would wait before it could run the statement that sets them.
        "default_transaction_isolation": "read committed",
        "default_transaction_deferrable": "off",
    }


def pin(settings: Mapping[str, str]) -> bytes:
    """Return the statement that gives a new session our settings, and those that its work needs.

    Settings that the server doesn't know are skipped, and so are privileged ones that the role may not change.
    ``synchronous_commit`` is at least ``on``; ``remote_apply``, which is stronger, stays.
    """
    return _compose_pin(tuple(settings.items()))


@lru_cache(maxsize=64)  # composing it takes longer than running it, and a process has few kinds of sessions
def _compose_pin(settings: tuple[tuple[str, str], ...]) -> bytes:
    values = dict(settings)
    rows: list[sql.Composable] = [_compose_row(name, value) for name, value in {**EVERY_SESSION, **values}.items()]
    if "synchronous_commit" not in values:
        rows.append(sql.SQL("('synchronous_commit', {}, false)").format(_AT_LEAST_ON))
    return _PIN.format(sql.SQL(", ").join(rows)).as_bytes()


@lru_cache(maxsize=512)  # most settings are the same in all kinds of sessions
def _compose_row(name: str, value: str) -> sql.Composed:
    return sql.SQL("({}, {}, {})").format(name, sql.Literal(value), name in _PRIVILEGED)


COMMIT_DURABLY = (
    "SELECT pg_catalog.set_config('synchronous_commit', CASE (SELECT reset_val FROM pg_catalog.pg_settings"
    " WHERE name = 'synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true)"
)
"""Makes the commit of the current transaction durable, in a session that otherwise commits asynchronously."""

ONE_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
"""As the first statement of a transaction: all of its statements see the same state of the database."""

SESSION_LOCK_TIMEOUT = "SELECT pg_catalog.set_config('lock_timeout', %s, false)"
"""Sets, for the session, how long a statement waits for a lock, as :func:`milliseconds` returns it."""

LOCK_TIMEOUT = "SELECT pg_catalog.set_config('lock_timeout', %s, true)"
"""The same for the current transaction."""

SCAN_WHOLE_TABLES = "SELECT pg_catalog.set_config('enable_seqscan', 'on', true)"
"""Lets the current transaction read whole tables, as a comparison does. ``FOLDING`` is for small windows."""

JOIN_IN_KEY_ORDER = (
    "SELECT pg_catalog.set_config('enable_hashjoin', 'off', true), pg_catalog.set_config('enable_sort', 'off', true)"
)
"""Makes the current transaction join tables in the order of their keys, by the indexes, until :data:`JOIN_FREELY`."""

JOIN_FREELY = (
    "SELECT pg_catalog.set_config('enable_hashjoin', 'on', true), pg_catalog.set_config('enable_sort', 'on', true)"
)
"""Leaves to the planner how to join, as it is in every session at first."""

STATEMENT_TIMEOUT = "pg_catalog.set_config('statement_timeout', %(timeout)s, true)"
"""The expression that limits the statements after it, in the current transaction; another statement may return it."""

RESET_STATEMENT_TIMEOUT = "SET LOCAL statement_timeout TO DEFAULT"
"""Ends that limit."""

_AT_LEAST_ON = sql.SQL(
    "CASE WHEN pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.=) 'remote_apply'"
    " THEN 'remote_apply' ELSE 'on' END"
)
_PIN = sql.SQL(
    "SELECT pg_catalog.set_config(name, value, false) FROM (VALUES {}) AS ours (name, value, privileged)"
    " WHERE pg_catalog.current_setting(name, true) IS NOT NULL"
    " AND CASE WHEN privileged THEN pg_catalog.has_parameter_privilege(name, 'SET') ELSE true END"
)


def milliseconds(seconds: float) -> str:
    """Return a time as Postgres takes it in a setting: 0 means no limit, so a time below 1 ms becomes 1 ms."""
    return f"{max(int(seconds * 1000), 1) if seconds > 0 else 0}ms"
