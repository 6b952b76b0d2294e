"""The present picture as a file: an SVG whose patches are where they are on the page, and a PNG that looks alike."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import payloads
import pytest
from payloads import PROMPT, top
from PIL import Image

WORD = len(PROMPT) + 2
SVG = "{http://www.w3.org/2000/svg}"


KEEP_SAVED = """
() => {
    window.saved = [];
    const made = new Map(), create = URL.createObjectURL;
    URL.createObjectURL = blob => { const url = create.call(URL, blob); made.set(url, blob); return url; };
    HTMLAnchorElement.prototype.click = function () { window.saved.push([this.download, made.get(this.href)]); };
}
"""
READ_SAVED = """
() => new Promise(done => {
    const [[name, blob]] = window.saved, reader = new FileReader();
    reader.onload = () => done([name, reader.result.split(",")[1]]);
    reader.readAsDataURL(blob);
})
"""


def saved(reader, kind: str) -> tuple[str, bytes]:
    """The name and the bytes of a file that a click saves."""
    if reader.page.context.browser.browser_type.name == "firefox":  # which tells a driver nothing of such downloads
        reader.page.evaluate(KEEP_SAVED)
        reader.box(f"save-{kind}").click()
        reader.page.wait_for_function("() => window.saved.length > 0")
        name, content = reader.page.evaluate(READ_SAVED)
        return name, base64.b64decode(content)
    with reader.page.expect_download() as waiting:
        reader.box(f"save-{kind}").click()
    file = waiting.value
    return file.suggested_filename, Path(file.path()).read_bytes()


@pytest.fixture
def reader(show):
    return show(payloads.square(columns=("clean", "changed")), f"#q=weight&l=1&h=mean&w=0.{WORD}")


def test_an_svg_is_a_picture_of_its_own(reader):
    name, content = saved(reader, "svg")
    assert name.endswith(".svg")
    root = ElementTree.fromstring(content)
    assert root.tag == f"{SVG}svg"
    tags = {each.tag for each in root.iter()}
    assert not tags & {f"{SVG}script", f"{SVG}foreignObject"}
    assert all(
        value.startswith(("data:", "#"))
        for each in root.iter()
        for key, value in each.attrib.items()
        if key.endswith("href")
    )
    text = " ".join(root.itertext())
    for words in ("square", "attention weight", "layer 1", "red square"):
        assert words in text


def test_the_strongest_patch_of_an_svg_lies_where_it_lies_in_the_picture(reader):
    root = ElementTree.fromstring(saved(reader, "svg")[1])
    image = next(root.iter(f"{SVG}image"))
    left, top_edge, width, height = (float(image.get(key, 0)) for key in ("x", "y", "width", "height"))
    own = payloads.PATCH / (payloads.SIDE * payloads.PATCH)
    patches = [each for each in root.iter(f"{SVG}rect") if abs(float(each.get("width", 0)) - own * width) < 1.5]
    colours = [each.get("fill") for each in patches]
    rare = [each for each in patches if colours.count(each.get("fill")) == 1]
    row, column = divmod(top(1, 0, WORD - 1), payloads.SIDE)
    places = [(float(each.get("x")), float(each.get("y"))) for each in rare]
    expected = (left + column * own * width, top_edge + row * own * height)
    assert any(np.abs(np.subtract(place, expected)).max() < 1.5 for place in places), (places, expected)


def test_a_png_shows_what_the_page_shows(reader):
    name, content = saved(reader, "png")
    picture = Image.open(io.BytesIO(content))
    assert name.endswith(".png") and picture.format == "PNG" and min(picture.size) > 300
    reader.away()
    on_page = reader.seen()
    row, column = divmod(top(1, 0, WORD - 1), payloads.SIDE)
    height, width = on_page.shape[:2]
    strongest = on_page[int((row + 0.25) / 4 * height), int((column + 0.25) / 4 * width)]
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    alike = (np.abs(pixels - strongest).max(-1) < 30).mean()
    assert 0.2 / 16 * (width * height) / pixels[..., 0].size < alike


def test_what_is_not_chosen_is_not_saved(show):
    reader = show(payloads.square(), "#l=1")
    reader.let_go()
    reader.box("show-objects").uncheck()
    assert "red square" not in saved(reader, "svg")[1].decode()
