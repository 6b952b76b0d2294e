"""The first two tables of docs/speed.md are those of the committed baseline.

The baseline holds medians of ratios to a clean forward. What the tables show beside them is not in it, and lies in
docs/measured/speed.json alone: spreads (they bound the ratios of medians here), differences between the numbers of two
ways, peaks of memory, milliseconds of the fixed cost, and how much of the naive way was run.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from page_tables import tables

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

from cases import LINES
from peers import KINDS

ROOT = Path(__file__).parent.parent
BASELINE = json.loads((ROOT / "tests" / "benchmarks" / "baseline.json").read_text())["forwards"]
OURS, PEERS, *_ = tables((ROOT / "docs" / "speed.md").read_text())
MEMORY = ": peak memory"
ROUNDING = 0.0051
"""Tables show two decimals."""
OTHER_MEDIAN = 0.06
"""How far a median of ratios, which the table shows, may be from the ratio of medians, which the baseline gives."""
KEYS = {line.work.split(", beside")[0]: key for key, line in LINES.items()}
TITLES = {kind.title: name for name, kind in KINDS.items()}
SPREAD = re.compile(
    r"(?P<median>[\d.]+) \[(?P<least>[\d.]+)\.\.(?P<most>[\d.]+)\] (?P<unit>x a forward|x faster|x without|ms)"
)


def shown(text):
    """The number of forwards that begins a cell, or stands in it in brackets."""
    return float(re.search(r"([\d.]+) forwards", text)[1])


def close(value):
    return pytest.approx(value, abs=ROUNDING)


def within(ratio, spread, decimals):
    """Whether a ratio lies between the least and the most of a spread, which are rounded to so many decimals."""
    half = 0.51 * 10**-decimals
    return float(spread["least"]) - half <= ratio <= float(spread["most"]) + half


TIMED = [row for row in OURS.rows if not row[0].endswith(MEMORY)]
COMPARED = [row for row in PEERS.rows if not row[3].startswith("cannot")]


def test_every_line_of_the_benchmarks_has_its_row_and_every_row_its_line():
    assert sorted(KEYS[row[0]] for row in TIMED) == sorted(LINES) == sorted(BASELINE)
    assert {row[0].removesuffix(MEMORY) for row in OURS.rows} == set(KEYS)


def test_every_peer_has_its_row_and_what_it_cannot_do_is_not_in_the_baseline():
    rows = {(KEYS[row[0]], TITLES[row[1]]): row for row in PEERS.rows}
    wanted = {(key, peer) for key, line in LINES.items() if line.peer_case for peer in KINDS}
    assert set(rows) == wanted and len(rows) == len(PEERS.rows)
    assert {where for where in wanted if where[1] in BASELINE[where[0]]} == {
        (KEYS[row[0]], TITLES[row[1]]) for row in COMPARED
    }


@pytest.mark.parametrize("row", TIMED, ids=lambda row: KEYS[row[0]])
def test_a_time_of_this_package_and_of_naive_code_is_the_one_that_was_measured(row):
    work, ours, naive, _ = row
    measured = BASELINE[KEYS[work]]
    assert shown(naive) == close(measured["naive"])
    spread = SPREAD.match(ours)
    assert within(float(spread["median"]), spread, 2)
    if spread["unit"] == "x a forward":
        assert float(spread["median"]) == close(measured["ours"])
    elif spread["unit"] == "x faster":
        assert shown(ours) == close(measured["ours"])
        assert within(measured["naive"] / measured["ours"], spread, 2)
    elif spread["unit"] == "x without":
        assert within(measured["ours"] / measured["without"], spread, 2)
    else:
        assert KEYS[work] == "fixed"


@pytest.mark.parametrize("row", COMPARED, ids=lambda row: f"{KEYS[row[0]]}, {TITLES[row[1]]}")
def test_the_time_of_a_peer_is_the_one_that_was_measured(row):
    work, title, faster, own, _ = row
    measured, peer = BASELINE[KEYS[work]], TITLES[title]
    spread, own_forwards = SPREAD.match(faster), measured[peer] / measured[f"{peer}, clean"]
    assert spread["unit"] == "x faster" and within(measured[peer] / measured["ours"], spread, 1)
    assert float(own.removesuffix(" of its own forwards")) == pytest.approx(own_forwards, rel=OTHER_MEDIAN)
