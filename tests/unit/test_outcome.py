"""How a following ended, in sentences and as a verdict."""

from __future__ import annotations

import pytest

from eventstore.errors import ForeignEventId
from eventstore.ingest.service import Outcome
from projections.cli.service import said_outcome

EVENT = "01KE57A22WAXDSJX6FXBCFS5DG"


def test_an_app_that_ended_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    refused = {"shop": str(ForeignEventId("shop", "clinic", EVENT)), "bad": "the issuer refuses the client"}
    assert not said_outcome(Outcome(1, 2, 3, refused))
    counted, shop, bad = capsys.readouterr().err.splitlines()
    assert counted == "1 event stored, 2 came again, 3 messages in quarantine"
    assert shop.startswith(f"projections: app 'shop' ended: event {EVENT} is already stored under app 'clinic'; ")
    assert bad == "projections: app 'bad' ended: the issuer refuses the client"


def test_what_could_not_be_committed_is_no_good_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert said_outcome(Outcome(1_000, 0, 0))
    assert not said_outcome(Outcome(0, 0, 0, {}, ("shop",)))
    assert "app 'shop': not all that came is committed" in capsys.readouterr().err.splitlines()[-1]
