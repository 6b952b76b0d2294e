"""What values show of themselves: short in a terminal, and in a notebook HTML that is whole and safe."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from PIL import Image

import nnsight_vlm as nv
from nnsight_vlm.notebook import chip, element, picture_uri, shown_picture
from nnsight_vlm.notebook.groups import HUES
from nnsight_vlm.prompts.display import FIRST, LAST, stretches
from nnsight_vlm.showing import visible


class Reader(HTMLParser):
    """The elements of a page, each with the attributes and the text inside it; fails where tags do not match."""

    VOID = ("img", "image", "path", "rect")

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[Any] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in self.VOID:
            self._open.append(self.elements[-1])

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        assert tag in self.VOID
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for opened in self._open:
            opened[2].append(data)

    @property
    def text(self) -> str:
        return " ".join(self.elements[0][2])

    def chips(self) -> list[tuple[str, str]]:
        """Text and title of every chip that has one."""
        return [("".join(text), str(given["title"])) for _, given, text in self.elements if "title" in given]


def page_of(value: Any) -> Reader:
    page = Reader(value._repr_html_())
    assert {tag for tag, *_ in page.elements} <= {
        *("div", "b", "span", "figure", "figcaption", "img"),
        *("svg", "image", "path", "rect"),
    }
    named = {name for _, given, _ in page.elements for name in given}
    assert named <= {
        *("style", "title", "src", "href", "alt", "role", "aria-label", "width", "height", "viewbox", "d"),
        *("fill", "stroke", "stroke-width", "vector-effect", "preserveaspectratio"),
    }
    sources = [given.get("src") or given.get("href") for _, given, _ in page.elements]
    assert all(source.startswith("data:image/") for source in sources if source)
    return page


# in a terminal ---------------------------------------------------------------------------------------


def test_what_a_terminal_shows():
    model = nv.load("shapes")
    image = nv.shapes.scene(3).image
    prompt = nv.encode(model, "what is red ?", image)
    line = "llava: system 14, image 100, query 6; picture 80 x 80; 'user: what is red? assistant:'"
    assert repr(prompt) == f"Prompt({line})"
    assert repr(prompt.rows[0]) == "TokenMap(0..119: system 14, image 100, query 6)"
    blind = nv.encode(model, "what is red ?")
    assert repr(blind).startswith("Prompt(llava: query 20; no picture; ")
    row = line.removeprefix("llava: ")
    batch = nv.stack([prompt] * 10)
    shown = [f"  {number}: {row}" for number in range(8)]
    assert repr(batch) == "\n".join(["PromptBatch(llava, 10 rows of 120 tokens:", *shown, "  … and 2 more rows"]) + ")"
    word = int(prompt.rows[0].tokens[-5])
    grown = prompt.grown([word] * 3)
    assert repr(grown) == f"Prompt({line.replace('query 6', 'query 6, generated 3')} -> 'is is is')".replace(
        "is is is", model.processor.tokenizer.decode([word] * 3)
    )
    answer = nv.Generation(text="a red\x1b[31m ring", tokens=(5, 6), prompt=grown)
    assert repr(answer) == r"Generation('a red\x1b[31m ring', 2 tokens)"
    answers = nv.BatchGeneration(text=("a", "b"), tokens=((5,), (6,)), prompt=(grown, grown))
    assert repr(answers) == "BatchGeneration(2 rows:\n  0: Generation('a', 1 token)\n  1: Generation('b', 1 token))"
    assert repr(prompt.grid()) == "Grid(100 image tokens at 14..113: 10 x 10 cells, 80 x 80 pixels)"
    run = nv.run(model, prompt, reads=nv.Attention("last", "image"))
    assert repr(run) == "Run(logits=[86], reads=([10, 4, 1, 100],))"
    assert repr(nv.run(model, batch)) == "BatchRun(logits=[10, 86], reads=())"


def test_a_grid_of_several_tiles_counts_them():
    assert repr(zoo.prompt("idefics3").grid()) == (
        "Grid(20 image tokens at 5..32: 5 times 2 x 2 cells, 24 x 20 pixels)"
    )
    assert repr(zoo.prompt("llava_next", size=1).grid()) == (
        "Grid(52 image tokens at 3..54, 4 of them without a place: 4 x 4 and 4 x 8 cells, 40 x 18 pixels)"
    )


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_prompt_is_short_in_a_terminal_and_whole_in_a_notebook(name):
    prompt = zoo.prompt(name, zoo.ZOO[name].implementations[0])
    tokens = prompt.rows[0]
    assert len(repr(prompt)) < 250 and "\n" not in repr(prompt)
    assert "no picture" not in repr(replace(prompt, images=()))  # the model sees it all the same
    shown = Counter(place for stretch in stretches(tokens) for place in stretch.positions)
    parts = [place for part in ("system", "image", "markup", "query") for place in prompt[part]]
    assert shown == Counter(parts) and len(parts) == len(set(parts))  # every token once
    page = page_of(prompt)
    words = {place: (text, title) for text, title in page.chips() for place in re.findall(r"^position (-?\d+),", title)}
    ids = dict(enumerate(tokens.tokens))
    ids |= {place - tokens.outside: token for place, token in enumerate(tokens.outside_tokens)}
    tokenizer = prompt.model.processor.tokenizer
    images = {place for image in tokens.images for place in range(image[0], image[-1] + 1)}
    for place in set(parts) - images:
        text, title = words[str(place)]
        assert text == visible(tokenizer.decode([ids[place]]).replace("\n", "⏎")) and f"token id {ids[place]}" in title
        [group] = [part for part in ("system", "markup", "query") if place in prompt[part]]
        assert f", {group}," in title
    counts = {f"image.{number} x {len(image)}" for number, image in enumerate(tokens.images)}
    assert counts <= {text for text, _ in page.chips()}
    assert [given["alt"] for tag, given, _ in page.elements if tag == "img"] == [
        f"the picture image.0, {prompt.image(0).width} x {prompt.image(0).height} pixels"
    ]


# in a notebook ---------------------------------------------------------------------------------------

HOSTILE = '</span><script>alert(1)</script><img src=x onerror="alert(2)">&amp;\x1b[31m\u202e\n'


class Hostile:
    """A tokenizer whose every word is an attack."""

    def decode(self, ids: Any, **_: Any) -> str:
        return HOSTILE * len(ids)


class Broken:
    """A tokenizer that reads nothing."""

    def decode(self, *_: Any, **__: Any) -> str:
        raise RuntimeError("no such word")


def test_nothing_that_a_tokenizer_or_model_says_is_taken_for_html(monkeypatch):
    prompt = zoo.prompt("llava")
    monkeypatch.setattr(prompt.model.processor, "tokenizer", Hostile())
    answer = nv.Generation(text=HOSTILE, tokens=(5,), prompt=prompt.grown([5]))
    for value in (prompt, answer, nv.stack([prompt, prompt])):
        page = page_of(value)  # there are no other elements or attributes than ours
        assert "<script>alert(1)</script>" in page.text and r"&amp;\x1b[31m\u202e⏎" in page.text
        assert "\x1b" not in repr(value) and "\u202e" not in repr(value)


def test_a_tokenizer_that_fails_or_is_not_there_leaves_the_ids(monkeypatch):
    prompt = zoo.prompt("llava")
    last = str(prompt.rows[0].tokens[-1])
    monkeypatch.setattr(prompt.model.processor, "tokenizer", Broken())
    assert repr(prompt).endswith(f"{last}')") and last in [text for text, _ in page_of(prompt).chips()]
    bare = nv.load(prompt.model._module)
    assert repr(nv.encode(bare, inputs=dict(prompt.inputs))).endswith(f"{last}')")


def test_a_long_prompt_is_abbreviated():
    prompt = zoo.prompt("llava")
    ids = prompt.inputs["input_ids"]
    more = torch.cat([ids, ids[:, -5:].repeat(1, 400)], dim=1)
    long = nv.encode(prompt.model, inputs={"input_ids": more, "pixel_values": prompt.inputs["pixel_values"]})
    page, query = page_of(long), long["query"]
    skipped = len(query) - FIRST - LAST
    texts = [text for text, title in page.chips() if "query" in title or "positions" in title]
    assert texts[1 + FIRST] == f"… {skipped:,} tokens …" and len(texts) == 2 + FIRST + LAST
    assert len(long._repr_html_()) < 80_000 and len(repr(long)) < 250


def test_an_answer_shows_its_words_and_the_prompt_that_it_makes():
    model, prompt = zoo.load("llava"), zoo.prompt("llava")
    answer = nv.generate(model, prompt, max_new_tokens=3)
    page = page_of(answer)
    assert answer.text in page.text and "3 tokens" in page.text
    titles = [title for _, title in page.chips() if ", generated," in title]
    assert [title.split(",")[0] for title in titles] == [f"position {place}" for place in answer.prompt["generated"]]
    batch = nv.generate(model, nv.stack([prompt] * 10), max_new_tokens=1)
    assert "10 tokens" in page_of(batch).text and "… and 2 more rows" in page_of(batch).text
    assert "row 7" in page_of(nv.stack([prompt] * 10)).text and "row 8" not in page_of(nv.stack([prompt] * 10)).text


def luminance(color: tuple[float, ...]) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    parts = [part / 255 / 12.92 if part / 255 <= 0.04045 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in color]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def test_chips_are_read_with_the_contrast_that_wcag_asks_of_its_strictest_level():
    prompt = zoo.prompt("mllama").grown([7])  # which has all groups but that of videos
    style = re.compile(r"background:rgb\((\d+),(\d+),(\d+)\);color:#(..)(..)(..);border-bottom:3px solid (rgb.*?\))")
    found = [style.search(str(given.get("style"))) for _, given, _ in page_of(prompt).elements]
    found.append(style.search(chip("video", "a part of a frame")))
    chips = [chip.groups() for chip in found if chip]
    assert len({edge for *_, edge in chips}) == len(HUES) == 6  # every group has its own
    for *colors, _ in chips:
        background, letters = tuple(map(int, colors[:3])), tuple(int(part, 16) for part in colors[3:])
        assert (luminance(background) + 0.05) / (luminance(letters) + 0.05) >= 7


# pictures and grids ----------------------------------------------------------------------------------


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


RAMP = np.arange(64, dtype=np.float32).reshape(8, 8)
PICTURES = {
    "RGB": (Image.new("RGB", (8, 8), (10, 200, 30)), (10, 200, 30)),
    "RGBA": (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), (255, 255, 255)),
    "1": (Image.new("1", (8, 8), 1), (255, 255, 255)),
    "I;16": (Image.fromarray((RAMP * 1000).astype(np.uint16)), (0, 0, 0)),
    "F": (Image.fromarray(RAMP), (0, 0, 0)),
    "nothing": (Image.fromarray(np.full((8, 8), np.nan, dtype=np.float32)), (0, 0, 0)),
}


@pytest.mark.parametrize("mode", PICTURES)
def test_a_picture_of_any_mode_is_shown_in_colours(mode):
    picture, first = PICTURES[mode]
    shown = opened(picture_uri(picture))
    assert shown.size == (8, 8) and shown.convert("RGB").getpixel((0, 0)) == first
    if mode in ("I;16", "F"):
        assert shown.convert("RGB").getpixel((7, 7)) == (255, 255, 255)


def test_a_large_picture_becomes_small_and_a_lost_one_says_so(tmp_path):
    assert opened(picture_uri(Image.new("RGB", (3000, 1000), "red"))).size == (240, 80)
    Image.new("RGB", (40, 20)).save(tmp_path / "picture.png")
    lost = Image.open(tmp_path / "picture.png")
    lost.fp.close()
    assert "cannot be shown" in Reader(shown_picture(lost, "image.0")).text


def drawn_boxes(path: str) -> np.ndarray:
    """The boxes that a path draws, `[box, 4]`."""
    found = re.findall(r"M([\d.]+) ([\d.]+)H([\d.]+)V([\d.]+)H\1Z", path)
    assert "".join(f"M{a} {b}H{c}V{d}H{a}Z " for a, b, c, d in found).strip() == path
    return np.array(found, dtype=float)


@pytest.mark.parametrize(("name", "size"), [("llava", 1), ("llava_next", 1), ("idefics3", 0), ("qwen2_vl", 0)])
def test_a_grid_draws_the_cells_of_each_tile_on_the_picture(name, size):
    grid = zoo.prompt(name, size=size).grid()
    page = page_of(grid)
    drawings = [given for tag, given, _ in page.elements if tag == "svg"]
    assert [given["viewbox"] for given in drawings] == [f"0 0 {grid.size[0]} {grid.size[1]}"] * len(grid.shapes)
    paths = [str(given["d"]) for tag, given, _ in page.elements if tag == "path"]
    for tile in range(len(grid.shapes)):
        seen = (np.asarray(grid.tiles) == tile) & (grid.areas > 0)
        np.testing.assert_allclose(drawn_boxes(paths[2 * tile]), grid.boxes[seen], rtol=1e-3, atol=1e-3)
        positions = np.asarray(grid.positions)[seen]
        assert f"cells at {positions[0]}..{positions[-1]}" in str(drawings[tile]["aria-label"])
    assert opened(next(str(given["href"]) for tag, given, _ in page.elements if tag == "image")).size == grid.size
    assert grid.picture is not None and grid.placed.picture is grid.picture


def test_attributes_and_texts_of_elements_are_escaped():
    given = Reader(element("b", '"<i>&', title='"><i>&')).elements
    assert given == [("b", {"title": '"><i>&'}, ['"<i>&'])]
