"""From words to the patches that they read, and from patches to the words that read them."""

from __future__ import annotations

import numpy as np
import payloads
import pytest
from payloads import ANSWERS, PROMPT, top, weights

LAYER_1 = "#q=weight&l=1&h=mean"
RED, SQUARE = len(PROMPT) + 1, len(PROMPT) + 2
"""Two words of the answer; their rows are one less."""


def cell(token: int) -> str:
    return "row {}, column {}".format(*divmod(token, payloads.SIDE))


@pytest.fixture
def reader(show):
    return show(payloads.square(), LAYER_1)


@pytest.fixture
def pair(show):
    return show(payloads.square(columns=("clean", "changed")), LAYER_1)


def test_hovering_a_word_says_and_paints_what_it_reads(reader):
    reader.word(RED).hover()
    reader.hears("red", cell(top(1, 0, RED - 1)), "0.5")
    first = reader.seen()
    reader.word(SQUARE).hover()
    reader.hears("square", cell(top(1, 0, SQUARE - 1)))
    assert (first != reader.seen()).any()
    assert "layer 1" in reader.box("readout").inner_text()


def test_what_is_painted_is_what_the_payload_holds(reader):
    expected = weights()
    for row in range(payloads.ROWS):
        assert np.abs(reader.painted(row) - expected[1, 0, row]).max() <= 0.5 * 0.5 / 255 + 1e-6


def test_a_click_keeps_a_word_and_another_lets_go_of_it(reader):
    reader.word(SQUARE).click()
    reader.away()
    assert reader.state()["pinnedWord"] == {"column": 0, "index": SQUARE}
    assert reader.word(SQUARE).get_attribute("aria-selected") == "true"
    kept = reader.seen()
    reader.word(RED).hover()
    assert (kept != reader.seen()).any()
    reader.away()
    assert (kept == reader.seen()).all()
    reader.word(SQUARE).click()
    reader.away()
    assert reader.state()["pinnedWord"] is None and (kept != reader.seen()).any()


def test_hovering_a_patch_marks_the_words_that_read_it(reader):
    token = top(1, 0, SQUARE - 1)
    reader.point_at(token)
    reader.hears(cell(token), "square")
    strongest = reader.page.locator("#readers li").first.inner_text()
    assert "square" in strongest and "0.5" in strongest
    colours = {
        index: reader.word(index).evaluate("each => getComputedStyle(each).backgroundColor")
        for index in range(1, payloads.ROWS + 1)
    }
    rows = weights()[1, 0, :, token]
    alike = {index for index, colour in colours.items() if colour == colours[SQUARE]}
    assert alike == {row + 1 for row in np.flatnonzero(rows == rows.max())}
    reader.away()
    reader.page.wait_for_function("() => document.querySelectorAll('.word.shaded').length === 0")


def test_a_click_keeps_a_patch(reader):
    reader.point_at(9, click=True)
    reader.away()
    assert reader.state()["pinnedPatch"] == 9 and cell(9) in reader.box("readers").inner_text()
    reader.point_at(9, click=True)
    assert reader.state()["pinnedPatch"] is None


def test_every_patch_is_found_under_the_pointer(reader):
    for token in range(payloads.TOKENS):
        reader.point_at(token)
        assert reader.state()["patch"] == token


def test_a_word_before_the_picture_says_why_nothing_is_painted(reader):
    reader.word(0).hover()
    reader.hears("user:", "it stands before the image")
    assert "it stands before the image" in reader.box("readout").inner_text()


def test_the_second_column_has_its_own_maps_and_marks_changed_words(pair):
    for column, answer in enumerate(ANSWERS.values()):
        pair.word(SQUARE, column).hover()
        pair.hears(answer[2], cell(top(1, 0, SQUARE - 1, column)))
    changed = pair.page.locator("[data-word].changed").evaluate_all("all => all.map(each => each.dataset.word)")
    assert changed == [f"1.{RED}", f"1.{SQUARE}"]
    assert "changed" in pair.word(RED, 1).text_content()


def test_a_patch_marks_words_of_both_columns(pair):
    token = top(1, 0, SQUARE - 1, 1)
    pair.point_at(token)
    pair.hears(cell(token), "ring")
    assert (
        pair.page.locator('[data-word^="0."].shaded').count()
        == pair.page.locator('[data-word^="1."].shaded').count()
        > 0
    )


def test_both_columns_are_painted_side_by_side(pair):
    pair.word(len(PROMPT)).click()
    pair.away()
    pair.box("beside").check()
    pair.settled()
    pictures = [pair.panel(), pair.twin()]
    boxes = [picture.bounding_box() for picture in pictures]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"] and boxes[0]["y"] == pytest.approx(boxes[1]["y"], abs=1)
    pair.box("beside").uncheck()
    pair.twin().wait_for(state="hidden")


def test_the_difference_of_both_columns_is_painted(pair):
    pair.word(len(PROMPT)).click()
    pair.box("difference").check()
    pair.away()
    pair.hears("difference")
    first, second = (top(1, 0, len(PROMPT) - 1, column) for column in (0, 1))
    said = pair.box("readout").inner_text()
    assert cell(first) in said and cell(second) in said and "\N{MINUS SIGN}" in said


def test_what_is_missing_says_how_to_get_it(reader):
    reader.box("quantity-causal").check()
    reader.word(1).hover()
    reader.hears("not measured", "nv.view(")


def test_attention_is_no_cause_and_the_cause_is_one_click_away(reader):
    assert "Attention is not a cause." in reader.page.locator(".about").inner_text()
    reader.box("to-causal").click()
    assert reader.state()["quantity"] == "causal"
    expected = weights(0, 1, 1, signed=True)[0, 0]
    for row in range(len(PROMPT) - 1, payloads.ROWS):
        assert np.abs(reader.painted(row) - expected[row]).max() <= 0.5 * 0.5 / 127 + 1e-6


def test_the_cause_can_be_asked_for_where_the_page_has_none(show):
    reader = show(payloads.square(quantities=("weight",)))
    reader.box("to-causal").click()
    told = reader.page.locator(".about").inner_text()
    assert 'quantities=["weight", "causal"]' in told and "--quantities weight,causal" in told


def test_sinks_objects_and_lens_words_are_drawn_and_said(reader):
    reader.let_go()
    for name in ("objects", "sinks", "lens", "grid", "numbers"):
        reader.box(f"show-{name}").set_checked(False)
    plain = reader.seen()
    for name in ("objects", "sinks", "lens", "grid", "numbers"):
        reader.box(f"show-{name}").check()
        assert (plain != reader.seen()).any(), name
        reader.box(f"show-{name}").uncheck()
        assert (plain == reader.seen()).all(), name
    reader.point_at(3)
    reader.hears("a sink")
    reader.point_at(5)
    reader.hears("in red square", "lens word at layer 1: \N{LEFT DOUBLE QUOTATION MARK}red")
