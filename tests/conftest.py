"""Fixtures and hooks are in plugins, one for each concern."""

pytest_plugins = [
    "tests.fix_citus",
    "tests.fix_environment",
    "tests.fix_failover",
    "tests.fix_full_matrix",
    "tests.fix_issuer",
    "tests.fix_logs",
    "tests.fix_parallel",
    "tests.fix_postgres",
    "tests.fix_rerun",
    "tests.fix_simulator",
    "tests.fix_statements",
    "tests.fix_store",
]
