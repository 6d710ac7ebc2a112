"""``projections doctor``: finds what is behind or wrong, and names the command that mends it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, TypedDict

import typer

from eventstore.appending.quarantine_limits import load_quarantine_limits
from eventstore.archiving.archive_folder import load_archive_folder
from eventstore.erasure.erasure_key import load_erasure_key, load_erasure_settings
from eventstore.errors import EmbeddedError, describe
from eventstore.ingest.config import configured_names
from eventstore.waits import load_waits
from projections.cli.shared.argument_checks import seconds
from projections.cli.shared.common_options import ConfigOption, JsonOption
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.output import FAILED, print_data, print_json, print_message, wait_for_database_seconds
from projections.cli.shared.typer_app import new_app
from projections.database import embedded, given_database_url
from projections.inspecting.doctor.doctor_limits import load_doctor_limits
from projections.inspecting.doctor.examination import DoctorOptions
from projections.inspecting.doctor.examine import Diagnosis, examine
from projections.inspecting.finding import Finding
from projections.registry import find_projections
from projections.settings import load_worker_settings

app = new_app()


class FoundThing(TypedDict):
    """Something that is wrong, or good to know.

    Attributes:
        code: one of the codes in docs/doctor.md.
        severity: ``wrong`` or ``note``.
        sentence: what it is, for people.
        command: what mends it: a command of ours, or SQL, which ends with a semicolon; null if neither does.
        advice: what to do besides or instead; null if the command is enough.

    """

    code: str
    severity: str
    sentence: str
    command: str | None
    advice: str | None


@app.command()
@handles_errors
@writes_json(FoundThing, is_list=True)
def doctor(
    *,
    as_json: JsonOption = False,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Look at every position of the log, which takes long on a long one.")
    ] = False,
    max_behind: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            callback=seconds,
            metavar="SECONDS",
            help="How far behind any projection may be. Default: 60 for one that runs, any for others.",
        ),
    ] = None,
    max_silence: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            callback=seconds,
            metavar="SECONDS",
            help="How long an app may send no event. Default: any; after an hour it is mentioned.",
        ),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Find what is behind or wrong, and the command that mends it.

    Prints a line for each thing: whether it is wrong or only good to know, its code (docs/doctor.md lists all), what it
    is, and what to run. It examines the server, the schema, apps, the log, projections, locks, clocks, quarantine,
    disk, settings and privileges, and changes nothing. Exit code 1 if anything is wrong.
    """
    waits, limits = load_waits(), load_doctor_limits()
    options = DoctorOptions(
        registry=find_projections(),
        waits=waits,
        worker=load_worker_settings(),
        quarantine=load_quarantine_limits(),
        limits=limits,
        configured=configured_names(config),
        max_behind=max_behind,
        max_silence=max_silence,
        thorough=thorough,
        data_folder=_embedded_data_folder(),
        ledger=load_erasure_settings().ledger_file,
        key=load_erasure_key(),
        archive=load_archive_folder(),
    )
    found = _examine(options)
    if as_json:
        print_json([_as_document(one) for one in found.findings])
    else:
        for one in found.findings:
            print_data(one.line)
        if found.is_well and found.summary:
            print_data(f"{'nothing is wrong' if found.findings else 'all is well'}: {found.summary}")
    if not found.is_well:
        raise typer.Exit(FAILED)


def _as_document(one: Finding) -> FoundThing:
    return {
        "code": one.code,
        "severity": one.severity.value,
        "sentence": one.sentence,
        "command": one.command,
        "advice": one.advice,
    }


def _examine(options: DoctorOptions) -> Diagnosis:
    url = given_database_url()
    if url is None:
        # Looking at a system must not change it: the embedded server isn't started.
        server = embedded()
        url = server.url()
        if url is None:
            return Diagnosis([_not_running(server.status().state)])
    return asyncio.run(examine(url, options, patience=wait_for_database_seconds() or 0.0, report=_print_wait))


def _embedded_data_folder() -> Path | None:
    if given_database_url() is not None:
        return None
    try:
        return embedded().status().data
    except EmbeddedError as error:
        print_message(f"projections: {describe(error)}")
        return None


def _not_running(state: str) -> Finding:
    if state == "absent":
        sentence = "no database is configured (DATABASE_URL), and this folder has no embedded PostgreSQL yet"
        advice = "set DATABASE_URL, or create the embedded one"
        return Finding("database_unavailable", sentence, "projections migrate", advice)
    return Finding("database_unavailable", f"the embedded PostgreSQL is {state}", "projections db start")


def _print_wait(sentence: str) -> None:
    print_message(f"projections: {sentence}")
