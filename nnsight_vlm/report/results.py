"""All that a report found, before it is written down: report.md and index.html are made of the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from .config import ReportConfig
from .left_out import Note
from .study import Study


@dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """What a report found.

    Attributes:
        config: the settings.
        study: what was measured.
        claims: see `judge`.
        frames, per_image: the means of every part, and the rows behind them, by name.
        figures: the names of those that there are.
        missing: why there are no others, by name.
        notes: what else was left out, and why.
    """

    config: ReportConfig
    study: Study
    claims: pd.DataFrame
    frames: Mapping[str, pd.DataFrame]
    per_image: Mapping[str, pd.DataFrame]
    figures: Sequence[str]
    missing: Mapping[str, str]
    notes: Sequence[Note]
