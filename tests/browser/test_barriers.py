"""axe-core finds no barrier, in light and dark, on wide and narrow screens, at rest and in use."""

from __future__ import annotations

from pathlib import Path

import axe_playwright_python
import payloads
import pytest

AXE = next(Path(axe_playwright_python.__file__).parent.rglob("axe.min.js")).read_text()
FOUND = """
async () => (await axe.run(document, { resultTypes: ["violations"] })).violations
    .map(each => `${each.id}: ${each.nodes.map(node => node.target).join(", ")}`)
"""


def barriers(reader) -> list[str]:
    reader.page.evaluate(AXE)
    return reader.page.evaluate(FOUND)


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_there_is_no_barrier(show, scheme, width):
    reader = show(payloads.square(columns=("clean", "changed")), width=width, scheme=scheme)
    assert barriers(reader) == []
    reader.word(7).click()
    reader.point_at(payloads.top(1, 0, 6), click=True)
    assert reader.page.locator("[data-word].shaded").count() > 1
    reader.box("quantity-contribution").check()
    for toggle in reader.page.get_by_role("checkbox").all():
        toggle.check()
    assert barriers(reader) == []


def test_a_barrier_would_be_found(show):
    reader = show(payloads.square())
    reader.page.evaluate("document.body.append(document.createElement('button'))")
    assert [line.split(":")[0] for line in barriers(reader)] == ["button-name"]
