"""Where bearer tokens come from: a fixed one, or a file; ``client_credentials.py`` has the third, an OAuth2 client."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from eventstore.errors import CredentialsRefused, UsageError
from eventstore.ingest.credential_rules import is_token
from eventstore.redaction.redact import register_secret
from eventstore.small_files import read_small_file


class TokenSource(Protocol):
    """Gives bearer tokens."""

    async def token(self) -> str:
        """Return a token that is valid now, as far as this side can know.

        Raises:
            CredentialsError: there is no token.

        """
        ...

    async def renew(self) -> bool:
        """Forget a token that was refused; return False if there can be no other."""
        ...


class FixedToken:
    """One token, for as long as the upstream accepts it.

    Raises:
        UsageError: it is not a token.

    """

    def __init__(self, token: str) -> None:
        register_secret(token)
        if not is_token(token):
            raise UsageError(
                "the token is not valid: it is empty or too long, or contains white space or non-ASCII text"
            )
        self._token = token

    async def token(self) -> str:
        """Return the token."""
        return self._token

    async def renew(self) -> bool:
        """Return False: there is no other."""
        return False


class FileToken:
    """A token in a file that another program keeps up to date; the file is read before every call."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def token(self) -> str:
        """Return the content of the file, without white space around it.

        Raises:
            CredentialsRefused: the file can't be read, or is empty.

        """
        try:
            # To read a FIFO without a writer, or a device, would block the event loop.
            if not self._path.is_file():
                sentence = f"the token file {self._path} can't be read: it does not exist or is not a regular file"
                raise CredentialsRefused(sentence, by_issuer=False)
            token = read_small_file(self._path).decode().strip()
        except (OSError, UnicodeDecodeError):
            raise CredentialsRefused(f"the token file {self._path} can't be read", by_issuer=False) from None
        if not is_token(token):
            raise CredentialsRefused(f"the token file {self._path} contains no valid token", by_issuer=False)
        register_secret(token, expires=True)
        return token

    async def renew(self) -> bool:
        """Return True: the file may contain another token by now."""
        return True
