"""Where the query and the answer look, layer by layer, and how narrowly.

Kaduri et al. 2024 (arXiv 2411.17491), section 3. Attention weights are not causes: a group that gets
little mass may matter, and one that gets much may not. Read this beside `knockout_windows`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..engine import generations, run
from ..frames import summarise
from ..prompts import Prompt
from ..reads import Attention
from ..spelling import spell
from .common import NONE, PLAIN, Work, measured, rng_of, tokens_of

TARGETS = ("query", "generated")
SOURCES = ("system", "image", "query", "generated")
BY = ["target", "source", "layer", "token", "control"]


def attention_share(
    model: Any,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 64,
    rows: int = 32,
    seed: int = 0,
    per_image: bool = False,
    remote: bool | str = False,
    work: Work = PLAIN,
) -> pd.DataFrame:
    """Attention mass on each token group, and entropy over the image, per layer; means over heads.

    The model first writes its own answer; then query tokens and generated tokens are the readers
    (`target`, as in a knockout: information flows from `source` to `target`).

    Args:
        model, remote: see `nv.run`.
        prompts: one prompt an image.
        max_new_tokens, rows: length of the answers, and how many are generated in one batch.
        seed: of the random control.
        per_image: return the rows of every image instead of means with intervals.
        work: journal, progress bar and size of chunks.

    Returns:
        `target, source, layer, token, control, measure, mean, low, high, images`. Measures:

        - `mass`: share of attention on the source group; the groups of one target add up to 1. Its
          control `random positions` is the mass that as many tokens get when chosen at random among
          those the reader sees (its exact expectation, which is their share of the tokens).
        - `entropy`: of the attention over the image tokens alone, in nats, for every query token
          (`token` is its place and text) and for all tokens of the target (`token` is `all`). Its
          controls are `uniform`, the entropy of equal attention, and `random generated tokens`, as
          many of the answer's tokens as the query has.

    Raises:
        SpecError: a prompt without an image, of several rows, or no prompts.
    """

    def measure(chunk: range) -> Iterator[dict[str, Any]]:
        wanted = [(prompts[image], None) for image in chunk]
        answers = generations(model, wanted, max_new_tokens=max_new_tokens, rows=rows, remote=remote)
        for image, answer in zip(chunk, answers, strict=True):
            yield from _rows(model, answer.prompt, image, seed, remote)

    settings = {"max_new_tokens": max_new_tokens, "seed": seed}
    frame = measured("attention_share", model, prompts, settings, measure, work)
    return frame if per_image else summary(frame)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over images with bootstrap intervals, from the rows of every image."""
    tidy = summarise(frame, BY, ["mass", "entropy"])
    return tidy[tidy["images"] > 0].reset_index(drop=True)


def _rows(model: Any, prompt: Prompt, image: int, seed: int, remote: bool | str) -> Iterator[dict[str, Any]]:
    groups = {name: tokens_of(prompt, name) for name in SOURCES}
    pairs = [(target, source) for target in TARGETS for source in SOURCES if groups[target] and groups[source]]
    masses = [Attention(target, source, reduce="mass") for target, source in pairs]
    entropies = [Attention(target, "image", reduce="entropy") for target in TARGETS if groups[target]]
    found = run(model, prompt, reads=[*masses, *entropies], remote=remote).reads
    for (target, source), mass in zip(pairs, found, strict=False):
        chance = _share_of_visible(groups[target], groups[source], prompt.rows[0].start)
        for layer, share in enumerate(mass.mean((1, 2)).tolist()):
            labels = {"image": image, "target": target, "source": source, "layer": layer, "token": "all"}
            yield {**labels, "control": NONE, "mass": share}
            yield {**labels, "control": "random positions", "mass": chance}
    targets = [target for target in TARGETS if groups[target]]
    for target, entropy in zip(targets, found[len(pairs) :], strict=True):
        yield from _entropy_rows(prompt, target, entropy.mean(1), image, seed)


def _share_of_visible(readers: Sequence[int], group: Sequence[int], start: int) -> float:
    """Mean over the readers of the share of the tokens they see that belong to the group."""
    places = np.asarray(group)
    return float(np.mean([(places <= reader).sum() / (reader + 1 - start) for reader in readers]))


def _entropy_rows(
    prompt: Prompt, target: str, entropy: torch.Tensor, image: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Rows of `entropy` `[layer, token]`."""
    labels = {"image": image, "target": target, "source": "image"}
    uniform = math.log(len(prompt["image"]))
    readers = prompt[target]
    for layer, per_token in enumerate(entropy.tolist()):
        known = [value for value in per_token if not math.isnan(value)]
        overall = float(np.mean(known)) if known else float("nan")
        yield {**labels, "layer": layer, "token": "all", "control": NONE, "entropy": overall}
        yield {**labels, "layer": layer, "token": "all", "control": "uniform", "entropy": uniform}
        if target == "query":
            for place, value in enumerate(per_token):
                name = f"{place} {_spelled(prompt, readers[place])}"
                yield {**labels, "layer": layer, "token": name, "control": NONE, "entropy": value}
        else:
            drawn = rng_of(seed, image).permutation(len(per_token))[: len(prompt["query"])]
            some = float(np.mean([per_token[place] for place in drawn]))
            control = {
                **labels,
                "target": "query",
                "layer": layer,
                "token": "all",
                "control": "random generated tokens",
            }
            yield {**control, "entropy": some}


def _spelled(prompt: Prompt, position: int) -> str:
    return spell(prompt.model, prompt.rows[0].tokens[position]).strip()
