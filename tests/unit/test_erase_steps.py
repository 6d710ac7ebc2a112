"""Whatever fails after persons were erased: the ledger is written, and the receipt says what was not checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eventstore.erasure.person_events import Person
from eventstore.errors import DatabaseError
from projections.cli.shared import erase_steps
from projections.cli.shared.erase_job import EraseJob
from projections.cli.shared.open_database import ReplayTargets
from projections.erasing.erase_request import ErasedPersons, EraseRequest
from projections.erasing.final_checks import FinalChecks
from projections.erasing.receipt import ErasureReceipt

TOKEN = "erased:01KE0000000000000000000000"
JOB = EraseJob(EraseRequest(["41790000017"], why="asked", system_user="tester"), ledger=None, dry_run=False)


class Steps:
    """What was called, and what was reported; ``fails`` names the calls that fail, such as ``ledger 2``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *fails: str) -> None:
        self.called: list[str] = []
        self.reported: list[ErasureReceipt] = []
        self._fails = fails
        self._ledgers = 0
        monkeypatch.setattr(erase_steps, "_erase", lambda *_: self._call("_erase"))
        monkeypatch.setattr(erase_steps, "_check", self._check)
        monkeypatch.setattr(erase_steps, "write_configured_ledger", self._write_ledger)
        monkeypatch.setattr(ReplayTargets, "context", lambda *_: None)

    def run(self, receipt: Path) -> erase_steps.EraseOutcome:
        targets = ReplayTargets.__new__(ReplayTargets)
        return erase_steps.run_erase_job(targets, JOB, receipt, verifies=True, report=self.reported.append)

    def _write_ledger(self, _: ReplayTargets) -> None:
        self._ledgers += 1
        self._call(f"ledger {self._ledgers}")

    def _check(self, _: object, __: object, ___: object, checks: FinalChecks, *____: object, **_____: object) -> None:
        checks.equal["people"] = 3
        self._call("_check")

    def _call(self, name: str) -> ErasedPersons:
        self.called.append(name)
        if name in self._fails:
            raise DatabaseError("the database is unavailable")
        return ErasedPersons([Person("41790000017", TOKEN)], "tester")


def test_a_ledger_that_cannot_be_written_is_noticed_before_anybody_is_erased(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steps = Steps(monkeypatch, "ledger 1")
    with pytest.raises(DatabaseError):
        steps.run(tmp_path / "receipt.json")
    assert (steps.called, steps.reported) == (["ledger 1"], [])


@pytest.mark.parametrize("fails", ["_erase", "_check"])
def test_the_ledger_is_written_whatever_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: str) -> None:
    steps, receipt = Steps(monkeypatch, fails), tmp_path / "receipt.json"
    with pytest.raises(DatabaseError, match="unavailable"):
        steps.run(receipt)
    assert steps.called[:3] == ["ledger 1", "_erase", "ledger 2"]
    assert receipt.exists() == bool(steps.reported) == (fails == "_check")
    if receipt.exists():
        written = json.loads(receipt.read_text())
        assert (written["dry_run"], written["searched"]) == (False, None)
        assert [one["name"] for one in written["verified"]] == ["people"]
        page = (tmp_path / "receipt.html").read_text()
        assert "The database was not searched for the numbers." in page
        assert "1 read models equal the log: people." in page


def test_checks_and_receipt_follow_although_the_ledger_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    steps, receipt = Steps(monkeypatch, "ledger 2"), tmp_path / "receipt.json"
    assert steps.run(receipt).has_failed
    assert steps.called == ["ledger 1", "_erase", "ledger 2", "_check"]
    assert receipt.exists()
