"""Intervals hold the true value, and verdicts are rarely false, where images are few: by simulation, seeds fixed.

The laws, and the table of many more samples, are those of docs/intervals.md (`tests/coverage_table.py`).
"""

from __future__ import annotations

from pathlib import Path

import coverage_table as table
import pytest

SAMPLES = 1000
NOISE = 3 * (0.05 * 0.95 / SAMPLES) ** 0.5
"""Three standard errors of a rate of 5 % that is counted in so many samples."""
RARE = "0 in nine of ten images, else exponential"


@pytest.mark.parametrize("images", table.IMAGES)
@pytest.mark.parametrize("name", table.LAWS)
def test_an_interval_holds_the_mean_and_a_verdict_at_the_mean_is_rare(name, images):
    found = table.rates(table.LAWS[name], images, SAMPLES)
    assert found.false <= 0.05 + NOISE
    if name != RARE:  # where every image gives 0 there is a point instead of an interval, and no verdict
        assert found.covers >= 0.93


@pytest.mark.parametrize("name", table.RATIOS)
def test_the_same_holds_of_claims_that_are_ratios(name):
    found = table.ratio_rates(name, 24, 150)
    assert found.false <= 0.05 + NOISE * (SAMPLES / 150) ** 0.5
    assert found.covers >= 0.93


def test_the_tables_in_the_docs_have_a_row_for_every_law():
    text = (Path(__file__).parent.parent / "docs" / "intervals.md").read_text()
    covers, false, *_ = text.split("| images' numbers | 8 images | 24 images | 100 images |")[1:]
    for name in (*table.LAWS, *table.BEYOND, *table.RATIOS):
        assert name in covers and name in false


def test_the_simulation_finds_intervals_that_are_too_narrow():
    old = table.rates(table.LAWS["0 or 1, share 0.9"], 8, SAMPLES, before=True)
    assert old.covers < 0.6 and old.false > 0.4
