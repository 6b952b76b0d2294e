"""What hiding an object's patches does to the words that name the object."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..families import Model
from ..prompts.prompt import Prompt
from ..remote.model_call import Remote
from ..specs.interventions import Intervention
from ..specs.knockouts import Knockout
from ..studies.image_patches import PatchSource
from ..studies.labels import NONE, RANDOM_PATCHES, RANDOM_PATCHES_AGAIN, Control
from ..studies.object_words import ObjectWord
from ..sweeping.table import sweep


def hide_patches(
    model: Model,
    prompt: Prompt,
    answer: Sequence[int],
    source: PatchSource,
    words: Sequence[ObjectWord],
    image: int,
    rng: np.random.Generator,
    memory: int | None,
    remote: Remote,
) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """For each word, a computation of its rows: the object's patches hidden, and as many others, twice.

    Words whose object covers more than half of the patches are left out: no matched control exists for them.

    Args:
        model: an nnsight model from `load`.
        prompt: the prompt without the answer.
        answer: the answer's token ids.
        source: the picture's patches. They are hidden from the answer's tokens; where image tokens are latents, from
            the latents, so that nothing after them has seen the patches.
        words: the answer's object words.
        image: the image's number.
        rng: draws the random patches.
        memory: see `nv.sweep`.
        remote: see `nv.run`.
    """
    positions = np.asarray(source.grid.positions)
    readers = ("last", "generated") if source.stage == "decoder" else "query"
    for word in words:
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
        index = word.position - prompt.rows[0].answer  # of the word in the answer
        labels = {"image": image, "thing": word.thing, "word": word.text, "read_at": "predicting", "layer": "all"}
        before = prompt.grown(answer[:index])
        yield partial(_changes, model, before, cuts, int(answer[index]), {**labels, "top": ""}, memory, remote)


def _changes(
    model: Model,
    prompt: Prompt,
    cuts: Mapping[str, Intervention],
    token: int,
    labels: Mapping[str, Any],
    memory: int | None,
    remote: Remote,
) -> list[dict[str, Any]]:
    """Change of one token's log-probability in nats, one row a cut; 0 where no layer sees back to the patches."""
    scores = sweep(model, prompt, cuts, answer=token, memory=memory, empty="ignore", remote=remote)
    return [
        {**labels, "control": score.variant, "logprob_change": float(score.logprob - score.clean_logprob)}
        for score in scores.itertuples()
    ]
