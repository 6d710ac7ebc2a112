"""The event loop of commands that run until a signal."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
import uvloop

from projections import signals
from projections.cli.shared.fast_event_loop import run_until_signalled


def test_the_loop_is_uvloops_and_the_result_is_returned() -> None:
    async def work() -> type:
        return type(asyncio.get_running_loop())

    assert run_until_signalled(work()) is uvloop.Loop


def test_an_error_is_raised_after_other_tasks_have_ended() -> None:
    ended: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("the other task")

    async def work() -> None:
        other = asyncio.create_task(wait())
        await asyncio.sleep(0)
        assert not other.done()
        raise LookupError

    with pytest.raises(LookupError):
        run_until_signalled(work())
    assert ended == ["the other task"]


def test_work_handles_signals_itself_and_they_interrupt_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> str:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        return "stopped"

    before = [signal.getsignal(number) for number in signals.SIGNALS]
    monkeypatch.setattr(signals._State, "installed", True)
    try:
        assert run_until_signalled(work()) == "stopped"
        assert [signal.getsignal(number) for number in signals.SIGNALS] == [signals._handle] * len(signals.SIGNALS)
    finally:
        for number, handler in zip(signals.SIGNALS, before, strict=True):
            signal.signal(number, handler)
