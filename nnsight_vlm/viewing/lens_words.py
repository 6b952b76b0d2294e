"""The words that the states of image tokens stand for, layer by layer, through the model's own head: the logit lens."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..errors import SpecError
from ..families import Model, view_of
from ..families.locks import lock_of
from ..prompts.token_text import spell
from ..showing import visible
from .packing import plain

MOST_WORDS = 2**16 - 1
"""Different words that an index of two bytes can tell apart, one of them being no word."""


class LensWords(NamedTuple):
    """The most probable word of every state.

    Attributes:
        layers: their numbers.
        vocabulary: the words, each once; the first is no word.
        words: of each state the number of its word, `[layer, token]`.
        probability: of that word, `[layer, token]`.
    """

    layers: tuple[int, ...]
    vocabulary: tuple[str, ...]
    words: np.ndarray
    probability: np.ndarray

    def block(self) -> dict[str, Any]:
        """As a page has it."""
        return {
            "layers": list(self.layers),
            "vocabulary": list(self.vocabulary),
            "words": plain(self.words.astype(np.uint16)),
            "probability": plain(np.rint(self.probability * 255).astype(np.uint8)),
        }


def lens_words(model: Model, layers: tuple[int, ...], read: np.ndarray) -> LensWords:
    """The words of states, from what `nv.Lens` gave of each, `[layer, token, 3]`.

    States whose logits are infinite or not a number have no word.

    Raises:
        SpecError: too many different words.
    """
    tokens, logprobs = read[..., 0], read[..., 2]
    known = ~np.isnan(logprobs)
    different = np.unique(tokens[known]).astype(int)
    if len(different) >= MOST_WORDS:
        raise SpecError(
            f"lens= finds {len(different)} different words, and a page holds {MOST_WORDS - 1}; write fewer layers, "
            f"lens=[{layers[-1]}]"
        )
    with lock_of(view_of(model).module):  # a tokenizer serves one thread at a time
        texts = [visible(spell(model, int(token))) for token in different]
    words = np.zeros(tokens.shape, dtype=int)
    words[known] = np.searchsorted(different, tokens[known]) + 1
    return LensWords(layers, ("", *texts), words, np.where(known, np.exp(np.nan_to_num(logprobs)), 0))
