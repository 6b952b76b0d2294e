"""What an answer or a description loses when routes are cut, and what follows for each route."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..families import Model
from ..lowering.layers import Layers
from ..prompts.prompt import Prompt
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.interventions import Intervention
from ..statistics import UNKNOWN, Estimate, bootstrap, image_means, interval, summarise
from ..studies.controls import blind_cut
from ..studies.labels import AGREEMENT, COULD, DOES, NONE, RANDOM_EDGES, SHARES, TRUE_AGREEMENT, Control
from ..studies.words import Objects, Thing, agreement
from ..studies.work import Work
from ..sweeping.table import sweep
from ..sweeping.wanted import answer_token
from .route_cuts import ALL, Step, alone_and_all, cut_of, random_cuts, routes_in, steps_of
from .routes import BLIND, CLEAN_ROW

BY = ["route", "condition", "shows", "control"]
VERDICTS = ("needed", "suffices", "self_repair")
"""What the losses say of a route, or of all of them, see `joint_routes`."""
DIFFERENCES = ("probability_change", "needed", "suffices")
"""Differences of two numbers from 0 to 1: no mean, and so no end of an interval, lies beyond -1 and 1."""
LOSS = "loss_of_all"
"""The column with the loss of an image when all routes are cut, which shares are shares of."""


class Closed(NamedTuple):
    """Which routes are closed; for a control, as many random edges as each of them has."""

    control: Control
    routes: frozenset[str]


@dataclass(frozen=True, kw_only=True, eq=False)
class Cases:
    """The conditions of one image.

    Attributes:
        steps: the rows of cuts, see `steps_of`.
        by_closed: number of the cut that closes these routes.
        cuts: the clean run first (None), then the blind one, then those of routes, then those of random edges.
    """

    steps: Sequence[Step]
    by_closed: Mapping[Closed, int]
    cuts: Sequence[Intervention | None]


def cases_of_routes(
    model: Model,
    prompt: Prompt,
    names: Sequence[str],
    layers: Layers | None,
    rng: np.random.Generator,
    decoded: int = 0,
) -> Cases:
    """The conditions of one image: baselines, routes cut alone and together, and as many random edges.

    Args:
        model: an nnsight model.
        prompt: of one row.
        names, layers: see `routes_in`.
        rng: draws the random edges.
        decoded: see `random_cuts`.
    """
    routes = routes_in(model, prompt, names, layers)
    steps = steps_of(names)
    by_control: dict[Control, tuple[Mapping[str, Intervention], list[Step]]] = {
        NONE: ({route.name: route.cut() for route in routes}, steps),
        RANDOM_EDGES: (random_cuts(prompt, routes, decoded, rng), alone_and_all(steps)),
    }
    cuts: list[Intervention | None] = [None, blind_cut(prompt)]
    by_closed = dict[Closed, int]()
    for control, (parts, of_control) in by_control.items():
        for closed in dict.fromkeys(step.routes for step in of_control):
            if closed <= parts.keys():
                by_closed[Closed(control, closed)] = len(cuts)
                cuts.append(cut_of(parts, closed))
    return Cases(steps=steps, by_closed=by_closed, cuts=cuts)


def answer_rows(
    model: Model, prompt: Prompt, cases: Cases, answer: str | int, image: int, work: Work, remote: Remote
) -> list[dict[str, Any]]:
    """Rows of one question, from two sweeps: random edges may begin at the image, which costs each a whole forward."""
    numbers = [
        [0, 1, *(number for closed, number in cases.by_closed.items() if closed.control == NONE)],
        [number for closed, number in cases.by_closed.items() if closed.control != NONE],
    ]
    filled = [each for each in numbers if each]
    token = answer_token(model, answer)
    sweeps = [
        partial(
            sweep,
            model,
            prompt,
            [cases.cuts[number] for number in each],
            answer=token,
            memory=work.memory,
            empty="ignore",
            remote=remote,
        )
        for each in filled
    ]
    scores = dict[int, dict[str, float]]()
    for each, frame in zip(filled, together(sweeps, remote), strict=True):
        for number, score in zip(each, frame.itertuples(), strict=True):
            scores[number] = {
                "logprob_change": float(score.logprob - score.clean_logprob),
                "probability_change": math.exp(score.logprob) - math.exp(score.clean_logprob),
                "kept": math.nan if math.isnan(score.rank) else float(score.rank == 0),
            }
    return _rows(cases, [scores[number] for number in range(len(cases.cuts))], "probability_change", 0.0, image)


def text_rows(
    cases: Cases, texts: Sequence[str], truth: Sequence[Thing] | None, objects: Objects, image: int
) -> list[dict[str, Any]]:
    """Rows of one picture's descriptions, one for each cut; the first is the model's own, without a cut."""
    own = objects(texts[0])
    scores = list[dict[str, float]]()
    for text in texts:
        named = objects(text)
        true = {} if truth is None else agreement(named, [thing.name for thing in truth])
        of_truth = {f"{measure}_true": value for measure, value in true.items()}
        scores.append({**agreement(named, own), **of_truth, "objects": float(len(named))})
    return _rows(cases, scores, "f1", 1.0, image)


def _rows(
    cases: Cases, scores: Sequence[Mapping[str, float]], measure: str, best: float, image: int
) -> list[dict[str, Any]]:
    """The rows of all conditions; a loss is what is missing to the best value of a measure."""
    losses = [best - score[measure] for score in scores]
    names = next(step.routes for step in cases.steps if step.route == ALL)
    rows = [
        {
            "image": image,
            "route": of["route"],
            "condition": of["form"],
            "shows": COULD,
            "control": NONE,
            **scores[place],
        }
        for place, of in enumerate((CLEAN_ROW, BLIND))
    ]
    for control in (NONE, RANDOM_EDGES):
        by_routes = {closed.routes: number for closed, number in cases.by_closed.items() if closed.control == control}
        for step in cases.steps if control == NONE else alone_and_all(cases.steps):
            if step.routes not in by_routes:
                continue
            number = by_routes[step.routes]
            labels = {"route": step.route, "condition": step.condition, "shows": COULD, "control": control}
            verdicts = dict.fromkeys(VERDICTS, math.nan)
            if step.route == ALL:
                alone = sum(losses[by_routes[frozenset({name})]] for name in names)
                verdicts["self_repair"] = losses[number] - alone
            elif step.condition == "only" and names in by_routes:
                verdicts["suffices"] = losses[by_routes[names]] - losses[number]
            elif step.route in names:
                verdicts["needed"] = losses[number]
            of_all = losses[cases.by_closed[Closed(NONE, names)]]
            rows.append({"image": image, **labels, **scores[number], **verdicts, LOSS: of_all})
    return rows


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over images with intervals, from the rows of every image; then shares of the loss when all are cut."""
    names = (
        *AGREEMENT,
        *TRUE_AGREEMENT,
        "objects",
        "logprob_change",
        "probability_change",
        "kept",
        *VERDICTS,
        "restoration",
        "flipped",
    )
    tidy = summarise(frame, BY, [name for name in names if name in frame], shares=SHARES)
    bounded = tidy["measure"].isin(DIFFERENCES)
    tidy[["low", "high"]] = tidy[["low", "high"]].mask(bounded, tidy[["low", "high"]].clip(-1, 1))
    unmeasured = (tidy["shows"] == DOES) & (tidy["control"] == NONE) & (tidy["measure"] == "restoration")
    tidy = pd.concat([tidy[(tidy["images"] > 0) | unmeasured], _shares(frame)], ignore_index=True)
    order = {key: place for place, key in enumerate(dict.fromkeys(zip(*(tidy[name] for name in BY), strict=True)))}
    places = [order[key] for key in zip(*(tidy[name] for name in BY), strict=True)]
    return tidy.assign(place=places).sort_values("place", kind="stable").drop(columns="place").reset_index(drop=True)


def _shares(frame: pd.DataFrame) -> pd.DataFrame:
    """The verdicts as shares of the mean loss when all routes are cut."""
    found = list[dict[str, Any]]()
    for verdict in VERDICTS:
        rows = frame[frame[verdict].notna() & frame[LOSS].notna()]
        if rows.empty:
            continue
        means = image_means(rows, [verdict, LOSS], BY)
        for key, group in means.groupby(level=BY, dropna=False, sort=False):
            least = bootstrap(group[LOSS].to_numpy(), share=bool(group[LOSS].between(0, 1).all())).low
            share = interval(group, partial(_ratio, verdict)) if least > 0 else UNKNOWN
            found.append(
                {**dict(zip(BY, key, strict=True)), "measure": f"{verdict}_share", **_named(share, len(group))}
            )
    return pd.DataFrame(found)


def _ratio(verdict: str, means: Mapping[str, Any]) -> Any:
    return means[verdict] / means[LOSS]


def _named(share: Estimate, images: int) -> dict[str, float]:
    return {"mean": share.value, "low": share.low, "high": share.high, "images": images}
