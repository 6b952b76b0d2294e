"""Every intervention has a page; the ratios on docs/scale.md are those of the committed measurements."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest

import nnsight_vlm as nv

ROOT = Path(__file__).parent.parent
SECTIONS = ("**Asks:**", "## Method and paper", "## Code", "## How to read it", "## What it cannot show")
VALUES = [
    name for name in nv.__all__ if inspect.isclass(value := getattr(nv, name)) and issubclass(value, nv.Intervention)
]
LINES = ("windows-576", "windows-2880", "second-576", "second-2880", "patching")
"""The lines of the page's table, as the baseline calls them."""


def test_every_ratio_of_the_page_is_the_one_that_was_measured():
    measured = json.loads((ROOT / "tests" / "benchmarks" / "baseline.json").read_text())["forwards"]
    rows = re.findall(r"^\| .* \| ([\d.]+) \| ([\d.]+) \|$", (ROOT / "docs" / "scale.md").read_text(), re.MULTILINE)
    assert rows == [(f"{measured[line]['ours']:.2f}", f"{measured[line]['naive']:.2f}") for line in LINES]


@pytest.mark.parametrize("name", [name for name in VALUES if name != "Intervention"])
def test_every_intervention_has_a_page_with_all_sections(name):
    page = (ROOT / "docs" / "interventions" / f"{name.lower()}.md").read_text()
    assert page.startswith(f"# {name}\n") and f"nv.{name}(" in page
    assert [each for each in SECTIONS if f"\n{each}" not in page] == []
    assert f"({name.lower()}.md)" in (ROOT / "docs" / "interventions" / "README.md").read_text()
