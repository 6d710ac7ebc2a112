"""``projections simulate``, run as a process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import grpc

from eventstore.contracts import Contract, encode_request
from tests.store import GIVE_UP

COMMAND = [sys.executable, "-m", "projections", "simulate"]


def environment(**variables: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **variables}


def follow(address: str, token: str) -> list[bytes]:
    with grpc.insecure_channel(address.removeprefix("http://")) as channel:
        method: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(Contract.CHAT_EXTERNAL.method)
        return list(method(encode_request(None), metadata=(("authorization", f"Bearer {token}"),), timeout=GIVE_UP))


def run_and_read(
    cwd: Path,
    *arguments: str,
    end: signal.Signals = signal.SIGTERM,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> list[bytes]:
    """Start the command, read a stream to its end, end the command; return the stream."""
    with subprocess.Popen(
        [*COMMAND, "--end-at-log-end", *arguments],
        env=environment(**variables),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
            log = follow(address, variables.get("PROJECTIONS_SIMULATOR_TOKEN", "simulator"))
            process.send_signal(end)
            out, err = process.communicate(timeout=GIVE_UP)
        finally:
            process.kill()
    assert (out, process.returncode) == ("", 0)
    assert f"PCS_EXTERNAL_API_URL={address}" in err
    assert "Traceback" not in err
    return log


def test_the_same_seed_and_epoch_give_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    pinned = ["--recipients", "300", "--epoch", "2026-03-01T12:00:00Z"]
    first = run_and_read(tmp_path, *pinned, end=signal.SIGINT)
    assert len(first) > 300
    assert run_and_read(tmp_path, *pinned) == first
    assert set(run_and_read(tmp_path, *pinned, "--seed", "2")).isdisjoint(first)


def test_every_option_may_be_an_environment_variable(tmp_path: Path) -> None:
    variables = {
        "PROJECTIONS_SIMULATOR_RECIPIENTS": "20",
        "PROJECTIONS_SIMULATOR_TOKEN": "another",
        "PROJECTIONS_SIMULATOR_FAULT": "duplicates=2@5 end@9",
        "PROJECTIONS_SIMULATOR_RATE": "1000",
    }
    log = run_and_read(tmp_path, variables=variables)
    assert len(log) == 9 + 2
    assert log[5:7] == log[3:5]


def test_an_invalid_option_is_reported_in_one_sentence(tmp_path: Path) -> None:
    """For the others see tests/acceptance/test_usage_errors.py."""
    done = subprocess.run(
        [*COMMAND, "--fault", "nonsense"],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=GIVE_UP,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "fault 'nonsense': expected KIND" in done.stderr
    assert done.stderr.count("\n") == 1
