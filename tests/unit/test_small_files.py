"""Files are read up to a size limit, and reading a token file doesn't block."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eventstore.errors import CredentialsRefused, UsageError
from eventstore.ingest.app_config import AppConfig
from eventstore.ingest.config import load_apps
from eventstore.ingest.credentials import FileToken
from eventstore.small_files import MAX_FILE_BYTES, read_small_file
from eventstore.waits import Waits


def test_a_file_as_long_as_the_limit_is_read_and_a_longer_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * MAX_FILE_BYTES)
    assert len(read_small_file(path)) == MAX_FILE_BYTES
    path.write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    with pytest.raises(OSError, match="larger than 1 MiB"):
        read_small_file(path)


def test_an_endless_device_is_read_up_to_the_limit() -> None:
    with pytest.raises(OSError, match="larger than 1 MiB"):
        read_small_file(Path("/dev/zero"))


async def test_a_token_file_that_is_large_or_a_fifo_or_a_folder_is_refused(tmp_path: Path) -> None:
    fifo, large = tmp_path / "fifo", tmp_path / "large"
    os.mkfifo(fifo)
    large.write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    for path in (fifo, large, tmp_path, tmp_path / "absent"):
        with pytest.raises(CredentialsRefused, match="the token file") as caught:
            await FileToken(path).token()
        assert caught.value.by_issuer is False


@pytest.mark.parametrize("setting", ["client_secret_file", "ca_file"])
def test_an_endless_secret_or_certificate_file_is_a_usage_error(setting: str) -> None:
    settings = {"address": "https://a.example", "issuer": "https://i.example", "client_id": "c"}
    secret = {} if setting == "client_secret_file" else {"client_secret": "secret"}
    app = AppConfig.model_validate({**settings, **secret, setting: "/dev/zero"})
    with pytest.raises(UsageError, match=setting):
        app.upstream("shop", waits=Waits())


@pytest.mark.parametrize("text", ["x = " + "[" * 50_000, "#" * (MAX_FILE_BYTES + 1)], ids=["deep", "large"])
def test_a_deeply_nested_or_large_configuration_file_is_a_usage_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "projections.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=str(path)):
        load_apps(path)
