"""A session's name says who is at work, to its process's number, in the bytes that Postgres keeps."""

from __future__ import annotations

import os
import socket

import pytest

from eventstore.session_lock import session_name


@pytest.mark.parametrize("host", ["db", "projections-worker-7c9d8b6f5d-x2x4z.a-namespace.svc.cluster.local"])
@pytest.mark.parametrize("work", ["export", "rebuild consent_registry", "rebuild " + "x" * 48])
def test_it_keeps_the_process_s_number(monkeypatch: pytest.MonkeyPatch, host: str, work: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    name = session_name(work)
    assert name.startswith(f"projections {work} ")
    rest = name.removeprefix(f"projections {work} ")
    assert host.startswith(rest.removesuffix(f":{os.getpid()}"))
    if len(work) < 40:
        assert len(name) <= 63
        assert name.endswith(f":{os.getpid()}")
