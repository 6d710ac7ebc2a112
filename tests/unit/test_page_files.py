"""The files of the page: the library is unchanged, nothing comes from another host, and no HTML is made of text."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from projections.http.dashboard_routes import STATIC

DIGESTS = {
    "LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
"""SHA-256 of the files of uPlot 1.6.32, as its package has them."""
LIBRARY = STATIC / "uplot-1.6.32"
OURS = sorted(path for path in STATIC.iterdir() if path.is_file())


def test_the_library_is_unchanged() -> None:
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in LIBRARY.iterdir()}
    assert found == DIGESTS


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_our_files_name_no_other_host_and_make_no_html_of_text(path: Path) -> None:
    text = path.read_text()
    assert re.findall(r"https?://(?!www\.w3\.org/)|url\(|@import", text) == []
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text) == []
    assert re.findall(r"<script>|<style|style=|\bon[a-z]+=\"", text) == []


def test_every_file_that_the_page_names_is_there() -> None:
    for path in OURS:
        for name in re.findall(r'(?:src|href)="static/([^"]+)"|from "\./([^"]+)"', path.read_text()):
            assert (STATIC / "".join(name)).is_file(), (path.name, name)
