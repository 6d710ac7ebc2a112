"""The receipt as a page to print: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

MAX_PLACES = 20
_STYLE = (
    "body{font:14px/1.5 sans-serif;max-width:46em;margin:2em auto;color:#111}"
    "h1{font-size:1.5em}h2{font-size:1.1em;margin-top:1.6em}"
    "table{border-collapse:collapse;width:100%}"
    "th,td{text-align:left;padding:.25em .6em;border-bottom:1px solid #ccc;vertical-align:top}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums}"
    "code{font-size:.95em;overflow-wrap:anywhere}"
    "@media print{body{margin:0}tr{break-inside:avoid}}"
)


def render_receipt_page(receipt: Mapping[str, Any]) -> str:
    """Return the page of a receipt, from the values of its JSON."""
    parts = [
        _table(
            (
                ("Done at", receipt["at"]),
                ("By", receipt["erased_by"]),
                ("Reason", receipt["why"]),
                ("App", receipt["app"] or "every app"),
                ("Position of the log", f"{receipt['position']:,}"),
                ("Persons asked for", f"{receipt['asked']:,}"),
                ("Persons who had events", f"{receipt['erased']:,}"),
            )
        ),
        _heading("Rows changed"),
        _counts(receipt["rows"]),
        _heading("Checked afterwards"),
        _list(_checks(receipt)),
        _heading("Out of reach of this command"),
        _list([*receipt["out_of_reach"], *(f"the named consumer {name}" for name in receipt["consumers"])]),
        _heading("Persons"),
        "<p>Each token stands where the phone number stood. It is random, and tells nothing of the number.</p>",
        *(f"<p><code>{escape(one['token'])}</code></p>{_counts(one['rows'])}" for one in receipt["persons"]),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Receipt of an erasure</title>'
        f"<style>{_STYLE}</style></head><body><h1>Receipt of an erasure</h1>{''.join(parts)}</body></html>\n"
    )


def _checks(receipt: Mapping[str, Any]) -> Iterable[str]:
    yield from _verdicts(receipt["verified"])
    yield from receipt["not_erased"]
    if receipt["without_events"]:
        yield f"No event has these numbers, in the order they were given: {_places(receipt['without_events'])}."
    for name in receipt["need_rebuild"]:
        yield f"Read model {name} still contains the numbers; it needs a rebuild."
    searched = receipt["searched"]
    if not searched:
        yield "The database was not searched for the numbers."
    else:
        left = searched["left"]
        where = "" if receipt["app"] is None else f" in app {receipt['app']}"
        yield (
            f"{searched['columns']:,} columns of {searched['tables']:,} tables were searched for the numbers{where}:"
            f" {sum(one['rows'] for one in left):,} rows are left."
        )
        for one in searched["shared"]:
            yield f"Numbers, maybe of another app: {one['rows']:,} rows of {one['table']}, column {one['column']}."
        if searched["too_short"]:
            yield f"Not searched, because they are too short: {searched['too_short']:,} of the numbers."
        for one in left:
            yield f"Numbers are left: {one['rows']:,} rows of {one['table']}, column {one['column']}."
        if searched["unreadable"]:
            yield f"Not searched, because locked or not readable by this role: {', '.join(searched['unreadable'])}."
    for one in receipt["archives"]:
        yield f"{one['events']:,} events were erased from the file of archived events {one['file']}."
    for name in receipt["not_vacuumed"]:
        yield f"Dead rows of {name} were not removed, because another session had it locked."


def _verdicts(verified: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    equal = [one["name"] for one in verified if one["equal"]]
    if equal:
        yield f"{len(equal)} read models equal the log: {', '.join(equal)}."
    for one in verified:
        if one["equal"] is False:
            yield f"Read model {one['name']} does not equal the log."
        if one["equal"] is None:
            yield f"Read model {one['name']} could not be verified: {one['why']}."
    if not verified:
        yield "The read models were not verified."


def _places(places: Sequence[int]) -> str:
    shown = ", ".join(str(place) for place in places[:MAX_PLACES])
    return shown if len(places) <= MAX_PLACES else f"{shown} and {len(places) - MAX_PLACES:,} more"


def _heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def _list(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def _table(rows: Iterable[tuple[str, object]]) -> str:
    cells = (f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in rows)
    return f"<table>{''.join(cells)}</table>"


def _counts(rows: Mapping[str, int]) -> str:
    if not rows:
        return "<p>None.</p>"
    cells = (f'<tr><td>{escape(name)}</td><td class="n">{count:,}</td></tr>' for name, count in rows.items())
    return f"<table>{''.join(cells)}</table>"
