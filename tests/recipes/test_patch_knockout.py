"""Patches hidden one neighbourhood at a time: single cuts by hand, what maps have in common, and known objects."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import reference
import tiny
import zoo
from float64 import LIMIT
from scene_questions import color_questions

import nnsight_vlm as nv
from nnsight_vlm.recipes import Thing, Work, patch_cuts, patch_knockout
from nnsight_vlm.statistics import bootstrap
from nnsight_vlm.studies.asked_objects import AskedPatches
from nnsight_vlm.studies.image_patches import patch_source

QUIET = Work(progress=False)
ANSWERS = ["dog", "red", "bike"]
COLUMNS = ["region", "control", "measure", "mean", "low", "high", "images"]
GRID = 5


def corner(side):
    """The pixels of the upper left corner, some patches wide."""
    mask = np.zeros((tiny.SIDE, tiny.SIDE), bool)
    mask[: tiny.PATCH * side, : tiny.PATCH * side] = True
    return mask


@pytest.fixture
def prompts(sdpa):
    return [nv.encode(sdpa, "what is the red square ?", tiny.picture(number)) for number in range(3)]


@pytest.fixture
def truths():
    return [[Thing(name="square", mask=corner(2)), Thing(name="dog", mask=corner(4))] for _ in ANSWERS]


@pytest.fixture
def rows(sdpa, prompts, truths):
    return patch_knockout(sdpa, prompts, answers=ANSWERS, truths=truths, per_image=True, work=QUIET)


def change_by_hand(model, prompt, answer, patches):
    """What hiding patches from the last token changes, in a forward without nnsight."""
    first = prompt.inputs["input_ids"][0].tolist().index(tiny.vocabulary()["<image>"])
    cut = reference.no_cut(model._module, prompt.inputs["input_ids"])
    cut[:, :, :, -1, [first + patch for patch in patches]] = True
    logprobs = [
        reference.forward(model._module, prompt.inputs, edges).logits[0, -1].log_softmax(-1) for edges in (cut, None)
    ]
    token = model.tokenizer.convert_tokens_to_ids(answer)
    return float(logprobs[0][token] - logprobs[1][token])


def neighbours(patch):
    row, column = divmod(patch, GRID)
    near = [
        (line, place)
        for line in range(row - 1, row + 2)
        for place in range(column - 1, column + 2)
        if 0 <= line < GRID and 0 <= place < GRID
    ]
    return [line * GRID + place for line, place in near]


@pytest.mark.float64
def test_the_map_of_one_prompt_is_that_of_single_cuts(sdpa, prompts):
    frame = patch_knockout(sdpa, prompts[0], answer="dog")
    by_hand = [change_by_hand(sdpa, prompts[0], "dog", neighbours(patch)) for patch in range(tiny.IMAGE_TOKENS)]
    assert frame["logprob_change"].to_numpy() == pytest.approx(by_hand, rel=LIMIT, abs=LIMIT)
    assert frame["hidden"].tolist() == [len(neighbours(patch)) for patch in range(tiny.IMAGE_TOKENS)]
    assert frame["token"].tolist() == list(prompts[0]["image"]) and frame["token"].dtype.kind == "i"
    assert frame["random_patches"].notna().all()
    assert not np.allclose(frame["random_patches"], frame["logprob_change"])
    again = patch_knockout(sdpa, prompts[0], answer="dog", seed=1)
    assert (again["logprob_change"] == frame["logprob_change"]).all()
    assert (again["random_patches"] != frame["random_patches"]).any()


def test_as_many_random_patches_lie_outside_the_neighbourhood(prompts):
    cuts = patch_cuts.PatchCuts.of(
        patch_source(prompts[0]), None, target=None, layers="attention", size=3, seed=0, number=0
    )
    own, control = ([each for each in cuts.hidden if each.control == which] for which in ("none", "random patches"))
    assert len(control) == tiny.IMAGE_TOKENS
    for patch, drawn in zip(own, control, strict=False):
        assert patch.patch == drawn.patch and len(drawn.positions) == len(set(drawn.positions)) == len(patch.positions)
        assert not set(drawn.positions) & set(patch.positions)
    crowded = patch_cuts.PatchCuts.of(
        patch_source(prompts[0]), None, target=None, layers="attention", size=9, seed=0, number=0
    )
    assert {each.control for each in crowded.hidden} == {"none"}  # all 25 patches have no control


@pytest.mark.float64
def test_regions_are_hidden_at_once(sdpa, prompts, rows):
    square = [0, 1, GRID, GRID + 1]  # `square` is in the question, `dog` is not
    regions = {
        "image": range(tiny.IMAGE_TOKENS),
        "object": square,
        "rest of the image": [patch for patch in range(tiny.IMAGE_TOKENS) if patch not in square],
    }
    for image, (prompt, answer) in enumerate(zip(prompts, ANSWERS, strict=True)):
        for region, patches in regions.items():
            chosen = rows[(rows["image"] == image) & (rows["region"] == region) & (rows["control"] == "none")]
            assert len(chosen) == 1 and chosen["hidden"].iloc[0] == len(patches)
            by_hand = change_by_hand(sdpa, prompt, answer, patches)
            assert chosen["logprob_change"].iloc[0] == pytest.approx(by_hand, rel=LIMIT, abs=LIMIT)
    counts = rows[rows["control"] == "random patches"].groupby("region").size()
    assert counts.to_dict() == {"object": 3, "patch": 3 * tiny.IMAGE_TOKENS, "rest of the image": 3}


def test_what_maps_have_in_common_is_computed_as_by_hand(sdpa, prompts, truths, rows):
    tidy = patch_knockout(sdpa, prompts, answers=ANSWERS, truths=truths, work=QUIET)
    assert list(tidy.columns) == COLUMNS and not tidy.duplicated(COLUMNS[:3]).any()
    expected = {"largest_drop": [], "top_tenth": [], "hit": [], "iou": [], "logprob_change": []}
    for image in range(3):
        chosen = rows[(rows["image"] == image) & (rows["region"] == "patch") & (rows["control"] == "none")]
        change = chosen["logprob_change"].tolist()
        drops = sorted((max(-each, 0) for each in change), reverse=True)
        order = sorted(range(tiny.IMAGE_TOKENS), key=lambda patch: (change[patch], patch))
        square = {0, 1, GRID, GRID + 1}
        assert set(np.flatnonzero(chosen["object"])) == square
        expected["largest_drop"].append(-min(change))
        expected["top_tenth"].append((drops[0] + drops[1]) / sum(drops))
        expected["hit"].append(float(order[0] in square))
        shared = len(square & set(order[:4]))
        expected["iou"].append(shared / (8 - shared))
        expected["logprob_change"].append(np.mean(change))
    of_maps = tidy[(tidy["region"] == "patch") & (tidy["control"] == "none")].set_index("measure")
    assert set(of_maps.index) == set(expected)
    for measure, values in expected.items():
        share = measure in ("top_tenth", "hit", "iou")
        mean, low, high = bootstrap(np.array(values), share=share)
        row = of_maps.loc[measure]
        assert (row["mean"], row["low"], row["high"]) == pytest.approx((mean, low, high)), measure
        assert row["images"] == 3
    chance = tidy[(tidy["region"] == "patch") & (tidy["control"] == "random patches")].set_index("measure")["mean"]
    assert chance["hit"] == pytest.approx(4 / 25)
    assert 0 < chance["iou"] < 0.2 and chance["largest_drop"] > 0


def test_a_map_without_a_drop_has_no_peak():
    frame = pd.DataFrame(
        {
            **{"image": 0, "cluster": 0, "region": "patch", "control": ["none"] * 4 + ["random patches"] * 4},
            **{"object": [1.0, 0, 0, 0] * 2, "logprob_change": [0.0, 0.5, 0, 0, -0.1, 0, 0, np.nan]},
        }
    )
    tidy = patch_cuts.summary(frame).set_index(["control", "measure"])["mean"]
    assert tidy["none", "largest_drop"] == 0 and tidy["random patches", "largest_drop"] == pytest.approx(0.1)
    assert tidy["random patches", "top_tenth"] == 1
    assert not {("none", "hit"), ("none", "iou"), ("none", "top_tenth")} & set(tidy.index)


def test_without_objects_the_map_alone_is_measured(sdpa, prompts):
    tidy = patch_knockout(sdpa, prompts, answers=ANSWERS, size=1, work=QUIET)
    assert set(tidy["region"]) == {"patch", "image"}
    assert set(tidy["measure"]) == {"logprob_change", "largest_drop", "top_tenth"}


def test_grids_of_different_sizes_meet_in_one_table():
    model, name = zoo.load("qwen2_5_vl"), "qwen2_5_vl"
    prompts = [zoo.prompt(name, seed=number, size=number) for number in range(len(zoo.ZOO[name].sizes))]
    tidy = patch_knockout(model, prompts, answers=[5] * len(prompts), size=1, work=QUIET)
    counts = {len(prompt.grid().placed.positions) for prompt in prompts}
    assert len(counts) > 1
    assert (tidy.loc[tidy["control"] == "none", "images"] == len(prompts)).all()


def test_objects_of_items_are_not_laid_over_another_picture_of_the_prompt(sdpa):
    """Items know the objects of their first picture, which the second one would take as its own."""
    row = {"image": [tiny.picture(0), tiny.picture(1)], "question": "what is the red square ?", "answer": "dog"}
    objects = [{"label": "square", "box": [0, 0, 8, 8]}]
    patch_knockout(sdpa, items=[row], image=1, work=QUIET)
    with pytest.raises(nv.SpecError, match="first picture"):
        patch_knockout(sdpa, items=[{**row, "boxes": objects}], image=1, work=QUIET)


def test_latents_hide_the_object_from_the_queries_that_read_the_patches():
    model, prompt = zoo.load("blip-2-opt"), zoo.prompt("blip-2-opt")
    source = patch_source(prompt)
    width, height = source.grid.size
    mask = np.zeros((height, width), bool)
    mask[: height // 2, : width // 2] = True
    things = [[Thing(name="thing", mask=mask)]]
    frame = patch_knockout(model, [prompt], answers=[5], truths=things, size=1, per_image=True, work=QUIET)
    inside = AskedPatches(source.grid.coverage(mask) > 0, source.grid).inside
    cut = nv.Knockout(inside, "query", layers="attention", stage=source.stage)
    scores = [float(nv.run(model, prompt, case).logits.log_softmax(-1)[5]) for case in (cut, None)]
    [row] = frame[(frame["region"] == "object") & (frame["control"] == "none")].to_dict("records")
    assert row["logprob_change"] == pytest.approx(scores[0] - scores[1], abs=1e-4)


@pytest.mark.float64
def test_on_a_simulated_server_numbers_are_the_same(sdpa, prompts, truths):
    options = {"answers": ANSWERS[:2], "truths": truths[:2], "size": 1, "per_image": True, "work": QUIET}
    here, there = (patch_knockout(sdpa, prompts[:2], remote=remote, **options) for remote in (False, "local"))
    pd.testing.assert_frame_equal(here, there, check_exact=False, rtol=0, atol=1e-9)


def test_an_interrupted_study_goes_on_from_its_journal(sdpa, prompts, truths, tmp_path, monkeypatch):
    options = {"answers": ANSWERS[:2], "truths": truths[:2], "size": 1, "per_image": True}
    work = Work(progress=False, journal=tmp_path, chunk=1)
    asked, measured = [], patch_cuts.PatchCuts.rows

    def stops(cuts, *rest):
        asked.append(cuts.number)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return measured(cuts, *rest)

    monkeypatch.setattr(patch_cuts.PatchCuts, "rows", stops)
    with pytest.raises(KeyboardInterrupt):
        patch_knockout(sdpa, prompts[:2], work=work, **options)
    resumed = patch_knockout(sdpa, prompts[:2], work=work, **options)
    assert asked == [0, 1, 1]
    pd.testing.assert_frame_equal(resumed, patch_knockout(sdpa, prompts[:2], work=QUIET, **options))
    changed = ({"size": 3}, {"seed": 1}, {"target": "query"}, {"layers": [1]}, {"asked": ["dog"] * 2})
    for other in changed:
        before = len(asked)
        patch_knockout(sdpa, prompts[:2], work=work, **{**options, **other})
        assert len(asked) == before + 2, other


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"answer": "dog"}, "answer= is of one prompt"),
        ({"answers": None}, "answers=None is no list of answers"),
        ({"answers": ["dog"]}, "1 answers for 3 prompts"),
        ({"size": 4}, "odd number"),
        ({"asked": ["dog"] * 3}, "write truths= as well"),
        ({"target": "system"}, "changes nothing"),
        ({"image": 1}, "image"),
        ({"memory": "much"}, "memory"),
    ],
)
def test_what_cannot_be_hidden_is_refused(sdpa, prompts, wrong, message):
    with pytest.raises(nv.SpecError, match=message):
        patch_knockout(sdpa, prompts, **{"answers": ANSWERS, "work": QUIET, **wrong})


@pytest.mark.parametrize(
    "beside",
    [{"answers": ["dog"]}, {"truths": []}, {"asked": ["dog"]}, {"cluster": [0]}, {"per_image": True}],
    ids=str,
)
def test_what_goes_with_a_list_is_refused_beside_one_prompt(sdpa, prompts, beside):
    with pytest.raises(nv.SpecError, match=f"{next(iter(beside))}= goes with a list of prompts"):
        patch_knockout(sdpa, prompts[0], answer="dog", **beside)
    with pytest.raises(nv.SpecError, match="answer=None is no answer of one token"):
        patch_knockout(sdpa, prompts[0])


# models whose patches are known -----------------------------------------------------------------------


def test_on_shapes_the_patches_that_an_answer_needs_are_the_objects():
    model = nv.load("shapes")
    prompts, known = color_questions(model, 8)
    tidy = patch_knockout(model, prompts, work=QUIET, **known).set_index(["region", "control", "measure"])
    assert tidy.loc[("patch", "none", "hit"), "low"] > tidy.loc[("patch", "random patches", "hit"), "high"]
    assert tidy.loc[("patch", "none", "iou"), "low"] > tidy.loc[("patch", "random patches", "iou"), "high"]
    assert tidy.loc[("object", "random patches", "logprob_change"), "low"] > -0.1
    assert tidy.loc[("rest of the image", "none", "logprob_change"), "low"] > -0.1
    assert tidy.loc[("object", "none", "logprob_change"), "mean"] < -1


def test_another_object_than_the_one_asked_about_is_not_needed():
    """The planted negative: the same pictures and questions, and the mask of something else."""
    model = nv.load("shapes")
    prompts, known = color_questions(model, 8)
    others = [
        next(thing.name for thing in things if thing.name != asked)
        for things, asked in zip(known["truths"], known["asked"], strict=True)
    ]
    tidy = patch_knockout(model, prompts, work=QUIET, **{**known, "asked": others})
    of_other = tidy.set_index(["region", "control", "measure"])
    assert of_other.loc[("object", "none", "logprob_change"), "low"] > -0.1
    assert of_other.loc[("patch", "none", "hit"), "mean"] < 0.5
