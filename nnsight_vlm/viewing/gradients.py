"""How the log-probability of each word of an answer changes with the features of each patch: the gradient's length."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..families import Model
from ..gradients.saliency_maps import saliency
from ..prompts.prompt import Prompt
from ..remote.watching import counted_steps, step
from ..specs.interventions import Intervention
from .asking import Asked
from .shown_words import ShownWord


def slopes_of_words(
    model: Model,
    prompt: Prompt,
    intervention: Intervention | None,
    words: Sequence[ShownWord],
    asked: Asked,
    *,
    memory: int | None,
) -> np.ndarray:
    """The length of the gradient of each word's log-probability, `[word, token]`: one backward a word and picture.

    Args:
        model: an nnsight model from `load`.
        prompt: with its answer.
        intervention: of the column.
        words: of the answer.
        asked: its patches.
        memory: see `nv.saliency`.
    """
    numbers = {position: number for number, position in enumerate(asked.shown.positions)}
    values = np.zeros((len(words), len(numbers)))
    with counted_steps("gradient", len(words)):
        for row, word in enumerate(words):
            metric = _logprob([prompt.rows[0].tokens[place] for place in word.positions])
            for image in range(len(prompt.rows[0].images)):
                found = saliency(
                    model,
                    prompt,
                    intervention,
                    metric=metric,
                    positions=word.read_at,
                    image=image,
                    memory=memory,
                    empty="ignore",
                )
                if found.values is not None:
                    values[row, [numbers[place] for place in found.positions]] = found.values.double().numpy()
            step()
    return values


def _logprob(tokens: Sequence[int]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The log-probability of some tokens, each at its own row of the logits."""

    def metric(logits: torch.Tensor) -> torch.Tensor:
        scores = logits.log_softmax(-1)
        return torch.stack([row[token] for row, token in zip(scores, tokens, strict=False)]).sum()

    return metric
