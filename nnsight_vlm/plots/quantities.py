"""The numbers of a frame that are drawn: what they are called, and how large they must be to look like something."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import SpecError
from ..showing import for_figure
from ..studies.labels import SHARES
from .frames import column_of, numbers_of


class Unit(NamedTuple):
    """What is known of a measure.

    Attributes:
        label: what the axis says.
        low, high: values that every axis shows, so that what is next to nothing looks like it. A colour scale reaches
            as far as the larger of the two.
        signed: whether values on both sides of 0 mean opposite things.
    """

    label: str
    low: float
    high: float
    signed: bool


NATS = 0.1
"""The change of a log-probability that fills an axis at least: probabilities change by a tenth."""
UNITS = {
    "logprob_change": Unit("change of log-probability (nats)", -NATS, NATS, True),
    "probability_change": Unit("change of probability (%)", -1, 1, True),
    "restoration": Unit("restoration (0: none, 1: full)", 0, 1, True),
    "logit_diff_change": Unit("change of the logit difference", -NATS, NATS, True),
    "logit_diff_restored": Unit("restored share of the logit difference", 0, 1, True),
    "entropy": Unit("entropy (nats)", 0, NATS, False),
    "objects": Unit("objects named", 0, 1, False),
    "logprob": Unit("log-probability (nats)", -NATS, NATS, True),
    "logprob_mean": Unit("log-probability of a token (nats)", -NATS, NATS, True),
    "logit": Unit("logit", -NATS, NATS, True),
    "logit_diff": Unit("logit difference", -NATS, NATS, True),
    "logprob_diff": Unit("difference of log-probability (nats)", -NATS, NATS, True),
    "mass": Unit("share of attention", 0, 1, False),
    "hit": Unit("share of words whose attention peaks on their object", 0, 1, False),
    "f1": Unit("object F1 against the un-cut description", 0, 1, False),
    **{
        name: Unit(f"share {name}" if name in ("kept", "flipped") else name, 0, 1, False)
        for name in SHARES
        if name not in ("mass", "hit", "f1")
    },
}
"""Measures of recipes and columns of a sweep; all others are drawn by their own range."""
VALUES = ("mean", "logprob", "metric", "estimate", "logprob_change", "value")
"""The columns that are drawn unless another is named, in the order in which they are looked for."""


class Quantity(NamedTuple):
    """Numbers that are drawn, `[row]`.

    Attributes:
        numbers: the values.
        unit: what they are.
    """

    numbers: np.ndarray
    unit: Unit


def quantity_of(frame: pd.DataFrame, value: Any = None, baseline: Any = None, label: str | None = None) -> Quantity:
    """The numbers of a frame that are drawn, and their unit.

    Args:
        frame: the rows.
        value: the column; default the first of `VALUES`. Of a frame of `nv.sweep` that is `logprob` or `metric`, drawn
            as its change: the column `clean_...` is the baseline then.
        baseline: a column that is subtracted.
        label: what the axis says in place of what is known.

    Raises:
        SpecError: no such column, one without numbers, or none of the usual ones.
    """
    if value is None:
        value = next((name for name in VALUES if name in frame.columns), None)
        if value is None:
            names = ", ".join(map(str, frame.columns))
            raise SpecError(f"value= must name the column that is drawn; write value= one of {names}")
        if baseline is None and f"clean_{value}" in frame.columns:
            baseline = f"clean_{value}"
    value = column_of("value", value, frame)
    numbers = numbers_of(frame, value)
    unit = _unit(frame, value)
    if baseline is not None:
        baseline = column_of("baseline", baseline, frame)
        numbers = numbers - numbers_of(frame, baseline)
        shown = "change of" if baseline == f"clean_{value}" else f"difference to {for_figure(baseline)}:"
        unit = Unit(f"{shown} {unit.label}", min(unit.low, -unit.high), max(unit.high, -unit.low), True)
    values = numbers.to_numpy()
    return Quantity(values, unit if label is None else unit._replace(label=for_figure(label, longest=200)))


def _unit(frame: pd.DataFrame, value: str) -> Unit:
    """What is known of a column; of `mean`, by the frame's measure where it has one."""
    measures = list(dict.fromkeys(frame["measure"])) if value == "mean" and "measure" in frame.columns else []
    name = str(measures[0]) if len(measures) == 1 else value
    known = UNITS.get(name)
    numbers = numbers_of(frame, value)
    return known or Unit(for_figure(name), 0.0, 0.0, bool((numbers < 0).any()))
