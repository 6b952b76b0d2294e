"""How certain a number is: intervals by hand, verdicts by the rule; and how a table shows a field."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import nnsight_vlm as nv
from nnsight_vlm.lowering.layers import label
from nnsight_vlm.statistics import (
    FAILS,
    FEWEST,
    HOLDS,
    OPEN,
    Estimate,
    bootstrap,
    image_means,
    interval,
    summarise,
    verdict,
)
from nnsight_vlm.statistics.resampling import CAUTION, RESAMPLES


@pytest.mark.parametrize(
    "value, shown",
    [
        (nv.window(8, 16), "8:16"),
        (nv.depth(0.25, 0.5), "0.25:0.5"),
        (nv.depth(0, 1), "0.0:1.0"),
        ((1, 2, 5), "1,2,5"),
        (("image", 3), "image,3"),
        (4, 4),
        ("all", "all"),
    ],
)
def test_fields_are_shown_as_people_write_them(value, shown):
    assert label(value) == shown


def aim(images, confidence=0.95):
    """How much an interval over so many images aims to cover."""
    return 1 - (1 - confidence) * images / (images + CAUTION)


def test_an_interval_of_equal_values_is_a_point():
    assert bootstrap([2.0] * 9) == (2.0, 2.0, 2.0)
    assert bootstrap([0.1] * 9, share=True) == pytest.approx((0.1, 0.1, 0.1), rel=1e-12)
    assert bootstrap([0.0] * 9, share=False) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("images", "confidence"), [(2, 0.95), (8, 0.95), (24, 0.9), (100, 0.99)])
def test_the_interval_of_hits_is_the_exact_one(images, confidence):
    for hits in {0, 1, images // 2, images - 1, images}:
        expected = stats.binomtest(hits, images).proportion_ci(confidence, method="exact")
        values = [1.0] * hits + [0.0] * (images - hits)
        for share in (None, True):
            found = bootstrap(values, confidence=confidence, share=share)
            assert found == pytest.approx((hits / images, expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("images", range(2, FEWEST))
def test_fewer_images_than_a_verdict_needs_get_students_interval(images):
    values = np.random.default_rng(images).exponential(size=images)
    expected = stats.ttest_1samp(values, 0).confidence_interval(aim(images))
    assert bootstrap(values)[1:] == pytest.approx((expected.low, expected.high), rel=1e-9)


@pytest.mark.parametrize("images", [8, 24, 300])
def test_more_images_get_the_wider_of_student_and_the_studentised_bootstrap(images):
    """One resample at a time, and the standard error by numpy's own standard deviation."""
    values = np.random.default_rng(1).lognormal(size=images)
    mean, error = values.mean(), values.std(ddof=1) / images**0.5
    ratios = []
    for draw in np.random.default_rng(0).integers(images, size=(RESAMPLES, images)):
        drawn = values[draw]
        ratios.append((drawn.mean() - mean) / (drawn.std(ddof=1) / images**0.5))
    rank = int((1 - aim(images)) / 2 * RESAMPLES)
    least, greatest = sorted(ratios)[rank], sorted(ratios)[-1 - rank]
    student = stats.ttest_1samp(values, 0).confidence_interval(aim(images))
    expected = mean, min(student.low, mean - greatest * error), max(student.high, mean - least * error)
    assert bootstrap(values) == pytest.approx(expected, rel=1e-9)
    assert expected[1] < student.low or expected[2] > student.high  # not both are Student's


def test_an_interval_moves_with_its_numbers():
    values = np.random.default_rng(2).gamma(2, size=20)
    mean, low, high = bootstrap(values)
    assert bootstrap(5 - 3 * values) == pytest.approx((5 - 3 * mean, 5 - 3 * high, 5 - 3 * low))
    wider = bootstrap(values, confidence=0.99)
    assert wider.low < low < mean < high < wider.high


def test_no_bound_is_given_where_resamples_show_none_unless_the_numbers_are_shares():
    """Two of 24 images change something: many resamples hold neither, and say nothing of how far the mean may lie."""
    rare = [0.0] * 22 + [0.25, 0.5]
    estimate = bootstrap(rare)
    assert estimate.high == np.inf and -0.1 < estimate.low < 0
    assert verdict(estimate, 0.9, 24) == OPEN
    share = bootstrap(rare, share=True)
    assert share.high == pytest.approx(stats.binomtest(1, 24).proportion_ci(method="exact").high)
    assert share.low == 0 and verdict(share, 0.9, 24) == FAILS


def test_an_interval_holds_its_mean_and_narrows_with_more_values():
    values = np.random.default_rng(0).normal(size=400)
    mean, low, high = bootstrap(values)
    assert mean == pytest.approx(values.mean()) and low < mean < high
    expected = stats.t.ppf((1 + aim(400)) / 2, 399) * values.std() / len(values) ** 0.5
    assert (high - low) / 2 == pytest.approx(expected, rel=0.05)
    few = bootstrap(values[:40])
    assert few.high - few.low > 2 * (high - low)


def test_nothing_is_known_of_the_spread_of_one_value_or_of_none():
    alone = bootstrap([3.0])
    assert alone.value == 3.0 and np.isnan([alone.low, alone.high]).all()
    assert np.isnan(bootstrap([])).all() and np.isnan(bootstrap([float("nan")])).all()
    assert bootstrap([1.0, float("nan"), 3.0]).value == 2.0


def test_infinite_numbers_have_no_interval_and_a_confidence_is_between_0_and_1():
    infinite = bootstrap([1.0, float("-inf"), 3.0])
    assert infinite.value == float("-inf") and np.isnan(infinite[1:]).all()
    found = interval(pd.DataFrame({"a": [1.0, float("inf")] * 5}), lambda means: means["a"])
    assert found.value == float("inf") and np.isnan(found[1:]).all()
    for wrong in (0, 1, 95, True, "0.95"):
        with pytest.raises(nv.SpecError, match="between 0 and 1"):
            bootstrap([1.0, 2.0], confidence=wrong)
    for wrong in ([[1.0, 2.0], [3.0, 4.0]], "dog", ["a", "b"], 3.0, None):
        with pytest.raises(nv.SpecError, match="one number for each image"):
            bootstrap(wrong)


def test_a_summary_averages_over_images_and_not_over_rows():
    frame = pd.DataFrame(
        {"layer": [0, 0, 0, 1, 1], "image": ["a", "a", "b", "a", "b"], "drop": [1.0, 3.0, 6.0, 5.0, float("nan")]}
    )
    table = summarise(frame, ["layer"], ["drop"]).set_index("layer")
    assert list(table.columns) == ["measure", "mean", "low", "high", "images"]
    assert table.loc[0, "mean"] == pytest.approx((2 + 6) / 2) and table.loc[0, "images"] == 2
    assert table.loc[1, "mean"] == 5 and table.loc[1, "images"] == 1 and np.isnan(table.loc[1, "low"])


def test_a_summary_of_many_groups_is_that_of_each_alone():
    """Groups of one to twenty images: binary, constant, missing, infinite numbers; a label that is missing."""
    rng, rows = np.random.default_rng(5), []
    kinds = (rng.normal, lambda: float(rng.integers(2)), lambda: 0.25, rng.random, lambda: np.nan)
    for group in range(150):
        for image in range(1 + group % 20):
            value = kinds[group % 5]() if image != 3 else np.nan
            label = {"layer": group // 2, "control": "none" if group % 2 else np.nan, "image": image}
            rows.append({**label, "drop": value if group != 7 else np.inf, "hit": rng.random(), "x": float(group)})
    frame = pd.DataFrame(rows).sample(frac=1, random_state=0)
    table = summarise(frame, ["layer", "control"], ["drop", "hit", "x"], shares=["hit"])
    assert len(table) == 3 * 150
    order = list(dict.fromkeys(frame["x"]))
    for place, row in table.iterrows():
        values = frame.loc[frame["x"] == order[place // 3], row["measure"]]
        alone = bootstrap(values.groupby(frame["image"], sort=False).mean(), share=row["measure"] == "hit")
        assert row[["mean", "low", "high"]].tolist() == pytest.approx(list(alone), rel=1e-12, abs=1e-14, nan_ok=True)
        assert row["images"] == values.notna().sum()


def test_an_image_is_the_mean_of_its_prompts_which_are_the_means_of_their_rows():
    """Picture a has two questions, one of which gave three rows; picture b has one."""
    frame = pd.DataFrame(
        {
            "cluster": ["a", "a", "a", "a", "b", "b"],
            "image": [0, 0, 0, 1, 2, 2],
            "drop": [1.0, 2.0, 6.0, 7.0, 4.0, float("nan")],
        }
    )
    assert image_means(frame, ["drop"])["drop"].to_dict() == {"a": (3 + 7) / 2, "b": 4}
    [row] = summarise(frame.assign(layer=0), ["layer"], ["drop"]).to_dict("records")
    assert row["mean"] == pytest.approx((5 + 4) / 2) and row["images"] == 2
    assert row["low"] == pytest.approx(stats.ttest_1samp([5, 4], 0).confidence_interval(aim(2)).low)


def test_the_measures_that_are_shares_are_named_or_hold_nothing_but_0_and_1():
    frame = pd.DataFrame({"layer": 0, "image": range(10), "hit": [0.0] * 10, "drop": [0.0] * 10})
    named = summarise(frame, ["layer"], ["hit", "drop"], shares=["hit"]).set_index("measure")["high"]
    assert named["drop"] == 0 and named["hit"] == pytest.approx(stats.binomtest(0, 10).proportion_ci().high)
    assert summarise(frame, ["layer"], ["drop"])["high"].item() == named["hit"]


@pytest.mark.parametrize("shares", [False, True])
def test_an_interval_of_one_columns_mean_is_that_of_the_bootstrap(shares):
    rng = np.random.default_rng(0)
    for values in (rng.random(20), rng.integers(0, 2, 20).astype(float), rng.binomial(3, 0.95, 20) / 3):
        estimate = interval(pd.DataFrame({"hit": values}), lambda means: means["hit"], shares=shares)
        assert estimate == pytest.approx(bootstrap(values, share=shares), rel=1e-6)


def test_an_interval_of_a_difference_is_that_of_the_images_differences():
    rows = pd.DataFrame(np.random.default_rng(3).exponential(size=(12, 2)), columns=["a", "b"])
    estimate = interval(rows, lambda means: means["a"] - 2 * means["b"])
    assert estimate == pytest.approx(bootstrap(rows["a"] - 2 * rows["b"]), rel=1e-6)


def test_the_error_of_a_ratio_is_that_of_what_its_images_add():
    """By the formula for ratios of means: the images' `a - ratio * b`, over the mean of `b`; with Student's t alone."""
    rows = pd.DataFrame(np.random.default_rng(4).uniform(1, 2, (6, 2)), columns=["a", "b"])
    ratio = rows["a"].mean() / rows["b"].mean()
    error = (rows["a"] - ratio * rows["b"]).std() / 6**0.5 / rows["b"].mean()
    half = stats.t.ppf((1 + aim(6)) / 2, 5) * error
    found = interval(rows, lambda means: means["a"] / means["b"])
    assert found == pytest.approx((ratio, ratio - half, ratio + half), rel=1e-6)


def test_a_ratio_of_shares_lies_where_the_intervals_of_both_let_it():
    """No image has any of a, and all have all of b: what is left is open only as far as 24 images leave it open."""
    rows = pd.DataFrame({"a": [0.0] * 24, "b": [1.0] * 24})
    most = stats.binomtest(0, 24).proportion_ci(0.975).high  # each of the two at half of what may go wrong
    found = interval(rows, lambda means: means["a"] / means["b"], shares=True)
    assert found == pytest.approx((0, 0, most / (1 - most)))
    assert verdict(found, 0.5, 24) == FAILS


def test_a_ratio_that_some_resample_does_not_have_has_no_interval():
    def ratio(means):
        return np.where(means["b"] > 0, means["a"] / np.where(means["b"] > 0, means["b"], 1), np.nan)

    found = interval(pd.DataFrame({"a": [1.0] * 9, "b": [1.0] + [0.0] * 8}), ratio)
    assert found.value == pytest.approx(9) and np.isnan(found[1:]).all()


def test_a_ratio_of_whose_denominator_some_resample_has_nothing_has_no_interval_and_gives_no_warning():
    rows = pd.DataFrame({"a": [1.0] * 9, "b": [1.0] + [0.0] * 8})
    found = interval(rows, lambda means: means["a"] / means["b"])
    assert found.value == pytest.approx(9) and np.isnan(found[1:]).all()
    nothing = interval(rows.assign(a=[1.0] + [0.0] * 8), lambda means: means["a"] / means["b"])  # 0 / 0
    assert nothing.value == pytest.approx(1) and np.isnan(nothing[1:]).all()


def test_a_ratio_is_one_of_means_and_not_a_mean_of_ratios():
    rows = pd.DataFrame({"a": [1.0, 0.0], "b": [1.0, 4.0]})
    assert interval(rows, lambda means: means["a"] / means["b"]).value == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("low", "high", "images", "expected"),
    [
        (0.6, 0.9, 20, HOLDS),
        (0.1, 0.4, 20, FAILS),
        (0.4, 0.6, 20, OPEN),
        (0.6, 0.9, FEWEST - 1, OPEN),
        (float("nan"), float("nan"), 20, OPEN),
        (0.6, float("inf"), 20, HOLDS),
        (float("-inf"), float("inf"), 20, OPEN),
        (0.0, 0.0, 20, OPEN),
        (2.0, 2.0, 20, HOLDS),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side_and_enough_images(low, high, images, expected):
    assert verdict(Estimate(0.5, low, high), 0.5, images) == expected
