"""Peaks of memory, measured in a fresh process: within the budget, or refused in words.

The process keeps every freed tensor from being counted (see `measure.in_child`), so peaks are what was in use at one
time. `tests/benchmarks/budgets.py` measures more.
"""

from __future__ import annotations

import pytest
from peaks import in_process

MB = 2**20
SLACK = 1.15
"""By how much a peak may exceed its budget: what Python and torch take that no estimate counts."""
BUDGETS = {"packed": 64, "answers": 100, "pictures": 120, "photos": 150, "windows": 120, "pictures-eager": 330}
"""In MiB; without a budget some of these take five times as much."""


@pytest.fixture(scope="module")
def peaks():
    """What was measured of each case, in one process."""
    asked = [*((name, size * MB) for name, size in BUDGETS.items()), ("run", None), ("packed-eager", 100 * MB)]
    return dict(zip([name for name, _ in asked], in_process(*asked), strict=True))


@pytest.mark.parametrize("name", BUDGETS)
def test_work_keeps_to_its_budget(peaks, name):
    assert not peaks[name]["refused"]
    assert peaks[name]["peak"] <= SLACK * BUDGETS[name] * MB


def test_what_a_run_takes_is_estimated_within_a_quarter(peaks):
    assert 0.8 < peaks["run"]["run"] / peaks["run"]["peak"] < 1.25


def test_what_does_not_fit_is_refused_and_takes_nothing(peaks):
    refused = peaks["packed-eager"]
    assert "eager attention, which holds the scores of every head" in refused["refused"]
    assert 'attn_implementation="sdpa"' in refused["refused"]
    assert refused["peak"] < 10 * MB
