"""The name of a session contains its work, host and process id, within the bytes that Postgres keeps."""

from __future__ import annotations

import os
import socket

import pytest

from eventstore.postgres.session_lock import HOST_BYTES, session_name

LONG = "projections-worker-7c9d8b6f5d-x2x4z.a-namespace.svc.cluster.local"
PID = f":{os.getpid()}"


@pytest.mark.parametrize("host", ["db", LONG])
@pytest.mark.parametrize("work", ["export", "rebuild consent_registry"])
def test_the_host_is_cut_to_the_room_that_is_left(monkeypatch: pytest.MonkeyPatch, host: str, work: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    name = session_name(work)
    assert name.startswith(f"projections {work} ")
    rest = name.removeprefix(f"projections {work} ").removesuffix(PID)
    assert host.startswith(rest)
    assert name.endswith(f"{rest}{PID}")
    assert len(name) == 63 or rest == host


@pytest.mark.parametrize(("host", "left"), [("db", "db"), (LONG, LONG[:HOST_BYTES])])
@pytest.mark.parametrize("letter", ["x", "é"])
def test_long_work_is_cut_short_before_the_host_and_the_process(
    monkeypatch: pytest.MonkeyPatch, host: str, left: str, letter: str
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    name = session_name("rebuild " + letter * 48)
    assert name.startswith(f"projections rebuild {letter * 10}")
    assert name.endswith(f"{letter}… {left}{PID}")
    assert len(name.encode()) <= 63
