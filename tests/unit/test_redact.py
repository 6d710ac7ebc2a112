"""Redaction: no token, secret, password or phone number is shown to people, and texts stay readable."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest

from eventstore.errors import OtherLog, describe
from eventstore.redaction import redact as module
from eventstore.redaction.redact import (
    MASK,
    MAX_LENGTH,
    MAX_TOKENS,
    hide_secrets,
    quoted,
    redact,
    redact_value,
    register_secret,
)
from tests import wire

PPNUM = "12300000001"
SECRET = "s3cr3t&pa\"ss' /+wörd\\%41é"
CLIENT = "client"


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_secrets", {})
    monkeypatch.setattr(module, "_tokens", {})


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
        "123000000012345678",
        repr(wire.recipient(PPNUM)),
        repr(wire.event(wire.ulid_of(1_767_225_600_000), recipient=wire.recipient(PPNUM))),
    ],
)
def test_a_phone_number_is_hidden_anywhere_in_a_text(text: str) -> None:
    assert PPNUM not in redact(text)
    assert MASK in redact(text)


@pytest.mark.parametrize(
    "written",
    [
        "41234567",
        "412345678",
        "4123456789",
        "+47 412 34 567",
        "41-79-123-45-67",
        "+41 (0)79 123 45 67",
        "(+41) 79 123 45 67",
        "0041.79.123.45.67",
        "41/79/123/45/67",
        "41 - 79 - 123 - 45 - 67",
        "+47\u00a0412\u00a034\u00a0567",
        "+47\u202f412\u200934\u2003567",
        "+47\u2011412\u201334\u2212567",
        "+47\u200b412\u206034\u00ad567",
        "\uff14\uff11\uff17\uff19\uff11\uff12\uff13\uff14\uff15\uff16\uff17",
        "٤١٧٩١٢٣٤٥٦٧",
        "⁴¹⁷⁹¹²³⁴⁵⁶⁷",
        "④①⑦⑨①②③④⑤⑥⑦",
        "+47%20412%2034%20567",
        "+47+412+34+567",
        "+47&nbsp;412&#160;34&#xA0;567",
        "+47\\u00a0412\\u00a034\\u00a0567",
        "\\u0034\\u0031\\u0032\\u0033\\u0034\\u0035\\u0036\\u0037",
        "&#52;&#49;&#50;&#51;&#52;&#53;&#54;&#55;",
        "41\n79\t123\r\n45 67",
        "47.41.23.45",
    ],
)
def test_a_phone_number_is_hidden_however_it_is_written(written: str) -> None:
    assert redact(f"to {written}, and more") in {f"to {MASK}, and more", f"to ({MASK}, and more"}


@pytest.mark.parametrize(
    "text",
    [
        "01HZZZZZZZZZZZZZZZZZZZZZZZ",
        "event 01KDV5N3800000000000000000 again",
        "after='01J00000000000000000000001'",
        "1234567",
        "SQLSTATE 57P01",
        "127.0.0.1:54321",
        "ipv4:203.0.113.25:443: connection refused",
        'connection to server at "203.0.113.25", port 5432 failed',
        'no pg_hba.conf entry for host "203.0.113.25", user "me"',
        "[Errno 111] Connect call failed ('203.0.113.25', 5432)",
        "10.120.100.100 and 192.168.100.200",
        "2001:db8::8a2e:370:7334",
        "2026-01-02T03:04:05.678901Z",
        "2026-01-02 03:04:05.678901+00",
        "retry 3 at 2026-01-02T03:04:05+01:00",
        "the certificate expired on 2026-01-02",
        "at 03:04:05.678901 again",
        "550e8400-e29b-41d4-a716-446655440000",
        "Received message larger than max (70000012 vs. 67108864)",
        "67108864 bytes, 12345678 kB, after 12.345678 s",
        "PostgreSQL 18.4 (Debian 18.4-1.pgdg13+1), version 1.26.20240101",
        "a bearing wall",
        "the bearer token is missing or wrong",
    ],
)
def test_text_without_secrets_stays_readable(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "positions 10000000000..10000000009 missing",
        "position 12,345,678,901 of 98765432109 events",
        "a" + PPNUM,
    ],
)
def test_numbers_in_our_own_sentences_stay(text: str) -> None:
    assert hide_secrets(text) == text
    assert describe(OtherLog(text)) == text


def test_text_from_others_is_redacted_in_their_errors() -> None:
    assert describe(ValueError("no such person: +47 412 34 567")) == f"ValueError: no such person: {MASK}"


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
        ("grant_type=client_credentials&client_secret=hunter2&x=y", "hunter2"),
        ('{"access_token": "hunter2", "x": "y"}', "hunter2"),
    ],
)
def test_credentials_are_recognised_by_their_form_and_hidden(text: str, secret: str) -> None:
    assert secret not in hide_secrets(text)
    assert MASK in hide_secrets(text)


def test_the_rest_of_a_url_stays() -> None:
    assert redact("postgresql://user:hunter2@host:5432/db") == f"postgresql://user:{MASK}@host:5432/db"


def test_a_registered_secret_of_any_form_is_hidden() -> None:
    register_secret("tok")
    register_secret("tok-en")
    assert redact("a tok-en, atoken and token=tok") == f"a {MASK}, a{MASK}en and {MASK}en={MASK}"


def test_an_empty_secret_hides_nothing() -> None:
    register_secret("")
    assert redact("word") == "word"


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "percent-encoded": lambda text: quote(text, safe=""),
    "percent-encoded as in a path": quote,
    "percent-encoded as in a form": quote_plus,
    "percent-encoded in lower case": lambda text: quote(text, safe="").lower(),
    "percent-encoded to the last character": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "percent-encoded twice": lambda text: quote(quote(text, safe=""), safe=""),
    "percent-encoded three times": lambda text: quote(quote(quote(text, safe=""), safe=""), safe=""),
    "HTML-escaped": html.escape,
    "HTML-escaped twice": lambda text: html.escape(html.escape(text)),
    "in decimal references": lambda text: "".join(f"&#{ord(char)};" for char in text),
    "in hexadecimal references": lambda text: "".join(f"&#x{ord(char):X};" for char in text),
    "JSON": json.dumps,
    "JSON with raw characters": lambda text: json.dumps(text, ensure_ascii=False),
    "JSON with escaped slashes": lambda text: json.dumps(text).replace("/", "\\/"),
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)),
    "\\u escapes": lambda text: "".join(f"\\u{unit}" for unit in text.encode("utf-16-be").hex("-", 2).split("-")),
    "a literal": repr,
    "a literal of bytes": lambda text: repr(text.encode()),
    "octal escapes": lambda text: "".join(f"\\{byte:03o}" for byte in text.encode()),
    "percent-encoded in HTML in JSON": lambda text: json.dumps(html.escape(quote(text))),
    "hexadecimal": lambda text: text.encode().hex(),
    "hexadecimal in capitals": lambda text: text.encode().hex().upper(),
    "base64": _base64,
    "base64 behind one byte": lambda text: _base64(f"a{text}"),
    "base64 behind two bytes": lambda text: _base64(f"ab{text}zz"),
    "Basic": lambda text: _base64(f"{CLIENT}:{text}"),
    "Basic, encoded first": lambda text: _base64(f"{quote_plus(CLIENT)}:{quote_plus(text)}"),
    "base64url": lambda text: base64.urlsafe_b64encode(f"{CLIENT}:{text}".encode()).decode().rstrip("="),
    "percent-encoded base64": lambda text: quote(_base64(f"{CLIENT}:{text}"), safe=""),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("secret", [SECRET, "hunter2-hunter2", "😀 smiles >>>???"])
def test_a_secret_is_hidden_in_every_encoding(form: str, secret: str) -> None:
    register_secret(secret)
    written = FORMS[form](secret)
    hidden = hide_secrets(f"it said x={written}, and more")
    assert hidden.replace('"', "").replace("\\", "").replace("b'", "").replace("'", "") == f"it said x={MASK}, and more"


def test_a_secret_is_hidden_in_base64_over_several_lines() -> None:
    token = "eyJ" + "aZ09-_xY" * 40
    register_secret(token)
    lines = base64.encodebytes(f"{CLIENT}:{token}".encode()).decode()
    hidden = hide_secrets(f"it said {lines} and more")
    assert MASK in hidden
    assert not [line for line in lines.splitlines()[1:-1] if line in hidden]


def test_the_newest_tokens_and_all_permanent_secrets_are_remembered() -> None:
    register_secret("lasting-secret")
    for number in range(MAX_TOKENS + 1):
        register_secret(f"token-{number:04d}-x", expires=True)
    assert hide_secrets("lasting-secret token-0001-x token-0256-x") == f"{MASK} {MASK} {MASK}"
    assert hide_secrets("token-0000-x") == "token-0000-x"


def test_a_very_long_text_is_cut_between_words() -> None:
    secret = "hunter2" * 100
    register_secret(secret)
    text = "word " * (MAX_LENGTH // 5 - 20) + secret
    assert len(text) > MAX_LENGTH
    hidden = redact(text)
    assert "hunter2" not in hidden
    assert hidden.endswith("word…")
    assert redact("1" * (MAX_LENGTH + 1)) == "…"


@pytest.mark.parametrize("between", ["", " ", "x"])
def test_no_part_of_a_secret_is_left_where_a_quoted_text_is_cut(between: str) -> None:
    secret = "hunter2-" * 50
    register_secret(secret)
    for shift in range(0, len(secret), 7):
        hidden = quoted("y" * shift + f" {secret}{between}" * 100)
        assert len(hidden) <= 300
        assert "hunter2" not in hidden


def test_values_of_log_fields_of_any_shape() -> None:
    class Thing:
        def __str__(self) -> str:
            return f"thing of {PPNUM}"

    value = {
        "none": None,
        "flag": True,
        "position": int(PPNUM),
        "negative": -int(PPNUM),
        "seconds": 0.25,
        "list": [PPNUM, (f"+{PPNUM}", 5)],
        "nested": {"ppnum": PPNUM},
        "bytes": wire.recipient(PPNUM),
        "thing": Thing(),
        "set": {PPNUM},
        PPNUM: 1,
    }
    clean = redact_value(value)
    assert (clean["position"], clean["negative"]) == (int(PPNUM), -int(PPNUM)), "numbers in our own fields stay"
    assert PPNUM not in str({**clean, "position": 0, "negative": 0})
    assert clean["none"] is None
    assert (clean["flag"], clean["seconds"]) == (True, 0.25)
    assert clean["list"] == [MASK, [MASK, 5]]
