"""The built page is that of its sources, and holds nothing that could ask for anything or read a text as markup."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

import nnsight_vlm as nv

VIEWING = Path(nv.__file__).parent / "viewing"
PAGE, ASSETS = VIEWING / "page", VIEWING / "assets"
BUILT = ("viewer.js", "viewer.css", "live.js", "live.css", "report.js", "report.css")
PARTS = ("build.mjs", "package-lock.json", "package.json", "tsconfig.json")


def digest_of_sources() -> str:
    """As page/build.mjs has it."""
    paths = sorted([*PARTS, *(f"src/{path.name}" for path in (PAGE / "src").iterdir())])
    told = hashlib.sha256()
    for path in paths:
        told.update(f"{path}\n".encode() + (PAGE / path).read_bytes() + b"\n")
    return told.hexdigest()


@pytest.mark.parametrize("name", BUILT)
def test_assets_are_built_of_the_sources_that_are_there(name):
    first = (ASSETS / name).read_text().splitlines()[0]
    assert f"sources {digest_of_sources()};" in first, "npm ci && npm run build in nnsight_vlm/viewing/page, and commit"


@pytest.mark.parametrize("name", BUILT)
def test_assets_end_no_element_and_ask_for_nothing(name):
    text = (ASSETS / name).read_text()
    assert text.isascii()
    assert not re.search(r"</(script|style)|<!--", text, re.IGNORECASE)
    assert set(re.findall(r"https?://[^\s\"'`)]+", text)) <= {"http://www.w3.org/2000/svg"}
    asking = r"\b(fetch|XMLHttpRequest|WebSocket|EventSource|sendBeacon|importScripts)\b"
    asked = re.findall(asking, text)
    assert asked == (["fetch"] * len(asked) if name.startswith("live") else []), "a live page asks its own server alone"
    assert not re.search(r"@import|url\((?!#)", text.replace("url(#${", "url(#"))


def test_no_text_is_ever_read_as_markup_or_code():
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|srcdoc"
    code = r"\beval\b|new Function"
    for path in [*(PAGE / "src").glob("*.ts"), *ASSETS.glob("*.js")]:
        assert not re.search(f"{markup}|{code}", path.read_text()), path.name


def test_what_is_bundled_has_its_licence():
    packages = json.loads((PAGE / "package.json").read_text())
    licences = (ASSETS / "licences.txt").read_text()
    for name, version in packages["dependencies"].items():
        assert f"{name} {version} (MIT)" in licences
        assert "Permission is hereby granted" in licences


def test_packages_have_exact_versions_and_no_address():
    packages = json.loads((PAGE / "package.json").read_text())
    named = packages["dependencies"] | packages["devDependencies"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in named.values())
    locked = json.loads((PAGE / "package-lock.json").read_text())["packages"]
    assert all("integrity" in entry and "resolved" not in entry for path, entry in locked.items() if path)
