"""Loads the configured upstreams: from ``projections.toml``, or one app from the environment alone."""

from __future__ import annotations

import ssl
import tomllib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from difflib import get_close_matches
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
from pydantic_settings import BaseSettings, SettingsConfigDict

from eventstore.app_name import APP_NAME
from eventstore.contracts import Contract
from eventstore.errors import UsageError
from eventstore.ingest.address import Address
from eventstore.ingest.credential_rules import CLIENT_SETTINGS, TOKEN_SETTINGS, check_settings
from eventstore.ingest.credentials import ClientCredentials, FileToken, FixedToken, TokenSource
from eventstore.ingest.since_setting import parse_since
from eventstore.ingest.upstream import Tls, Upstream
from eventstore.settings_loader import describe_invalid, load_settings
from eventstore.small_files import read_small_file
from eventstore.waits import Waits

CONFIG_FILE = "projections.toml"


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


class EnvironmentApp(BaseSettings):
    """One app from the environment alone: the vendor's variable names, and our own where the vendor has none."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True)

    address: str | None = Field(None, validation_alias="PCS_EXTERNAL_API_URL")
    issuer: str | None = Field(None, validation_alias="PAS_ISSUER")
    client_id: str | None = Field(None, validation_alias="PCS_EXTERNAL_CLIENT_ID")
    client_secret: SecretStr | None = Field(None, validation_alias="PCS_EXTERNAL_CLIENT_SECRET")
    token: SecretStr | None = Field(None, validation_alias="PROJECTIONS_TOKEN")
    token_file: Path | None = Field(None, validation_alias="PROJECTIONS_TOKEN_FILE")
    app: str = Field("default", validation_alias="PROJECTIONS_APP", description="the app's name in the tables")
    contract: str = Field("auto", validation_alias="PROJECTIONS_CONTRACT")
    ca_file: Path | None = Field(None, validation_alias="PROJECTIONS_CA_FILE")
    client_certificate_file: Path | None = Field(None, validation_alias="PROJECTIONS_CLIENT_CERTIFICATE_FILE")
    client_key_file: Path | None = Field(None, validation_alias="PROJECTIONS_CLIENT_KEY_FILE")

    def app_config(self) -> AppConfig | None:
        """Return the app; None when neither an address nor any credentials are set.

        Raises:
            UsageError: some of the app's settings are missing, or not valid.

        """
        credentials = (*CLIENT_SETTINGS, *TOKEN_SETTINGS)
        if not self.address and not any(getattr(self, name, None) for name in credentials):
            return None
        names = {name: str(field.validation_alias) for name, field in type(self).model_fields.items()}
        return _validated(self.model_dump(exclude={"app"}, exclude_none=True), f"app {self.app!r}", names)


def configured_names(config_file: Path | None = None) -> frozenset[str]:
    """Return the names of the configured apps; empty if none is configured. Credentials may be missing.

    Raises:
        UsageError: the configuration file can't be read or is not valid.

    """
    if config_file is None and not Path(CONFIG_FILE).exists():
        environment = load_settings(EnvironmentApp)
        return frozenset({environment.app}) if environment.address else frozenset()
    return frozenset(load_apps(config_file))


def load_apps(config_file: Path | None = None) -> dict[str, AppConfig]:
    """Return the configured apps by name.

    If a configuration file is named or exists in the current folder, only it counts; otherwise the environment may
    configure one app.

    Raises:
        UsageError: no app is configured, or one is not valid; the message says what to do.

    """
    path = config_file or Path(CONFIG_FILE)
    if config_file is not None or path.exists():
        return _load_file(path)
    environment = load_settings(EnvironmentApp)
    _check_name(environment.app, "PROJECTIONS_APP")
    app = environment.app_config()
    if app is None:
        raise UsageError(
            "no upstream is configured: set PCS_EXTERNAL_API_URL with PAS_ISSUER, PCS_EXTERNAL_CLIENT_ID and "
            f"PCS_EXTERNAL_CLIENT_SECRET (or PROJECTIONS_TOKEN), or write {CONFIG_FILE} (docs/configuration.md)"
        )
    return {environment.app: app}


def reloader(config_file: Path | None, app: str, *, waits: Waits, since: str | None) -> Callable[[], Upstream]:
    """Return a function that loads an app's configuration again: the file, and the secret and certificate files."""

    def reload() -> Upstream:
        apps = load_apps(config_file)
        if app not in apps:
            raise UsageError(f"app {app!r} is no longer configured: restart to stop following it")
        return apps[app].upstream(app, waits=waits, since=since)

    return reload


def _load_file(path: Path) -> dict[str, AppConfig]:
    try:
        document = tomllib.loads(read_small_file(path).decode())
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from None
    except RecursionError:
        raise UsageError(f"{path} is nested too deeply") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    unknown = sorted(document.keys() - {"apps"})
    apps = document.get("apps")
    if unknown or not isinstance(apps, dict) or not apps:
        what = _unknown_key(unknown[0], ["apps"]) if unknown else "it contains no app"
        raise UsageError(f"{path}: {what}; write one table [apps.NAME] for each app")
    for name in apps:
        _check_name(name, str(path))
    for name, table in apps.items():
        unknown = sorted(table.keys() - AppConfig.model_fields.keys()) if isinstance(table, dict) else []
        if unknown:
            known = list(AppConfig.model_fields)
            raise UsageError(
                f"{path}: app {name!r}: {_unknown_key(unknown[0], known)}; the keys are {', '.join(known)}"
            )
    return {name: _validated(table, f"{path}: app {name!r}") for name, table in apps.items()}


def _unknown_key(key: str, known: Sequence[str]) -> str:
    near = get_close_matches(key, known, n=1)
    return f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else "")


def _check_name(name: str, where: str) -> None:
    if not APP_NAME.fullmatch(name):
        raise UsageError(
            f"{where}: an app's name must have 1 to 63 letters, digits, '-', '_' or '.'"
            " and start with a letter or digit"
        )


def _validated(table: Any, where: str, names: Mapping[str, str] | None = None) -> AppConfig:  # noqa: ANN401 - whatever TOML holds
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
