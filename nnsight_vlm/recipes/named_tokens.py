"""Rows of what a lens reads: of image tokens by what they show, and of the last token."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ..grids import Grid
from ..studies.controls import rng_of
from ..studies.image_token_sets import object_tokens
from ..studies.labels import ANOTHER_ANSWER, NONE, OTHER_WORDS, RANDOM_PATCHES
from ..studies.study import Study
from ..studies.token_words import Found, token_texts, words_of

LOGIT, CONTEXTUAL = "logit", "contextual"
IMAGE, OBJECT, OTHERS, LAST = "image", "object", "other image tokens", "last"


class Named(NamedTuple):
    """Image tokens, and the texts that name what they show.

    Attributes:
        tokens, control: as in the frame.
        members: which tokens of the grid, bool `[token]`.
        texts: see `token_texts`.
    """

    tokens: str
    control: str
    members: np.ndarray
    texts: frozenset[str]


def named_tokens(study: Study, image: int, grid: Grid, given: Mapping[str, Sequence[str]]) -> Iterator[Named]:
    """The sets of image tokens that are looked at, with the texts that are looked for."""
    truth = () if study.truths is None else study.truths[image]
    names = list(dict.fromkeys(thing.name for thing in truth if thing.mask is not None))
    texts = {name: token_texts(study.model, words_of(name, given)) for name in names}
    rng, outside = rng_of(study.seed, image), np.ones(len(grid.positions), bool)
    for name in names:
        own = object_tokens(grid, truth, name).own
        outside &= ~own
        if not own.any():
            continue
        yield Named(OBJECT, NONE, own, texts[name])
        for other in names:
            if not texts[other] & texts[name]:
                yield Named(OBJECT, OTHER_WORDS, own, texts[other])
        rest = np.flatnonzero(~own)
        if len(rest) >= own.sum():
            drawn = np.zeros(len(own), bool)
            drawn[rng.choice(rest, int(own.sum()), replace=False)] = True
            yield Named(OBJECT, RANDOM_PATCHES, drawn, texts[name])
    if names and outside.any():
        yield Named(OTHERS, NONE, outside, frozenset().union(*texts.values()))


def word_rows(
    image: int, layers: Sequence[int], grid: Grid, named: Sequence[Named], found: Mapping[str, Sequence[Found]]
) -> Iterator[dict[str, Any]]:
    """Rows of the image tokens of one prompt."""
    for lens, by_layer in found.items():
        for layer, (words, scores) in zip(layers, by_layer, strict=True):
            labels = {"image": image, "layer": layer, "lens": lens}
            firsts = [
                [position, some[0] if some else None, None if math.isnan(score) else score]
                for position, some, score in zip(grid.positions, words, scores, strict=True)
            ]
            sure = {"probability": _mean(np.exp(scores))} if lens == LOGIT else {"similarity": _mean(scores)}
            yield {**labels, "tokens": IMAGE, "control": NONE, **sure, "words": json.dumps(firsts)}
            for each in named:
                here = [words[number] for number in np.flatnonzero(each.members)]
                yield {
                    **labels,
                    "tokens": each.tokens,
                    "control": each.control,
                    "named": float(np.mean([bool(each.texts & set(some)) for some in here])),
                    "named_first": float(np.mean([some[:1] != [] and some[0] in each.texts for some in here])),
                }


def _mean(values: Any) -> float:
    """The mean of the numbers among some values; nan where there is none."""
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else math.nan


def answer_rows(image: int, layers: Sequence[int], read: torch.Tensor) -> Iterator[dict[str, Any]]:
    """Rows of the last token: the rank of the answer and of another prompt's, from `[layer, 1, answer, 3]`."""
    for layer, answers in zip(layers, read[:, 0, :, 1].tolist(), strict=True):
        for control, rank in zip((NONE, ANOTHER_ANSWER), answers, strict=False):
            known = not math.isnan(rank)
            yield {
                "image": image,
                "layer": layer,
                "lens": LOGIT,
                "tokens": LAST,
                "control": control,
                "rank": rank,
                "log_rank": math.log1p(rank) if known else math.nan,
                "first": float(rank == 0) if known else math.nan,
            }
