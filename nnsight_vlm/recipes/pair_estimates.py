"""Rows of one pair of pictures: estimates of patches, the patches themselves, and how far both agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..families import Model
from ..gradients.estimates import attribute
from ..gradients.places import spots_of
from ..lowering.layers import Layers
from ..lowering.sites import BEFORE_LAYERS, StateSite
from ..remote.model_call import Remote
from ..studies.labels import ANOTHER_IMAGE, NONE
from ..studies.pair_sources import third_picture
from ..studies.pairs import Pair
from ..studies.work import Work
from ..sweeping.table import sweep
from ..sweeping.wanted import answer_token

PLACE = ["site", "layer", "group", "head"]
ALL = "all"
FEWEST = 3
"""Fewest places of a correlation."""


class Asked(NamedTuple):
    """What a map is of: sites, layers, groups (None for those of a prompt) and steps of the gradient."""

    at: tuple[StateSite, ...]
    layers: Layers
    groups: tuple[str, ...] | None
    steps: int


def estimates_of(
    model: Model, pairs: Sequence[Pair], image: int, asked: Asked, work: Work, remote: Remote
) -> list[dict[str, Any]]:
    """Rows of the estimates of one pair, and of its third picture."""
    pair, rows, span = pairs[image], list[dict[str, Any]](), np.nan
    for control, clean in ((NONE, pair.other), (ANOTHER_IMAGE, third_picture(pairs, image))):
        if clean is None:
            continue
        frame = attribute(
            model,
            clean,
            pair.prompt,
            answer=answer_token(model, pair.other_answer),
            against=answer_token(model, pair.answer),
            at=asked.at,
            where=asked.groups,
            layers=asked.layers,
            steps=asked.steps,
            memory=work.memory,
            remote=remote,
        )
        if control == NONE and frame.attrs["corrupt"] < 0 < frame.attrs["clean"]:
            span = frame.attrs["clean"] - frame.attrs["corrupt"]
        for row in frame.itertuples(index=False):
            estimate = row.estimate if np.isfinite(span) else np.nan
            place = {"site": row.site, "layer": _layer(row.layer), "group": row.group, "head": _head(row.head)}
            numbers = {"estimate": estimate, "estimate_restored": estimate / span, "span": span}
            rows.append({"image": image, **place, "control": control, **numbers})
    return rows


def exact_of(
    places: Sequence[tuple[Any, ...]],
    model: Model,
    pairs: Sequence[Pair],
    image: int,
    asked: Asked,
    work: Work,
    remote: Remote,
) -> list[dict[str, Any]]:
    """Rows of the patches of one pair, in one sweep."""
    pair = pairs[image]
    spots = spots_of(model, pair.other, pair.prompt, asked.at, asked.groups, "group", asked.layers)
    at = {(spot.site, spot.layer, group): spot for spot in spots for group in spot.labels}
    patches = [
        at[site, layer, group].patch(pair.other, group, None if head == ALL else int(head))
        for site, layer, group, head in places
    ]
    answers: dict[str, Any] = {
        "answer": answer_token(model, pair.other_answer),
        "against": answer_token(model, pair.answer),
    }
    frame = sweep(model, pair.prompt, patches, **answers, memory=work.memory, remote=remote)
    return [
        {"image": image, **dict(zip(PLACE, place, strict=True)), "control": NONE, "exact": float(effect)}
        for place, effect in zip(places, frame["logit_diff"] - frame["clean_logit_diff"], strict=True)
    ]


def _layer(layer: Any) -> int:
    return BEFORE_LAYERS if pd.isna(layer) else int(layer)


def _head(head: Any) -> str:
    return ALL if pd.isna(head) else str(int(head))


def largest(frame: pd.DataFrame, count: int) -> list[tuple[Any, ...]]:
    """The places of each site with the largest mean estimates."""
    means = frame[frame["control"] == NONE].groupby(PLACE, sort=False)["estimate"].mean().dropna()
    chosen = list[tuple[Any, ...]]()
    for site in dict.fromkeys(means.index.get_level_values("site")):
        of_site = means[means.index.get_level_values("site") == site]
        chosen += [(a, int(b), c, d) for a, b, c, d in of_site.abs().nlargest(count).index]
    return chosen


def with_agreement(estimates: pd.DataFrame, patched: pd.DataFrame) -> pd.DataFrame:
    """Both as one table, with patches as shares, and the correlation of both in each pair over the places of a site.

    Args:
        estimates: rows of `estimates_of`; `span` is the difference of the two clean runs, NaN for pairs left out.
        patched: rows of `exact_of`.
    """
    keys, own = ["image", *PLACE], estimates[estimates["control"] == NONE]
    both = patched.merge(own[[*keys, "estimate", "span"]], on=keys, how="left")
    both["exact"] = both["exact"].where(both["span"].notna())
    shown = both.assign(exact_restored=both["exact"] / both["span"]).drop(columns=["estimate", "span"])
    place, added = {"layer": BEFORE_LAYERS, "group": ALL, "head": ALL, "control": NONE}, list[dict[str, Any]]()
    for (image, cluster, site), some in both.dropna(subset="exact").groupby(["image", "cluster", "site"], sort=False):
        if len(some) >= FEWEST and min(some["estimate"].std(), some["exact"].std()) > 0:
            found = float(some["estimate"].corr(some["exact"]))
            added.append({"image": image, "cluster": cluster, "site": site, **place, "correlation": found})
    return pd.concat([estimates, shown, *([pd.DataFrame(added)] if added else [])], ignore_index=True)
