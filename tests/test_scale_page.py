"""The ratios on docs/scale.md are those of the committed measurements."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
LINES = ("windows-576", "windows-2880", "second-576", "second-2880", "patching")
"""The lines of the page's table, as the baseline calls them."""


def test_every_ratio_of_the_page_is_the_one_that_was_measured():
    measured = json.loads((ROOT / "tests" / "benchmarks" / "baseline.json").read_text())["forwards"]
    rows = re.findall(r"^\| .* \| ([\d.]+) \| ([\d.]+) \|$", (ROOT / "docs" / "scale.md").read_text(), re.MULTILINE)
    assert rows == [(f"{measured[line]['ours']:.2f}", f"{measured[line]['naive']:.2f}") for line in LINES]
