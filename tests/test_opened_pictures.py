"""Files of pictures: the command line, reports and `nv.encode` see the same picture, by the values of its pixels."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from typer.testing import CliRunner

import nnsight_vlm as nv
from nnsight_vlm.cli import app
from nnsight_vlm.plots import Overlay, answer_map, draw_overlays
from nnsight_vlm.plots.canvas import figure_of
from nnsight_vlm.prompts.pictures import as_rgb, open_picture, upright
from nnsight_vlm.report import study
from nnsight_vlm.report.config import ReportConfig

NOISE = np.random.default_rng(3).integers(0, 256, (tiny.SIDE, tiny.SIDE + 4, 4), dtype=np.uint8)
COLOURS, GREY, ALPHA = NOISE[..., :3], NOISE[..., 0], NOISE[..., 3]
DEEP = GREY.astype(np.uint16) * 257
"""16 bits, of which 257 make one of 8."""
DARK = np.minimum(DEEP, 200)
"""Nearly black in 16 bits, although it would be bright in 8."""


def grey(shades: np.ndarray) -> np.ndarray:
    return np.broadcast_to(shades[..., None], (*shades.shape, 3)).astype(np.uint8)


def on_white(colours: np.ndarray) -> np.ndarray:
    share = ALPHA[..., None] / 255
    return np.rint(colours * share + 255 * (1 - share)).astype(np.uint8)


def png(path: Path, rows: np.ndarray, depth: int, kind: int, transparent: bytes = b"") -> None:
    """A PNG file written by hand: `rows` as big-endian numbers, of a colour type, with a transparent shade."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], depth, kind, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    extra = chunk(b"tRNS", transparent) if transparent else b""
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def saved(picture: Image.Image, ending: str, **options: object) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        picture.save(folder / f"picture.{ending}", **options)
        return folder / f"picture.{ending}"

    return write


def written(rows: np.ndarray, depth: int, kind: int, transparent: bytes = b"") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        png(folder / "picture.png", rows, depth, kind, transparent)
        return folder / "picture.png"

    return write


def turned() -> Callable[[Path], Path]:
    """A photograph that lies on its side, and says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.fromarray(np.ascontiguousarray(np.rot90(COLOURS))), "png", exif=exif)


def palette(transparent: int | None = None) -> tuple[Image.Image, np.ndarray]:
    codes, colours = GREY // 16, np.random.default_rng(4).integers(0, 256, (256, 3), dtype=np.uint8)
    picture = Image.fromarray(codes).convert("P")
    picture.putdata(codes.flatten().tolist())
    picture.putpalette(colours.tobytes())
    seen = colours[codes]
    if transparent is None:
        return picture, seen
    return picture, np.where((codes == transparent)[..., None], 255, seen).astype(np.uint8)


FRAMES = [palette()[0], Image.new("P", (tiny.SIDE + 4, tiny.SIDE))]

FILES: Mapping[str, tuple[Callable[[Path], Path], np.ndarray]] = {
    "RGB": (saved(Image.fromarray(COLOURS), "png"), COLOURS),
    "RGB, TIFF": (saved(Image.fromarray(COLOURS), "tiff"), COLOURS),
    "BMP": (saved(Image.fromarray(COLOURS), "bmp"), COLOURS),
    "grey": (saved(Image.fromarray(GREY), "png"), grey(GREY)),
    "one bit": (saved(Image.fromarray(GREY > 127), "png"), grey((GREY > 127) * 255)),
    "transparent": (saved(Image.fromarray(NOISE), "png"), on_white(COLOURS)),
    "transparent, WebP": (saved(Image.fromarray(NOISE), "webp", lossless=True, exact=True), on_white(COLOURS)),
    "transparent grey": (written(NOISE[..., [0, 3]], 8, 4), on_white(grey(GREY))),
    "a transparent colour": (
        written(COLOURS, 8, 2, struct.pack(">HHH", *map(int, COLOURS[0, 0]))),
        np.where((COLOURS[0, 0] == COLOURS).all(-1, keepdims=True), 255, COLOURS).astype(np.uint8),
    ),
    "a transparent shade": (
        written(GREY[..., None], 8, 0, struct.pack(">H", int(GREY[0, 0]))),
        grey(np.where(GREY[0, 0] == GREY, 255, GREY)),
    ),
    "palette": (saved(palette()[0], "png"), palette()[1]),
    "a transparent entry": (saved(palette(7)[0], "png", transparency=7), palette(7)[1]),
    "a transparent entry, GIF": (saved(palette(7)[0], "gif", transparency=7), palette(7)[1]),
    "the first frame": (saved(FRAMES[0], "gif", save_all=True, append_images=FRAMES[1:]), palette()[1]),
    "16 bits": (saved(Image.fromarray(DEEP), "png"), grey(GREY)),
    "16 bits, TIFF": (saved(Image.fromarray(DEEP), "tiff"), grey(GREY)),
    "16 bits, big-endian": (written(DEEP.astype(">u2")[..., None], 16, 0), grey(GREY)),
    "16 bits, dark": (saved(Image.fromarray(DARK), "png"), grey(np.rint(DARK / 257))),
    "16 bits, a transparent shade": (
        written(DEEP.astype(">u2")[..., None], 16, 0, struct.pack(">H", int(DEEP[0, 0]))),
        grey(np.where(GREY[0, 0] == GREY, 255, GREY)),
    ),
    "32 bits": (saved(Image.fromarray(DEEP.astype(np.int32)), "tiff"), grey(GREY)),
    "fractions": (saved(Image.fromarray(GREY.astype(np.float32) / 255), "tiff"), grey(GREY)),
    "fractional bytes": (saved(Image.fromarray(GREY.astype(np.float32)), "tiff"), grey(GREY)),
    "fractional 16 bits": (saved(Image.fromarray(DEEP.astype(np.float32)), "tiff"), grey(GREY)),
    "ink": (
        saved(Image.merge("CMYK", [Image.fromarray(np.ascontiguousarray(NOISE[..., n])) for n in range(4)]), "tiff"),
        np.rint((255 - COLOURS.astype(float)) * (255 - ALPHA[..., None]) / 255).astype(np.uint8),
    ),
    "turned": (turned(), COLOURS),
}


@pytest.fixture(params=FILES)
def file_and_colours(request, tmp_path):
    write, colours = FILES[request.param]
    (tmp_path / "pictures").mkdir()
    return write(tmp_path / "pictures"), colours


def test_a_file_is_opened_as_people_see_it(file_and_colours):
    path, colours = file_and_colours
    opened = open_picture(path)
    assert opened.mode == "RGB" and np.array_equal(np.asarray(opened), colours)


def test_every_way_to_a_model_sees_the_same_picture(file_and_colours, tmp_path, monkeypatch):
    path, colours = file_and_colours
    model, question = tiny.load("sdpa"), "what is red ?"
    expected = nv.encode(model, question, Image.fromarray(colours)).inputs["pixel_values"]
    with Image.open(path) as opened:
        by_hand = nv.encode(model, question, opened)
    assert torch.equal(by_hand.inputs["pixel_values"], expected)
    [reported] = study.gather(model, ReportConfig(images=str(path.parent), query=question).checked()).prompts
    assert torch.equal(reported.inputs["pixel_values"], expected)
    shown = []
    for command in ("ground", "knockout"):
        monkeypatch.setattr(
            f"nnsight_vlm.report.single.{command}_one", lambda _, picture, *__, **___: shown.append(picture) or 1 / 0
        )
        CliRunner().invoke(app, [command, str(path), question, "--out", str(tmp_path / "out.png")])
    assert len(shown) == 2
    for picture in shown:
        assert torch.equal(nv.encode(model, question, picture).inputs["pixel_values"], expected)


def test_a_map_is_drawn_over_the_picture_that_people_see(file_and_colours):
    path, colours = file_and_colours
    with Image.open(path) as opened:
        for picture in (open_picture(path), upright(opened)):  # a prompt holds it upright, in its own mode
            overlay = Overlay(image=picture, heat=np.zeros(colours.shape[:2]), peak=(1, 1), title="")
            for axes in (draw_overlays([[overlay]]), answer_map(picture, overlay, None, title="")):
                drawn = figure_of(axes.flat[0]).axes[:2]
                whole, under = (axis.get_images()[0].get_array() for axis in drawn)
                assert np.array_equal(np.asarray(whole), colours)
                assert np.array_equal(np.asarray(under), np.asarray(Image.fromarray(colours).convert("L")))


MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")


@pytest.mark.parametrize("mode", MODES)
def test_a_colour_of_every_mode_is_that_colour(mode):
    coloured = ((255, 0, 0), (0, 0, 255), (200, 100, 50))
    # LAB of 8 bits cannot tell pure blue from its neighbours
    shown = {"1": (), "L": (), "LAB": coloured[2:]}.get(mode, coloured)
    for colour in ((255, 255, 255), (0, 0, 0), *shown):
        picture = Image.new("RGB", (3, 2), colour).convert(mode, palette=Image.Palette.ADAPTIVE)
        assert picture.mode == mode
        assert np.abs(np.asarray(as_rgb(picture)).astype(int) - colour).max() <= 2


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA"])
def test_what_is_transparent_is_white_and_what_is_half_transparent_is_half_white(mode):
    for alpha, seen in ((0, 255), (255, 100), (128, 177)):
        picture = Image.new("LA", (3, 2), (100, alpha))
        picture = picture.convert(mode) if mode in ("La", "LA") else picture.convert("RGBA").convert(mode)
        assert picture.mode == mode
        assert np.abs(np.asarray(as_rgb(picture)).astype(int) - seen).max() <= 1


def test_a_palette_with_transparent_colours_is_put_on_white():
    picture = Image.new("P", (2, 1))
    picture.putdata([0, 1])
    picture.putpalette([10, 20, 30, 0, 40, 50, 60, 255], "RGBA")
    assert np.asarray(as_rgb(picture)).tolist() == [[[255, 255, 255], [40, 50, 60]]]


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I;16N"])
def test_white_of_16_bits_does_not_depend_on_what_else_is_in_the_picture(mode):
    for value, seen in ((65535, 255), (32896, 128), (257, 1), (200, 1), (0, 0)):
        picture = Image.frombytes(mode, (2, 1), struct.pack(">HH" if mode == "I;16B" else "<HH", value, value))
        assert np.asarray(as_rgb(picture)).tolist() == [[[seen] * 3] * 2]


@pytest.mark.parametrize("values", [[-1.0, 1.0], [0.0, 1.5], [0.0, float("nan")], [0.0, 1e6], [0.0, float("inf")]])
def test_numbers_that_do_not_say_what_is_white_are_refused(values, tmp_path):
    picture = Image.fromarray(np.asarray([values], dtype=np.float32))
    picture.save(tmp_path / "0.tiff")
    for call in (
        lambda: nv.encode(tiny.load("sdpa"), "what is red ?", picture),
        lambda: open_picture(tmp_path / "0.tiff"),
    ):
        with pytest.raises(nv.SpecError, match="does not say what is black and what is white; give fractions"):
            call()


def test_a_file_that_is_no_picture_is_refused(tmp_path):
    whole = tmp_path / "whole.png"
    Image.fromarray(COLOURS).save(whole)
    (tmp_path / "half.png").write_bytes(whole.read_bytes()[:200])
    (tmp_path / "text.png").write_text("no picture")
    for name in ("half.png", "text.png"):
        with pytest.raises(nv.SpecError, match=f"{name}' is not a picture that can be opened"):
            open_picture(tmp_path / name)
    for path in (tmp_path / "nowhere.png", tmp_path):
        with pytest.raises(nv.SpecError, match="no file"):
            open_picture(path)
