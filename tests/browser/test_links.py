"""A finding is sent as a link; a link of someone else can do no harm; in a notebook there is none."""

from __future__ import annotations

import html

import pages
import payloads
import pytest
from payloads import PROMPT

from nnsight_vlm.viewing.pages import in_notebook

WORD = len(PROMPT) + 2


def chosen(reader):
    """Everything else than what it starts with."""
    reader.box("quantity-contribution").check()
    reader.box("layer").press("End")
    reader.box("head").select_option("1")
    reader.box("scale-layers").check()
    reader.box("show-grid").check()
    reader.box("show-objects").uncheck()
    reader.box("omit").check()
    reader.box("beside").check()
    reader.box("opacity").press("ArrowLeft")
    reader.word(WORD, 1).click()
    reader.point_at(5, click=True)
    reader.away()


def test_a_link_opens_the_same_view(show):
    reader = show(payloads.square(columns=("clean", "changed")))
    chosen(reader)
    address, state = reader.at_address(), reader.state()
    before = [reader.seen(), reader.box("readout").inner_text(), reader.box("legend").inner_text()]
    other = show(address)
    assert other.state() == state
    assert state["quantity"] == "contribution" and state["layer"] == 2 and state["head"] == "1"
    assert state["pinnedWord"] == {"column": 1, "index": WORD} and state["pinnedPatch"] == 5
    other.settled()
    assert (other.seen() == before[0]).all()
    assert [other.box("readout").inner_text(), other.box("legend").inner_text()] == before[1:]
    assert other.box("layer").input_value() == "2" and other.box("head").input_value() == "1"


def test_the_link_is_copied_or_shown_to_be_copied(show):
    reader = show(payloads.square())
    chosen_word = reader.word(WORD)
    chosen_word.click()
    address = reader.at_address()
    reader.box("copy").click()
    reader.page.wait_for_function("() => document.getElementById('status').textContent !== ''")
    field = reader.box("link")
    if field.is_visible():
        assert field.input_value() == address
    else:
        assert "Link copied" in reader.box("status").inner_text()


def test_another_fragment_in_the_address_is_followed(square):
    square.page.evaluate(f"location.hash = '#q=causal&w=0.{WORD}'")
    square.page.wait_for_function("() => window.nnsightVlmView.state.quantity === 'causal'")
    assert square.state()["pinnedWord"] == {"column": 0, "index": WORD}


HOSTILE = [
    "#<script>document.title='taken'</script>",
    "#q=<img src=x onerror=document.title='taken'>",
    "#q=__proto__&h=constructor&l=toString&w=__proto__",
    "#constructor=1&__proto__=2&hasOwnProperty=3",
    "#l=NaN&w=9.9&p=-1&o=1e9&show=grid,alert&s=x&diff=2&omit=x",
    "#l=99999999999999999999&p=4294967296&w=0.99999",
    "#%",
    "#%E0%A4%A&%00=%FF&q=%3Cscript%3E",
    "#javascript:alert(1)",
    "#" + "w=0.1&" * 5000,
    "#q=" + "a" * 100_000,
]


def is_as_it_was(reader) -> bool:
    assert reader.page.title() == "what is red ?" and reader.page.locator("img, #view script").count() == 0
    return reader.state()["quantity"] == "weight" and reader.state()["layer"] == "mean"


@pytest.mark.parametrize("fragment", HOSTILE[:4], ids=range(4))
def test_a_page_opens_with_a_hostile_fragment(show, fragment):
    reader = show(payloads.square(), fragment)
    assert is_as_it_was(reader)
    reader.word(WORD).click()
    assert reader.state()["pinnedWord"] == {"column": 0, "index": WORD}


def test_hostile_fragments_change_nothing(square):
    for fragment in HOSTILE:
        square.page.evaluate("fragment => { location.hash = fragment }", fragment)
        square.settled()
        assert is_as_it_was(square)


def test_what_a_fragment_asks_for_in_vain_is_said(show):
    reader = show(payloads.square(), "#q=weight&h=17&zzz=1")
    message = reader.box("status").inner_text()
    assert "h" in message and "zzz" in message


@pytest.fixture
def notebook(browser, tmp_path):
    """A page of a notebook with the view's output in it, and the frame of that."""
    context = browser(width=1000)
    page = context.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    path = tmp_path / "notebook.html"
    output = in_notebook(payloads.square())
    path.write_text(
        f"<!doctype html><meta charset=utf-8><title>n</title><p>before</p>{output}<p>after</p>", encoding="utf-8"
    )
    page.goto(path.as_uri())
    frame = page.frame_locator("iframe")
    frame.locator("html[data-ready=true]").wait_for(state="attached")
    yield page, frame
    context.close()
    assert said == []


def test_in_a_notebook_the_state_lives_without_an_address(notebook):
    page, frame = notebook
    before = page.url
    frame.locator("#quantity-contribution").check()
    frame.locator("#layer").press("End")
    frame.locator(f'[data-word="0.{WORD}"]').click()
    assert frame.locator(f'[data-word="0.{WORD}"]').get_attribute("aria-selected") == "true"
    assert "layer 2" in frame.locator("#readout").inner_text()
    assert "contribution" in frame.locator("#readout").inner_text()
    page.wait_for_timeout(300)
    assert page.url == before
    frame.locator("#copy").click()
    status = frame.locator("#status")
    status.filter(has_text="opy").wait_for()


def test_in_a_notebook_the_frame_is_as_high_as_the_page(notebook):
    page, frame = notebook
    page.wait_for_function("() => document.querySelector('iframe').clientHeight !== 720", timeout=5000)
    inside = frame.locator("html").evaluate("each => [each.scrollHeight, innerHeight]")
    assert inside[0] <= inside[1] + 1


def test_a_notebook_cannot_be_reached_from_the_frame(notebook):
    _, frame = notebook
    reached = frame.locator("html").evaluate("() => { try { return parent.document.title } catch { return null } }")
    assert reached is None


def test_a_notebook_that_drops_frames_says_so():
    output = in_notebook(payloads.square())
    assert "not trusted" in html.unescape(output.split(">", 1)[1])
    assert pages.page_of(payloads.square()) in html.unescape(output)
