"""A page as bytes: how arrays are packed, how it becomes small enough, what text of others is in it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import hostile
import numpy as np
import pytest
import tiny
from PIL import Image

import nnsight_vlm as nv
from nnsight_vlm.showing import visible
from nnsight_vlm.viewing import fitting, pages, payload
from nnsight_vlm.viewing.asking import LIMIT, Asked
from nnsight_vlm.viewing.columns import Column
from nnsight_vlm.viewing.packing import SIGNED_STEPS, STEPS, dense, sparse, values_of
from nnsight_vlm.viewing.panels import Panel, Picture, Shown
from nnsight_vlm.viewing.reading import Maps
from nnsight_vlm.viewing.shown_words import ShownWord


@pytest.fixture(autouse=True)
def script(monkeypatch):
    """In a checkout whose page is not built, an empty script."""
    if not pages.is_built():
        monkeypatch.setattr(pages, "asset", lambda _: "")


def attention(layers, rows, tokens, seed=0):
    """Rows of a softmax with a few large values, as attention has them."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((layers, 1, rows, tokens)) * 2 + rng.standard_normal((layers, 1, 1, tokens))
    weights = np.exp(scores)
    return weights / weights.sum(-1, keepdims=True) * rng.uniform(0.05, 1, (layers, 1, rows, 1))


# packing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True])
def test_dense_values_come_back_to_within_half_a_step(signed):
    values = attention(2, 5, 40)
    values = values * np.sign(np.sin(np.arange(40))) if signed else values
    values[0, 0, 2] = 0
    found = values_of(dense(values, signed=signed), signed=signed)
    step = np.abs(values).max(-1, keepdims=True) / (SIGNED_STEPS if signed else STEPS)
    assert (np.abs(found - values) <= step * 0.5001).all() and (found[0, 0, 2] == 0).all()


@pytest.mark.parametrize("signed", [False, True])
def test_sparse_values_are_the_dense_ones_without_the_small_ones(signed):
    values = attention(3, 4, 300)
    values = values * np.sign(np.cos(np.arange(300))) if signed else values
    values[1, 0, 3], values[2, 0, 0, 1:] = 0, 0  # a row of nothing, and one of a single value
    block = sparse(values, signed=signed, floor=0.05)
    found, whole = values_of(block, signed=signed), values_of(dense(values, signed=signed), signed=signed)
    kept = np.abs(values) >= 0.05 * np.float32(np.abs(values).max(-1, keepdims=True))
    assert np.array_equal(found, np.where(kept, whole, 0)) and not kept.all()
    sizes = np.abs(values).sum(-1)
    lost = np.where(kept, 0, np.abs(values)).sum(-1)[sizes > 0] / sizes[sizes > 0]
    assert block["dropped"] == pytest.approx(lost.max())


# sizes ----------------------------------------------------------------------------------------------


def content(values, limit=LIMIT, text="word", noise=128):
    """A page of one column with these values, over a picture of so much noise."""
    layers, _, rows, tokens = values.shape
    side = int(np.ceil(tokens**0.5))
    picture = tiny.picture(0, (noise, noise)).resize((1024, 1024), Image.Resampling.BICUBIC)
    cells = [divmod(token, side) for token in range(tokens)]
    boxes = tuple((16.0 * x, 16.0 * y, 16.0 * x + 16, 16.0 * y + 16) for y, x in cells)
    panel = Panel(0, "picture", "picture", (0, 0, 1024, 1024), side, side, tuple(range(tokens)), boxes, tuple(cells))
    shown = Shown(
        "decoder", tuple(range(5, 5 + tokens)), (Picture(picture, "picture"),), (panel,), (), 0, {"image.0": 0}
    )
    words = tuple(ShownWord(f"{text}{n}", "generated", (n,), read_at=(n,)) for n in range(rows))
    column = Column(
        "answer", words, (None,) * rows, {"weight": Maps(tuple(range(layers)), ("mean",), values)}, None, None
    )
    asked = Asked(None, None, None, shown, ("weight",), tuple(range(layers)), (), None, (), None, (), 64, limit)
    return payload.Content(asked, [["model", "none"]], [column])


@pytest.mark.parametrize(("layers", "rows", "tokens"), [(32, 80, 576), (12, 80, 2880)])
def test_large_answers_make_pages_below_three_megabytes(layers, rows, tokens):
    """60 tokens of an answer and 20 of a question; a quantity with the mean of heads."""
    values = attention(layers, rows, tokens)
    made = fitting.fitted(content(values))
    quantity = made["columns"][0]["quantities"]["weight"]
    assert len(pages.page_of(made).encode()) <= LIMIT and quantity["layers"] == list(range(layers))
    found, largest = values_of(quantity["data"], signed=False), values.max(-1, keepdims=True)
    floor = quantity["data"].get("floor", 0)
    assert (np.abs(found - values) <= largest * max(floor, 0.5001 / STEPS) * 1.0001).all()
    assert bool(floor) == any("left out" in note for note in made["notes"])


def test_what_does_not_fit_is_left_out_and_said():
    values = attention(16, 40, 600)
    whole = content(values, noise=2)
    least = pages.size_of(payload.payload_of(whole, payload.Level(fitting.FLOORS[-1], 16)))
    small = fitting.fitted(content(values, noise=2, limit=least + 20_000))
    quantity = small["columns"][0]["quantities"]["weight"]
    gone = sorted(set(range(16)) - set(quantity["layers"]))
    assert quantity["layers"][-1] == 15 and gone
    assert any(f"layers {', '.join(map(str, gone))} were left out" in note for note in small["notes"])
    kept = values_of(quantity["data"], signed=False)
    assert np.abs(kept - values[quantity["layers"]]).max() <= values.max() / 50
    with pytest.raises(nv.SpecError, match="even with one layer"):
        fitting.fitted(content(values, noise=2, limit=least - 1))


# text of others -------------------------------------------------------------------------------------


class Texts(HTMLParser):
    """The elements of a page and the text of each."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.found, self.open = [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs), []))
        self.open.append(self.found[-1])

    def handle_endtag(self, tag):
        self.open = [each for each in self.open if each[0] != tag]

    def handle_data(self, data):
        for _, _, texts in self.open:
            texts.append(data)


@pytest.mark.parametrize("text", hostile.SHOWN, ids=hostile.IDS)
def test_text_of_others_is_letters(text):
    """In the page and in the frame of a notebook, whatever it holds: the same elements, and the text comes back."""
    made = payload.payload_of(content(attention(1, 2, 4), text=text, noise=2), payload.Level())
    made |= {"title": text, "notes": [text], "facts": [[text, text]]}
    plain = made | {"title": "a", "notes": ["a"], "facts": [["a", "a"]]}
    page, other = Texts(pages.page_of(made)), Texts(pages.page_of(plain))
    assert [tag for tag, _, _ in page.found] == [tag for tag, _, _ in other.found]
    [held] = ["".join(texts) for tag, given, texts in page.found if given.get("id") == "nnsight-vlm-view"]
    assert json.loads(held)["notes"] == [text] and "<" not in held and held.isascii()
    frame = Texts(pages.in_notebook(made))
    assert [tag for tag, _, _ in frame.found] == ["iframe", "script"]
    assert Texts(frame.found[0][1]["srcdoc"]).found[0][0] == "html"


def test_words_of_a_tokenizer_are_shown_as_their_characters(monkeypatch):
    texts = [text for text in hostile.SHOWN if text.strip() and " " not in text and "\udcff" not in text]
    monkeypatch.setattr(tiny, "WORDS", [*texts, *tiny.WORDS[len(texts) :]])
    model = tiny.build("sdpa")
    out = nv.generate(model, nv.encode(model, "what is red ?", tiny.picture(0)), max_new_tokens=12)
    words = nv.view(model, out).payload["columns"][0]["words"]
    said = [word["text"] for word in words if word["part"] == "generated"]
    assert said and all(visible(text) == text for text in said)
    assert "".join(said) == re.sub(r"\s", "", visible(out.text))


def test_a_page_asks_for_nothing_else():
    page = pages.page_of(payload.payload_of(content(attention(1, 2, 4), noise=2), payload.Level()))
    assert "default-src 'none'" in page and not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page)
    assert pages.page_of(payload.payload_of(content(attention(1, 2, 4), noise=2), payload.Level())) == page


# files ----------------------------------------------------------------------------------------------


def test_a_page_is_written_as_a_whole(tmp_path):
    model = tiny.load("sdpa")
    page = nv.view(model, nv.encode(model, "what is red ?", tiny.picture(0)), max_new_tokens=2)
    file = page.save(tmp_path / "new" / "view.html")
    assert file.read_text(encoding="utf-8") == page.html() and [each.name for each in file.parent.iterdir()] == [
        "view.html"
    ]
    assert page._repr_html_().startswith("<iframe") and repr(page).startswith("View(")
    for wrong in (tmp_path, tmp_path / "view.png"):
        with pytest.raises(nv.SpecError, match="is no path of an HTML file"):
            page.save(wrong)
