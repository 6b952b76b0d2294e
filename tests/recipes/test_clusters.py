"""Clusters: pictures, and not questions, are what a number is certain over; means by hand, pair by pair."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pandas as pd
import pytest
import tiny

import nnsight_vlm as nv
from nnsight_vlm.recipes import Work, knockout_windows, query_patching
from nnsight_vlm.report.claims import judge
from nnsight_vlm.studies.clusters import clusters_of, clusters_of_pairs, numbered
from nnsight_vlm.studies.controls import other_image
from nnsight_vlm.studies.registry import RECIPES

QUIET = Work(progress=False)
QUESTIONS = ("what is the red square ?", "where is a blue circle ?", "see the dog")


@pytest.fixture
def prompts(sdpa):
    """Three questions about one picture, one about a second, and one about a copy of the first."""
    about = [(0, 0), (1, 0), (2, 0), (0, 1), (0, 0)]
    return [nv.encode(sdpa, QUESTIONS[text], tiny.picture(picture)) for text, picture in about]


def test_items_that_share_a_key_have_one_number_and_so_have_those_that_they_join():
    assert numbered("abcab") == [0, 1, 2, 0, 1]
    assert numbered("aabc", "xyzy") == [0, 0, 2, 0]
    assert numbered("abcd", "xyyz", "qqrr") == [0, 0, 0, 0]
    assert numbered([]) == []


def test_prompts_whose_pixels_are_equal_are_one_image_unless_told_otherwise(sdpa, prompts):
    assert clusters_of(prompts, None) == [0, 0, 0, 3, 0]
    assert clusters_of(prompts, ["a", "b", "a", "c", "d"]) == [0, 1, 0, 3, 4]
    assert clusters_of(prompts, np.array([7, 7, 8, 8, 7])) == [0, 0, 2, 2, 0]
    texts = [nv.encode(sdpa, question, None) for question in (QUESTIONS[0], QUESTIONS[0])]
    assert clusters_of([*texts, prompts[0]], None) == [0, 1, 2]


def test_pairs_are_one_where_one_picture_is_patched_or_the_two_are_exchanged(sdpa):
    first, second, third, fourth = (nv.encode(sdpa, QUESTIONS[0], tiny.picture(number)) for number in range(4))
    patched, sources = [first, first, second, third, fourth], [second, third, first, second, second]
    assert clusters_of_pairs(patched, sources, None) == [0, 0, 0, 3, 4]
    assert clusters_of_pairs(patched, sources, [1, 2, 3, 3, 3]) == [0, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["a", "b"], "2 keys of cluster= for 5 prompts"),
        ("abcde", "no list of keys"),
        ({0, 1, 2, 3, 4}, "no list of keys"),
        ([0, 1, 2, 3, None], r"cluster\[4\] is None"),
        ([0, float("nan"), 2, 3, 4], r"cluster\[1\] is nan"),
        ([0, 1, ["a"], 3, 4], r"cluster\[2\] is \['a'\]"),
    ],
)
def test_keys_that_say_nothing_of_a_prompt_are_refused_before_the_model_runs(sdpa, prompts, forwards, wrong, message):
    with pytest.raises(nv.SpecError, match=message):
        knockout_windows(sdpa, prompts, answers=["dog"] * 5, cluster=wrong, work=QUIET)
    assert not forwards


@pytest.fixture
def model(sdpa):
    """The model whose forwards are counted."""
    return sdpa


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_clusters_and_gives_the_rows_of_images(name):
    recipe = getattr(nv.recipes, name)
    parameters = inspect.signature(recipe).parameters
    assert parameters["cluster"].default is None and parameters["per_image"].default is False
    assert re.search(r"^ +(\w+, )*cluster(, \w+)*:", recipe.__doc__, re.MULTILINE)


def test_a_mean_is_that_of_images_each_of_which_is_the_mean_of_its_questions(sdpa, prompts):
    options = {"answers": ["dog"] * 5, "routes": ["image->last"], "windows": 0, "work": QUIET}
    rows = knockout_windows(sdpa, prompts, per_image=True, **options)
    assert list(rows.columns[:2]) == ["image", "cluster"] and list(rows["cluster"].unique()) == [0, 3]
    cut = rows[(rows["window"] == "all") & (rows["form"] == "block") & (rows["control"] == "none")]
    drops = cut.set_index("image")["logprob_change"]
    by_clusters = {
        None: [(drops[0] + drops[1] + drops[2] + drops[4]) / 4, drops[3]],
        (0, 1, 2, 3, 4): list(drops),
        ("a", "a", "b", "b", "b"): [(drops[0] + drops[1]) / 2, (drops[2] + drops[3] + drops[4]) / 3],
    }
    for cluster, means in by_clusters.items():
        tidy = knockout_windows(sdpa, prompts, cluster=cluster, **options)
        chosen = tidy[(tidy["measure"] == "logprob_change") & (tidy["form"] == "block") & (tidy["control"] == "none")]
        [row] = chosen.to_dict("records")
        assert row["images"] == len(means) and row["mean"] == pytest.approx(np.mean(means))


def test_the_picture_of_another_image_is_never_the_same_picture(prompts):
    for seed in range(8):
        assert all(other_image(prompts, image, seed) == 3 for image in (0, 1, 2, 4))
        assert other_image(prompts, 3, seed) in (0, 1, 2, 4)
    assert other_image([prompts[0], prompts[1], prompts[4]], 0, 0) is None


def test_claims_are_decided_over_images():
    """Sixteen questions about four pictures are too few images, and each picture counts once."""
    labels = {"read_at": "predicting", "layer": "middle half", "control": "none"}
    hits = [1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    cluster = [0, 0, 0, 3, 3, 3, 3, 3, 3, 9, 9, 9, 9, 9, 9, 15]
    rows = [{"image": n, "cluster": cluster[n], **labels, "hit": hit} for n, hit in enumerate(hits)]
    table = judge({"patch_grounding": pd.DataFrame(rows)})
    [claim] = table[(table["claim"] == "3a") & ~table["control"]].to_dict("records")
    assert claim["images"] == 4
    assert claim["value"] == pytest.approx((2 / 3 + 4 / 6 + 1 + 1) / 4)


def test_the_third_picture_of_a_pair_is_another_picture(sdpa):
    """The next pair asks something else about the same picture; the one after it is another picture."""
    from nnsight_vlm.recipes import Pair
    from nnsight_vlm.studies.pair_sources import sources_of

    own, other, third, last = (nv.encode(sdpa, QUESTIONS[0], tiny.picture(number)) for number in range(4))
    pairs = [Pair(own, other, 1, 2), Pair(own, third, 3, 4), Pair(other, third, 5, 6), Pair(last, third, 7, 8)]
    donors = {source.control: source.donor for source in sources_of(pairs, 0, ("question",), 0)}
    assert tiny.gap(donors["another image"].inputs["pixel_values"], last.inputs["pixel_values"]) == 0
    assert query_patching.__doc__
