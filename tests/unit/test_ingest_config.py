"""An incomplete configuration is reported in one sentence that names what is missing, and never a secret."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from eventstore.contracts import Contract
from eventstore.errors import UsageError
from eventstore.ingest.client_credentials import ClientCredentials
from eventstore.ingest.config import load_apps
from eventstore.ingest.credentials import FileToken, FixedToken
from eventstore.ingest.since_setting import parse_since
from eventstore.ingest.upstream import NO_TLS
from eventstore.waits import Waits
from tests import wire

URL, ISSUER = "PCS_EXTERNAL_API_URL", "PAS_ISSUER"
CLIENT, SECRET = "PCS_EXTERNAL_CLIENT_ID", "PCS_EXTERNAL_CLIENT_SECRET"
TOKEN, TOKEN_FILE = "PROJECTIONS_TOKEN", "PROJECTIONS_TOKEN_FILE"
WHOLE = {URL: "https://api.example/ext", ISSUER: "https://id.example", CLIENT: "me", SECRET: "hunter2"}
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("PROJECTIONS_", "PCS_", "PAS_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def configured() -> None:
    """Load all apps, and create the upstream of each."""
    for app, config in load_apps().items():
        config.upstream(app, waits=Waits())


def refusal(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the message about an invalid environment."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as refused:
        configured()
    text = str(refused.value)
    assert "\n" not in text
    assert "hunter2" not in text
    return text


def test_the_vendor_s_four_variables_are_an_app(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WHOLE.items():
        monkeypatch.setenv(name, value)
    apps = load_apps()
    assert list(apps) == ["default"]
    upstream = apps["default"].upstream("default", waits=Waits())
    assert (upstream.app, upstream.address.url) == ("default", WHOLE[URL])
    assert (upstream.contract, upstream.since, upstream.tls) == (None, None, NO_TLS)
    assert isinstance(upstream.tokens, ClientCredentials)
    assert "hunter2" not in repr(apps)


def test_the_address_with_a_token_is_an_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URL, WHOLE[URL])
    monkeypatch.setenv(TOKEN, "hunter2")
    monkeypatch.setenv("PROJECTIONS_APP", "shop")
    monkeypatch.setenv("PROJECTIONS_CONTRACT", "pcs.external.v1")
    apps = load_apps()
    upstream = apps["shop"].upstream("shop", waits=Waits())
    assert isinstance(upstream.tokens, FixedToken)
    assert upstream.contract is Contract.PCS_EXTERNAL_V1
    assert "hunter2" not in repr(apps)
    assert "hunter2" not in repr(upstream)


def test_the_address_with_a_token_file_is_an_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URL, WHOLE[URL])
    monkeypatch.setenv(TOKEN_FILE, "token")
    assert isinstance(load_apps()["default"].upstream("default", waits=Waits()).tokens, FileToken)


def test_an_empty_environment_is_reported_with_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal({}, monkeypatch)
    assert all(name in message for name in (*WHOLE, TOKEN, "projections.toml"))


@pytest.mark.parametrize("chosen", range(1, 15))
def test_with_some_of_the_four_the_message_names_exactly_the_missing_ones(
    monkeypatch: pytest.MonkeyPatch, chosen: int
) -> None:
    given = {name: value for at, (name, value) in enumerate(WHOLE.items()) if chosen >> at & 1}
    message = refusal(given, monkeypatch)
    assert {name for name in WHOLE if name in message} == WHOLE.keys() - given.keys()


@pytest.mark.parametrize("name", [TOKEN, TOKEN_FILE])
def test_a_token_without_an_address_names_the_address_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    message = refusal({name: "hunter2"}, monkeypatch)
    assert URL in message
    assert not any(other in message for other in (ISSUER, CLIENT, SECRET))


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal({**WHOLE, SECRET: ""}, monkeypatch)
    assert SECRET in message
    assert URL not in message


@pytest.mark.parametrize(
    "environment",
    [
        {**WHOLE, TOKEN: "hunter2"},
        {**WHOLE, TOKEN_FILE: "file"},
        {URL: WHOLE[URL], ISSUER: WHOLE[ISSUER], TOKEN: "hunter2"},
        {URL: WHOLE[URL], TOKEN: "hunter2", TOKEN_FILE: "file"},
    ],
)
def test_two_kinds_of_credentials_are_refused(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    message = refusal(environment, monkeypatch)
    assert all(name in message for name in environment if name != URL)
    assert "keep one" in message


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (URL, "api.example", "not a URL"),
        (URL, "http://api.example", "in the clear"),
        (ISSUER, "id.example", "issuer"),
        (ISSUER, "http://id.example", "in the clear"),
        (ISSUER, "https://me:word@id.example", "user name or password"),
        ("PROJECTIONS_CONTRACT", "v1", "PROJECTIONS_CONTRACT must be "),
        ("PROJECTIONS_APP", "a b", "PROJECTIONS_APP"),
        ("PROJECTIONS_APP", "-a", "PROJECTIONS_APP"),
        ("PROJECTIONS_APP", "a" * 64, "PROJECTIONS_APP"),
        ("PROJECTIONS_APP", "é", "PROJECTIONS_APP"),
        ("PROJECTIONS_CLIENT_KEY_FILE", "key.pem", "PROJECTIONS_CLIENT_KEY_FILE go together"),
        ("PROJECTIONS_CLIENT_CERTIFICATE_FILE", "us.pem", "PROJECTIONS_CLIENT_KEY_FILE go together"),
        ("PROJECTIONS_CA_FILE", "absent.pem", "ca_file"),
    ],
)
def test_each_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    assert words in refusal({**WHOLE, name: value}, monkeypatch)


@pytest.mark.parametrize("name", ["a", "A.b-c_9", "9", "a" * 63])
def test_valid_app_names(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for variable, value in {**WHOLE, "PROJECTIONS_APP": name}.items():
        monkeypatch.setenv(variable, value)
    assert list(load_apps()) == [name]


@pytest.mark.parametrize("token", ["hunter2\nx", "hunter2 x", " hunter2", "hunter2é", "hunter2\x01", " "])
def test_a_token_that_no_header_can_carry_is_refused_before_it_is_sent(
    monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    assert "token" in refusal({URL: WHOLE[URL], TOKEN: token}, monkeypatch)


@pytest.mark.parametrize("ca", [b"", b"no PEM"])
def test_an_invalid_ca_file_is_refused_whatever_the_credentials(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ca: bytes
) -> None:
    (tmp_path / "ca.pem").write_bytes(ca)
    assert "ca_file" in refusal({URL: WHOLE[URL], TOKEN: "hunter2", "PROJECTIONS_CA_FILE": "ca.pem"}, monkeypatch)


@pytest.mark.parametrize(
    ("text", "ulid"),
    [
        ("90s", "2026-06-01T11:58:30Z"),
        ("5m", "2026-06-01T11:55:00Z"),
        ("36h", "2026-05-31T00:00:00Z"),
        (" 7d ", "2026-05-25T12:00:00Z"),
        ("7 d", "2026-05-25T12:00:00Z"),
        ("0s", "2026-06-01T12:00:00Z"),
        ("2026-05-01T00:00:00Z", "2026-05-01T00:00:00Z"),
        ("2026-05-01T02:00:00+02:00", "2026-05-01T00:00:00Z"),
        ("2026-05-01 00:00:00.123456+00:00", "2026-05-01T00:00:00.123Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
        ("1960-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
    ],
)
def test_since_is_a_duration_back_or_a_time(text: str, ulid: str) -> None:
    assert parse_since(text, NOW) == wire.ulid_at(datetime.fromisoformat(ulid))


@pytest.mark.parametrize(
    "text", ["", "7", "d", "-7d", "7w", "1.5h", "yesterday", "2026-05-01", "2026-05-01T00:00:00", "99999999999d"]
)
def test_an_invalid_since_is_refused_and_repeated(text: str) -> None:
    with pytest.raises(UsageError, match="neither a duration"):
        parse_since(text, NOW)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("999999999d", "too long ago"),
        ("2026-06-01T12:05:01Z", "in the future"),
        ("9999-12-31T23:59:59-23:59", "not a time|in the future"),
    ],
)
def test_a_since_at_which_no_stream_can_start_is_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"^since '{text}' is.*({why})"):
        parse_since(text, NOW)


def test_a_since_from_another_machine_s_clock_is_accepted() -> None:
    assert parse_since("2026-06-01T12:04:59Z", NOW) == wire.ulid_at(NOW + timedelta(seconds=299))


@pytest.mark.parametrize("since", ["2026-05-01", "2026-05-01T00:00:00", "12:00:00"])
def test_a_toml_time_without_a_zone_is_refused_as_the_same_text_is(since: str) -> None:
    lines = ("[apps.shop]", 'address = "http://localhost:1"', 'token = "t"', f"since = {since}")
    Path("projections.toml").write_text("\n".join(lines))
    with pytest.raises(UsageError, match=r"app 'shop': since '.*' is neither a duration"):
        load_apps()["shop"].upstream("shop", waits=Waits())
