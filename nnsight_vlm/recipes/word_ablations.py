"""What a word loses when the image features of the patches that it attends to are taken away.

The check is not attention: the picture's mean feature is written over the features of some patches where they leave the
projector, before any layer reads them. As many random patches and the object's own are ablated in the same sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from ..families import Model
from ..prompts.prompt import Prompt
from ..remote.model_call import Remote
from ..specs.states import Patch
from ..studies.image_patches import PatchSource
from ..studies.labels import MIDDLE_HALF, NONE, OBJECT_PATCHES, RANDOM_PATCHES
from ..studies.object_words import Answered, ObjectWord
from ..sweeping.table import sweep
from .word_choices import Asked
from .word_maps import AnswerMaps, WordMap, word_maps

STREAM = 1
"""Tells the random draws of ablations from those of cuts."""


def ablate_patches(
    model: Model,
    answered: Answered,
    read: AnswerMaps,
    asked: Asked,
    seed: int,
    memory: int | None,
    remote: Remote,
) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """For each word, a computation of its rows: one for each choice of patches and map over the middle half of layers.

    As many patches are ablated as show the object, or `asked.top` where these are not known. The random ones are drawn
    outside the object and outside the map's best. A map without that many others is left out.

    Args:
        model: an nnsight model from `load`.
        answered: the answer and its object words.
        read: its maps, with the mean feature.
        asked: which maps were asked for.
        seed: of the random patches.
        memory: see `nv.sweep`.
        remote: see `nv.run`.
    """
    rng = np.random.default_rng((seed, answered.image, STREAM))
    for word in answered.words:
        maps = [each for each in word_maps(read, answered, word, asked) if _is_tried(each)]
        sets = [(each.labels, sets_of(each, word, answered.source, asked.top, rng)) for each in maps]
        if any(by_control for _, by_control in sets):
            yield partial(_changes, model, *answered.before(word), sets, read.mean_feature, memory, remote)


def _changes(
    model: Model,
    prompt: Prompt,
    said: int | tuple[int, ...],
    sets: Sequence[tuple[Mapping[str, Any], Mapping[str, tuple[int, ...]]]],
    feature: torch.Tensor,
    memory: int | None,
    remote: Remote,
) -> list[dict[str, Any]]:
    """Change of one word's log-probability in nats, from one sweep over all choices of patches."""
    distinct = list(dict.fromkeys(patches for _, by_control in sets for patches in by_control.values()))
    cases = [Patch(patches, source=feature, site="features") for patches in distinct]
    scores = sweep(model, prompt, cases, answer=said, memory=memory, remote=remote)
    change = dict(zip(distinct, scores["logprob"] - scores["clean_logprob"], strict=True))
    return [
        {**labels, "control": control, "top": "", "ablation_change": float(change[patches])}
        for labels, by_control in sets
        for control, patches in by_control.items()
    ]


def _is_tried(each: WordMap) -> bool:
    return each.labels["layer"] == MIDDLE_HALF and float(each.values.sum()) > 0


def sets_of(
    each: WordMap, word: ObjectWord, source: PatchSource, top: int, rng: np.random.Generator
) -> dict[str, tuple[int, ...]]:
    """The positions of the patches that are ablated, by control; empty where no matched control exists."""
    positions = np.asarray(source.grid.positions)
    count = top if word.patches is None else int(word.patches.sum())
    best = np.asarray(each.grid.positions)[np.argsort(-each.values, kind="stable")[:count]]
    own = positions[:0] if word.patches is None else positions[word.patches]
    others = np.setdiff1d(positions, np.concatenate([best, own]))
    if not count or len(best) < count or len(others) < count:
        return {}
    random = rng.choice(others, count, replace=False)
    named = {NONE: best, RANDOM_PATCHES: random, OBJECT_PATCHES: own}
    return {control: tuple(sorted(map(int, chosen))) for control, chosen in named.items() if len(chosen)}
