"""What ``projections erase --check`` answers: whether numbers were erased, without repeating them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypedDict

import typer
from psycopg import AsyncConnection

from eventstore.erasure.erasure_key import load_erasure_key
from eventstore.erasure.erasure_rows import count_unrecognisable
from eventstore.errors import UsageError
from projections.cli.shared.checkpoint_session import run_with_connection
from projections.cli.shared.output import FAILED, counted, print_data, print_json, print_message
from projections.cli.shared.value_text import format_value
from projections.erasing.erased_before import ErasedBefore, find_erased_before


class CheckedConsent(TypedDict):
    """The consent of an erased person in an app.

    Attributes:
        app: the app.
        status: pending, granted, denied or expired.
        decided_at: when the deciding event happened.

    """

    app: str
    status: str
    decided_at: datetime


class CheckedErasure(TypedDict):
    """An erasure of a number.

    Attributes:
        token: what stands in place of the number.
        app: the app in which the person was erased; null for every app.
        erased_at: when.
        why: the reason.
        consent: the person's consent until then, by app.

    """

    token: str
    app: str | None
    erased_at: datetime
    why: str
    consent: list[CheckedConsent]


class CheckedNumber(TypedDict):
    """The answer about a number, with ``--check``.

    Attributes:
        number: the place of the number among those that were given, beginning with 1.
        erased: whether it was erased.
        erasures: each erasure of it, the oldest first.

    """

    number: int
    erased: bool
    erasures: list[CheckedErasure]


class CheckedNumbers(TypedDict):
    """The answers about all numbers, with ``--check``.

    Attributes:
        checked: one answer for each number.
        unrecognisable: how many erasures can't be recognised with this key: they were made without one, or with
            another.

    """

    checked: list[CheckedNumber]
    unrecognisable: int


def answer_about_numbers(numbers: Sequence[str], *, as_json: bool) -> None:
    """Answer whether numbers were erased.

    Raises:
        UsageError: there is no key, or no number.
        typer.Exit: one of them was not erased.

    """
    key = load_erasure_key()
    if key is None:
        raise UsageError("--check needs the erasure key: set PROJECTIONS_ERASURE_KEY_FILE")
    if not numbers:
        raise UsageError("give the numbers to check, or --from a file with them")

    async def find(conn: AsyncConnection[Any]) -> tuple[list[list[ErasedBefore]], int]:
        found = [await find_erased_before(conn, number, key) for number in numbers]
        return found, await count_unrecognisable(conn, key.check)

    answers = _describe_answers(*run_with_connection(find, writes=False))
    if as_json:
        print_json(answers)
    else:
        _print_answers(answers)
    if not all(answer["erased"] for answer in answers["checked"]):
        raise typer.Exit(FAILED)


def _describe_answers(found: Sequence[Sequence[ErasedBefore]], unrecognisable: int) -> CheckedNumbers:
    return {
        "checked": [
            {"number": place, "erased": bool(erasures), "erasures": [_describe(one) for one in erasures]}
            for place, erasures in enumerate(found, 1)
        ],
        "unrecognisable": unrecognisable,
    }


def _describe(one: ErasedBefore) -> CheckedErasure:
    return {
        "token": one.erasure.token,
        "app": one.erasure.app,
        "erased_at": one.erasure.erased_at,
        "why": one.erasure.why,
        "consent": [{"app": each.app, "status": each.status, "decided_at": each.decided_at} for each in one.consent],
    }


def _print_answers(answers: CheckedNumbers) -> None:
    if answers["unrecognisable"] and not all(answer["erased"] for answer in answers["checked"]):
        print_message(
            f"projections: {counted(answers['unrecognisable'], 'erasure')} can't be recognised with this key, made"
            " without one or with another: who is not found here may be among them"
        )
    for answer in answers["checked"]:
        if not answer["erased"]:
            print_data(f"number {answer['number']:,}: not erased")
        for one in answer["erasures"]:
            where = "every app" if one["app"] is None else f"app {one['app']!r}"
            print_data(
                f"number {answer['number']:,}: erased in {where} at {format_value(one['erased_at'])} ({one['why']}):"
                f" {one['token']}"
            )
            for consent in one["consent"]:
                at = format_value(consent["decided_at"])
                print_data(
                    f"number {answer['number']:,}: consent in app {consent['app']!r}: {consent['status']} ({at})"
                )
