"""What people read carries no token, no secret, no password and no phone number, and stays readable."""

from __future__ import annotations

import pytest

from eventstore import redact as module
from eventstore.redact import MASK, redact, redact_value, register_secret
from tests import wire

PPNUM = "12300000001"


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_secrets", set())


@pytest.mark.parametrize(
    "text",
    [
        PPNUM,
        f"+{PPNUM}",
        f"to {PPNUM}, and more",
        f"(ppnum)=({PPNUM})",
        f'{{"ppnum": "{PPNUM}"}}',
        f"ppnum{PPNUM}",
        f"{PPNUM}x",
        f"tel:{PPNUM}",
        f"%2B{PPNUM}",
        f"ppnum_{PPNUM}_",
        "123000000012345",
        repr(wire.recipient(PPNUM)),
        repr(wire.event(wire.ulid_of(1_767_225_600_000), recipient=wire.recipient(PPNUM))),
    ],
)
def test_a_phone_number_is_hidden_wherever_it_stands(text: str) -> None:
    assert PPNUM not in redact(text)
    assert MASK in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "01HZZZZZZZZZZZZZZZZZZZZZZZ",
        "event 01KDV5N3800000000000000000 again",
        "after='01J00000000000000000000001'",
        "1234567890",
        "SQLSTATE 57P01",
        "127.0.0.1:54321",
        "2026-01-02T03:04:05.678901Z",
        "a bearing wall",
        "the bearer token is missing or wrong",
    ],
)
def test_what_is_no_secret_stays_readable(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("authorization: Bearer eyJh.bGci-_~+/=x", "eyJh"),
        ("bearer   abcdef", "abcdef"),
        ("Authorization: Basic dXNlcjpwYXNz", "dXNl"),
        ("postgresql://user:hunter2@host/db", "hunter2"),
        ("postgresql://:hunter2@host/db", "hunter2"),
        ("host=h password=hunter2 user=u", "hunter2"),
        ("host=h password = 'hun ter2' user=u", "ter2"),
        (r"password='hunt\'er2' user=u", "er2"),
        ("PASSWORD=hunter2", "hunter2"),
        ("postgresql://host/db?user=u&password=hunter2&sslmode=disable", "hunter2"),
    ],
)
def test_credentials_are_hidden_where_they_are_known_by_their_shape(text: str, secret: str) -> None:
    assert secret not in redact(text)
    assert MASK in redact(text)


def test_the_rest_of_a_url_stays() -> None:
    assert redact("postgresql://user:hunter2@host:5432/db") == f"postgresql://user:{MASK}@host:5432/db"


def test_a_registered_secret_is_hidden_whatever_it_looks_like() -> None:
    register_secret("tok")
    register_secret("tok-en")
    assert redact("a tok-en, atoken and token=tok") == f"a {MASK}, a{MASK}en and {MASK}en={MASK}"


def test_an_empty_secret_hides_nothing() -> None:
    register_secret("")
    assert redact("word") == "word"


def test_values_of_log_fields_of_any_shape() -> None:
    class Thing:
        def __str__(self) -> str:
            return f"thing of {PPNUM}"

    value = {
        "none": None,
        "flag": True,
        "few": 9_999_999_999,
        "many": int(PPNUM),
        "negative": -int(PPNUM),
        "seconds": 0.25,
        "list": [PPNUM, (f"+{PPNUM}", 5)],
        "nested": {"ppnum": PPNUM},
        "bytes": wire.recipient(PPNUM),
        "thing": Thing(),
        "set": {PPNUM},
    }
    clean = redact_value(value)
    assert PPNUM not in str(clean)
    assert clean["none"] is None
    assert (clean["flag"], clean["few"], clean["seconds"]) == (True, 9_999_999_999, 0.25)
    assert clean["many"] == clean["negative"] == MASK
    assert clean["list"] == [MASK, [MASK, 5]]


def test_a_phone_number_as_a_key_or_a_float_is_hidden_too() -> None:
    assert PPNUM not in str(redact_value({PPNUM: 1, int(PPNUM): 2}))
    assert PPNUM not in str(redact_value(float(PPNUM)))
