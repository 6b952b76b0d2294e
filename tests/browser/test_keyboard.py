"""Everything can be reached, used and left with the keyboard alone."""

from __future__ import annotations

import payloads
import pytest
from payloads import PROMPT, SIDE

PRESENT = (
    *(
        "copy",
        "save-svg",
        "save-png",
        "theme",
        "layer",
        "layer-mean",
        "head",
        "show-objects",
        "show-sinks",
        "show-grid",
    ),
    *("show-numbers", "show-lens", "omit", "beside", "difference", "opacity", "to-causal", "panel 0"),
)
"""What Tab reaches, beside one radio of each group, one word of each column and what opens below."""


def test_tab_reaches_every_control_once_and_leaves_the_page_again(show):
    reader = show(payloads.square(columns=("clean", "changed")))
    visited = []
    for _ in range(60):
        reader.page.keyboard.press("Tab")
        here = reader.focused()
        if here == "body" or (visited and here == visited[0]):
            break
        visited.append(here)
    assert len(visited) == len(set(visited)) + (visited.count("summary") - 1)
    assert set(PRESENT) <= set(visited)
    assert {"quantity-weight", "scale-map"} <= set(visited), "one radio of each group"
    words = [each for each in visited if each[:2] in ("0.", "1.")]
    assert [each[0] for each in words] == ["0", "1"], "one word of each column"


def test_every_place_of_the_focus_is_seen(show):
    reader = show(payloads.square(columns=("clean", "changed")))
    for _ in range(25):
        reader.page.keyboard.press("Tab")
        if reader.focused() == "body":
            break
        width = reader.page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)")
        assert width >= 1, reader.focused()


def test_arrows_go_from_word_to_word(square):
    square.word(len(PROMPT)).focus()
    square.page.keyboard.press("ArrowRight")
    assert square.focused() == f"0.{len(PROMPT) + 1}"
    square.hears("red", "answer")
    square.page.keyboard.press("ArrowLeft")
    square.page.keyboard.press("Home")
    assert square.focused() == "0.0"
    square.page.keyboard.press("End")
    assert square.focused() == f"0.{payloads.ROWS}"
    square.page.keyboard.press("ArrowUp")
    above = square.focused()
    square.page.keyboard.press("ArrowDown")
    assert int(above[2:]) < len(PROMPT) <= int(square.focused()[2:])


def test_one_word_is_in_the_order_of_tab(square):
    square.word(3).focus()
    square.page.keyboard.press("ArrowRight")
    stops = square.page.locator('[data-word][tabindex="0"]').evaluate_all("all => all.map(each => each.dataset.word)")
    assert stops == ["0.4"]


@pytest.mark.parametrize("key", ["Enter", " "])
def test_a_word_is_kept_and_let_go_of(square, key):
    square.word(3).focus()
    square.page.keyboard.press("ArrowRight")
    square.page.keyboard.press(key)
    assert square.state()["pinnedWord"] == {"column": 0, "index": 4}
    square.page.keyboard.press(key)
    assert square.state()["pinnedWord"] is None


def test_arrows_go_from_patch_to_patch(square):
    square.panel().focus()
    walk = {
        "Home": 0,
        "ArrowRight": 1,
        "ArrowDown": 1 + SIDE,
        "ArrowLeft": SIDE,
        "ArrowUp": 0,
        "End": payloads.TOKENS - 1,
    }
    for key, token in walk.items():
        square.page.keyboard.press(key)
        assert square.state()["patch"] == token
    square.hears("row 3, column 3")
    square.page.keyboard.press("ArrowRight")
    assert square.state()["patch"] == payloads.TOKENS - 1
    square.page.keyboard.press("Enter")
    assert square.state()["pinnedPatch"] == payloads.TOKENS - 1
    square.page.keyboard.press("Escape")
    assert square.state()["pinnedPatch"] is None


def test_layers_are_gone_through_from_a_word_and_from_a_patch(square):
    for place in (square.word(3), square.panel()):
        square.box("layer").press("Home")
        place.focus()
        for key, layer in (("PageUp", 1), ("PageUp", 2), ("PageUp", 2), ("PageDown", 1), ("PageDown", 0)):
            square.page.keyboard.press(key)
            assert square.state()["layer"] == layer


def test_quantities_toggles_and_selects_work_by_keys(square):
    square.box("quantity-weight").focus()
    square.page.keyboard.press("ArrowRight")
    assert square.state()["quantity"] == "contribution"
    square.box("show-grid").press(" ")
    assert "grid" in square.state()["show"]
    square.box("to-causal").press("Enter")
    assert square.state()["quantity"] == "causal"


def test_screen_readers_are_told_names_and_states(square):
    listbox = square.page.get_by_role("listbox")
    assert listbox.count() == 1 and listbox.get_by_role("option").count() == payloads.ROWS + 1
    assert square.page.get_by_role("slider", name="Layer").count() == 1
    assert square.page.get_by_role("combobox", name="Head").count() == 1
    assert square.page.get_by_role("radio", name="attention weight").is_checked()
    assert square.box("said").get_attribute("aria-live") == "polite"
    assert "4 rows by 4 columns" in square.panel().get_attribute("aria-label")
