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

TOKEN = "erased:01KE0000000000000000000000"
JOB = EraseJob(EraseRequest(["41790000017"], why="asked", system_user="tester"), ledger=None, dry_run=False)


class Steps:
    """What was called; ``fails`` names the step that fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
        self.called: list[str] = []
        self._fails = fails
        for name in ("_erase", "write_configured_ledger", "_check"):
            monkeypatch.setattr(erase_steps, name, lambda *_, _name=name, **__: self._call(_name))

    def _call(self, name: str) -> ErasedPersons | FinalChecks:
        self.called.append(name)
        if name == self._fails:
            raise DatabaseError("the database is unavailable")
        return FinalChecks() if name == "_check" else ErasedPersons([Person("41790000017", TOKEN)], "tester")


@pytest.mark.parametrize("fails", ["_erase", "_check"])
def test_the_ledger_is_written_whatever_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: str) -> None:
    steps, receipt = Steps(monkeypatch, fails), tmp_path / "receipt.json"
    targets = ReplayTargets.__new__(ReplayTargets)
    monkeypatch.setattr(ReplayTargets, "context", lambda *_: None)
    with pytest.raises(DatabaseError, match="unavailable"):
        erase_steps.run_erase_job(targets, JOB, receipt, verifies=True)
    assert steps.called[:2] == ["_erase", "write_configured_ledger"]
    assert receipt.exists() == (fails == "_check")
    if receipt.exists():
        written = json.loads(receipt.read_text())
        assert (written["dry_run"], written["searched"], written["verified"]) == (False, None, [])
        page = (tmp_path / "receipt.html").read_text()
        assert "The database was not searched for the numbers." in page
        assert "The read models were not verified." in page
