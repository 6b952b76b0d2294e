"""What each word of an answer loses when one patch is hidden from the answer: the cause beside the attention.

Each patch is cut off from the prompt's last token and from all tokens of the answer, in all layers that read it, as
`recipes.patch_grounding` hides an object's patches; where image tokens are latents, from the latents. All words come
from one sweep: the answer up to a word and the answer up to the word before it are branches of one tree of answers, and
the difference of their log-probabilities is the word's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..execution.proof_rounding import SINGLE, rounding_of
from ..families import Model
from ..prompts.prompt import Prompt
from ..remote.model_call import Remote
from ..remote.watching import counted_steps
from ..specs.interventions import CLEAN, Intervention
from ..specs.knockouts import Knockout
from ..sweeping.table import sweep
from ..sweeping.wanted import Answer
from .asking import Asked
from .shown_words import ShownWord

ROUNDING, ROUNDING_OF_HALF = 0.001, 0.05
"""Nats of log-probability that rounding may move, in single precision and in half; less is not painted strongly."""


def rounding_in_nats(model: Model) -> float:
    """The loss of log-probability below which a page calls a loss rounding, from the types of the model's weights."""
    return ROUNDING_OF_HALF if rounding_of(model).unit > SINGLE else ROUNDING


def lost_by_words(
    model: Model,
    prompt: Prompt,
    intervention: Intervention | None,
    words: Sequence[ShownWord],
    asked: Asked,
    *,
    memory: int | None,
    remote: Remote,
) -> np.ndarray:
    """The nats of log-probability that each word loses without each patch, `[word, token]`.

    Args:
        model: an nnsight model from `load`.
        prompt: with its answer.
        intervention: of the column; the loss is against the run under it.
        words: of the answer.
        asked: the prompt without the answer, and its patches.
        memory: see `nv.sweep`.
        remote: see `nv.run`.
    """
    if not words:
        return np.zeros((0, len(asked.shown.positions)))
    start = prompt.rows[0].answer
    said = tuple(int(token) for token in prompt.rows[0].tokens[start:])
    spans = [(min(word.positions) - start, max(word.positions) + 1 - start) for word in words]
    lengths = sorted({length for span in spans for length in span} - {0})
    base = CLEAN if intervention is None else intervention
    readers = ("last", "generated") if asked.shown.stage == "decoder" else "query"
    cuts = [
        base | Knockout(patch, readers, layers="attention", stage=asked.shown.stage) for patch in asked.shown.positions
    ]
    answers: list[Answer] = [said[:length] for length in lengths]
    with counted_steps("causal", len(cuts)):
        frame = sweep(model, asked.prompt, [base, *cuts], answer=answers, memory=memory, empty="ignore", remote=remote)
    scores = frame["logprob"].to_numpy(float).reshape(len(cuts) + 1, len(lengths))
    by_length = {0: np.zeros(len(scores))} | {length: scores[:, n] for n, length in enumerate(lengths)}
    of_words = np.stack([by_length[last] - by_length[first] for first, last in spans])
    return np.asarray(np.nan_to_num(of_words[:, :1] - of_words[:, 1:]))
