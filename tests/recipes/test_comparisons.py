"""Many comparisons: p-values by hand, the correction for their number, and what noise alone gives."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

import nnsight_vlm as nv
from nnsight_vlm.statistics import summarise
from nnsight_vlm.studies.comparisons import p_values, survivors, with_comparisons

BY = ["layer", "control"]


def flipped_by_hand(values):
    """Of all assignments of signs, the share whose mean lies as far from 0 as that of the values."""
    means = [abs(np.dot(signs, values)) for signs in product((-1, 1), repeat=len(values))]
    return np.mean([mean >= abs(np.sum(values)) - 1e-12 for mean in means])


def benjamini_hochberg_by_hand(p, level):
    """The largest k whose k-th smallest p is at most k * level / m; all p up to that one survive."""
    ordered = sorted(p)
    passed = [value for rank, value in enumerate(ordered, 1) if value <= rank * level / len(p)]
    return [value <= max(passed, default=-1) for value in p]


def rows_of(effects, images=10, controls=("another image",), seed=0):
    """Rows of a recipe with one layer for each effect: noise of size one around the effect, controls around 0."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {"image": image, "layer": layer, "control": control, "score": centre + rng.normal(), "other": 0.0}
        for image in range(images)
        for layer, effect in enumerate(effects)
        for control, centre in (("none", effect), *((name, 0.0) for name in controls))
    )


def compared(rows, **options):
    return with_comparisons(summarise(rows, BY, ["score", "other"]), rows, BY, ["score"], **options)


@pytest.mark.parametrize("images", [2, 3, 6, 11])
def test_p_values_are_those_of_every_assignment_of_signs(images):
    values = np.random.default_rng(images).normal(0.4, 1, (5, images))
    assert p_values(values) == pytest.approx([flipped_by_hand(row) for row in values], rel=1e-12)


def test_images_without_a_value_are_left_out_of_their_comparison_alone():
    values = np.random.default_rng(1).normal(0.5, 1, (3, 6))
    holes = values.copy()
    holes[1, 2] = np.nan
    expected = [flipped_by_hand(row[~np.isnan(row)]) for row in holes]
    assert p_values(holes) == pytest.approx(expected, rel=1e-12)
    assert np.isnan(p_values(np.array([[1.0, np.nan], [np.nan, np.nan]]))).all()


def test_where_signs_are_drawn_at_random_the_p_value_is_close_to_that_of_all_of_them():
    values = np.random.default_rng(2).normal(0.45, 1, (4, 16))
    assert p_values(values, seed=3) == pytest.approx([flipped_by_hand(row) for row in values], abs=0.02)


def test_what_survives_is_what_the_step_up_rule_says():
    p = np.random.default_rng(5).uniform(size=40) ** 3
    assert survivors(p, level=0.1).tolist() == benjamini_hochberg_by_hand(p.tolist(), 0.1)
    assert 0 < survivors(p, level=0.1).sum() < 40


def test_each_measurement_is_compared_with_its_own_control_image_by_image():
    rows = rows_of([0.0, 1.5, 3.0], images=8)
    frame = compared(rows, against="another image").set_index(["layer", "control", "measure"])
    by_image = rows.set_index(["control", "layer", "image"]).sort_index()["score"]
    for layer in range(3):
        difference = by_image["none", layer] - by_image["another image", layer]
        assert frame.loc[(layer, "none", "score"), "p"] == pytest.approx(flipped_by_hand(difference.to_numpy()))
    others = frame.drop([(layer, "none", "score") for layer in range(3)])
    assert others["p"].isna().all() and not others["survives"].any()
    assert frame.attrs["comparisons"] == 3 and frame.attrs["against"] == "another image"


def test_an_unpaired_control_is_its_mean_in_the_image():
    rows = rows_of([2.0, 1.0], images=6)
    frame = compared(rows, against="another image", paired=False)
    by_image = rows[rows["control"] != "none"].groupby("image")["score"].mean()
    measured = rows[(rows["control"] == "none") & (rows["layer"] == 1)].set_index("image")["score"]
    found = frame[(frame["layer"] == 1) & (frame["control"] == "none") & (frame["measure"] == "score")]["p"].item()
    assert found == pytest.approx(flipped_by_hand((measured - by_image).to_numpy()))


def test_prompts_about_one_image_count_once():
    rows = rows_of([1.0], images=6)
    twice = pd.concat([rows.assign(cluster=rows["image"]), rows.assign(cluster=rows["image"], image=rows["image"] + 6)])
    assert compared(twice)["p"].equals(compared(rows)["p"])


def test_noise_alone_rarely_survives_and_a_planted_effect_does():
    false, found = 0, 0
    for seed in range(10):
        frame = compared(rows_of([0.0] * 38 + [4.0, 4.0], images=10, seed=seed), against="another image")
        kept = frame[(frame["control"] == "none") & (frame["measure"] == "score")]
        found += int(kept.loc[kept["layer"] >= 38, "survives"].sum())
        false += int(kept.loc[kept["layer"] < 38, "survives"].sum())
    assert found >= 18
    assert false <= 4  # of 20 and more that survive, one is expected; without correction some 19 of 380


def test_what_cannot_be_compared_is_refused():
    rows = rows_of([1.0])
    with pytest.raises(nv.SpecError, match="no rows of the control"):
        compared(rows, against="a third run")
    with pytest.raises(nv.SpecError, match="level="):
        compared(rows, level=5)
    with pytest.raises(nv.SpecError, match="tells no control apart"):
        with_comparisons(summarise(rows, BY, ["score"]), rows, ["layer"], ["score"])
