"""Interrupted work cleans up, prints what was changed, and exits with the signal's exit code."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import typer

from projections.cli.shared.interruptible import run_interruptible

Ending = Callable[["Work"], Coroutine[Any, Any, object]]
NEVER = 600.0
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Set Python's default handlers before the test, and restore the previous ones after it."""
    before = {number: signal.getsignal(number) for number, _ in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Work:
    """Sends this process a signal, and records whether it cleaned up."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number
        self.tidied: list[object] = []

    async def stands_still(self) -> None:
        os.kill(os.getpid(), self.number)
        try:
            await asyncio.sleep(NEVER)
        finally:
            await asyncio.sleep(0)
            self.tidied.append(signal.getsignal(self.number))

    async def fails(self) -> None:
        try:
            await self.stands_still()
        finally:
            raise ZeroDivisionError

    async def is_done_all_the_same(self) -> int:
        try:
            await self.stands_still()
        except asyncio.CancelledError:
            return 7
        raise AssertionError


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("ends", [Work.stands_still, Work.fails, Work.is_done_all_the_same])
def test_a_signal_lets_the_work_clean_up_and_prints_what_was_changed(
    capsys: pytest.CaptureFixture[str], number: signal.Signals, code: int, ends: Ending
) -> None:
    work = Work(number)
    with pytest.raises(typer.Exit) as caught:
        run_interruptible(ends(work), if_interrupted="all is as it was")
    assert caught.value.exit_code == code
    assert work.tidied == [signal.SIG_DFL], "a second signal would end the process at once"
    assert capsys.readouterr() == ("", "projections: interrupted; all is as it was\n")


async def returned(value: int) -> int:
    return value


async def raised() -> None:
    raise ZeroDivisionError


def test_without_a_signal_the_work_runs_normally(capsys: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(number) for number, _ in SIGNALS]
    assert run_interruptible(returned(7), if_interrupted="nothing") == 7
    with pytest.raises(ZeroDivisionError):
        run_interruptible(raised(), if_interrupted="nothing")
    assert [signal.getsignal(number) for number, _ in SIGNALS] == before
    with ThreadPoolExecutor(1) as other:  # Python runs signal handlers in the main thread only
        assert other.submit(lambda: run_interruptible(returned(8), if_interrupted="nothing")).result() == 8
    assert capsys.readouterr() == ("", "")
