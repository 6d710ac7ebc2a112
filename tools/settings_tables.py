"""Generates the tables of settings in docs/ from the settings models and the commands' options: none is missing.

A table is between ``<!-- settings: NAME -->`` and ``<!-- end -->``. Everything else on the pages is written by hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings
from typer.core import TyperGroup, TyperOption
from typer.main import get_command

from eventstore.appending.quarantine_limits import QuarantineLimits
from eventstore.archiving.archive_folder import ArchiveSettings
from eventstore.erasure.erasure_key import ErasureSettings
from eventstore.ingest.app_config import AppConfig
from eventstore.ingest.config import EnvironmentApp
from eventstore.waits import Waits
from projections.cli.app import app
from projections.http.http_settings import HttpSettings
from projections.inspecting.doctor.doctor_limits import DoctorLimits
from projections.sandbox.embedded.timeouts import EmbeddedTimeouts
from projections.settings import ReplaySettings, WorkerSettings

ROOT = Path(__file__).resolve().parent.parent
PAGES = tuple(ROOT / "docs" / name for name in ("configuration.md", "monitoring.md", "simulator.md"))
MODELS: tuple[type[BaseSettings], ...] = (
    ArchiveSettings,
    DoctorLimits,
    EmbeddedTimeouts,
    EnvironmentApp,
    ErasureSettings,
    HttpSettings,
    QuarantineLimits,
    ReplaySettings,
    Waits,
    WorkerSettings,
)
SIMULATOR = "PROJECTIONS_SIMULATOR_"
_TABLE = re.compile(r"(<!-- settings: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def variable(model: type[BaseSettings], name: str, field: FieldInfo) -> str:
    """Return the environment variable that sets a field."""
    alias = field.validation_alias
    return alias if isinstance(alias, str) else f"{model.model_config.get('env_prefix', '')}{name}".upper()


def settings_of(*models: type[BaseSettings]) -> str:
    """Return the table of some models' settings, each with its default, its unit and its meaning."""
    rows = ["| variable | default | unit | meaning |", "|---|---|---|---|"]
    for model in models:
        for name, field in model.model_fields.items():
            rows.append(
                f"| `{variable(model, name, field)}` | {_default(field)} | {_unit(field)} | {_meaning(model, name)} |"
            )
    return "\n".join(rows)


def keys_of(model: type[BaseModel]) -> str:
    """Return the table of a model's keys in the configuration file."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        rows.append(
            f"| `{name}` | {'required' if field.is_required() else _default(field)} | {_meaning(model, name)} |"
        )
    return "\n".join(rows)


def options(command: object, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], TyperOption]]:
    """Yield the options that can be set in the environment, each with the words of its command."""
    if isinstance(command, TyperGroup):
        for name, one in command.commands.items():
            yield from options(one, (*words, name))
    for option in getattr(command, "params", ()):
        if isinstance(option, TyperOption) and option.envvar:
            yield words, option


def option_table() -> str:
    """Return the table of options that can be set in the environment, without the simulator's."""
    commands: dict[str, list[str]] = {}
    found: dict[str, TyperOption] = {}
    for of_command, option in options(get_command(app)):
        name = str(option.envvar)
        if not name.startswith(SIMULATOR):
            commands.setdefault(name, []).append(f"`{' '.join(of_command)}`" if of_command else "every command")
            found.setdefault(name, option)
    rows = ["| variable | option | of | default | meaning |", "|---|---|---|---|---|"]
    for name, option in sorted(found.items()):
        words = ", ".join(commands[name])
        rows.append(f"| `{name}` | `{option.opts[0]}` | {words} | {_option_default(option)} | {_help(option)} |")
    return "\n".join(rows)


def simulator_table() -> str:
    """Return the table of the simulator's options."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    rows += [f"| `{one.opts[0]}` | {_option_default(one)} | {_help(one)} |" for one in _simulator_options()]
    return "\n".join(rows)


def simulator_variables() -> str:
    """Return the table of the simulator's options as environment variables."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    rows += [f"| `{one.envvar}` | {_option_default(one)} | {_help(one)} |" for one in _simulator_options()]
    return "\n".join(rows)


def _simulator_options() -> Iterator[TyperOption]:
    return (option for _words, option in options(get_command(app)) if str(option.envvar).startswith(SIMULATOR))


TABLES: dict[str, Callable[[], str]] = {
    "app": lambda: settings_of(EnvironmentApp),
    "archives": lambda: settings_of(ArchiveSettings),
    "app-keys": lambda: keys_of(AppConfig),
    "doctor": lambda: settings_of(DoctorLimits),
    "erasure": lambda: settings_of(ErasureSettings),
    "embedded": lambda: settings_of(EmbeddedTimeouts),
    "folding": lambda: settings_of(WorkerSettings),
    "http": lambda: settings_of(HttpSettings),
    "options": option_table,
    "quarantine": lambda: settings_of(QuarantineLimits),
    "rebuilds": lambda: settings_of(ReplaySettings),
    "simulator": simulator_table,
    "simulator-variables": simulator_variables,
    "timeouts": lambda: settings_of(Waits),
}


def with_tables(page: str) -> str:
    """Return a page with its tables brought up to date."""
    return _TABLE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", page)


def _meaning(model: type[BaseModel], name: str) -> str:
    meaning = model.model_fields[name].description
    if meaning is None and name in AppConfig.model_fields:  # a setting that both the environment and the file have
        meaning = AppConfig.model_fields[name].description
    if meaning is None:
        raise SystemExit(f"{model.__name__}.{name} has no description: add one to its Field")
    return meaning.replace("|", "\\|")


def _unit(field: FieldInfo) -> str:
    if isinstance(field.json_schema_extra, dict):
        return str(field.json_schema_extra.get("unit", ""))
    return "seconds" if field.annotation is float else ""


def _default(field: FieldInfo) -> str:
    default: Any = field.get_default()
    return "" if default is None else f"`{_plain(default)}`"


def _option_default(option: TyperOption) -> str:
    return (
        ""
        if option.default is None or option.default is False or option.default == ""
        else f"`{_plain(option.default)}`"
    )


def _plain(value: Any) -> str:  # noqa: ANN401 - a default may be anything
    if isinstance(value, Enum):
        return str(value.value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _help(option: TyperOption) -> str:
    return (option.help or "").rstrip(".").replace("|", "\\|")


def main() -> int:
    """Write the tables, or with ``--check`` compare them; 1 when one differs."""
    differs = False
    for page in PAGES:
        text = page.read_text()
        wanted = with_tables(text)
        if sys.argv[1:] != ["--check"]:
            page.write_text(wanted)
        elif text != wanted:
            print(f"{page.relative_to(ROOT)} differs from the settings: run make docs", file=sys.stderr)
            differs = True
    return 1 if differs else 0


if __name__ == "__main__":
    raise SystemExit(main())
