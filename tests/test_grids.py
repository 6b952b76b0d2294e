"""An image token's box is the part of the picture that it sees: changing pixels there changes its image feature."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import nnsight_vlm as nv
from nnsight_vlm.grids.calibration import (
    BLUE,
    DARKEST,
    SHADES,
    SLANT,
    STRIP,
    Span,
    Window,
    coordinate_picture,
    full_picture,
)

SIZES = [(20, 20), (40, 20), (20, 60), (33, 47), (100, 64), (16, 12)]
"""`(width, height)` of pictures."""


def grid_of(model, size):
    return nv.encode(model, "what is red ?", tiny.picture(0, size)).grid()


def with_processor(size):
    """The tiny model with an image processor that resizes to `size`; None for the shorter edge and a centre crop."""
    return nv.load(tiny.build_module(), processor=tiny.build_processor(size))


@pytest.fixture(scope="module", params=["shorter edge", "squeezed"])
def model(request):
    """The tiny model with two ways of processing pictures: resizing and cropping, or squeezing them into a square."""
    return with_processor(None if request.param == "shorter edge" else {"height": tiny.SIDE, "width": tiny.SIDE})


def patch_differences(model, picture, other):
    """The largest difference of two pictures' processed pixels in each patch, `[row, column]`."""
    pixels, other_pixels = (
        model.processor.image_processor(shown, return_tensors="pt")["pixel_values"][0] for shown in (picture, other)
    )
    difference = (pixels - other_pixels).abs().amax(0)
    patches = difference.unfold(0, tiny.PATCH, tiny.PATCH).unfold(1, tiny.PATCH, tiny.PATCH)
    return patches.amax((-1, -2))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cell", [(0, 0), (1, 3), (2, 2), (4, 4), (3, 0)])
def test_pixels_changed_inside_one_box_change_that_patch_the_most(model, size, cell):
    grid = grid_of(model, size)
    x0, y0, x1, y1 = grid.boxes[grid.cells.index(cell)]
    plain = Image.new("RGB", size, (120, 120, 120))
    planted = np.asarray(plain).copy()
    planted[round(y0) : max(round(y1), round(y0) + 1), round(x0) : max(round(x1), round(x0) + 1)] = 250
    difference = patch_differences(model, plain, Image.fromarray(planted))
    assert np.unravel_index(int(difference.argmax()), difference.shape) == cell
    others = difference.clone()
    others[cell] = 0
    assert others.max() < difference[cell]


@pytest.mark.parametrize("size", SIZES)
def test_boxes_tile_what_the_model_saw_of_the_picture(model, size):
    grid = grid_of(model, size)
    assert grid.size == size and grid.shape == (5, 5)
    assert grid.cells == tuple((row, column) for row in range(5) for column in range(5))
    boxes = grid.boxes.reshape(5, 5, 4)
    assert np.allclose(boxes[:, :-1, 2], boxes[:, 1:, 0]) and np.allclose(boxes[:-1, :, 3], boxes[1:, :, 1])
    squeezed = model.processor.image_processor.size.get("height") is not None
    wide, high = size if squeezed else (min(size), min(size))
    width, height = boxes[0, -1, 2] - boxes[0, 0, 0], boxes[-1, 0, 3] - boxes[0, 0, 1]
    assert width == pytest.approx(wide, rel=0.06) and height == pytest.approx(high, rel=0.06)
    middle = (boxes[0, 0, :2] + boxes[-1, -1, 2:]) / 2
    assert middle == pytest.approx(np.asarray(size) / 2, abs=max(1, max(size) / tiny.SIDE))


@pytest.mark.parametrize("cell", [(0, 0), (2, 1), (4, 4)])
def test_the_image_feature_that_changes_is_the_one_whose_region_was_changed(cell):
    """In the complete model. Attention in its vision tower is switched off, so that it does not mix patches."""
    module = tiny.build_module()
    for layer in module.model.vision_tower.encoder.layers:
        layer.self_attn.out_proj.weight.zero_()
        layer.self_attn.out_proj.bias.zero_()
    model = nv.load(module, processor=tiny.build_processor())
    picture = tiny.picture(7, (44, 30))
    prompt = nv.encode(model, "what is red ?", picture)
    x0, y0, x1, y1 = prompt.grid().boxes[prompt.grid().cells.index(cell)]
    middle = (round((x0 + x1) / 2), round((y0 + y1) / 2))
    pixels = np.asarray(picture).copy()
    pixels[middle[1], middle[0]] = 255 - pixels[middle[1], middle[0]]
    changed = nv.encode(model, "what is red ?", Image.fromarray(pixels))
    features, changed_features = (
        nv.run(model, given, reads=[nv.Residual("image", site="features")]).reads[0] for given in (prompt, changed)
    )
    moved = int((features - changed_features).abs().amax(-1).argmax())
    assert prompt.grid().cells[moved] == cell
    assert prompt["image"][moved] in prompt.region((*middle, middle[0] + 1, middle[1] + 1))


def test_a_region_is_every_token_whose_patch_it_touches(sdpa):
    prompt = nv.encode(sdpa, "what is red ?", tiny.picture(0, (20, 20)))
    first = prompt["image"][0]
    assert prompt.region((0, 0, 20, 20)) == prompt["image"]
    assert prompt.region((0.5, 0.5, 3.5, 3.5)) == (first,)
    assert prompt.region((3, 0.5, 5, 3.5)) == (first, first + 1)
    assert prompt.region((0.5, 9, 1, 11)) == (first + 10,)
    assert prompt.region((16.5, 16.5, 30, 30)) == (first + 24,)


def test_each_picture_has_a_grid_of_its_own(sdpa):
    prompt = nv.encode(sdpa, "left or right ?", [tiny.picture(0, (20, 20)), tiny.picture(1, (60, 20))])
    assert prompt.grid(0).positions == prompt["image.0"] and prompt.grid(1).positions == prompt["image.1"]
    assert prompt.grid(1).boxes[:, 0].min() == pytest.approx(20, abs=1)  # the crop takes the middle third
    with pytest.raises(nv.SpecError, match=r"touches no patch.*\(60, 20\)"):
        prompt.region((0, 0, 15, 20), image=1)
    assert prompt.region((30, 8, 31, 12), image=1) != ()


def test_a_mask_covers_the_share_of_each_patch_that_it_fills(sdpa):
    grid = grid_of(sdpa, (20, 20))
    mask = np.zeros((20, 20), dtype=bool)
    mask[0:4, 0:6] = True
    expected = np.zeros(25)
    expected[:2] = 1, 0.5
    assert grid.coverage(mask) == pytest.approx(expected)
    assert grid.coverage((0, 0, 6, 4)) == pytest.approx(expected, abs=0.02)
    assert grid.tokens_in(mask) == grid.positions[:2]
    assert grid.areas == pytest.approx(np.full(25, 16), rel=0.02)


def test_a_heatmap_peaks_at_its_token_and_is_empty_where_nothing_was_seen(sdpa):
    grid = grid_of(sdpa, (40, 20))
    values = torch.zeros(25)
    values[12] = 1.0
    heatmap = grid.heatmap(values)
    assert heatmap.shape == (20, 40)
    peak = np.unravel_index(np.nanargmax(heatmap), heatmap.shape)
    x0, y0, x1, y1 = grid.boxes[12]
    assert y0 <= peak[0] + 0.5 <= y1 and x0 <= peak[1] + 0.5 <= x1
    assert np.isnan(heatmap[:, :9]).all() and np.isnan(heatmap[:, 31:]).all() and not np.isnan(heatmap[:, 12:28]).any()


def test_boxes_masks_and_values_that_do_not_fit_the_image_are_refused(sdpa):
    grid = grid_of(sdpa, (20, 20))
    with pytest.raises(nv.SpecError, match="empty"):
        grid.tokens_in((5, 5, 5, 9))
    with pytest.raises(nv.SpecError, match=r"\(20, 20\)"):
        grid.tokens_in(np.zeros((10, 20), dtype=bool))
    with pytest.raises(nv.SpecError, match="24 values for 25"):
        grid.heatmap(torch.zeros(24))


def test_coordinate_pictures_are_computed_in_strips_of_rows():
    """Each colour as one would write it for the whole picture at once."""
    for size, window in (
        ((33, 150), full_picture((33, 150))),
        ((150, STRIP), full_picture((150, STRIP))),
        ((70, STRIP + 1), Window(Span(3, 20), Span(10.5, 40))),
    ):
        shares = [
            ((np.arange(length) + 0.5 - span.start) / (span.stop - span.start)).clip(0, 1)
            for length, span in zip(size, window, strict=True)
        ]
        x, y = np.meshgrid(*shares)
        red, green = (DARKEST + SHADES * (own + SLANT * (other - own)) for own, other in ((x, y), (y, x)))
        expected = np.stack([red, green, np.full_like(x, BLUE)], axis=-1).round()
        assert (np.asarray(coordinate_picture(size, window)) == expected).all()
