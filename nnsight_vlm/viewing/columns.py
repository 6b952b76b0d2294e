"""One column of a page: the words of one answer, and all that was measured of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..execution.decoding import generate
from ..execution.emptiness import Empty
from ..families import Model
from ..prompts.prompt import Prompt
from ..prompts.token_text import spell_answer
from ..remote.model_call import Remote
from ..specs.interventions import Intervention
from .asking import Asked, Quantity
from .causal import lost_by_words, rounding_in_nats
from .gradients import slopes_of_words
from .lens_words import LensWords, lens_words
from .reading import MEAN, Maps, logprob_of, read_words, rows_of
from .shown_words import ShownWord, shown_words


class Column(NamedTuple):
    """One answer and what its words read.

    Attributes:
        answer: its text.
        words: of the prompt and the answer.
        logprobs: of each word, None for those that the model did not write.
        maps: by quantity.
        sinks: which tokens are sinks of each layer, bool `[layer, token]`; None where they were not looked for.
        lens: the words of the image tokens' states; None where no lens was asked for.
    """

    answer: str
    words: tuple[ShownWord, ...]
    logprobs: tuple[float | None, ...]
    maps: dict[Quantity, Maps]
    sinks: np.ndarray | None
    lens: LensWords | None


def column_of(
    model: Model,
    asked: Asked,
    intervention: Intervention | None,
    *,
    memory: int | None,
    empty: Empty,
    remote: Remote,
) -> Column:
    """The column of the clean run (`intervention` None), or of one under an intervention, which writes its own answer.

    Args:
        model: an nnsight model from `load`.
        asked: what the page is asked for.
        intervention: of the column.
        memory: see `nv.sweep`.
        empty, remote: see `nv.run`.
    """
    prompt = asked.answered if intervention is None else None
    if prompt is None:
        prompt = generate(
            model, asked.prompt, intervention, max_new_tokens=asked.max_new_tokens, empty=empty, remote=remote
        ).prompt
    words = shown_words(prompt, asked.shown)
    read = read_words(model, prompt, intervention, words, asked, remote=remote)
    rows = rows_of(words)
    has = chosen_rows(prompt, rows, asked.words)
    chosen = [rows[number] for number in has]
    maps = dict(read.maps)
    if "gradient" in asked.quantities:
        values = slopes_of_words(model, prompt, intervention, chosen, asked, memory=memory)
        maps["gradient"] = Maps((), (MEAN,), values[None, None], has)
    if "causal" in asked.quantities:
        values = lost_by_words(model, prompt, intervention, chosen, asked, memory=memory, remote=remote)
        maps["causal"] = Maps((), (MEAN,), values[None, None], has, rounding_in_nats(model))
    tokens = prompt.rows[0]
    return Column(
        answer=spell_answer(model, tokens.tokens[tokens.answer : tokens.stop]),
        words=tuple(words),
        logprobs=tuple(logprob_of(word, read.logprobs) for word in words),
        maps=maps,
        sinks=read.sinks,
        lens=None if read.words is None else lens_words(model, asked.lens, read.words),
    )


def chosen_rows(prompt: Prompt, rows: Sequence[ShownWord], wanted: Sequence[str] | None) -> tuple[int, ...]:
    """The rows of the answer's words, or of those among them that are wanted, by their numbers."""
    if wanted is None:
        return tuple(number for number, word in enumerate(rows) if word.is_generated)
    places = {
        place
        for text in wanted
        for found in prompt.find_all(text, within="generated", ignore_case=True)
        for place in found.positions
    }
    return tuple(
        number for number, word in enumerate(rows) if word.is_generated and not places.isdisjoint(word.positions)
    )
