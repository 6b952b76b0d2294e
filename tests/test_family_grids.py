"""The planted patch: pixels are changed inside the box of one token, and that token is the one that moves.

Every family's vision side is made local (`Member.local`), so what a token sees is told by the model: what enters its
decoder, or the keys of its cross-attention, seen with plain hooks. None of the package's arithmetic is on that side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from numpy.lib.stride_tricks import sliding_window_view
from zoo import planted
from zoo.parts import picture_settings

import nnsight_vlm as nv
from nnsight_vlm.families import view_of

SEEDS = range(1, 6)
CLEAR = 1.5
"""A token has moved most when it moved so much more than any other of its tile, over as many pictures as that takes in
every tile that shows the pixels.

Codes of a codebook (Chameleon) do not move with every change; where patches overlap (Florence-2) its neighbour moves.
"""

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Shown:
    """A local model that is shown noise of some size; `stage` is the one whose tokens have places."""

    model: Any
    text: str
    size: tuple[int, int]
    stage: str

    def prompt(self, seed: int) -> nv.Prompt:
        return nv.encode(self.model, self.text, zoo.picture(seed, self.size))

    def moved(self, seed: int, where: np.ndarray) -> np.ndarray:
        """How much each position moves when the pixels of a mask are inverted."""
        before = self.prompt(seed)
        after = nv.encode(self.model, self.text, planted.inverted(before.image(), where))
        return planted.changed(before, after, self.stage)

    def most(self, grid: nv.Grid, at: int, pixels: Box) -> np.ndarray:
        """How much each token of the grid moves with some pixels, over as many pictures as tell which moves most."""
        places, total = np.asarray(grid.positions), np.zeros(len(grid.positions))
        own, tiles = of_tile(grid, grid.tiles[at]), [of_tile(grid, tile) for tile in set(grid.tiles)]
        for seed in SEEDS:
            total += self.moved(seed, mask_of(self.size, pixels))[places]
            if 0 < total[at] == total[own].max() and all(is_clear(total[tile]) for tile in tiles):
                break
        return total

    def grid(self) -> nv.Grid:
        return self.prompt(1).grid(stage=self.stage)


def is_clear(moved: np.ndarray) -> bool:
    """Whether no token of a tile moved at all, or one much more than any other."""
    *_, second, most = np.sort(np.append(moved, [0, 0]))
    return bool(most == 0 or most > CLEAR * second)


def placed(family: Any) -> str | None:
    """The first stage whose tokens have places: patches that a Q-Former reads, an encoder's tokens, the decoder's."""
    if "grid" not in family.limitations:
        return "encoder" if "encoder" in family.stages else "decoder"
    return next((name for name, stage in family.stages.items() if stage.keys), None)


def sizes(member: Any) -> tuple[tuple[int, int], ...]:
    """The member's own, and the last of them three times as large."""
    width, height = member.sizes[-1]
    return (*member.sizes, (3 * width, 3 * height))


def shown_to(name: str, size: tuple[int, int]) -> Shown:
    model, member = planted.local(name), zoo.ZOO[name]
    stage = placed(view_of(model).family)
    shown = Shown(model, member.text, size, stage or "decoder")
    there = dict(shown.prompt(1).rows[0].stages)
    if stage is None or (stage != "decoder" and stage not in there):
        pytest.skip("no token has a place: test_families_without_places_say_why")
    return shown


EVERY = [(name, size) for name, member in zoo.ZOO.items() for size in sizes(member)]


@pytest.fixture(params=EVERY, ids=[f"{name}-{width}x{height}" for name, (width, height) in EVERY])
def shown(request):
    return shown_to(*request.param)


@pytest.fixture(params=list(zoo.ZOO))
def name(request):
    return request.param


@pytest.fixture(params=list(zoo.ZOO))
def largest(request):
    """A picture of several tiles, where the family has such."""
    return shown_to(request.param, zoo.ZOO[request.param].sizes[-1])


def mask_of(size: tuple[int, int], box: Box) -> np.ndarray:
    mask = np.zeros(size[::-1], dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def inner(box: np.ndarray) -> Box | None:
    """The whole pixels strictly inside a box, of a large one those in its middle; None where there are none."""
    span = box[2:] - box[:2]
    margin = np.where(span >= 6, span / 6, -0.05)  # a fit of colours is no finer than that
    left, top = np.ceil(box[:2] + margin).astype(int).tolist()
    right, bottom = np.floor(box[2:] - margin).astype(int).tolist()
    return (left, top, right, bottom) if left < right and top < bottom else None


def sampled(grid: nv.Grid) -> Iterator[tuple[int, Box]]:
    """Of each tile the first, the middle and the last token with whole pixels, and these pixels."""
    for tile in range(len(grid.shapes)):
        there = [(int(at), pixels) for at in of_tile(grid, tile) if (pixels := inner(grid.boxes[at]))]
        yield from (there[at] for at in sorted({0, len(there) // 2, len(there) - 1}) if there)


def of_tile(grid: nv.Grid, tile: int) -> np.ndarray:
    return np.flatnonzero(np.asarray(grid.tiles) == tile)


def test_pixels_planted_in_one_box_move_that_token_most(shown):
    grid = shown.grid()
    tokens = list(sampled(grid))
    seen = {grid.tiles[at] for at in np.flatnonzero(grid.areas > 0)}
    assert {grid.tiles[at] for at, _ in tokens} == seen, "no box of some tile has whole pixels"
    places = np.asarray(grid.positions)
    for at, pixels in tokens:
        tile, moved = of_tile(grid, grid.tiles[at]), shown.most(grid, at, pixels)
        winner = tile[moved[tile].argmax()]
        assert winner == at, f"{pixels} moved {grid.cells[winner]}, and it is {grid.cells[at]} whose box they are in"
        others = {grid.tiles[other]: other for other in np.argsort(moved) if moved[other] > 0}
        for number, most in others.items():  # the same pixels in other tiles
            hits = grid.tokens_in(tuple(map(float, pixels)))
            if number >= 0 and set(hits) & set(places[of_tile(grid, number)].tolist()):
                assert grid.positions[most] in hits, f"{pixels} moved {grid.cells[most]} of tile {number}"


def test_a_box_finds_the_token_whose_box_it_is(shown):
    grid = shown.grid()
    prompt = shown.prompt(1)
    for at, _ in sampled(grid):
        x0, y0, x1, y1 = grid.boxes[at]
        assert grid.positions[at] in grid.tokens_in((x0, y0, x1, y1))
        wide, high = (x1 - x0) / 4, (y1 - y0) / 4
        core = (x0 + wide, y0 + high, x1 - wide, y1 - high)
        hits = grid.tokens_in(core)
        tiles = np.asarray(grid.tiles)[np.isin(grid.positions, hits)]
        assert [hit for hit, tile in zip(hits, tiles, strict=True) if tile == grid.tiles[at]] == [grid.positions[at]]
        for position in hits:  # of other tiles, every token that covers some of it
            left, top, right, bottom = grid.boxes[grid.positions.index(position)]
            assert left < core[2] and core[0] < right and top < core[3] and core[1] < bottom
        assert prompt.region(core, stage=shown.stage) == hits
        assert grid.coverage(core)[at] == pytest.approx(0.25)


def test_a_heatmap_peaks_in_its_tokens_box_and_is_empty_where_no_patch_looks(shown):
    grid = shown.grid()
    width, height = grid.size
    assert grid.size == shown.size
    for at, (left, top, right, bottom) in sampled(grid):
        drawn = grid.heatmap(np.arange(len(grid.positions)) == at)
        assert drawn.shape == (height, width)
        row, column = np.unravel_index(np.nanargmax(drawn), drawn.shape)
        x0, y0, x1, y1 = grid.boxes[at]
        assert x0 - 1 <= column + 0.5 <= x1 + 1 and y0 - 1 <= row + 0.5 <= y1 + 1  # edges fall on whole pixels
        assert not np.isnan(drawn[top:bottom, left:right]).any()
    unseen = np.isnan(grid.heatmap(np.zeros(len(grid.positions))))
    drawn_by = [box for box in grid.boxes if not np.isnan(box).any() and inner(box)]
    for x, y in ((0, 0), (width - 1, height - 1), (width // 2, height // 3)):
        holds = any(x0 <= x and x + 1 <= x1 and y0 <= y and y + 1 <= y1 for x0, y0, x1, y1 in drawn_by)
        assert not (holds and unseen[y, x])
    far = beyond(~unseen, reach=int(np.nanmax(grid.boxes[:, 2:] - grid.boxes[:, :2])) + 1)
    if far.any():
        assert not shown.moved(1, far)[np.asarray(grid.positions)[grid.areas > 0]].any()


def beyond(mask: np.ndarray, reach: int) -> np.ndarray:
    """Where a mask is false and stays so when it grows: pixels leak as far as that when a picture is resized."""
    side = 2 * reach + 1
    grown = sliding_window_view(np.pad(mask, ((reach, reach), (0, 0))), side, 0).any(-1)
    return ~sliding_window_view(np.pad(grown, ((0, 0), (reach, reach))), side, 1).any(-1)


def test_tokens_without_a_place_are_those_that_no_pixel_moves(largest):
    """Line breaks between rows of patches; what pools the whole image (Florence-2) has no one place either."""
    grid = largest.grid()
    tiles, cells = np.asarray(grid.tiles), np.asarray(grid.cells)
    bare = np.isnan(grid.boxes).any(1)
    assert np.array_equal(bare, tiles == -1) and np.array_equal(bare, (cells == -1).all(1))
    assert np.isnan(grid.boxes[bare]).all()
    everywhere = np.ones(largest.size[::-1], dtype=bool)
    moved = sum(largest.moved(seed, everywhere)[np.asarray(grid.positions)] for seed in SEEDS) > 0
    pools = np.flatnonzero(bare & moved)
    assert set(pools.tolist()) <= {0}
    assert np.array_equal(moved[~bare], grid.areas[~bare] > 0)  # an empty box: a patch of padding


def test_families_without_places_say_why(name):
    model = planted.local(name)
    family = view_of(model).family
    prompt = nv.encode(model, zoo.ZOO[name].text, zoo.picture(1, zoo.ZOO[name].sizes[0]))
    assert ("grid" in family.limitations) == (not prompt.rows[0].cells[0].shapes)
    if "grid" not in family.limitations:
        assert prompt.region((0, 0, *prompt.image().size))
        return
    for ask in (prompt.grid, lambda: prompt.region((0, 0, 5, 5))):
        with pytest.raises(nv.SpecError) as error:
            ask()
        assert family.limitations["grid"] in str(error.value)


def twice(name: str) -> str:
    """The member's text about two pictures."""
    marker, text = str(planted.local(name).processor.image_token), zoo.ZOO[name].text
    shown = next(word for word in text.split() if marker in word)
    return text.replace(shown, f"{shown} and {shown}")


def test_pixels_of_one_picture_move_its_own_tokens_only(name):
    """In a prompt of two, of different sizes; the second also by its grid."""
    model, member = planted.local(name), zoo.ZOO[name]
    family = view_of(model).family
    if {"several images", "grid"} & family.limitations.keys():
        pytest.skip("one image a text, or none with places in the decoder")
    small, large = (member.sizes[-1],) * 2 if family.grid == "equal tiles" else (member.sizes[0], member.sizes[-1])
    pictures = [zoo.picture(1, small), zoo.picture(2, large)]
    before = nv.encode(model, twice(name), pictures)
    grid = before.grid(1)
    assert grid.positions == before["image.1"] and before.grid(0).positions == before["image.0"]
    for at, pixels in sampled(grid):
        moved = np.zeros(before.width + before.rows[0].outside)
        for seed in SEEDS:
            pictures[1] = zoo.picture(seed, large)
            seen = nv.encode(model, twice(name), pictures)
            planting = planted.inverted(pictures[1], mask_of(grid.size, pixels))
            moved += planted.changed(seen, nv.encode(model, twice(name), [pictures[0], planting]))
            if moved[grid.positions[at]]:
                break
        assert not np.delete(moved, grid.positions).any()
        tile = np.asarray(grid.positions)[of_tile(grid, grid.tiles[at])]
        assert tile[moved[tile].argmax()] == grid.positions[at]


def given(name: str, picture: Any, **options: Any) -> nv.Prompt:
    """An encoding that was made with options of the processor's call."""
    model, text = zoo.load(name), zoo.ZOO[name].text
    inputs = model.processor(text=[text], images=[picture], return_tensors="pt", **options)
    return nv.encode(model, inputs=dict(inputs), images=[picture])


def test_crops_that_only_the_call_asked_for_are_found_and_others_are_not_made_up():
    """Gemma 3: its image processor is told to cut, its processor not to, and the call has the last word."""
    picture = zoo.picture(1, (40, 18))
    cut = nv.encode(zoo.load("gemma3-crops"), zoo.ZOO["gemma3-crops"].text, picture).grid()
    asked, plain = given("gemma3", picture, do_pan_and_scan=True), given("gemma3-crops", picture, do_pan_and_scan=False)
    assert len(cut.shapes) == 3 and asked.grid().shapes == cut.shapes
    assert np.array_equal(asked.grid().boxes, cut.boxes)
    assert plain.grid().shapes == cut.shapes[:1]
    assert np.array_equal(plain.grid().boxes, cut.boxes[: len(plain["image"])])


def test_a_picture_beside_another_of_its_prompt_has_no_canvas():
    """LLaVA-OneVision, where the processor is told which pictures are of one prompt: both are padded to squares."""
    model, pictures = planted.local("llava_onevision"), [zoo.picture(1, (40, 18)), zoo.picture(2, (36, 28))]

    def encoded(second: Any) -> nv.Prompt:
        shown = [pictures[0], second]
        inputs = model.processor(text=[twice("llava_onevision")], images=[shown], return_tensors="pt")
        return nv.encode(model, inputs=dict(inputs), images=shown)

    prompt = encoded(pictures[1])
    grid = prompt.grid(1)
    assert grid.shapes == ((4, 4),) and grid.positions == prompt["image.1"]
    for at, pixels in sampled(grid):
        moved = planted.changed(prompt, encoded(planted.inverted(pictures[1], mask_of(grid.size, pixels))))
        assert moved.argmax() == grid.positions[at] and not moved[list(prompt["image.0"])].any()


def test_tiles_that_the_processor_does_not_make_are_refused():
    picture = zoo.picture(1, (150, 80))
    assert len(given("got_ocr2-tiles", picture).grid().shapes) == 3
    with pytest.raises(nv.SpecError, match=r"has \(shape \(3, .*processor\.images_kwargs"):
        given("got_ocr2", picture, crop_to_patches=True, max_patches=6).grid()


def test_patches_of_padding_have_empty_boxes_and_take_no_part():
    """Llama 4: a canvas of three tiles, of whose last the picture fills half a column of patches."""
    grid = shown_to("llama4", (120, 54)).grid()
    empty = np.flatnonzero(grid.areas == 0)
    assert {grid.cells[at][1] for at in empty} == {5} and len(empty) == 2
    everywhere = np.ones((54, 120), dtype=bool)
    for where in ((0, 0, 120, 54), everywhere):
        assert np.array_equal(grid.coverage(where) > 0, grid.areas > 0)
        assert set(grid.tokens_in(where)) == set(grid.positions) - {grid.positions[at] for at in empty}
    values = np.zeros(len(grid.positions))
    values[empty] = np.inf
    assert np.array_equal(grid.heatmap(values), np.zeros((54, 120)))


def test_pixels_that_newer_processors_name_otherwise_are_the_same_prompt():
    """Video-LLaVA's pixels have an old and a new name, and its processor is told which to use."""
    older, newer = zoo.ZOO["video_llava"].processor(), zoo.ZOO["video_llava"].processor()
    if not hasattr(newer, "images_kwargs"):
        pytest.skip("before transformers 5.23 a processor has no settings of its own for pictures")
    newer = picture_settings(newer, return_legacy_image_output=False)
    module, picture = zoo.ZOO["video_llava"].module("sdpa"), zoo.picture(1, (20, 44))
    old, new = (
        nv.encode(nv.load(module, processor=each), zoo.ZOO["video_llava"].text, picture) for each in (older, newer)
    )
    assert "pixel_values" in newer(text="<image>", images=picture)
    assert old.inputs.keys() == new.inputs.keys() and "pixel_values_images" in new.inputs
    assert torch.equal(nv.run(old.model, old).logits, nv.run(new.model, new).logits)
    assert np.array_equal(old.grid().boxes, new.grid().boxes)


@pytest.mark.parametrize("size", [(2000, 20), (300, 2), (1, 50), (1, 1)])
def test_what_is_left_of_a_narrow_picture_is_placed_to_a_fraction_of_a_pixel(size):
    """LLaVA scales the shorter edge and crops the longer: a middle square is left, whatever the colours can tell."""
    boxes = shown_to("llava", size).grid().boxes.reshape(4, 4, 4)
    side = min(size)
    left, top = ((length - side) / 2 for length in size)
    steps = np.arange(4) * side / 4
    expected = np.stack(np.broadcast_arrays(left + steps, top + steps[:, None]), axis=-1)
    assert np.abs(boxes[..., :2] - expected).max() < side / 8
    assert np.abs(boxes[..., 2:] - expected - side / 4).max() < side / 8
