"""Pictures from whatever holds one: each way gives the pixels that PIL's own picture gives."""

from __future__ import annotations

import base64
import http.server
import io
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import nnsight_vlm as nv
from nnsight_vlm.prompts import picture_sources
from nnsight_vlm.prompts.picture_sources import as_picture

QUESTION = "what is red ?"
SHAPE = (tiny.SIDE + 2, tiny.SIDE + 5)
COLOURS = np.random.default_rng(11).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
GREY = COLOURS[..., 0]
ALPHA = COLOURS[..., 1:2]


def file_of(picture: Image.Image, ending: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, ending, **options)
    return file.getvalue()


PNG = file_of(Image.fromarray(COLOURS))


def grey(shades: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(shades)[..., None], 3, -1).astype(np.uint8)


def on_white() -> np.ndarray:
    share = ALPHA / 255
    return np.rint(COLOURS * share + 255 * (1 - share)).astype(np.uint8)


ARRAYS: Mapping[str, tuple[Any, np.ndarray]] = {
    "bytes": (COLOURS, COLOURS),
    "channels first": (np.moveaxis(COLOURS, -1, 0), COLOURS),
    "one channel": (GREY[..., None], grey(GREY)),
    "grey": (GREY, grey(GREY)),
    "opacity": (np.concatenate([COLOURS, ALPHA], -1), on_white()),
    "fractions": ((COLOURS / 255).astype(np.float32), COLOURS),
    "fractional bytes": (COLOURS.astype(np.float64), COLOURS),
    "16 bits": (COLOURS.astype(np.uint16) * 257, COLOURS),
    "dark 16 bits": (np.minimum(COLOURS, 200).astype(np.uint16), np.rint(np.minimum(COLOURS, 200) / 257)),
    "whole numbers": (COLOURS.astype(np.int64), COLOURS),
    "on and off": (GREY > 127, grey((GREY > 127) * 255)),
    "a view": (COLOURS[::-1], COLOURS[::-1]),
    "tensor": (torch.tensor(COLOURS), COLOURS),
    "tensor, channels first": (torch.tensor(COLOURS).movedim(-1, 0), COLOURS),
    "tensor of fractions": (torch.tensor(COLOURS / 255).movedim(-1, 0), COLOURS),
    "tensor with a gradient": (torch.tensor(COLOURS / 255, requires_grad=True), COLOURS),
    "half precision": (torch.tensor(COLOURS).to(torch.bfloat16), torch.tensor(COLOURS).bfloat16().float().numpy()),
    "three rows": (COLOURS[:3], COLOURS[:3]),
    "tensor of three columns": (torch.tensor(COLOURS[:, :3]).movedim(-1, 0), COLOURS[:, :3]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_is_the_picture_that_its_numbers_show(name):
    given, colours = ARRAYS[name]
    model, expected = tiny.load(), Image.fromarray(np.ascontiguousarray(colours.astype(np.uint8)))
    prompt, reference = (nv.encode(model, QUESTION, each) for each in (given, expected))
    assert torch.equal(prompt.inputs["pixel_values"], reference.inputs["pixel_values"])
    assert prompt.image().size == expected.size and prompt.grid().size == expected.size


HOLDERS: Mapping[str, Callable[[Path], Any]] = {
    "path": str,
    "Path": lambda path: path,
    "file URL": lambda path: path.as_uri(),
    "bytes": lambda _: PNG,
    "bytearray": lambda _: bytearray(PNG),
    "base64": lambda _: base64.b64encode(PNG).decode(),
    "data URL": lambda _: "data:image/png;base64," + base64.b64encode(PNG).decode(),
    "data URL without base64": lambda _: "data:image/png," + urllib.parse.quote_from_bytes(PNG),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_a_file_is_opened_from_wherever_it_lies(name, tmp_path):
    path = tmp_path / "a picture.png"
    path.write_bytes(PNG)
    given = HOLDERS[name](path)
    assert np.array_equal(np.asarray(as_picture(given)), COLOURS)
    alone, several = nv.encode(tiny.load(), QUESTION, given), nv.encode(tiny.load(), QUESTION, [given, COLOURS])
    pixels = nv.encode(tiny.load(), QUESTION, Image.fromarray(COLOURS)).inputs["pixel_values"]
    assert torch.equal(alone.inputs["pixel_values"], pixels)
    assert torch.equal(several.inputs["pixel_values"], torch.cat([pixels, pixels]))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_bytes_of_any_mode_and_orientation_are_the_picture_of_their_file(mode, tmp_path):
    exif = Image.Exif()
    exif[picture_sources.ORIENTATION] = 6
    made = Image.fromarray(GREY.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(COLOURS).convert(mode)
    assert made.mode == mode
    content = file_of(made, "TIFF" if mode in ("CMYK", "I;16") else "PNG", exif=exif)
    (tmp_path / "file").write_bytes(content)
    turned = made.transpose(Image.Transpose.ROTATE_270)  # what lies on its side stands upright
    expected = nv.encode(tiny.load(), QUESTION, turned)
    for given in (content, tmp_path / "file"):
        prompt = nv.encode(tiny.load(), QUESTION, given)
        assert torch.equal(prompt.inputs["pixel_values"], expected.inputs["pixel_values"])
        assert prompt.image().size == turned.size == (SHAPE[0], SHAPE[1])


def test_a_picture_of_pil_stays_the_object_that_was_given():
    picture = tiny.picture(0)
    assert as_picture(picture) is picture


# servers ----------------------------------------------------------------------------------------------


class Server(http.server.BaseHTTPRequestHandler):
    """`/a.png` is a picture, `/moved` leads to it, `/page` is none, `/slow` never answers, all else is not there."""

    def do_GET(self) -> None:
        if self.path == "/slow":
            self.server.waiting.wait(5)
            return
        statuses = {"/a.png": 200, "/page": 200, "/moved": 302}
        self.send_response(statuses.get(self.path, 404))
        if self.path == "/moved":
            self.send_header("Location", "/a.png")
        self.end_headers()
        self.wfile.write({"/a.png": PNG, "/page": b"<html>"}.get(self.path, b""))

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.waiting = threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.waiting.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("page", ["/a.png", "/moved"])
def test_a_picture_is_fetched_from_a_server(address, page):
    assert np.array_equal(np.asarray(as_picture(address + page)), COLOURS)
    chat = [{"role": "user", "content": [{"type": "image", "url": address + page}, {"type": "text", "text": QUESTION}]}]
    expected = nv.encode(tiny.load(), QUESTION, COLOURS)
    assert torch.equal(nv.encode(tiny.load(), chat).inputs["pixel_values"], expected.inputs["pixel_values"])


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("{}/gone.png", "/gone.png' could not be fetched: the server answered 404 Not Found; fetch it yourself"),
        ("{}/page", "/page' is not a picture that can be opened"),
        ("{}/slow", "/slow' could not be fetched: timed out; fetch it yourself"),
        ("http://127.0.0.1:1/a.png", "could not be fetched: .*refused"),
        ("http://:::/a.png", "could not be fetched: Invalid"),
    ],
)
def test_what_cannot_be_fetched_is_refused_with_what_the_server_said(address, url, message, monkeypatch):
    monkeypatch.setattr(picture_sources, "TIMEOUT", 0.3)
    with pytest.raises(nv.SpecError, match=message):
        nv.encode(tiny.load(), QUESTION, url.format(address))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere.png", "no file 'nowhere.png'; give the path of a picture"),
        ("ftp://somewhere/a.png", "no file 'ftp://somewhere/a.png'"),
        ("file:///nowhere/a.png", "no file '/nowhere/a.png'"),
        ("x" * 5000, r"no file 'x+\.\.\.'"),
        (b"red", "what these bytes hold is not a picture"),
        (PNG[:60], "what these bytes hold is not a picture"),
        ("data:image/png;base64", "has no comma before its content"),
        ("data:image/png;base64,!", "'!' is not base64"),
        ("data:image/png,red", "is not a picture that can be opened"),
        (base64.b64encode(PNG[:60]).decode(), "base64 is not a picture that can be opened"),
        (np.zeros((2, 5, 5, 3), np.uint8), r"shape \[2, 5, 5, 3\] and type uint8 .* several pictures as a list"),
        (np.zeros((5, 5, 2), np.uint8), r"\[5, 5, 2\] is not a picture: neither its first nor its last number"),
        (np.zeros((0, 5, 3), np.uint8), r"shape \[0, 5, 3\]"),
        (np.zeros((5, 5), complex), "type complex128"),
        (np.array([["red"]]), "is not a picture"),
        (np.full((5, 5, 3), -0.5), "values from -0.5 to 0 does not say what is black"),
        (np.full((5, 5, 3), np.nan), "does not say what is black"),
        (torch.full((3, 5, 5), 1.5), "an array of float32 with values from 0 to 1.5"),
        ({"url": "a.png"}, "dict is not a picture"),
        (3, "int is not a picture"),
        ([[1, 2], [3, 4]], "list is not a picture"),
    ],
)
def test_what_is_no_picture_is_refused_in_words(given, message):
    with pytest.raises(nv.SpecError, match=message):
        nv.encode(tiny.load(), QUESTION, given)
