"""The printed outcome of an ingest, and whether it counts as successful."""

from __future__ import annotations

import pytest

from eventstore.errors import ForeignEventId
from eventstore.ingest.follow_apps import Outcome
from projections.cli.shared.long_running import print_ingest_outcome

EVENT = "01KE57A22WAXDSJX6FXBCFS5DG"


def test_a_refused_app_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    refused = {"shop": str(ForeignEventId("shop", "clinic", EVENT)), "bad": "the issuer refuses the client"}
    assert not print_ingest_outcome(Outcome(1, 2, 3, refused))
    counted, shop, bad = capsys.readouterr().err.splitlines()
    assert counted == "1 new event, 2 duplicates, 3 quarantined"
    assert shop.startswith(f"projections: app 'shop' is refused: event {EVENT} is already stored under app 'clinic'; ")
    assert bad == "projections: app 'bad' is refused: the issuer refuses the client"


def test_uncommitted_events_make_the_outcome_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_ingest_outcome(Outcome(1_000, 0, 0))
    assert not print_ingest_outcome(Outcome(0, 0, 0, {}, ("shop",)))
    assert "app 'shop': some received events were not stored" in capsys.readouterr().err.splitlines()[-1]
