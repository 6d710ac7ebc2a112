"""The defaults of all timeouts and intervals, and the settings that change them."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
from pydantic import ValidationError

from eventstore.errors import UsageError
from eventstore.waits import Waits, load_waits

DEFAULTS = {
    "overlap": 5.0,
    "silence": 65.0,
    "ping": 300.0,
    "ping_timeout": 20.0,
    "dial": 20.0,
    "request_status": 20.0,
    "settle": 1.0,
    "healthy_after": 10.0,
    "backoff_first": 0.5,
    "backoff_cap": 60.0,
    "normal_end_cap": 5.0,
    "retry_after_cap": 3600.0,
    "refused_retry": 300.0,
    "database_backoff_cap": 5.0,
    "database_connect": 10.0,
    "append_lock": 10.0,
    "lock": 30.0,
    "migrate_lock": 2.0,
    "idle_in_transaction": 15.0,
    "leader_heartbeat": 5.0,
    "leader_timeout": 15.0,
    "standby": 2.0,
    "shutdown": 4.0,
    "token_margin": 60.0,
    "issuer": 20.0,
}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("PROJECTIONS_"):
            monkeypatch.delenv(name)


def test_the_defaults_of_all_timeouts_and_intervals() -> None:
    assert Waits().model_dump() == DEFAULTS


@pytest.mark.parametrize("name", DEFAULTS)
def test_each_timeout_can_be_set_in_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"PROJECTIONS_{name.upper()}", "5.125")
    assert Waits().model_dump() == DEFAULTS | {name: 5.125}


def test_the_environment_is_read_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_waits()
    assert load_waits() is before
    monkeypatch.setenv("projections_Silence", "7.5")
    assert load_waits() == before.model_copy(update={"silence": 7.5})
    monkeypatch.setenv("projections_Silence", "never")
    with pytest.raises(UsageError, match="PROJECTIONS_SILENCE must be a number of seconds"):
        load_waits()
    monkeypatch.delenv("projections_Silence")
    assert load_waits() == before


def test_a_heartbeat_that_would_be_too_late_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROJECTIONS_LEADER_HEARTBEAT", "15")
    with pytest.raises(UsageError) as caught:
        load_waits()
    assert str(caught.value) == "PROJECTIONS_LEADER_HEARTBEAT must be less than PROJECTIONS_LEADER_TIMEOUT"


@pytest.mark.parametrize("name", DEFAULTS)
def test_no_timeout_is_negative(name: str) -> None:
    with pytest.raises(ValidationError, match=name):
        Waits.model_validate({name: -0.001})


@pytest.mark.parametrize("name", sorted(DEFAULTS.keys() - {"overlap", "token_margin", "refused_retry"}))
def test_only_the_overlap_the_margin_and_the_interval_after_a_refusal_may_be_zero(name: str) -> None:
    with pytest.raises(ValidationError, match=name):
        Waits.model_validate({name: 0})
    assert Waits(overlap=0, token_margin=0).overlap == 0


def test_every_timeout_has_a_description() -> None:
    assert all(field.description for field in Waits.model_fields.values())


def test_which_timeouts_must_be_shorter_than_others() -> None:
    waits = Waits()
    assert waits.leader_heartbeat * 2 < waits.leader_timeout, "one late heartbeat must not cost the app"
    assert waits.append_lock < waits.leader_timeout, "waiting for the append lock must not lose the app"
    assert waits.silence > 3 * 20, "keep-alives come every 20 s, and one or two may be late"
    assert waits.ping >= 300, "servers answer more than one ping in 5 minutes with GOAWAY"
    assert waits.shutdown < 5, "SIGTERM ends the process within 5 s"


def test_seconds_are_converted_to_the_units_of_drivers() -> None:
    assert Waits.as_timedelta(0.25) == timedelta(milliseconds=250)
