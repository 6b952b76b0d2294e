"""Where the query and the answer look, layer by layer, and how narrowly.

Kaduri et al. 2024 (arXiv 2411.17491), section 3. Attention weights are not causes: a group that gets
little mass may matter, and one that gets much may not. Read this beside `knockout_windows`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..execution.forward import run
from ..families import view_of
from ..lowering.empty_attention import seen_keys
from ..prompts.prompt import Prompt
from ..prompts.token_text import spell
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.measurements import Attention
from ..statistics import summarise
from ..sweeping.answers import generations
from .controls import layers_of, rng_of, tokens_of
from .journal import measured
from .work import NONE, PLAIN, Work

TARGETS = ("query", "generated")
SOURCES = ("system", "image", "markup", "query", "generated")
OTHER = "other"
"""Tokens of the decoder's sequence in none of these groups, where there are such: the one that it begins with."""
BY = ["target", "source", "layer", "token", "control"]


@can_run_in_background
def attention_share(
    model: Any,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 64,
    rows: int = 32,
    seed: int = 0,
    per_image: bool = False,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    work: Work = PLAIN,
) -> pd.DataFrame:
    """Attention mass on each token group, and entropy over the image, per layer; means over heads.

    The model first writes its own answer; then query tokens and generated tokens are the readers
    (`target`, as in a knockout: information flows from `source` to `target`). Readers are tokens of the
    decoder's sequence: in an encoder-decoder the generated ones only.

    Args:
        model, remote: see `nv.run`.
        prompts: one prompt an image.
        max_new_tokens, rows: length of the answers, and how many are generated in one batch.
        seed: of the random control.
        per_image: return the rows of every image instead of means with intervals.
        work: journal, progress bar and size of chunks.

    Returns:
        `target, source, layer, token, control, measure, mean, low, high, images`. Measures:

        - `mass`: share of attention on the source group, in layers that have this attention: cross-
          attention for sources outside the decoder's sequence, else self-attention. In each of both,
          the groups of one target add up to 1; `markup` are tokens inside an image that show nothing of it
          (line breaks, tile numbers), `other` those of no group. The control `random positions` is the mass
          that as many tokens get when chosen at random among those the reader sees in this layer (its
          exact expectation, which is their share of the tokens).
        - `entropy`: of the attention over the image tokens alone, in nats, for every query token
          (`token` is its place and text) and for all tokens of the target (`token` is `all`). Its
          controls are `uniform`, the entropy of equal attention to the image tokens that the prompt's
          last token sees, and `random generated tokens`, as many of the answer's tokens as the query
          has, where the query is a target.

    Raises:
        SpecError: a prompt without an image, of several rows, or no prompts.
    """

    def measure(chunk: range) -> Iterable[dict[str, Any]]:
        wanted = [(prompts[image], None) for image in chunk]
        answers = generations(model, wanted, max_new_tokens=max_new_tokens, rows=rows, remote=remote)
        asked = [
            partial(_rows, model, answer.prompt, image, seed, remote)
            for image, answer in zip(chunk, answers, strict=True)
        ]
        return chain.from_iterable(together(asked, remote))

    settings = {"max_new_tokens": max_new_tokens, "seed": seed}
    frame = measured("attention_share", model, prompts, settings, measure, work, remote)
    return frame if per_image else summary(frame)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over images with bootstrap intervals, from the rows of every image."""
    tidy = summarise(frame, BY, ["mass", "entropy"])
    return tidy[tidy["images"] > 0].reset_index(drop=True)


def _groups(prompt: Prompt) -> dict[str, tuple[int, ...]]:
    """Positions of every group that the prompt has."""
    found = {name: prompt[name] if name == "image" else tokens_of(prompt, name) for name in SOURCES}
    known = {position for places in found.values() for position in places}
    found[OTHER] = tuple(position for position in prompt["all"] if position not in known)
    return {name: places for name, places in found.items() if places}


def _rows(model: Any, prompt: Prompt, image: int, seed: int, remote: Remote) -> list[dict[str, Any]]:
    groups = _groups(prompt)
    targets = [target for target in TARGETS if min(groups.get(target, (-1,))) >= 0]
    layers = {source: layers_of(model, prompt, places) for source, places in groups.items()}
    pairs = [(target, source) for target in targets for source in groups]
    masses = [Attention(groups[t], groups[s], layers=layers[s], reduce="mass") for t, s in pairs]
    looks = [Attention(groups[t], "image", layers=layers["image"], reduce="entropy") for t in targets]
    last = Attention("last", "image", layers=layers["image"], reduce="mean")
    *found, seen = run(model, prompt, reads=[*masses, *looks, last], remote=remote).reads
    uniform = math.log(int((seen > 0).any(0).any(0).sum()))
    shares = {target: _shares(model, prompt, groups, target, layers) for target in targets}
    rows = list[dict[str, Any]]()
    for (target, source), mass in zip(pairs, found, strict=False):
        for layer, share in zip(layers[source], mass.mean((1, 2)).tolist(), strict=True):
            labels = {"image": image, "target": target, "source": source, "layer": layer, "token": "all"}
            rows.append({**labels, "control": NONE, "mass": share})
            rows.append({**labels, "control": "random positions", "mass": shares[target][source, layer]})
    for target, entropy in zip(targets, found[len(pairs) :], strict=True):
        for layer, values in zip(layers["image"], entropy.mean(1), strict=True):
            rows += _entropy_rows(prompt, groups, target, layer, values, uniform, image, seed)
    return rows


def _shares(
    model: Any,
    prompt: Prompt,
    groups: Mapping[str, tuple[int, ...]],
    target: str,
    layers: Mapping[str, tuple[int, ...]],
) -> dict[tuple[str, int], float]:
    """For each source and layer the mean over the target of the share of the tokens it sees that are the source's."""
    row, readers = prompt.rows[0], np.asarray(groups[target])
    found, known = dict[tuple[str, int], float](), dict[Any, np.ndarray]()
    for source, places in groups.items():
        for layer in layers[source]:
            if places[0] < 0:  # all that lies outside is seen
                found[source, layer] = len(places) / row.outside
                continue
            far = view_of(model).reach("decoder", layer)
            if far not in known:
                known[far] = seen_keys(readers, row.stop, row, far)
            found[source, layer] = float((known[far][:, list(places)].sum(1) / known[far].sum(1)).mean())
    return found


def _entropy_rows(
    prompt: Prompt,
    groups: Mapping[str, tuple[int, ...]],
    target: str,
    layer: int,
    values: torch.Tensor,
    uniform: float,
    image: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Rows of one layer's entropies, one a token."""
    labels = {"image": image, "target": target, "source": "image", "layer": layer, "token": "all"}
    per_token = values.tolist()
    known = [value for value in per_token if not math.isnan(value)]
    yield {**labels, "control": NONE, "entropy": float(np.mean(known)) if known else math.nan}
    yield {**labels, "control": "uniform", "entropy": uniform}
    if target == "query":
        for place, (position, value) in enumerate(zip(groups["query"], per_token, strict=True)):
            yield {**labels, "token": f"{place} {_spelled(prompt, position)}", "control": NONE, "entropy": value}
    elif min(groups.get("query", (-1,))) >= 0:
        drawn = rng_of(seed, image).permutation(len(per_token))[: len(groups["query"])]
        some = float(np.mean([per_token[place] for place in drawn]))
        yield {**labels, "target": "query", "control": "random generated tokens", "entropy": some}


def _spelled(prompt: Prompt, position: int) -> str:
    return spell(prompt.model, prompt.rows[0].tokens[position]).strip()
