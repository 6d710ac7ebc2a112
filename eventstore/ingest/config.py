"""Loads the configured upstreams: from ``projections.toml``, or one app from the environment alone."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from eventstore.app_name import APP_NAME
from eventstore.errors import UsageError
from eventstore.ingest.app_config import AppConfig, validate_app
from eventstore.ingest.credential_rules import CLIENT_SETTINGS, TOKEN_SETTINGS
from eventstore.ingest.upstream import Upstream
from eventstore.settings_loader import load_settings
from eventstore.small_files import read_small_file
from eventstore.waits import Waits

CONFIG_FILE = "projections.toml"


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
        return validate_app(self.model_dump(exclude={"app"}, exclude_none=True), f"app {self.app!r}", names)


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
            f"PCS_EXTERNAL_CLIENT_SECRET (or PROJECTIONS_TOKEN), or write {CONFIG_FILE}; see projections docs "
            "configuration"
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
    return {name: validate_app(table, f"{path}: app {name!r}") for name, table in apps.items()}


def _unknown_key(key: str, known: Sequence[str]) -> str:
    near = get_close_matches(key, known, n=1)
    return f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else "")


def _check_name(name: str, where: str) -> None:
    if not APP_NAME.fullmatch(name):
        raise UsageError(
            f"{where}: an app's name must have 1 to 63 letters, digits, '-', '_' or '.'"
            " and start with a letter or digit"
        )
