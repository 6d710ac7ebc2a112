"""The erasure key: with it, a keyed digest of each erased number is kept, so that the person stays erased.

Invariants. A number has eleven digits, so a digest without a key is guessed within seconds: there is none. The digest
is HMAC-SHA-256 under a key that is in a file outside the database. Whoever has only the database, or only the key,
learns nothing.
"""

from __future__ import annotations

import hmac
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from eventstore.errors import UsageError
from eventstore.settings_loader import load_settings
from eventstore.small_files import read_small_file

MIN_KEY_BYTES = 32
_CHECK_BYTES = 16


class ErasureSettings(BaseSettings):
    """Files that erasing persons uses."""

    model_config = SettingsConfigDict(env_prefix="PROJECTIONS_ERASURE_", frozen=True)

    key_file: Path | None = Field(
        None,
        description="file with the key for digests of erased numbers, at least 32 random bytes; the same for all"
        " processes, and kept outside the database and its backups",
    )
    ledger_file: Path | None = Field(
        None,
        description="file that `projections erase` writes after each run, to erase them again in a restored backup",
    )


class ErasureKey:
    """A key, and what is computed with it.

    Attributes:
        check: tells whether two digests are of the same key, and nothing else about it.

    """

    __slots__ = ("_key", "check")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.check = hmac.digest(key, b"check", "sha256")[:_CHECK_BYTES]

    def mac(self, ppnum: str) -> bytes:
        """Return the digest of a number."""
        return hmac.digest(self._key, b"ppnum:" + ppnum.encode(), "sha256")

    def message_digest(self, payload: bytes) -> bytes:
        """Return what stands for the digest of a message whose bytes are erased: the same bytes are known by it."""
        return hmac.digest(self._key, b"message:" + payload, "sha256")


def load_erasure_settings() -> ErasureSettings:
    """Return the settings of the environment.

    Raises:
        UsageError: one of them is not valid.

    """
    return load_settings(ErasureSettings)


def load_erasure_key(settings: ErasureSettings | None = None) -> ErasureKey | None:
    """Return the key; None if no file is named.

    Raises:
        UsageError: the file can't be read, or holds too few bytes.

    """
    path = (settings or load_erasure_settings()).key_file
    if path is None:
        return None
    try:
        key = read_small_file(path)
    except OSError as error:
        raise UsageError(f"PROJECTIONS_ERASURE_KEY_FILE: {path} can't be read: {error.strerror}") from error
    if key.isascii():  # a text, with the end of its line; other bytes are the key as they are
        key = key.strip()
    if len(key) < MIN_KEY_BYTES:
        raise UsageError(
            f"PROJECTIONS_ERASURE_KEY_FILE: {path} has {len(key)} bytes, but a key needs {MIN_KEY_BYTES};"
            " create one with: openssl rand -hex 32"
        )
    return ErasureKey(key)
