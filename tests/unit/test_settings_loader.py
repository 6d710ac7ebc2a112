"""Each kind of value that isn't valid becomes one sentence: the setting's name, and what it must be."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, Field, SecretStr, ValidationError

from eventstore.errors import UsageError
from eventstore.settings_loader import describe_invalid
from eventstore.waits import load_waits
from projections.sandbox.embedded.timeouts import load_embedded_timeouts
from projections.settings import load_replay_settings, load_worker_settings


class Everything(BaseModel):
    """One field of each type that our settings use."""

    seconds: float = Field(1.0, gt=0, le=2_000.5)
    count: int = Field(1, ge=1, lt=5_000)
    text: str = ""
    secret: SecretStr = SecretStr("")
    path: Path = Path()
    choice: Literal["auto", "never"] = "auto"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"seconds": "hunter2"}, "seconds must be a number of seconds"),
        ({"seconds": {}}, "seconds must be a number of seconds"),
        ({"seconds": 0}, "seconds must be more than 0 seconds"),
        ({"seconds": 3_000}, "seconds must be at most 2,000.5 seconds"),
        ({"count": "hunter2"}, "count must be a whole number"),
        ({"count": 1.5}, "count must be a whole number"),
        ({"count": []}, "count must be a whole number"),
        ({"count": 0}, "count must be at least 1"),
        ({"count": 5_000}, "count must be less than 5,000"),
        ({"text": 3}, "text must be text in quotes"),
        ({"secret": 3}, "secret must be text in quotes"),
        ({"path": 3}, "path must be text in quotes"),
        ({"choice": "hunter2"}, "choice must be 'auto' or 'never'"),
    ],
)
def test_each_kind_of_invalid_value(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Everything.model_validate(values)
    assert describe_invalid(caught.value) == sentence


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("PROJECTIONS_OVERLAP", "0.0001", "must be 0, or between 0.001 and 2,147,483 seconds"),
        ("PROJECTIONS_SILENCE", "0.0001", "must be between 0.001 and 2,147,483 seconds"),
        ("PROJECTIONS_EMBEDDED_START", "-1", "must be more than 0 seconds"),
        ("PROJECTIONS_EMBEDDED_START", "soon", "must be a number of seconds"),
        ("PROJECTIONS_BATCH_SIZE", "many", "must be a whole number"),
        ("PROJECTIONS_REBUILD_WINDOW", "0", "must be at least 1"),
    ],
)
def test_the_sentence_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError) as caught:  # noqa: PT012 - each loads other settings
        load_waits()
        load_embedded_timeouts()
        load_worker_settings()
        load_replay_settings()
    assert str(caught.value) == f"{variable} {sentence}"
