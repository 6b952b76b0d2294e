"""Peaks of memory, measured in a fresh process: within the budget, or refused in words.

In that process freed tensors are given back at once (see `measure.in_child`), so a peak is what was in use at one time.
`tests/benchmarks/budgets.py` measures more cases.
"""

from __future__ import annotations

import pytest
from peaks import CASES, in_process

MIB = 2**20
SLACK = 1.15
"""By how much a peak may exceed its budget: what Python and torch take that no estimate counts."""
WITHIN = ("packed", "rows", "answers", "pictures", "photos", "windows", "pictures-eager")
TOO_LITTLE = 60
"""MiB, which is less than one run under eager attention takes."""


@pytest.fixture(scope="module")
def peaks():
    """What was measured of each case, in one process."""
    asked = [*((name, CASES[name].budget * MIB) for name in WITHIN), ("run", None), ("packed-eager", TOO_LITTLE * MIB)]
    return dict(zip([name for name, _ in asked], in_process(*asked), strict=True))


@pytest.mark.parametrize("name", WITHIN)
def test_work_keeps_to_its_budget(peaks, name):
    assert not peaks[name]["refused"]
    assert peaks[name]["peak"] <= SLACK * CASES[name].budget * MIB


def test_what_a_run_takes_is_estimated_within_a_quarter(peaks):
    assert 0.8 < peaks["run"]["run"] / peaks["run"]["peak"] < 1.25


def test_what_does_not_fit_is_refused_and_takes_nothing(peaks):
    refused = peaks["packed-eager"]
    assert "eager attention, which holds the scores of every head" in refused["refused"]
    assert 'attn_implementation="sdpa"' in refused["refused"]
    assert refused["peak"] < 10 * MIB
