"""``projections.toml`` configures several apps, and an error in it is reported in one sentence."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from eventstore.contracts import Contract
from eventstore.errors import UsageError
from eventstore.ingest.client_credentials import ClientCredentials
from eventstore.ingest.config import CONFIG_FILE, load_apps
from eventstore.ingest.credentials import FixedToken
from eventstore.waits import Waits
from tests import wire

CLIENT = 'issuer = "https://id.example"\nclient_id = "me"\nclient_secret = "hunter2"\n'
ADDRESS = 'address = "https://api.example"\n'
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def configured() -> None:
    """Load all apps, and create the upstream of each."""
    for app, config in load_apps().items():
        config.upstream(app, waits=Waits())


def refusal(text: str) -> str:
    """Return the message about an invalid file."""
    Path(CONFIG_FILE).write_text(text)
    with pytest.raises(UsageError) as refused:
        configured()
    message = str(refused.value)
    assert "\n" not in message
    assert "hunter2" not in message
    return message


def test_several_apps_have_their_own_credentials_and_contracts() -> None:
    Path(CONFIG_FILE).write_text(
        f'[apps.shop]\n{ADDRESS}{CLIENT}since = "48h"\n'
        '[apps.clinic]\naddress = "http://localhost:1"\ntoken = "t"\ncontract = "chat.external"\n'
        "since = 2026-05-01T00:00:00Z\n"
    )
    apps = load_apps()
    assert list(apps) == ["shop", "clinic"]
    shop, clinic = (config.upstream(name, waits=Waits()) for name, config in apps.items())
    assert isinstance(shop.tokens, ClientCredentials)
    assert isinstance(clinic.tokens, FixedToken)
    assert (shop.contract, clinic.contract) == (None, Contract.CHAT_EXTERNAL)
    assert clinic.since == wire.ulid_at(datetime(2026, 5, 1, tzinfo=UTC))
    assert shop.since is not None
    assert apps["clinic"].upstream("clinic", waits=Waits(), since="1s").since != clinic.since


def test_a_file_that_is_named_is_read_from_any_folder(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text(f"[apps.a]\n{ADDRESS}{CLIENT}")
    assert list(load_apps(path)) == ["a"]


def test_a_secret_can_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    Path(CONFIG_FILE).write_text(
        f'[apps.a]\n{ADDRESS}issuer = "https://id.example"\nclient_id = "me"\nclient_secret_file = "secret"\n'
    )
    tokens = load_apps()["a"].upstream("a", waits=Waits()).tokens
    assert isinstance(tokens, ClientCredentials)
    assert tokens._client_secret == "hunter2"


def test_an_empty_setting_counts_as_not_set() -> None:
    Path(CONFIG_FILE).write_text(f'[apps.a]\n{ADDRESS}{CLIENT}token = ""\n')
    assert isinstance(load_apps()["a"].upstream("a", waits=Waits()).tokens, ClientCredentials)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no app"),
        ("[apps]\n", "no app"),
        ("apps = 3\n", "no app"),
        ("[app.a]\n", "unknown key 'app', did you mean 'apps'?; write one table [apps.NAME]"),
        (f"[apps.a]\n{ADDRESS}{CLIENT}[more]\n", "unknown key 'more'; write one table"),
        ("[apps\n", "is not TOML"),
        ("[apps]\na = 3\n", "app 'a'"),
        (f"[apps.'a b']\n{ADDRESS}{CLIENT}", "an app's name"),
        (f"[apps.'']\n{ADDRESS}{CLIENT}", "an app's name"),
        (f"[apps.a]\n{CLIENT}", "address"),
        (
            f"[apps.a]\n{ADDRESS}",
            "set issuer, client_id and client_secret (or client_secret_file), or set token or token_file to use",
        ),
        (
            f'[apps.a]\n{ADDRESS}issuer = "https://id.example"\n',
            "missing: set client_id and client_secret (or client_secret_file)",
        ),
        (f'[apps.a]\n{ADDRESS}client_id = "me"\nclient_secret = "hunter2"\n', "missing: set issuer"),
        (
            f'[apps.a]\n{ADDRESS}{CLIENT}token = "hunter2"\n',
            "issuer, client_id, client_secret and token are set: keep one kind",
        ),
        (
            f'[apps.a]\n{ADDRESS}token = "hunter2"\ntoken_file = "f"\n',
            "token and token_file are set: keep one kind of credentials",
        ),
        (
            f'[apps.a]\n{ADDRESS}{CLIENT}client_secret_file = "f"\n',
            "client_secret and client_secret_file are set: keep one",
        ),
        (f'[apps.a]\n{ADDRESS}{CLIENT}tokn = "hunter2"\n', "app 'a': unknown key 'tokn', did you mean 'token'?; "),
        (f"[apps.a]\nadress = 'x'\n{CLIENT}", "app 'a': unknown key 'adress', did you mean 'address'?; "),
        (f"[apps.a]\n{ADDRESS}{CLIENT}colour = 1\n", "app 'a': unknown key 'colour'; the keys are address, contract, "),
        (f"[apps.a]\n{ADDRESS}token = 3\n", "token"),
        (f'[apps.a]\n{ADDRESS}{CLIENT}contract = "v1"\n', "contract"),
        (f'[apps.a]\n{ADDRESS}{CLIENT}since = "soon"\n', "since 'soon'"),
        (f"[apps.a]\n{ADDRESS}{CLIENT}since = 2026-05-01T00:00:00\n", "since"),
        (f"[apps.a]\n{ADDRESS}{CLIENT}since = 2026-05-01\n", "since"),
        (f'[apps.a]\naddress = "api.example"\n{CLIENT}', "not a URL"),
        (f'[apps.a]\naddress = "http://api.example"\n{CLIENT}', "in the clear"),
        (f'[apps.a]\n{ADDRESS}{CLIENT}client_key_file = "key.pem"\n', "go together"),
        (f'[apps.a]\n{ADDRESS}{CLIENT}ca_file = "absent.pem"\n', "ca_file"),
        (
            f'[apps.a]\n{ADDRESS}issuer = "https://id.example"\nclient_id = "me"\nclient_secret_file = "absent"\n',
            "client_secret_file",
        ),
    ],
)
def test_an_error_in_the_file_is_reported_in_one_sentence(text: str, words: str) -> None:
    assert words in refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        f'[apps.b]\naddress = "api.example"\n{CLIENT}',
        f'[apps.b]\n{ADDRESS}{CLIENT}since = "soon"\n',
        f'[apps.b]\n{ADDRESS}{CLIENT}ca_file = "absent.pem"\n',
        f"[apps.b]\n{ADDRESS}{CLIENT.replace('https', 'http')}",
        f"[apps.b]\n{ADDRESS}",
    ],
)
def test_the_message_names_the_app_with_the_error(text: str) -> None:
    assert "app 'b'" in refusal(f"[apps.a]\n{ADDRESS}{CLIENT}{text}")


def test_a_named_file_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        load_apps(tmp_path / "absent.toml")


def test_an_empty_secret_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("\n")
    text = f'[apps.a]\n{ADDRESS}issuer = "https://id.example"\nclient_id = "me"\nclient_secret_file = "secret"\n'
    assert "client_secret_file" in refusal(text)


def test_the_example_in_the_docs_is_a_valid_configuration() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    sample = page.partition("```toml\n")[2].partition("```")[0]
    Path(CONFIG_FILE).write_text(sample)
    assert list(load_apps()) == ["shop", "clinic"]
