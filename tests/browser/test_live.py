"""The live page: a question, a change and a proof, asked with the pointer and with the keys."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from playwright.sync_api import expect

import nnsight_vlm as nv

WHAT = "what color is the square?"
LONG = "describe the image."
SCENE, OTHER = nv.shapes.pair(3)
EDGES = ("left", "top", "right", "bottom")
HAND_OVER = """
([kind, size]) => new Promise(done => {
    const canvas = Object.assign(document.createElement("canvas"), { width: size, height: size });
    canvas.toBlob(blob => {
        const data = new DataTransfer();
        data.items.add(new File([blob], "a.png", { type: "image/png" }));
        const made = kind === "paste"
            ? new ClipboardEvent(kind, { bubbles: true, clipboardData: data })
            : new DragEvent(kind, { bubbles: true, dataTransfer: data });
        document.querySelector("#card-picture .canvas").dispatchEvent(made);
        done(true);
    });
})
"""
"""Drops or pastes a black picture of a size."""


def png(picture, tmp_path):
    path = tmp_path / "other.png"
    picture.save(path)
    return path


def shown(live):
    """The fields of the form that are there to be filled in."""
    every = live.page.locator("[data-field]").all()
    return {each.get_attribute("data-field") for each in every if each.is_visible()}


# answers --------------------------------------------------------------------------------------------


def test_an_answer_is_read_while_it_is_written_and_then_its_words_point_at_patches(live):
    live.ask(LONG)
    heard = live.page.evaluate("window.heard")
    texts = [each["clean"] for each in heard if not each["isShown"] and each["clean"]]
    assert len(texts) > 5 and all(later.startswith(text) for text, later in pairwise(texts))
    assert live.text("stream-clean").startswith(texts[-1]) and live.text("asked") == f"\u201c{LONG}\u201d"
    words = live.page.locator("#view .generated [data-word] bdi").all_text_contents()
    assert live.text("stream-clean").split()[:3] == words[:3]
    assert live.box("live-state").get_attribute("role") == "status" and "Done in" in live.text("live-state")
    live.page.locator("#view .generated [data-word]").nth(2).click()
    assert words[2] in live.text("readout")


def test_another_question_takes_the_place_of_the_answer_before_and_keeps_what_was_chosen(live):
    live.ask(WHAT)
    live.box("layer-mean").uncheck()
    live.box("layer").press("Home")
    live.ask(LONG)
    words = live.page.locator("#view .prompt [data-word] bdi").all_text_contents()
    assert "describe" in words and "square" not in words
    assert live.page.evaluate("window.nnsightVlmView.state.layer") == 0
    assert live.page.locator("canvas[data-panel]").count() == 1


def test_what_was_not_measured_is_measured_when_it_is_asked_for(live):
    live.ask(WHAT)
    live.box("quantity-causal").check()
    live.done(live.box("measure").click)
    assert live.asked[-1]["quantities"] == ["weight", "causal"]
    assert live.box("more-causal").is_checked() and live.box("quantity-causal").is_checked()
    assert "nats" in live.text("legend") and live.box("measure").count() == 0
    live.box("more-causal").uncheck()
    live.ask()
    assert live.asked[-1]["quantities"] == ["weight"]


# changes --------------------------------------------------------------------------------------------


def test_fields_that_do_nothing_are_not_there(live):
    always = {"question", "max_new_tokens"}
    assert shown(live) == always and not live.box("do-prove").is_visible()
    live.box("kind-cut").check()
    assert shown(live) == always | {"source", "target", "how", "layers", "heads"}
    assert live.box("do-prove").is_visible() and live.box("ask-pixels").is_visible()
    assert not live.box("box-left").is_visible()
    for place in ("source", "target"):
        live.box(f"ask-{place}").select_option("box")
        assert live.box("box-left").is_visible() and live.page.locator(".outline").is_visible()
        live.box(f"ask-{place}").select_option("last" if place == "source" else "text")
    assert not live.box("box-left").is_visible() and not live.box("ask-pixels").is_visible()
    live.box("kind-patch").check()
    assert shown(live) == always | {"where", "layer"} and live.box("card-other").is_visible()
    live.box("kind-none").check()
    assert shown(live) == always and not live.box("card-other").is_visible()


def test_every_control_of_a_cut_is_in_what_is_asked(live):
    live.box("kind-cut").check()
    for name, value in {"source": "question", "target": "last", "how": "zero"}.items():
        live.box(f"ask-{name}").select_option(value)
    for name, value in {"layers": "2:8", "heads": "0, 2", "max_new_tokens": "9"}.items():
        live.put(f"ask-{name}", value)
    live.ask(WHAT)
    cut = {"kind": "cut", "source": "question", "target": "last", "layers": "2:8", "heads": [0, 2], "how": "zero"}
    assert live.asked[-1] == {"question": WHAT, "max_new_tokens": 9, "change": cut, "quantities": ["weight"]}
    titles = live.page.locator(".written h3").all_text_contents()
    assert titles == ["As it is", "Changed: question hidden from last in layers 2:8, heads 0, 2, weight lost"]
    assert live.text("stream-clean") and live.text("stream-changed") and live.text("verdict")
    assert live.page.get_by_role("listbox").count() == 2


def test_a_cut_is_proved_in_a_sentence_also_on_other_pixels(live):
    live.box("kind-cut").check()
    live.box("ask-question").fill(WHAT)
    live.done(live.box("do-prove").click)
    assert live.text("proof").startswith("Proved. Image hidden from text in all layers. ")
    assert "attention edges without any weight" in live.text("proof") and "pixels" not in live.text("proof")
    live.box("ask-pixels").check()
    live.done(live.box("do-prove").click)
    assert live.asked[-1]["pixels"] is True and "other pixels change none of" in live.text("proof")


def test_a_proof_that_fails_says_what_in_a_sentence_and_where_below_it(live):
    proof = {"holds": False, "said": "The model did something else.", "found": "layer 2: <b>an edge</b> is open"}
    body = json.dumps({"proof": proof}) + "\n"
    live.page.route("**/prove", lambda route: route.fulfill(content_type="application/x-ndjson", body=body))
    live.box("kind-cut").check()
    live.box("ask-question").fill(WHAT)
    live.done(live.box("do-prove").click)
    said = "Not proved. Image hidden from text in all layers. The model did something else."
    assert live.page.locator("#proof > p").text_content() == said
    live.page.locator("#proof summary").click()
    assert live.page.locator("#proof details > p").inner_text() == "Layer 2: <b>an edge</b> is open."


def test_a_box_that_is_drawn_is_cut(live):
    picture = live.page.locator("#card-picture img")
    place = picture.bounding_box()
    unit = place["width"] / SCENE.image.width
    live.page.mouse.move(place["x"] + 40.5 * unit, place["y"] + 5.5 * unit)
    live.page.mouse.down()
    live.page.mouse.move(place["x"] + 20.5 * unit, place["y"] + 30.5 * unit)
    live.page.mouse.up()
    assert live.box("kind-cut").is_checked() and live.box("ask-source").input_value() == "box"
    assert [live.box(f"box-{edge}").input_value() for edge in EDGES] == ["20", "5", "41", "31"]
    drawn = live.page.locator(".outline").bounding_box()
    assert drawn["x"] == pytest.approx(place["x"] + 20 * unit, abs=1)
    assert drawn["width"] == pytest.approx(21 * unit, abs=1)
    live.ask(WHAT)
    assert live.asked[-1]["change"]["source"] == {"box": [20, 5, 41, 31]}
    assert "the box 20, 5, 41, 31 hidden from text" in live.page.locator(".written h3").last.text_content()


def test_a_patch_takes_states_from_another_picture(live, tmp_path):
    live.ask(WHAT)
    clean = live.text("stream-clean")
    live.box("kind-patch").check()
    live.done(live.box("do-ask").click)
    assert "no other picture yet" in live.text("ask-other-wrong")
    assert live.page.evaluate("document.activeElement.id") == "choose-other"
    live.box("file-other").set_input_files(png(OTHER.image, tmp_path))
    expect(live.page.locator("#card-other img")).to_be_visible()
    live.put("ask-layer", "-10")
    live.ask()
    assert live.asked[-1]["change"] == {"kind": "patch", "where": "image", "layer": -10}
    assert live.text("stream-clean") == clean != live.text("stream-changed")
    live.done(live.box("do-prove").click)
    assert "states that were to be written are there, in 1 layer" in live.text("proof")


def test_the_page_says_in_python_what_it_shows(live, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SCENE.image.save("picture.png")
    OTHER.image.save("other.png")
    live.box("file-other").set_input_files("other.png")
    expect(live.page.locator("#card-other img")).to_have_count(1)
    live.box("python").locator("summary").click()
    live.box("kind-cut").check()
    live.box("ask-source").select_option("box")
    live.put("ask-layers", "0.25:1.0")
    live.ask(WHAT)
    same_in_python(live)
    live.box("kind-patch").check()
    live.put("ask-layer", "0")
    live.ask()
    same_in_python(live)


def same_in_python(live):
    """Runs what the page gives as Python, and compares its answers with the page's."""
    made = {}
    exec(live.text("python-code"), made)
    answers = {column["key"]: column["answer"] for column in made["page"].payload["columns"]}
    assert answers == {key: live.text(f"stream-{key}") for key in ("clean", "changed")}


def test_a_picture_is_dropped_or_pasted(live):
    can_paste = live.page.context.browser.browser_type.name == "chromium"  # Firefox lets no script make such an event
    for kind, size in [("drop", 48), *([("paste", 64)] if can_paste else [])]:
        live.page.evaluate(HAND_OVER, [kind, size])
        expect(live.page.locator("#card-picture")).to_contain_text(f"{size} \u00d7 {size} pixels")
    live.ask(WHAT)
    assert live.text("stream-clean")


# the keyboard ---------------------------------------------------------------------------------------


def tab_to(live, name, most=40):
    """Goes on with Tab until a control has the focus."""
    for _ in range(most):
        if live.page.evaluate("document.activeElement.id") == name:
            return
        live.page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not lead to {name}")


def test_all_of_it_is_reached_with_the_keyboard(live):
    keys = live.page.keyboard
    tab_to(live, "choose-picture")
    tab_to(live, "ask-question")
    keys.type(WHAT)
    live.done(lambda: keys.press("Enter"))
    assert live.text("stream-clean")
    tab_to(live, "kind-none")
    keys.press("ArrowRight")
    assert live.box("kind-cut").is_checked()
    tab_to(live, "ask-source")
    keys.press("ArrowDown")
    assert live.box("ask-source").input_value() == "box"
    tab_to(live, "box-left")
    for edge, value in {"left": 8, "top": 16, "right": 40, "bottom": 48}.items():
        tab_to(live, f"box-{edge}")
        keys.press("ControlOrMeta+a")
        keys.type(str(value))
    tab_to(live, "do-ask")
    live.done(lambda: keys.press("Enter"))
    assert live.asked[-1]["change"]["source"] == {"box": [8, 16, 40, 48]}
    tab_to(live, "do-prove")
    live.done(lambda: keys.press(" "))
    assert live.text("proof").startswith("Proved. ")
