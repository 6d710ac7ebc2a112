"""One app's settings in the configuration: its upstream, credentials and TLS files."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from eventstore.contracts import Contract
from eventstore.errors import UsageError
from eventstore.ingest.address import Address
from eventstore.ingest.credential_rules import check_settings
from eventstore.ingest.credentials import FileToken, FixedToken, TokenSource
from eventstore.ingest.since_setting import parse_since
from eventstore.ingest.upstream import Tls, Upstream
from eventstore.settings_loader import describe_invalid
from eventstore.small_files import read_small_file
from eventstore.waits import Waits


class AppConfig(BaseModel):
    """One app's upstream: the table ``[apps.NAME]`` of the configuration file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str = Field(
        description="the upstream's address: `https://HOST[:PORT][/PATH]`, where the path is put before the "
        "method's path; `http://` on loopback only"
    )
    contract: Literal["auto", "chat.external", "pcs.external.v1"] = Field(
        "auto",
        description="`chat.external`, `pcs.external.v1`, or `auto`: the first, or the second if the server "
        "doesn't know the first; the one found is kept",
    )
    issuer: str | None = Field(None, description="the URL of the OAuth2 issuer; goes with the client's id and secret")
    client_id: str | None = Field(None, description="the OAuth2 client's id")
    client_secret: SecretStr | None = Field(None, description="the OAuth2 client's secret")
    client_secret_file: Path | None = Field(
        None, description="a file with the client's secret, instead of `client_secret`"
    )
    token: SecretStr | None = Field(None, description="a bearer token, instead of an OAuth2 client")
    token_file: Path | None = Field(
        None, description="a file with a bearer token, read at every connection; instead of an OAuth2 client"
    )
    ca_file: Path | None = Field(
        None,
        description="PEM file of a CA to trust for the upstream and the issuer; default: gRPC's own list, and "
        "the system's for the issuer",
    )
    client_certificate_file: Path | None = Field(
        None, description="PEM file of a client certificate; goes with its key"
    )
    client_key_file: Path | None = Field(None, description="PEM file of the client certificate's key")
    since: str | None = Field(
        None,
        description="where an app without stored events starts: a duration back from now (`36h`) or a time with "
        "its zone",
    )

    @field_validator("since", mode="before")
    @classmethod
    def _since_text(cls, value: object) -> object:
        # TOML has its own times; with or without quotes they mean the same. A date alone or a time alone is refused
        # later, with a sentence that says what to write.
        return value.isoformat() if isinstance(value, date | time) else value

    @model_validator(mode="before")
    @classmethod
    def _check_credentials(cls, table: object, info: ValidationInfo) -> object:
        if not isinstance(table, dict):
            return table
        given = {name: value for name, value in table.items() if value is not None and value != ""}
        try:
            check_settings(given.keys(), info.context or {name: name for name in cls.model_fields})
        except UsageError as error:
            raise ValueError(str(error)) from None  # pydantic reports no other errors
        return given

    def upstream(self, app: str, *, waits: Waits, since: str | None = None) -> Upstream:
        """Return the upstream that a follower follows.

        Args:
            app: the app's name.
            waits: timeouts for the issuer.
            since: overrides the configured ``since`` (see :func:`parse_since`).

        Raises:
            UsageError: a setting is not valid.

        """
        begin = since if since is not None else self.since
        try:
            tls = Tls(
                _read(self.ca_file, "ca_file"),
                _read(self.client_certificate_file, "client_certificate_file"),
                _read(self.client_key_file, "client_key_file"),
            )
            return Upstream(
                app,
                Address.parse(self.address),
                self._tokens(waits, self._tls_context()),
                contract=None if self.contract == "auto" else Contract(self.contract),
                since=parse_since(begin, datetime.now(UTC)) if begin is not None else None,
                tls=tls,
            )
        except UsageError as error:
            raise UsageError(f"app {app!r}: {error}") from None

    def _tokens(self, waits: Waits, tls: ssl.SSLContext | None) -> TokenSource:
        if self.token:
            return FixedToken(self.token.get_secret_value())
        if self.token_file is not None:
            return FileToken(self.token_file)
        secret = self.client_secret.get_secret_value() if self.client_secret else None
        if secret is None:
            secret = (_read(self.client_secret_file, "client_secret_file") or b"").decode("utf-8", "replace").strip()
            if not secret:
                raise UsageError(f"client_secret_file {self.client_secret_file} is empty")
        # Imported here: it loads the HTTP and OAuth2 libraries, and most commands contact no issuer.
        from eventstore.ingest.client_credentials import ClientCredentials  # noqa: PLC0415 - see above

        return ClientCredentials(self.issuer or "", self.client_id or "", secret, self.address, waits=waits, tls=tls)

    def _tls_context(self) -> ssl.SSLContext | None:
        # Used for the issuer, and checks the files: gRPC accepts files that are not PEM, then fails on every call.
        if self.ca_file is None and self.client_certificate_file is None:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.client_certificate_file is not None:
                context.load_cert_chain(self.client_certificate_file, self.client_key_file)
        except (OSError, ssl.SSLError):
            raise UsageError(
                "ca_file, client_certificate_file or client_key_file can't be used: "
                "each must be a PEM file, and the key must be the certificate's"
            ) from None
        return context


def validate_app(table: Any, where: str, names: Mapping[str, str] | None = None) -> AppConfig:  # noqa: ANN401 - whatever TOML holds
    """Return the app's settings; ``names`` are their names for users, if they differ."""
    try:
        return AppConfig.model_validate(table, context=names)
    except ValidationError as error:
        raise UsageError(f"{where}: {describe_invalid(error, lambda name: (names or {}).get(name, name))}") from None


def _read(path: Path | None, what: str) -> bytes | None:
    if path is None:
        return None
    try:
        return read_small_file(path)
    except OSError as error:
        raise UsageError(f"{what} {path} can't be read: {error.strerror}") from None
