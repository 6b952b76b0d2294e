"""The live page is safe and kind: hostile texts, what is wrong, barriers, and what happens when either side ends."""

from __future__ import annotations

import pytest
from axe import barriers
from living import Serving, within
from playwright.sync_api import expect
from test_hostile import WORST

from nnsight_vlm.serving.open_pages import MOST_HERE

WHAT = "what color is the square?"
LONG = "describe the image."


WRONG = [
    ("question", " ", "write a question"),
    ("max_new_tokens", "0", "from 1 to 64"),
    ("layers", "3-6", "3:7"),
    ("layers", "12", "out of range"),
    ("heads", "4", "from 0 to 3"),
    ("box", "70", "empty"),
]


def test_what_is_wrong_is_said_beside_its_field(live):
    live.box("kind-cut").check()
    live.box("ask-source").select_option("box")
    live.box("ask-question").fill(WHAT)
    for field, value, words in WRONG:
        name = "box-left" if field == "box" else f"ask-{field}"
        before = live.box(name).input_value()
        live.put(name, value)
        live.ask()
        assert words in live.text(f"ask-{field}-wrong") and live.text("ask-request-wrong") == ""
        assert live.page.locator(".wrong:not(:empty)").count() == 1
        assert live.page.evaluate("document.activeElement.id") == name
        assert field == "box" or live.box(name).get_attribute("aria-invalid") == "true"
        live.put(name, before)
    live.ask()
    assert live.page.locator(".wrong:not(:empty)").count() == 0 and live.text("stream-changed")


def test_a_file_that_is_no_picture_is_refused_in_words(visit, tmp_path):
    live = visit(quiet=False)  # a browser reports an answer of status 400 by itself
    (tmp_path / "a.png").write_text("no picture")
    live.box("file-picture").set_input_files(tmp_path / "a.png")
    expect(live.box("ask-picture-wrong")).to_contain_text("not a picture")
    (tmp_path / "b.png").write_bytes(b"0" * (20 * 2**20 + 1))
    live.box("file-picture").set_input_files(tmp_path / "b.png")
    expect(live.box("ask-picture-wrong")).to_contain_text("20 MB")


def test_hostile_texts_show_as_texts(live):
    live.ask(WHAT)
    before = live.page.evaluate("[document.querySelectorAll('*').length, document.title]")
    text = " ".join(each for each in WORST if "\x00" not in each).replace("\x1b", "")
    live.box("ask-question").fill(text)
    text = live.box("ask-question").input_value()
    live.ask()
    assert live.page.locator("#live script, #live iframe, #live style, #live a").count() == 0
    assert live.page.locator("img").count() == 1 and live.page.title() == before[1]
    assert live.text("asked") == f"\u201c{text}\u201d"
    assert live.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_there_is_no_barrier(visit, scheme, width):
    live = visit(width=width, scheme=scheme)
    assert barriers(live.page) == []
    live.box("kind-cut").check()
    live.box("ask-source").select_option("box")
    live.ask(WHAT)
    live.done(live.box("do-prove").click)
    assert barriers(live.page) == []
    live.box("kind-patch").check()
    live.put("ask-layer", "99")
    live.box("ask-question").fill(" ")
    live.ask()
    assert barriers(live.page) == []
    assert live.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


ASK_AND_STOP = """
() => {
    document.getElementById("do-ask").click();
    setTimeout(() => document.getElementById("do-stop").click(), 100);
}
"""
"""In the page itself, since a click from outside can come when the answer is there already."""


def test_an_answer_is_stopped_and_the_next_one_is_whole(live):
    live.box("more-causal").check()
    live.box("ask-question").fill(LONG)
    live.done(lambda: live.page.evaluate(ASK_AND_STOP))
    assert live.text("live-state") == "Stopped." and not live.box("do-stop").is_visible()
    live.box("more-causal").uncheck()
    live.ask(WHAT)
    assert "Done in" in live.text("live-state") and live.page.locator("#view canvas").count() == 1


def test_a_page_that_is_closed_is_forgotten(live):
    live.ask(WHAT)
    path = f"api/pages/{live.name}/ask"
    assert live.serving.post(path) == 400  # it is there, and this is no JSON
    live.page.goto("about:blank")
    assert within(10, lambda: live.serving.post(path) == 410)


def test_as_many_pages_as_one_browser_may_open_can_all_ask(visit):
    own = Serving()
    live = visit(own, quiet=False)  # a browser reports an answer of status 429
    for _ in range(MOST_HERE - 1):
        page = live.page.context.new_page()
        page.goto(own.address)
        page.wait_for_selector("html[data-done='1']", state="attached")  # what it begins with is asked at once
    more = live.page.context.new_page()
    more.goto(own.address)
    expect(more.get_by_role("alert")).to_contain_text("close one of them")
    page.close()
    more.reload()
    more.wait_for_selector("html[data-done='1']", state="attached")
    assert own.stop() == 0


def test_a_page_without_the_token_is_refused(live):
    live.page.goto(live.serving.base)
    assert "token is missing" in live.page.locator("body").text_content()
    live.watched.said.clear()


def test_the_end_of_the_server_is_said_in_words(visit):
    own = Serving()
    live = visit(own, quiet=False)  # a browser reports a connection that ends
    live.page.wait_for_selector("html[data-done='1']", state="attached")  # what it begins with is asked at once
    assert live.text("stream-clean") and live.page.locator("#view canvas").count() == 1
    live.box("ask-question").fill(LONG)
    live.box("do-ask").click()
    assert own.stop() == 0 and "Traceback" not in "".join(own.said)
    expect(live.box("gone")).to_contain_text("The server has stopped.")
    assert live.box("do-ask").is_disabled() and live.page.locator("#view canvas").count() == 1
