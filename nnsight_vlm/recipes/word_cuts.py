"""What hiding an object's patches does to the words that name the object."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from ..families import Model
from ..prompts.prompt import Prompt
from ..remote.model_call import Remote
from ..specs.interventions import Intervention
from ..specs.knockouts import Knockout
from ..studies.labels import NONE, RANDOM_PATCHES, RANDOM_PATCHES_AGAIN, Control
from ..studies.object_words import Answered, ObjectWord
from ..sweeping.table import sweep


def hide_patches(
    model: Model,
    answered: Answered,
    rng: np.random.Generator,
    memory: int | None,
    remote: Remote,
    labels_of: Callable[[ObjectWord], Mapping[str, Any]],
) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """For each word, a computation of its rows: the object's patches hidden, and as many others, twice.

    Words whose object covers more than half of the patches are left out: no matched control exists for them. Patches
    are hidden from the answer's tokens; where image tokens are latents, from the latents, so that nothing after them
    has seen the patches.

    Args:
        model: an nnsight model from `load`.
        answered: the answer and its object words.
        rng: draws the random patches.
        memory: see `nv.sweep`.
        remote: see `nv.run`.
        labels_of: further columns of a word's rows.
    """
    source = answered.source
    positions = np.asarray(source.grid.positions)
    readers = ("last", "generated") if source.stage == "decoder" else "query"
    for word in answered.words:
        if word.patches is None or not 0 < word.patches.sum() <= len(positions) / 2:
            continue
        own, others = tuple(positions[word.patches].tolist()), positions[~word.patches]
        hidden: dict[Control, tuple[int, ...]] = {NONE: own}
        for control in (RANDOM_PATCHES, RANDOM_PATCHES_AGAIN):
            hidden[control] = tuple(sorted(rng.choice(others, len(own), replace=False).tolist()))
        cuts: dict[str, Intervention] = {
            control: Knockout(patches, readers, layers="attention", stage=source.stage)
            for control, patches in hidden.items()
        }
        common = {"image": answered.image, "thing": word.thing, "word": word.text}
        labels = {**common, "read_at": "predicting", "layer": "all", **labels_of(word), "top": ""}
        yield partial(_changes, model, *answered.before(word), cuts, labels, memory, remote)


def _changes(
    model: Model,
    prompt: Prompt,
    said: int | tuple[int, ...],
    cuts: Mapping[str, Intervention],
    labels: Mapping[str, Any],
    memory: int | None,
    remote: Remote,
) -> list[dict[str, Any]]:
    """Change of one word's log-probability in nats, one row a cut; 0 where no layer sees back to the patches."""
    scores = sweep(model, prompt, cuts, answer=said, memory=memory, empty="ignore", remote=remote)
    return [
        {**labels, "control": score.variant, "logprob_change": float(score.logprob - score.clean_logprob)}
        for score in scores.itertuples()
    ]
