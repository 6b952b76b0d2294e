"""Masks and boxes of items that could be read in two ways are read in the right one, or refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import nnsight_vlm as nv

MASK = np.zeros((10, 12), bool)
MASK[2:5, 3:7] = True


def things(form, **more):
    row = {"image": Image.new("RGB", MASK.shape[::-1]), "question": "a", **more}
    return nv.items([{**row, "masks": [{"label": "dog", "mask": form}]}])[0].things


@pytest.mark.parametrize("inside", [1, 2, 255])
def test_rows_of_pixels_are_no_polygons_whatever_the_number_inside(inside):
    [thing] = things((MASK * inside).tolist())
    assert (thing.mask == MASK).all()


def jpeg(tmp_path):
    large = np.kron(MASK, np.ones((10, 10)))
    Image.fromarray((large * 255).astype(np.uint8)).resize(MASK.shape[::-1]).save(tmp_path / "mask.jpg", quality=50)
    return str(tmp_path / "mask.jpg")


def transparent(_):
    picture = Image.new("RGBA", MASK.shape[::-1], "white")
    picture.putalpha(Image.fromarray((MASK * 255).astype(np.uint8)))
    return picture


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (lambda _: np.where(MASK, 0.9, 0.1), "mask > 0.5"),
        (lambda _: np.full(MASK.shape, np.nan), "nan"),
        (lambda _: MASK + 2 * np.eye(10, 12, 5), "mask == label"),
        (lambda _: np.where(MASK, 1, -1), "values -1, 1"),
        (jpeg, "PNG"),
        (transparent, "transparent"),
    ],
    ids=["probabilities", "nan", "labels", "signs", "jpeg", "transparent"],
)
def test_masks_of_more_than_two_values_are_refused(form, said, tmp_path):
    with pytest.raises(nv.SpecError, match=said):
        things(form(tmp_path))


@pytest.mark.parametrize("box", [[0.1, 0.2, 0.5, 0.9], [0, 0, 1, 1]])
def test_fractions_of_a_picture_are_no_pixels(box):
    row = {"image": Image.new("RGB", (12, 10)), "question": "a", "boxes": [{"label": "dog", "box": box}]}
    with pytest.raises(nv.SpecError, match="fractions of the picture"):
        nv.items([row])[0].things  # noqa: B018


def test_two_pictures_of_one_file_name_do_not_share_the_objects_of_one(tmp_path):
    paths = [tmp_path / folder / "1.png" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        Image.new("RGB", (12, 10)).save(path)
    rows = [{"image": str(path), "question": "a"} for path in paths]
    boxes = pd.DataFrame({"image": ["1.png"], "label": "dog", "x0": 1, "y0": 1, "x1": 4, "y1": 4})
    assert nv.items(rows[:1], objects=boxes)[0].things[0].name == "dog"
    assert nv.items([rows[0], rows[0]], objects=boxes)[1].things[0].name == "dog"
    with pytest.raises(nv.SpecError, match="file name of"):
        nv.items(rows, objects=boxes)
    both = pd.concat([boxes.assign(image=str(path), label=path.parent.name) for path in paths])
    assert [item.things[0].name for item in nv.items(rows, objects=both)] == ["a", "b"]
