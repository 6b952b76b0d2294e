"""How certain a number is: intervals by hand, verdicts by the rule; and how a table shows a field."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import nnsight_vlm as nv
from nnsight_vlm.lowering.layers import label
from nnsight_vlm.statistics import FAILS, FEWEST, HOLDS, OPEN, Estimate, bootstrap, interval, summarise, verdict


@pytest.mark.parametrize(
    "value, shown",
    [
        (nv.window(8, 16), "8-15"),
        (nv.depth(0.25, 0.5), "0.25-0.5"),
        ((1, 2, 5), "1,2,5"),
        (("image", 3), "image,3"),
        (4, 4),
        ("all", "all"),
    ],
)
def test_fields_are_shown_as_people_write_them(value, shown):
    assert label(value) == shown


def test_an_interval_of_equal_values_is_a_point():
    assert bootstrap([2.0] * 9) == (2.0, 2.0, 2.0)


def test_an_interval_holds_its_mean_and_narrows_with_more_values():
    values = np.random.default_rng(0).normal(size=400)
    mean, low, high = bootstrap(values)
    assert mean == pytest.approx(values.mean()) and low < mean < high
    expected = 1.96 * values.std() / len(values) ** 0.5
    assert (high - low) / 2 == pytest.approx(expected, rel=0.1)
    few = bootstrap(values[:40])
    assert few.high - few.low > 2 * (high - low)


def test_nothing_is_known_of_the_spread_of_one_value_or_of_none():
    alone = bootstrap([3.0])
    assert alone.value == 3.0 and np.isnan([alone.low, alone.high]).all()
    assert np.isnan(bootstrap([])).all() and np.isnan(bootstrap([float("nan")])).all()
    assert bootstrap([1.0, float("nan"), 3.0]).value == 2.0


def test_a_summary_averages_over_images_and_not_over_rows():
    frame = pd.DataFrame(
        {"layer": [0, 0, 0, 1, 1], "image": ["a", "a", "b", "a", "b"], "drop": [1.0, 3.0, 6.0, 5.0, float("nan")]}
    )
    table = summarise(frame, ["layer"], ["drop"]).set_index("layer")
    assert list(table.columns) == ["measure", "mean", "low", "high", "images"]
    assert table.loc[0, "mean"] == pytest.approx((2 + 6) / 2) and table.loc[0, "images"] == 2
    assert table.loc[1, "mean"] == 5 and table.loc[1, "images"] == 1 and np.isnan(table.loc[1, "low"])


def test_an_interval_of_one_columns_mean_is_that_of_the_bootstrap():
    values = np.random.default_rng(0).normal(size=20)
    estimate = interval(pd.DataFrame({"hit": values}), lambda means: means["hit"])
    assert estimate == pytest.approx(bootstrap(values))


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
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side_and_enough_images(low, high, images, expected):
    assert verdict(Estimate(0.5, low, high), 0.5, images) == expected
