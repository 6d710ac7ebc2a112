"""Loads settings from the environment, and turns a value that isn't valid into one sentence.

Neither pydantic's text nor the value itself is shown: pydantic's text is unhelpful, and the value may be a secret.
Numbers that aren't whole are seconds in all our settings, so the sentences say so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from eventstore.errors import UsageError

S = TypeVar("S", bound=BaseSettings)

_SECONDS = "must be a number of seconds"
_WHOLE_NUMBER = "must be a whole number"
_TEXT = "must be text in quotes"
_REQUIREMENTS = {
    "missing": "is missing",
    "float_parsing": _SECONDS,
    "float_type": _SECONDS,
    "finite_number": _SECONDS,
    "int_parsing": _WHOLE_NUMBER,
    "int_parsing_size": _WHOLE_NUMBER,
    "int_type": _WHOLE_NUMBER,
    "int_from_float": _WHOLE_NUMBER,
    "string_type": _TEXT,
    "path_type": _TEXT,
    "model_type": "must be a table of settings",
}
_LIMITS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def load_settings(settings: type[S], **given: Any) -> S:  # noqa: ANN401 - any field's type
    """Return the settings that the environment sets.

    Args:
        settings: the class; its fields are environment variables with its prefix.
        given: values that take precedence over the environment's.

    Raises:
        UsageError: a value is not valid; the message names its variable and says what it must be.

    """
    prefix = settings.model_config.get("env_prefix", "")
    try:
        return settings(**given)
    except ValidationError as error:
        raise UsageError(describe_invalid(error, lambda name: f"{prefix}{name}".upper())) from None


def describe_invalid(error: ValidationError, name_of: Callable[[str], str] = str) -> str:
    """Return one sentence about the first value that isn't valid.

    A validator of ours gives the part after the name ("must be ..."), or a whole sentence if it checks several values.

    Args:
        error: what pydantic raised.
        name_of: returns the name that users know a field by.

    """
    first = error.errors(include_url=False, include_input=False)[0]
    name = ".".join(name_of(str(part)) for part in first["loc"])
    requirement = _requirement(first["type"], first.get("ctx", {})) or first["msg"].removeprefix("Value error, ")
    return f"{name} {requirement}" if name else requirement


def _requirement(kind: str, context: dict[str, Any]) -> str | None:
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind in _LIMITS:
        key, relation = _LIMITS[kind]
        limit = context[key]
        unit = " seconds" if isinstance(limit, float) else ""
        return f"must be {relation} {f'{limit:,}'.removesuffix('.0')}{unit}"
    return _REQUIREMENTS.get(kind)
