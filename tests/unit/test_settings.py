"""Values that Postgres would refuse later are refused when settings are loaded; the message names the variable."""

from __future__ import annotations

import pytest

from eventstore.postgres.session_settings import milliseconds
from projections.errors import UsageError
from projections.settings import load_replay_settings

NAME = "PROJECTIONS_REBUILD_WORK_MEM"


@pytest.mark.parametrize("size", ["64kB", "1MB", "64MB", "2147483647kB", "2097151MB", "2047GB"])
def test_sizes_that_postgres_accepts(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    monkeypatch.setenv(NAME, size)
    assert load_replay_settings().work_mem == size


@pytest.mark.parametrize("size", ["1kB", "63kB", "2147483648kB", "2097152MB", "2048GB", "9999GB", f"{10**40}kB"])
def test_sizes_that_postgres_refuses(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    monkeypatch.setenv(NAME, size)
    with pytest.raises(UsageError) as caught:
        load_replay_settings()
    message = f"{NAME} must be a size such as 64MB, between 64kB and 2147483647kB"
    assert str(caught.value) == message


@pytest.mark.parametrize("size", ["much", "0kB", "64", "64 MB", "64mb", "-1MB", ""])
def test_values_that_are_not_sizes(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    monkeypatch.setenv(NAME, size)
    with pytest.raises(UsageError, match=f"^{NAME} must be a size such as 64MB, "):
        load_replay_settings()


@pytest.mark.parametrize("seconds", ["0", "0.0009", "2147484", "1e300", "inf", "nan", "-1"])
def test_times_that_postgres_refuses_or_takes_as_no_limit(monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    monkeypatch.setenv("PROJECTIONS_REBUILD_LOCK_TIMEOUT", seconds)
    with pytest.raises(UsageError, match=r"^PROJECTIONS_REBUILD_LOCK_TIMEOUT must be .*seconds$"):
        load_replay_settings()


@pytest.mark.parametrize(("seconds", "text"), [(0, "0ms"), (0.0004, "1ms"), (0.001, "1ms"), (2.5, "2500ms")])
def test_a_short_timeout_does_not_become_no_limit(seconds: float, text: str) -> None:
    assert milliseconds(seconds) == text
