"""What axe-core finds on a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import axe_playwright_python

AXE = next(Path(axe_playwright_python.__file__).parent.rglob("axe.min.js")).read_text()
FOUND = """
async () => (await axe.run(document, { resultTypes: ["violations"] })).violations
    .map(each => `${each.id}: ${each.nodes.map(node => node.target).join(", ")}`)
"""


def barriers(page: Any) -> list[str]:
    """Every barrier that is found: its rule, and where it is."""
    page.evaluate(AXE)
    return page.evaluate(FOUND)
