"""The largest estimates beside the patches that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from ..execution.forward import run
from ..families import Model
from ..lowering.sites import BEFORE_LAYERS
from ..prompts.prompt import Prompt
from ..remote.model_call import Remote
from ..specs.interventions import Intervention
from ..sweeping.table import sweep
from .metrics import Metric
from .places import Spot


def add_exact(
    model: Model,
    clean: Prompt,
    corrupt: Prompt,
    frame: pd.DataFrame,
    spots: Sequence[Spot],
    metric: Metric,
    largest: int,
    memory: int | None,
    remote: Remote,
) -> pd.DataFrame:
    """The frame with the effect of its largest estimates in a column `exact`, and how well both agree in `attrs`."""
    chosen = frame["estimate"].abs().nlargest(largest).index
    patches = _patches(clean, frame.loc[chosen], spots)
    effects = _by_function if metric.function is not None else _by_sweep
    measured = effects(model, corrupt, patches, metric, memory, remote)
    frame["exact"] = pd.Series(measured, index=chosen, dtype=float)
    known = frame.loc[frame["exact"].notna()]
    frame.attrs["correlation"] = {"all": _correlation(known)}
    frame.attrs["correlation"] |= {str(site): _correlation(some) for site, some in known.groupby("site", sort=False)}
    return frame


def _correlation(known: pd.DataFrame) -> float:
    """Pearson's; not a number where one of both does not vary."""
    return float(known["estimate"].corr(known["exact"])) if len(known) > 1 else float("nan")


def _patches(clean: Prompt, rows: pd.DataFrame, spots: Sequence[Spot]) -> list[Intervention]:
    """The patch of each row."""
    by = "group" if "group" in rows.columns else "position"
    known = {(spot.site, spot.layer, label): spot for spot in spots for label in spot.labels}

    def patch(row: Any) -> Intervention:
        layer = BEFORE_LAYERS if pd.isna(row["layer"]) else int(row["layer"])
        label = row[by] if by == "group" else int(row[by])
        head = None if pd.isna(row["head"]) else int(row["head"])
        return known[row["site"], layer, label].patch(clean, label, head)

    return [patch(row) for _, row in rows.iterrows()]


def _by_sweep(
    model: Model, corrupt: Prompt, patches: list[Intervention], metric: Metric, memory: int | None, remote: Remote
) -> list[float]:
    """How much each patch moves the answer's logit, less how much it moves the other's."""
    column = "logit" if metric.against is None else "logit_diff"
    frame = sweep(model, corrupt, patches, answer=metric.answer, against=metric.against, memory=memory, remote=remote)
    return [float(effect) for effect in frame[column] - frame[f"clean_{column}"]]


def _by_function(
    model: Model, corrupt: Prompt, patches: list[Intervention], metric: Metric, memory: int | None, remote: Remote
) -> list[float]:
    """How much each patch moves a function of the logits, one run each."""
    assert memory is None or memory > 0
    function: Any = metric.function
    positions = "last" if metric.positions is None else metric.positions

    def value(patch: Intervention | None) -> float:
        logits = run(model, corrupt, patch, positions=positions, remote=remote).logits
        with torch.no_grad():
            return float(function(logits))

    begun = value(None)
    return [value(patch) - begun for patch in patches]
