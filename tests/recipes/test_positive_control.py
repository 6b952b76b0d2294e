"""The recipes tell a positive from a negative: a model whose query tokens carry the picture by construction."""

from __future__ import annotations

import pytest

import nnsight_vlm as nv
from nnsight_vlm.recipes import Work, knockout_windows, shape_objects, shape_truth
from nnsight_vlm.report import judge
from nnsight_vlm.shapes.embedded import checkpoint
from nnsight_vlm.statistics import FAILS, HOLDS

SCENES = 24


@pytest.fixture(scope="module")
def claims():
    if not (checkpoint("shapes-gist") / "config.json").is_file():
        pytest.skip("this checkout has no shapes-gist")
    model = nv.load("shapes-gist")
    scenes = [nv.shapes.scene(seed) for seed in range(SCENES)]
    frame = knockout_windows(
        model,
        [nv.encode(model, "describe the image.", scene.image) for scene in scenes],
        truths=[shape_truth(scene) for scene in scenes],
        objects=shape_objects,
        routes=["image->generated"],
        windows=0,
        max_new_tokens=32,
        per_image=True,
        work=Work(progress=False, chunk=8),
    )
    table = judge({"knockout_windows": frame})
    return table[table["claim"] == "1"].set_index("control")


def test_on_shapes_gist_the_query_tokens_hold_a_summary(claims):
    assert claims.loc[False, "verdict"] == HOLDS


def test_with_the_query_tokens_of_another_picture_they_do_not(claims):
    assert claims.loc[True, "verdict"] == FAILS
