"""A usage error ends with exit code 2 and one sentence that says what to do and holds no secret.

Most tests run the command inside this process: a new process for each would test nothing more and take long.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from projections.cli.app import app
from tests.acceptance.command import COMMAND, CommandResult, Commands

Invoke = Callable[..., CommandResult]
URL, ISSUER = "PCS_EXTERNAL_API_URL", "PAS_ISSUER"
CLIENT, SECRET = "PCS_EXTERNAL_CLIENT_ID", "PCS_EXTERNAL_CLIENT_SECRET"
TOKEN, TOKEN_FILE = "PROJECTIONS_TOKEN", "PROJECTIONS_TOKEN_FILE"
COMPLETE = {URL: "http://localhost:1", TOKEN: "my-own-token"}
PASSWORD = "pass-word-of-mine"


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Invoke:
    """Run a command inside this process, in a clean environment and an empty folder."""
    for name in os.environ:
        if name.startswith(("PROJECTIONS_", "PCS_", "PAS_", "PG", "DATABASE_URL")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **variables: str) -> CommandResult:
        result = CliRunner().invoke(
            app, arguments, env={"PROJECTIONS_LOG_FORMAT": "text", **variables}, prog_name="projections"
        )
        return CommandResult(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ["no upstream is configured", URL, ISSUER, CLIENT, SECRET, TOKEN, "projections.toml"]),
        ({URL: "https://api.example.com"}, [ISSUER, CLIENT, SECRET, TOKEN, TOKEN_FILE]),
        ({ISSUER: "https://id.example.com"}, [URL, CLIENT, SECRET]),
        ({URL: "https://api.example.com", CLIENT: "me", SECRET: PASSWORD}, [ISSUER]),
        ({URL: "https://api.example.com", ISSUER: "https://id.example.com", SECRET: PASSWORD}, [CLIENT]),
        ({TOKEN: PASSWORD}, [URL]),
        ({URL: "https://api.example.com", TOKEN: PASSWORD, TOKEN_FILE: "token"}, [TOKEN, TOKEN_FILE, "keep one"]),
        ({URL: "https://api.example.com", TOKEN: PASSWORD, ISSUER: "https://id"}, [TOKEN, ISSUER, "keep one"]),
        ({URL: "api.example.com", TOKEN: PASSWORD}, ["not a URL", "https://HOST"]),
        ({URL: f"https://me:{PASSWORD}@api.example.com", TOKEN: PASSWORD}, ["user name or password"]),
        ({URL: "http://api.example.com", TOKEN: PASSWORD}, ["in the clear", "https://"]),
        ({URL: "https://a", ISSUER: "http://id", CLIENT: "me", SECRET: PASSWORD}, ["the issuer", "in the clear"]),
        (COMPLETE | {"PROJECTIONS_CONTRACT": "chat"}, ["PROJECTIONS_CONTRACT", "chat.external", "pcs.external.v1"]),
        (COMPLETE | {"PROJECTIONS_APP": "my app"}, ["PROJECTIONS_APP", "1 to 63"]),
        (COMPLETE | {"PROJECTIONS_SINCE": "yesterday"}, ["since 'yesterday'", "36h"]),
        (COMPLETE | {"PROJECTIONS_CA_FILE": "absent.pem"}, ["ca_file absent.pem", "No such file"]),
        (
            COMPLETE | {"PROJECTIONS_CLIENT_KEY_FILE": "k.pem"},
            ["PROJECTIONS_CLIENT_CERTIFICATE_FILE", "PROJECTIONS_CLIENT_KEY_FILE", "go together"],
        ),
        (COMPLETE | {"PROJECTIONS_OVERLAP": "much"}, ["PROJECTIONS_OVERLAP must be a number of seconds"]),
        (COMPLETE | {"PROJECTIONS_OVERLAP": "nan"}, ["PROJECTIONS_OVERLAP must be a number of seconds"]),
        (COMPLETE | {"PROJECTIONS_LOCK": "1e9"}, ["PROJECTIONS_LOCK must be between 0.001 and 2,147,483 seconds"]),
        (
            COMPLETE | {"PROJECTIONS_LEADER_TIMEOUT": "0.0001"},
            ["PROJECTIONS_LEADER_TIMEOUT must be between 0.001 and "],
        ),
        (COMPLETE | {"PROJECTIONS_SINCE": "2999-01-01T00:00:00Z"}, ["since '2999-01-01T00:00:00Z' is in the future"]),
        (COMPLETE | {"PROJECTIONS_SINCE": "999999999d"}, ["since '999999999d' is too long ago"]),
        (COMPLETE | {"PROJECTIONS_CONFIG": "absent.toml"}, ["absent.toml", "No such file"]),
        (COMPLETE | {"DATABASE_URL": f"mysql://u:{PASSWORD}@h/d"}, ["DATABASE_URL", "postgresql://", "'mysql'"]),
        (COMPLETE | {"DATABASE_URL": f"postgresql://u:{PASSWORD}@h:port/d"}, ["DATABASE_URL", "port"]),
        (COMPLETE | {"DATABASE_URL": f"postgresql://u:a@{PASSWORD}@h/d"}, ["DATABASE_URL", "%40"]),
    ],
)
def test_a_wrong_or_missing_setting_of_ingest_is_reported_in_one_sentence(
    invoke: Invoke, variables: dict[str, str], expected: list[str]
) -> None:
    result = invoke("ingest", **variables)
    assert result.code == 2, result.transcript
    assert result.stderr_line.startswith("projections: ")
    assert [words for words in expected if words not in result.stderr_line] == []
    assert PASSWORD not in result.transcript
    assert "Error" not in result.stderr_line  # a sentence for people has no class name
    given = [name for name in variables if name in result.stderr_line]
    assert "keep one" in result.stderr_line or not {ISSUER, CLIENT, SECRET} & {*given}, (
        "it names a setting that is present"
    )


async def test_a_wrong_configuration_file_is_reported(commands: Commands) -> None:
    table = '[apps.shop]\naddress = "https://api.example.com"\nclient_id = "shop"\n'
    (commands.folder / "projections.toml").write_text(table)
    result = await commands.run("ingest", **COMPLETE)
    assert result.code == 2
    assert (
        "projections.toml: app 'shop': settings are missing: set issuer and client_secret (or client_secret_file)"
        in result.stderr_line
    )


async def test_an_unmigrated_database_is_reported(commands: Commands, empty_database_url: str) -> None:
    result = await commands.run("ingest", **COMPLETE, DATABASE_URL=empty_database_url)
    assert result.code == 2
    assert result.stderr_line.endswith("run projections migrate")


async def test_a_refused_password_is_reported_but_not_shown(commands: Commands, database_url: str) -> None:
    parts = urlsplit(database_url)
    url = parts._replace(netloc=parts.netloc.replace(str(parts.password), PASSWORD)).geturl()
    result = await commands.run("ingest", **COMPLETE, DATABASE_URL=url)
    assert result.code == 2
    assert "password authentication failed" in result.stderr_line
    assert PASSWORD not in result.transcript


async def test_a_traceback_is_shown_with_v_only_and_is_redacted(commands: Commands) -> None:
    url = f"postgresql://u:{PASSWORD}@127.0.0.1:1/d"
    result = await commands.run("-v", "--wait-for-database", "0", "ingest", **COMPLETE, DATABASE_URL=url)
    assert result.code == 1
    assert result.err.startswith("Traceback (most recent call last)")
    assert "Connection refused" in result.err.splitlines()[-1]
    assert (PASSWORD in result.err, COMPLETE[TOKEN] in result.err) == (False, False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["follow"], "No such command 'follow'"),
        (["db", "drop"], "No such command 'drop'"),
        (["--quiet"], "No such option: --quiet"),
        (["ingest", "--until"], "--until"),
        (["ingest", "--until-idle", "soon"], "Invalid value for '--until-idle'"),
        (["ingest", "--until-idle", "-1"], "--until-idle"),
        (["ingest", "--give-up-after", "5"], "--give-up-after needs --until-idle"),
        (["run", "--give-up-after", "5"], "--give-up-after needs --until-idle"),
        (["ingest", "--until-idle", "nan"], "Invalid value for '--until-idle'"),
        (["run", "--until-idle", "inf"], "Invalid value for '--until-idle'"),
        (["wait", "--head", "--timeout", "nan"], "Invalid value for '--timeout'"),
        (["--wait-for-database", "1e300", "status"], "1e+300 is not a number"),
        (["status", "--check", "--max-behind", "nan"], "Invalid value for '--max-behind'"),
        (["redecode", "--from", "9223372036854775808"], "Invalid value for '--from'"),
        (["explain", "consent_registry", "\udcff"], "'\\udcff' is not UTF-8"),
        (["simulate", "--rate", "nan"], "the rate must be greater than 0"),
        (["simulate", "--keep-alive", "nan"], "must be greater than 0"),
        (["simulate", "--rate", "1e-300"], "lead to times beyond the year 9999"),
        (["--log-level", "loud", "migrate"], "'loud' is not one of"),
    ],
)
def test_unknown_commands_and_wrong_options_are_reported(invoke: Invoke, arguments: list[str], expected: str) -> None:
    result = invoke(*arguments)
    assert (result.code, result.out) == (2, ""), result.transcript
    assert expected in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rate", "-1"], "the rate must be greater than 0"),
        (["--recipients-per-request", "1001"], "the recipients per request must be 1 to 1,000"),
        (["--cert", "x.pem"], "--cert and --key go together: set --key"),
        (["--cert", "x.pem", "--key", "x.pem"], "can't read x.pem: No such file or directory"),
        (["--prefix", "ext"], "the path prefix must start with /"),
    ],
)
async def test_invalid_options_of_simulate_are_reported_in_one_sentence(
    commands: Commands, arguments: list[str], sentence: str
) -> None:
    result = await commands.run("simulate", *arguments)
    assert result.code == 2
    assert sentence in result.stderr_line


def test_every_command_has_help(invoke: Invoke) -> None:
    pages: dict[tuple[str, ...], CommandResult] = {(): invoke("--help")}
    for command in re.findall(r"^  (\w+) ", pages[()].out.partition("Commands")[2], re.MULTILINE):
        pages[command,] = invoke(command, "--help")
    for command in re.findall(r"^  (\w+) ", pages["db",].out.partition("Commands")[2], re.MULTILINE):
        pages["db", command] = invoke("db", command, "-h")
    assert {("migrate",), ("ingest",), ("simulate",), ("db", "start"), ("db", "psql")} <= {*pages}
    for command, page in pages.items():
        assert (page.code, page.err) == (0, "")
        assert " ".join(["Usage: projections", *command]) in page.out
    assert "SECONDS" in pages["ingest",].out


@pytest.mark.parametrize("arguments", [("--help",), ("ingest", "-h")])
async def test_help_goes_to_stdout(commands: Commands, arguments: tuple[str, ...]) -> None:
    result = await commands.run(*arguments)
    assert (result.code, result.err) == (0, "")
    assert "Usage: projections" in result.out


@pytest.mark.parametrize("arguments", [("follow",), ("ingest", "--quiet"), ("ingest",)])
async def test_a_usage_error_goes_to_stderr_with_exit_code_2(commands: Commands, arguments: tuple[str, ...]) -> None:
    result = await commands.run(*arguments)
    assert (result.code, result.out) == (2, ""), result.transcript
    assert result.err
    assert "Traceback" not in result.err


def test_a_closed_stdout_ends_without_an_error_message() -> None:
    with subprocess.Popen([*COMMAND, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
