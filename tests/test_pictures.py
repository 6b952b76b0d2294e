"""Encoding pictures of any size and mode: one or several per text, one text or several."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from float64 import LIMIT
from PIL import Image

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.prompts.position_ids import position_ids

SIX = ("llava", "internvl", "qwen2_vl", "idefics3", "paligemma", "llava_next")
"""All ways of processing: crop, cut into tiles, keep the shape, pad to one row of tiles, stretch, put on a canvas."""

# what each mode shows, computed without PIL's conversions --------------------------------------------

NOISE = np.random.default_rng(5).integers(0, 256, (22, 30, 4), dtype=np.uint8)
GREY, CODES, DEEP = NOISE[..., 0], NOISE[..., 0] // 16, NOISE[..., 0].astype(np.uint16) * 257
PALETTE = np.random.default_rng(6).integers(0, 256, (256, 3), dtype=np.uint8)


def merged(mode: str, planes: np.ndarray) -> Image.Image:
    return Image.merge(mode, [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(planes, -1, 0)])


def on_white(colours: np.ndarray) -> np.ndarray:
    share = NOISE[..., 3:] / 255
    return np.rint(colours * share + 255 * (1 - share))


def of_palette() -> Image.Image:
    """A picture with a palette, one of whose colours is transparent."""
    picture = Image.fromarray(CODES).convert("P")
    picture.putdata(CODES.flatten().tolist())
    picture.putpalette(PALETTE.tobytes())
    picture.info["transparency"] = 7
    return picture


MODES: Mapping[str, tuple[Image.Image, np.ndarray]] = {
    "RGBA": (Image.fromarray(NOISE), on_white(NOISE[..., :3])),
    "LA": (merged("LA", NOISE[..., [0, 3]]), on_white(NOISE[..., :1])),
    "L": (Image.fromarray(GREY), GREY[..., None]),
    "1": (Image.fromarray(GREY > 127), (GREY > 127)[..., None] * 255),
    "P": (of_palette(), np.where((CODES == 7)[..., None], 255, PALETTE[CODES])),
    "I;16": (Image.fromarray(DEEP), GREY[..., None]),
    "I": (Image.fromarray(DEEP.astype(np.int32)), GREY[..., None]),
    "I of bytes": (Image.fromarray(GREY.astype(np.int32)), GREY[..., None]),
    "F": (Image.fromarray(DEEP.astype(np.float32)), GREY[..., None]),
    "F of bytes": (Image.fromarray(GREY.astype(np.float32)), GREY[..., None]),
    "F of fractions": (Image.fromarray(GREY.astype(np.float32) / 255), GREY[..., None]),
    "CMYK": (merged("CMYK", NOISE), np.rint((255 - NOISE[..., :3].astype(float)) * (255 - NOISE[..., 3:]) / 255)),
}


def assert_same(prompt: nv.Prompt, other: nv.Prompt) -> None:
    """All inputs are equal, except for zeros that pad pixels to the size of a larger picture."""
    for name in prompt.inputs.keys() | other.inputs.keys():
        values = [each.inputs[name] for each in (prompt, other) if name in each.inputs]
        assert equal_up_to_padding(*values) if len(values) == 2 else not values[0].any(), name
    assert prompt.rows[0].images == other.rows[0].images
    assert prompt["text"] == other["text"]


def equal_up_to_padding(value: Any, other: Any) -> bool:
    """Whether tensors are equal where they overlap, and zero elsewhere."""
    assert isinstance(value, torch.Tensor) and isinstance(other, torch.Tensor), (type(value), type(other))
    if value.dim() != other.dim():
        return False
    shared = tuple(slice(min(sizes)) for sizes in zip(value.shape, other.shape, strict=True))
    if not torch.equal(value[shared], other[shared]):
        return False
    return all(tensor.count_nonzero() == tensor[shared].count_nonzero() for tensor in (value, other))


@pytest.fixture(params=SIX)
def family_name(request):
    return request.param


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_of_any_mode_is_the_rgb_picture_that_people_see(family_name, mode):
    model, text = load(family_name), zoo.ZOO[family_name].text
    picture, colours = MODES[mode]
    assert picture.mode == mode.split()[0]
    plain = Image.fromarray(np.broadcast_to(colours, (*GREY.shape, 3)).astype(np.uint8))
    prompt, expected = (nv.encode(model, text, shown) for shown in (picture, plain))
    assert_same(prompt, expected)
    assert any(not torch.equal(value, other) for value, other in pairs(prompt, nv.encode(model, text, zoo.picture())))
    assert prompt.image() is picture


def pairs(prompt: nv.Prompt, other: nv.Prompt) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each input of a prompt, and the same input of another."""
    return [(value, other.inputs[name]) for name, value in prompt.inputs.items()]


@pytest.mark.parametrize(("turned", "back"), [(3, 2), (6, 4), (8, 3)])
def test_a_turned_photograph_is_upright(family_name, turned, back):
    """EXIF orientation 3 is upside down, 6 and 8 lie on a side. The grid's boxes are those of the upright picture."""
    model, text = load(family_name), zoo.ZOO[family_name].text
    upright = zoo.picture(2, (24, 40))
    transposes = {2: Image.Transpose.ROTATE_180, 4: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_270}
    exif = Image.Exif()
    exif[0x0112] = turned
    file = io.BytesIO()
    upright.transpose(transposes[back]).save(file, "PNG", exif=exif)
    prompt, expected = (nv.encode(model, text, shown) for shown in (Image.open(file), upright))
    assert_same(prompt, expected)
    assert np.array_equal(np.asarray(prompt.image()), np.asarray(upright))
    assert prompt.grid().size == (24, 40) and np.array_equal(prompt.grid().boxes, expected.grid().boxes, equal_nan=True)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (50, 3), (300, 2), (2000, 20)])
def test_a_picture_of_any_size_keeps_its_colour_and_is_seen_from_edge_to_edge(family_name, size):
    """A picture of three rows of pixels is not taken for one of three channels."""
    model, text = load(family_name), zoo.ZOO[family_name].text
    prompt, usual = (nv.encode(model, text, Image.new("RGB", shown, (255, 0, 90))) for shown in (size, (24, 20)))
    assert shades(prompt) == shades(usual)
    grid = prompt.grid()
    seen = grid.boxes[grid.areas > 0]
    assert grid.size == size and len(grid.positions) == len(prompt["image"])
    assert (seen[:, :2] >= 0).all() and (seen[:, 2:] <= size).all()
    assert grid.heatmap(np.ones(len(grid.positions)))[size[1] // 2, size[0] // 2] == pytest.approx(1)
    assert nv.run(model, prompt).logits.isfinite().all()


def shades(prompt: nv.Prompt) -> set[float]:
    """The values of a picture of one colour, one per channel; without zeros, which pad tiles."""
    return set(prompt.inputs["pixel_values"].round(decimals=3).unique().tolist()) - {0.0}


@pytest.mark.parametrize("size", [(500, 2), (2, 500)])
def test_a_picture_that_a_processor_refuses_is_an_error(size):
    """Qwen's processor refuses pictures 200 times as long as wide."""
    with pytest.raises(ValueError, match="aspect ratio must be smaller than 200"):
        nv.encode(load("qwen2_vl"), zoo.ZOO["qwen2_vl"].text, zoo.picture(1, size))


def test_what_is_not_a_picture_is_refused(family_name):
    model, text = load(family_name), zoo.ZOO[family_name].text
    for given in (7, {"image": zoo.picture()}, [zoo.picture(), None], [[zoo.picture(), 1.5]]):
        with pytest.raises(nv.SpecError, match=r"is not a picture; open it with PIL\.Image\.open\(path\)"):
            nv.encode(model, text, given)
    with pytest.raises(nv.SpecError, match=r"no file 'photo\.png'; give the path of a picture"):
        nv.encode(model, text, "photo.png")
    with pytest.raises(nv.SpecError, match=r"pictures for 1 row\(s\) were given, and there are 2"):
        nv.encode(model, [text, text], zoo.picture())


# several texts and pictures -----------------------------------------------------------------------


def load(name: str, dtype: torch.dtype = torch.float32) -> Any:
    return zoo.load(name, zoo.ZOO[name].implementations[0], dtype)


@pytest.fixture(params=list(zoo.ZOO))
def name(request):
    try:
        load(request.param)
    except nv.SpecError as error:
        if "no family for models" not in str(error):
            raise
        pytest.skip(str(error).partition(";")[0])
    return request.param


def texts_of(name: str) -> list[str]:
    """Two questions of different lengths, each about one picture."""
    text = zoo.ZOO[name].text
    return [text, text.replace("what is red ?", "what is the red dog on the left ?")]


def pictures_for(name: str) -> list[Image.Image]:
    """Two pictures, of different sizes where a batch may have them."""
    sizes = zoo.ZOO[name].sizes
    equal = view_of(load(name)).family.grid == "equal tiles"
    return [zoo.picture(1, sizes[-1]), zoo.picture(2, sizes[-1] if equal else sizes[0])]


def assert_same_logits(model: Any, batch: nv.Prompt, alone: Sequence[nv.Prompt]) -> None:
    together = nv.run(model, batch).logits
    apart = torch.stack([nv.run(model, prompt).logits for prompt in alone])
    assert together.shape == apart.shape
    assert (together - apart).abs().max() <= LIMIT * apart.abs().max()


@pytest.mark.float64
def test_a_row_of_a_batch_equals_its_prompt_encoded_alone(name, dtype):
    model, texts, pictures = load(name, dtype), texts_of(name), pictures_for(name)
    alone = [nv.encode(model, text, picture) for text, picture in zip(texts, pictures, strict=True)]
    assert alone[0].inputs["input_ids"].shape != alone[1].inputs["input_ids"].shape
    batch = nv.encode(model, texts, pictures)
    assert len(batch) == 2
    for number, prompt in enumerate(alone):
        assert_same(batch.row(number), prompt)
        assert batch.row(number).image() is pictures[number]
    stacked = nv.stack(alone)
    assert all(torch.equal(value, other) for value, other in pairs(batch, stacked))
    assert_same_logits(model, batch, alone)
    equal = nv.encode(model, [texts[0]] * 2, pictures[:1] * 2)
    assert_same(equal.row(1), alone[0])
    assert_same_logits(model, equal, [alone[0]] * 2)


@pytest.mark.float64
def test_a_batch_encoded_by_the_processor_has_the_same_rows(name, dtype):
    model, texts, pictures = load(name, dtype), texts_of(name), pictures_for(name)
    alone = [nv.encode(model, text, picture) for text, picture in zip(texts, pictures, strict=True)]
    encoder = "encoder" in view_of(model).family.stages
    inputs = processor_batch(model.processor, texts, pictures, "right" if encoder else "left").to(dtype)
    if "0" in "".join(map(str, inputs["attention_mask"][0].tolist())).strip("0"):
        with pytest.raises(nv.SpecError, match="ones in one piece"):  # padding between an image and its text
            nv.encode(model, inputs=dict(inputs), images=pictures)
        inputs = processor_batch(model.processor, texts, pictures, "right").to(dtype)
    batch = nv.encode(model, inputs=dict(inputs), images=pictures)
    for number, prompt in enumerate(alone):
        assert_same(batch.row(number), prompt)
    assert_same_logits(model, batch, alone)


def processor_batch(processor: Any, texts: Sequence[str], pictures: Sequence[Image.Image], side: str) -> Any:
    """A processor's encoding of texts with one picture each; some processors take all pictures in one list."""
    opened = texts[0].startswith(processor.tokenizer.bos_token)
    options = {"return_tensors": "pt", "padding": True, "padding_side": side}
    options |= {"add_special_tokens": False} if opened else {}
    try:
        return processor(text=list(texts), images=[[picture] for picture in pictures], **options)
    except ValueError:
        return processor(text=list(texts), images=list(pictures), **options)


def marker_of(name: str) -> str:
    """The image placeholder in the member's text."""
    marker, text = str(load(name).processor.image_token), zoo.ZOO[name].text
    return next(word for word in text.split() if marker in word)


@pytest.mark.float64
def test_a_row_without_a_picture_shares_a_batch_with_one_that_has_one(name, dtype):
    model, text = load(name, dtype), zoo.ZOO[name].text
    if view_of(model).family.writes_image:
        pytest.skip("its processor adds an image to every text")
    bare = text.replace(f"{marker_of(name)} ", "")
    picture = pictures_for(name)[0]
    with_picture = nv.encode(model, text, picture)
    try:
        without = nv.encode(model, bare, chat=False)
    except ValueError as error:
        assert "must provide valid `images`" in str(error)
        pytest.skip("its processor wants a picture in every text")
    if view_of(model).family.image_at == "cross":
        with pytest.raises(nv.SpecError, match="only if they have equally many images"):
            nv.stack([with_picture, without])
        return
    for order in (1, -1):
        alone, given = [with_picture, without][::order], [picture, None][::order]
        batch = nv.encode(model, [text, bare][::order], given, chat=False)
        for number, prompt in enumerate(alone):
            assert_same(batch.row(number), prompt)
        assert [len(row.images) for row in batch.rows] == [1, 0][::order]
        assert_same_logits(model, batch, alone)


@pytest.mark.float64
def test_frames_of_a_video_are_pictures_of_one_prompt(name, dtype):
    """Of three frames, two are the same picture; each has its own tokens."""
    model = load(name, dtype)
    if "several images" in view_of(model).family.limitations:
        pytest.skip(view_of(model).family.limitations["several images"])
    marker, size = marker_of(name), zoo.ZOO[name].sizes[0]
    frames = [zoo.picture(seed, size) for seed in (1, 2, 1)]
    text = zoo.ZOO[name].text.replace(marker, " and ".join([marker] * 3))
    prompt = nv.encode(model, text, frames)
    images = [prompt[f"image.{number}"] for number in range(3)]
    assert [position for image in images for position in image] == list(prompt["image"])
    assert len({len(image) for image in images}) == 1
    assert [prompt.image(number) for number in range(3)] == frames
    with pytest.raises(nv.SpecError, match="2 picture"):
        nv.encode(model, text, frames[:2])
    single = nv.encode(model, zoo.ZOO[name].text, frames[1])
    if view_of(model).family.image_at == "cross":
        with pytest.raises(nv.SpecError, match="only if they have equally many images"):
            nv.stack([prompt, single])
        return
    batch = nv.encode(model, [text, zoo.ZOO[name].text], [frames, frames[1]])
    assert_same(batch.row(0), prompt)
    assert_same(batch.row(1), single)
    assert_same_logits(model, batch, [prompt, single])


def test_pictures_that_must_have_equally_many_tiles_share_no_batch_otherwise():
    model, text = zoo.load("perception_lm", "sdpa"), zoo.ZOO["perception_lm"].text
    small, large = zoo.picture(1, (30, 26)), zoo.picture(2, (70, 40))
    tiles = [nv.encode(model, text, picture).inputs["pixel_values"].shape[1] for picture in (small, large)]
    assert tiles[0] < tiles[1]
    with pytest.raises(nv.SpecError, match=f"have {tiles[0]} and {tiles[1]} tiles.*one at a time"):
        nv.encode(model, [text, text], [small, large])
    assert len(nv.encode(model, [text, text], [large, large])) == 2


@pytest.mark.parametrize("name", ["mllama", "perception_lm", "florence2"])
def test_prompts_that_share_no_batch_are_answered_in_several(name):
    model, text = zoo.load(name, "sdpa"), zoo.ZOO[name].text
    small, large = nv.encode(model, text, zoo.picture(1, (30, 26))), nv.encode(model, text, zoo.picture(2, (70, 40)))
    others = {
        "mllama": lambda: nv.encode(model, text.replace("<|image|>", "red"), chat=False),
        "florence2": lambda: large.grown([5, 7]),
    }
    prompts = [small, others.get(name, lambda: large)(), small]
    with pytest.raises(nv.SpecError, match="one at a time"):
        nv.stack(prompts)
    answers = nv.generations(model, [(prompt, None) for prompt in prompts], max_new_tokens=3)
    alone = [nv.generate(model, prompt, max_new_tokens=3).tokens for prompt in prompts]
    assert [answer.tokens for answer in answers] == alone


def here(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(name not in zoo.ZOO, reason=f"{name} does not run with this transformers")


@here("minicpmv4_6")
def test_pixels_of_other_slices_than_their_sizes_say_are_refused():
    small, large = zoo.prompt("minicpmv4_6"), zoo.prompt("minicpmv4_6", size=1)
    columns = [prompt.inputs["pixel_values"].shape[-1] for prompt in (small, large)]
    with pytest.raises(nv.SpecError, match=f"pixel_values have {columns[0]} columns.*target_sizes {columns[1]}"):
        nv.encode(large.model, inputs={**large.inputs, "pixel_values": small.inputs["pixel_values"]})


@here("hunyuan_vl")
@pytest.mark.float64
def test_rows_of_a_batch_count_their_own_images_and_answer_as_alone(dtype):
    """The model itself goes on counting from row to row: a row's answer would depend on how many pictures are above."""
    model, texts, pictures = load("hunyuan_vl", dtype), texts_of("hunyuan_vl"), pictures_for("hunyuan_vl")
    alone = [nv.encode(model, text, picture) for text, picture in zip(texts, pictures, strict=True)]
    batch = nv.stack(alone)
    own = view_of(model).rope_index({name: batch.inputs[name] for name in batch.inputs if name != "pixel_values"})
    found = position_ids(batch)
    assert found.shape == own.shape and torch.equal(found[:, 0], own[:, 0]) and not torch.equal(found[:, 1], own[:, 1])
    assert torch.equal(found[:, 1, batch.rows[1].start :], position_ids(alone[1])[:, 0])
    answers = nv.generate(model, batch, max_new_tokens=4).tokens
    assert list(map(tuple, answers)) == [nv.generate(model, prompt, max_new_tokens=4).tokens for prompt in alone]
