"""deploy/alerts.yml and deploy/grafana.json use metrics that exist, and each alert names a command that is valid."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from projections.http import database_metrics, process_metrics
from projections.http.metric_catalogue import MetricDefinition, MetricKind
from tests.acceptance.test_documented_commands import parse

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "deploy" / "alerts.yml"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
DEFINITIONS = {
    one.name: one for one in (*database_metrics.CATALOGUE.definitions, *process_metrics.CATALOGUE.definitions)
}
NAME = re.compile(r"\bprojections_[a-z_0-9]+\b")
SELECTOR = re.compile(r"\b(projections_[a-z_0-9]+)\{([^}]*)\}")
GROUPING = re.compile(r"\bby \(([^)]*)\)")
FROM_PROMETHEUS = {"instance", "le"}


def definition_of(name: str) -> MetricDefinition:
    """Return the metric of a series; fails if there is none."""
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    if base != name and base in DEFINITIONS and DEFINITIONS[base].kind is MetricKind.HISTOGRAM:
        return DEFINITIONS[base]
    assert name in DEFINITIONS, f"no metric {name}"
    return DEFINITIONS[name]


def check_expression(expression: str) -> None:
    """Assert that an expression uses metrics and labels that exist, and rates of counters only."""
    used = NAME.findall(expression)
    assert used, expression
    labels = {label for name in used for label in definition_of(name).labels} | FROM_PROMETHEUS
    for name, matchers in SELECTOR.findall(expression):
        assert set(re.findall(r"(\w+)\s*[=!]", matchers)) <= {*definition_of(name).labels}, expression
    for names in GROUPING.findall(expression):
        assert {name.strip() for name in names.split(",")} <= labels, expression
    for name in re.findall(r"(?:rate|increase)\((projections_\w+)", expression):
        assert definition_of(name).kind is not MetricKind.GAUGE, expression
    assert expression.count("(") == expression.count(")"), expression


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_uses_existing_metrics_and_names_a_valid_command(rule: dict[str, Any]) -> None:
    check_expression(rule["expr"])
    annotations = rule["annotations"]
    assert {"summary", "description", "command"} <= annotations.keys()
    assert rule["labels"]["severity"] in ("critical", "warning")
    program, *arguments = shlex.split(re.sub(r"\{\{ \$labels\.\w+ \}\}", "poll_tallies", annotations["command"]))
    assert program == "projections"
    parse(arguments)
    grouped = {label.strip() for names in GROUPING.findall(rule["expr"]) for label in names.split(",")}
    assert set(re.findall(r"\$labels\.(\w+)", " ".join(annotations.values()))) <= grouped


def test_alerts_have_names_of_their_own_and_every_projection_state_that_needs_somebody_has_one() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len({*names}) == len(names) >= 20
    expressions = " ".join(rule["expr"] for rule in RULES)
    assert all(f'state="{state}"' in expressions for state in ("failed", "waiting", "paused", "running"))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_rules() -> None:
    checked = subprocess.run(["promtool", "check", "rules", ALERTS], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_dashboard_can_be_imported() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    for name in ("projection", "app"):
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variables[name]["definition"]).groups()  # type: ignore[union-attr]
        assert label in definition_of(metric).labels
    assert DASHBOARD["schemaVersion"] >= 36
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    cells: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        covered = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not covered & cells, f"{panel['title']} lies over another panel"
        cells |= covered


@pytest.mark.parametrize(
    "panel", [panel for panel in PANELS if panel["type"] != "row"], ids=lambda panel: panel["title"]
)
def test_a_panel_says_what_it_shows_of_existing_metrics(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for target in panel["targets"]:
        check_expression(target["expr"].replace("$__rate_interval", "5m"))
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_the_dashboard_shows_almost_every_metric() -> None:
    shown = set(NAME.findall(json.dumps(PANELS)))
    names = {re.sub(r"_bucket$", "", name) for name in shown}
    left_out = DEFINITIONS.keys() - names
    assert left_out == {
        "projections_app_failing",
        "projections_app_lost_commits",
        "projections_consumer_position",
        "projections_follower_state",
        "projections_last_fold_timestamp_seconds",
        "projections_last_window_seconds",
        "projections_listener_connected",
        "projections_log_last_append_timestamp_seconds",
        "projections_last_erasure_timestamp_seconds",
        "projections_position",
        "projections_quarantine_full",
        "projections_rebuild_started_timestamp_seconds",
        "projections_status_read_seconds",
        "projections_upstream_frames_total",
        "projections_upstream_silence_limit_seconds",
    }


def test_the_page_lists_every_metric() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "tools" / "metrics_table.py", "--check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
