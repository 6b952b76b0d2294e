"""Links of pages and of docstrings lead to files and headings that exist; addresses are well formed."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import documented
import pytest

STRANGE = re.compile(r"[\s<>\"{}|\\^`]")
ADDRESS = re.compile(r"https?://[^\s)>\]\"'`]+")
NAMED = re.compile(r"\b(?:docs|tests|examples|nnsight_vlm)/[\w/.-]+\.(?:md|py|json)\b")


@pytest.mark.parametrize("page", documented.pages(), ids=documented.called)
def test_the_links_of_a_page_lead_somewhere(page):
    text = page.read_text()
    for link in documented.links(text):
        path, _, anchor = link.partition("#")
        if "://" in path or path.startswith("mailto:"):
            address = urlsplit(path)
            assert address.scheme == "https" and "." in address.netloc and not STRANGE.search(link), link
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: no such file"
        assert target.is_relative_to(documented.ROOT), f"{link} leads out of the repository"
        if anchor and target.suffix == ".md":
            assert anchor in documented.anchors(target.read_text()), f"{link}: no such heading"


def test_pages_are_read_at_all():
    assert len(documented.pages()) > 40
    links = [link for page in documented.pages() for link in documented.links(page.read_text())]
    assert len(links) > 150 and sum("#" in link for link in links) >= 10


def test_files_that_the_package_names_exist():
    for path in (documented.ROOT / "nnsight_vlm").rglob("*.py"):
        text = path.read_text()
        for name in NAMED.findall(ADDRESS.sub("", text)):
            assert (documented.ROOT / name).exists(), f"{path.name}: {name}"
        for address in ADDRESS.findall(text):
            assert "{" in address or not STRANGE.search(address), f"{path.name}: {address}"


def test_anchors_are_those_of_github():
    text = "# A `b` [c](d.md)\n\n## What's *in* it?\n\n## Twice\n\n## Twice\n\n```text\n# no heading\n```\n"
    assert documented.anchors(text) == {"a-b-c", "whats-in-it", "twice", "twice-1"}


def test_a_stub_of_a_page_leads_to_the_file_that_takes_its_place():
    settings = (documented.DOCS / "conf.py").read_text().partition("outer_pages = {")[2].partition("}")[0]
    stubs = dict(re.findall(r"\"([\w-]+)\": \"([\w/]+\.md)\"", settings))
    assert len(stubs) >= 4
    for page, outer in stubs.items():
        text = (documented.DOCS / f"{page}.md").read_text()
        assert f"](../{outer})" in text and (documented.ROOT / outer).exists()
        assert len(text.splitlines()) < 5 and Path(page).suffix == ""
