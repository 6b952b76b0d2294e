"""Quantity, layer, head and what else can be chosen, with the mouse and without."""

from __future__ import annotations

import numpy as np
import payloads
import pytest
from payloads import PROMPT, weights

WORD = len(PROMPT) + 1
ROW = WORD - 1
NEAR = 0.5 * 0.5 / 127 + 1e-6
"""Half a step of a byte."""


def of(reader, layer, head=0, signed=False):
    """Whether the page paints this layer and head of a row, or the mean over layers."""
    values = weights(signed=signed)[:, head, ROW]
    expected = values.mean(0) if layer is None else values[layer]
    return np.abs(reader.painted(ROW) - expected).max() <= NEAR


def test_the_slider_goes_over_layers_by_keys(square):
    assert of(square, None)
    square.box("layer").focus()
    square.page.keyboard.press("Home")
    assert of(square, 0) and square.state()["layer"] == 0
    for layer in (1, 2, 2):
        square.page.keyboard.press("ArrowRight")
        assert of(square, layer)
    square.page.keyboard.press("ArrowLeft")
    assert of(square, 1)
    assert "layer 1" in square.box("layer").get_attribute("aria-valuetext")


def test_the_slider_is_dragged(square):
    square.word(WORD).click()
    box = square.box("layer").bounding_box()
    middle = box["y"] + box["height"] / 2
    square.page.mouse.move(box["x"] + box["width"] / 2, middle)
    square.page.mouse.down()
    seen = []
    for share in (0.02, 0.98):
        square.page.mouse.move(box["x"] + share * box["width"], middle, steps=4)
        seen.append(square.state()["layer"])
        assert of(square, seen[-1])
    square.page.mouse.up()
    assert seen == [0, 2]


def test_the_mean_over_layers_comes_back(square):
    square.box("layer").press("Home")
    square.box("layer-mean").check()
    assert of(square, None) and square.state()["layer"] == "mean"
    square.box("layer-mean").uncheck()
    assert of(square, 0)


def test_heads_are_chosen(square):
    square.box("layer").press("Home")
    for head, name in enumerate(payloads.HEADS):
        square.box("head").select_option(name)
        assert of(square, 0, head)


@pytest.mark.parametrize("name", payloads.SIGNED)
def test_quantities_are_chosen_and_the_legend_says_which_and_its_range(show, name):
    square = show(payloads.square(), "#q=gradient&l=1")
    square.box("quantity-contribution").check()
    square.box(f"quantity-{name}").check()
    square.word(WORD).click()
    title, unit = payloads.ABOUT[name]
    legend = square.box("legend").inner_text()
    assert title in legend and unit in legend
    assert ("\N{MINUS SIGN}0.5 to 0.5," if payloads.SIGNED[name] else "0 to 0.5,") in legend
    if name == "causal":
        assert square.box("layer").is_disabled() and square.box("head").is_disabled()


def test_the_scale_can_be_that_of_all_layers(show):
    payload = payloads.square(quantities=("weight",))
    weight = payload["columns"][0]["quantities"]["weight"]
    weight["data"] = payloads.blocks.dense(weights() * np.array([1, 2, 4])[:, None, None, None] / 8)
    reader = show(payload, f"#l=0&w=0.{WORD}")
    assert "to 0.0625" in reader.box("legend").inner_text()
    reader.box("scale-layers").check()
    assert "to 0.25" in reader.box("legend").inner_text()


def test_sinks_are_left_out_of_the_scale(show):
    payload = payloads.square(quantities=("weight",))
    values = np.full((3, 3, payloads.ROWS, payloads.TOKENS), 0.01)
    values[..., 3], values[..., 7] = 0.8, 0.1
    payload["columns"][0]["quantities"]["weight"]["data"] = payloads.blocks.dense(values)
    reader = show(payload, f"#l=1&w=0.{WORD}")
    assert "to 0.8" in reader.box("legend").inner_text()
    reader.box("omit").check()
    assert "to 0.1," in reader.box("legend").inner_text() and "1 sinks left out" in reader.box("legend").inner_text()


def test_the_map_can_be_thinner(square):
    square.word(WORD).click()
    square.away()
    before = square.seen()
    square.box("opacity").press("Home")
    assert square.state()["opacity"] == 10 and (before != square.seen()).any()


def test_sparse_numbers_are_painted_as_they_are(show):
    values = np.zeros((3, 3, payloads.ROWS, payloads.TOKENS))
    rng = np.random.default_rng(0)
    values[rng.random(values.shape) < 0.3] = 1
    values *= rng.random(values.shape)
    values[0, 0, 2] = 0
    payload = payloads.square(quantities=("weight",))
    payload["columns"][0]["quantities"]["weight"]["data"] = payloads.blocks.sparse(values, 0.05)
    reader = show(payload, "#l=0")
    for row in range(payloads.ROWS):
        expected = values[0, 0, row] * (values[0, 0, row] >= 0.05 * values[0, 0, row].max())
        assert np.abs(reader.painted(row) - expected).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_light_or_dark_as_the_person_wants(show, scheme):
    reader = show(payloads.square(), scheme=scheme)

    def shade():
        return sum(
            map(int, reader.page.evaluate("getComputedStyle(document.body).backgroundColor").strip("rgb()").split(", "))
        )

    is_light = {"light": lambda: shade() > 600, "dark": lambda: shade() < 150}
    assert is_light[scheme]()
    for chosen in ("dark", "light", "auto"):
        reader.box("theme").select_option(chosen)
        assert is_light[scheme if chosen == "auto" else chosen]()
