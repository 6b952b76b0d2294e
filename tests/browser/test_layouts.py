"""Pictures, tiles, thumbnails and frames have their places on wide and narrow screens."""

from __future__ import annotations

import pages
import payloads
import pytest
from shown_tokens import page_about

WIDER = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
CASES = ("padded tiles", "shuffled tile", "second picture", "frames")


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("name", ["two columns", *CASES])
def test_nothing_has_to_be_scrolled_sideways(show, name, width):
    two = name == "two columns"
    html = pages.page_of(payloads.square(columns=("clean", "changed"))) if two else page_about(name)[0]
    reader = show(html, "#both=1&show=grid,objects,sinks,lens,numbers" if two else "", width=width)
    assert reader.page.evaluate(WIDER) <= 0
    for part in reader.page.locator("details").all():
        part.evaluate("each => { each.open = true }")
    assert reader.page.evaluate(WIDER) <= 0


def test_tiles_lie_as_in_their_picture_and_the_thumbnail_apart(show):
    html, payload, _ = page_about("shuffled tile")
    reader = show(html)
    kinds = [panel["kind"] for panel in payload["panels"]]
    assert kinds == ["tile", "tile", "thumbnail"]
    left, right, whole = (reader.panel(index).bounding_box() for index in range(3))
    assert left["y"] == pytest.approx(right["y"], abs=1)
    assert 0 <= right["x"] - (left["x"] + left["width"]) < 20
    assert whole["x"] >= right["x"] + right["width"] or whole["y"] >= right["y"] + right["height"]
    assert left["width"] / left["height"] == pytest.approx(1, rel=0.02)
    assert whole["width"] / whole["height"] == pytest.approx(2, rel=0.02)


def test_patches_have_the_shape_that_they_saw(show):
    """Merged patches of the square picture; those of a thumbnail are as wide as it was squeezed."""
    for name, shape in {"merged": 1, "thumbnail": 2, "frames": 1}.items():
        html, payload, _ = page_about(name)
        reader = show(html)
        panel = next(
            index
            for index, each in enumerate(payload["panels"])
            if each["kind"] in ("thumbnail", "frame") or len(payload["panels"]) == 1
        )
        token = payload["panels"][panel]["tokens"][0]
        x0, y0, x1, y1 = reader.page.evaluate(f"() => window.nnsightVlmView.boxOf({panel}, {token})")
        assert (x1 - x0) / (y1 - y0) == pytest.approx(shape, rel=0.05)


def test_frames_are_a_strip_with_their_numbers(show):
    html, payload, _ = page_about("frames")
    reader = show(html)
    boxes = [reader.panel(index).bounding_box() for index in range(len(payload["panels"]))]
    assert boxes[0]["y"] == pytest.approx(boxes[1]["y"], abs=1) and boxes[0]["x"] < boxes[1]["x"]
    captions = reader.page.locator(".strip figcaption").all_inner_texts()
    assert captions == ["frames 0-1", "frames 2-3"]
