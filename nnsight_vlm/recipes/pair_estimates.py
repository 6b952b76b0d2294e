"""Rows of one pair of pictures: estimates of patches of states and edges, the patches, and how far both agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from ..execution.forward import run
from ..families import Model
from ..gradients.edges import edge_patch, estimate_edges, readings_of, sees
from ..gradients.estimates import attribute
from ..gradients.places import Spot, spots_of
from ..lowering.layers import Layers
from ..lowering.sites import BEFORE_LAYERS, StateSite
from ..prompts.prompt import Prompt
from ..remote.model_call import Remote
from ..specs.states import Patch
from ..studies.labels import ANOTHER_IMAGE, NONE
from ..studies.pair_sources import third_picture
from ..studies.pairs import Pair
from ..studies.work import Work
from ..sweeping.table import sweep
from ..sweeping.wanted import answer_token

PLACE = ["site", "layer", "group", "head", "source"]
ALL = "all"
EDGE: Literal["edge"] = "edge"
"""The site of what a head reads: one group of tokens, for another."""
FEWEST = 3
"""Fewest places of a correlation."""


class Asked(NamedTuple):
    """What a map is of.

    Attributes:
        at: sites of states.
        edges: whether it is also of what heads read.
        layers: which layers.
        groups: names of groups; None for those of a prompt.
        steps: of the gradient.
    """

    at: tuple[StateSite, ...]
    edges: bool
    layers: Layers
    groups: tuple[str, ...] | None
    steps: int


def estimates_of(
    model: Model, pairs: Sequence[Pair], image: int, asked: Asked, work: Work, remote: Remote
) -> list[dict[str, Any]]:
    """Rows of the estimates of one pair, and of its third picture."""
    pair, rows, span = pairs[image], list[dict[str, Any]](), np.nan
    for control, donor in ((NONE, pair.other), (ANOTHER_IMAGE, third_picture(pairs, image))):
        if donor is None:
            continue
        states = _of_states(model, pair, donor, asked, work, remote)
        if control == NONE:
            span = _span_of(model, pair, states, remote)
        edges = _of_edges(model, pair, donor, asked, work, remote)
        for place, found in [*_places_in(states), *edges]:
            estimate = found if np.isfinite(span) else np.nan
            numbers = {"estimate": estimate, "estimate_restored": estimate / span, "span": span}
            rows.append({"image": image, **dict(zip(PLACE, place, strict=True)), "control": control, **numbers})
    return rows


def _of_states(
    model: Model, pair: Pair, donor: Prompt, asked: Asked, work: Work, remote: Remote
) -> pd.DataFrame | None:
    """The estimates of every place with a state; None where no such site was asked for."""
    if not asked.at:
        return None
    return attribute(
        model,
        donor,
        pair.prompt,
        **_answers_of(model, pair),
        at=asked.at,
        where=asked.groups,
        layers=asked.layers,
        steps=asked.steps,
        memory=work.memory,
        remote=remote,
    )


def _places_in(states: pd.DataFrame | None) -> Iterator[tuple[tuple[Any, ...], float]]:
    """Every place of a frame of estimates, and its estimate."""
    for row in () if states is None else states.itertuples(index=False):
        yield (row.site, _layer(row.layer), row.group, _head(row.head), ALL), row.estimate


def _span_of(model: Model, pair: Pair, states: pd.DataFrame | None, remote: Remote) -> float:
    """By how much the logit difference of the answers differs in the two clean runs; NaN where its sign does not."""
    if states is None:
        tokens = list(_answers_of(model, pair).values())
        both = [run(model, prompt, remote=remote).logits[tokens] for prompt in (pair.prompt, pair.other)]
        before, after = (float(other - own) for other, own in both)
    else:
        before, after = states.attrs["corrupt"], states.attrs["clean"]
    return after - before if before < 0 < after else float("nan")


def _answers_of(model: Model, pair: Pair) -> dict[str, Any]:
    return {"answer": answer_token(model, pair.other_answer), "against": answer_token(model, pair.answer)}


def _of_edges(
    model: Model, pair: Pair, donor: Prompt, asked: Asked, work: Work, remote: Remote
) -> list[tuple[tuple[Any, ...], float]]:
    """Every edge from a group to one that sees it, in every layer and head, and its estimate."""
    if not asked.edges:
        return []
    groups = asked.groups or ()
    readings = readings_of(model, pair.prompt, donor, groups)
    some: dict[str, Any] = {"layers": asked.layers, "memory": work.memory, "remote": remote}
    found = estimate_edges(model, pair.prompt, list(readings.values()), groups, **some, **_answers_of(model, pair))
    return [
        ((EDGE, int(row.layer), row.group, str(int(row.head)), source), row.estimate)
        for source, frame in zip(readings, found, strict=True)
        for row in frame.itertuples(index=False)
        if sees(pair.prompt, source, row.group)
    ]


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
    pair, at = pairs[image], dict[tuple[Any, ...], Spot]()
    if asked.at:
        spots = spots_of(model, pair.other, pair.prompt, asked.at, asked.groups, "group", asked.layers)
        at = {(spot.site, spot.layer, group): spot for spot in spots for group in spot.labels}
    readings = readings_of(model, pair.prompt, pair.other, list(dict.fromkeys(p[-1] for p in places if p[0] == EDGE)))

    def patch(site: str, layer: int, group: str, head: str, source: str) -> Patch:
        if site == EDGE:
            return edge_patch(pair.prompt, readings[source], group, layer, int(head))
        return at[site, layer, group].patch(pair.other, group, None if head == ALL else int(head))

    patches = [patch(*place) for place in places]
    frame = sweep(model, pair.prompt, patches, **_answers_of(model, pair), memory=work.memory, remote=remote)
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
        chosen += [(a, int(b), *rest) for a, b, *rest in of_site.abs().nlargest(count).index]
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
    place, added = (
        {"layer": BEFORE_LAYERS, "group": ALL, "head": ALL, "source": ALL, "control": NONE},
        list[dict[str, Any]](),
    )
    for (image, cluster, site), some in both.dropna(subset="exact").groupby(["image", "cluster", "site"], sort=False):
        if len(some) >= FEWEST and min(some["estimate"].std(), some["exact"].std()) > 0:
            found = float(some["estimate"].corr(some["exact"]))
            added.append({"image": image, "cluster": cluster, "site": site, **place, "correlation": found})
    return pd.concat([estimates, shown, *([pd.DataFrame(added)] if added else [])], ignore_index=True)
