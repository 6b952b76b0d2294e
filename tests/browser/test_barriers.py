"""axe-core finds no barrier, in light and dark, on wide and narrow screens, at rest and in use."""

from __future__ import annotations

import payloads
import pytest
from axe import barriers


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_there_is_no_barrier(show, scheme, width):
    reader = show(payloads.square(columns=("clean", "changed")), width=width, scheme=scheme)
    assert barriers(reader.page) == []
    reader.word(7).click()
    reader.point_at(payloads.top(1, 0, 6), click=True)
    assert reader.page.locator("[data-word].shaded").count() > 1
    reader.box("quantity-contribution").check()
    for toggle in reader.page.get_by_role("checkbox").all():
        toggle.check()
    assert barriers(reader.page) == []


def test_a_barrier_would_be_found(show):
    reader = show(payloads.square())
    reader.page.evaluate("document.body.append(document.createElement('button'))")
    assert [line.split(":")[0] for line in barriers(reader.page)] == ["button-name"]
