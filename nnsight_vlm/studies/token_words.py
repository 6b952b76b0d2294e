"""Which texts of tokens are words of an object, and the words nearest to a hidden state in a user's texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from ..arguments import listed, refuse
from ..errors import SpecError
from ..execution.forward import run
from ..families import Model, view_of
from ..families.locks import lock_of
from ..lowering.layers import Layers
from ..prompts.encoding import encode
from ..prompts.prompt import Prompt
from ..prompts.token_text import known_tokenizer, spell
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.measurements import Readout, Residual
from .words import PLURALS, content_words

WORDS = 'words={"red circle": ["red", "circle", "disc"]}, single words by the name of an object'
BANK = 'bank=["a red circle", "a dog on a sofa", ...], texts whose words image tokens are compared with'
PIECE = 3
"""Letters that the first piece of a word needs to count as the word, where the tokenizer cuts it into pieces."""
AT_ONCE = 2**23
"""How many similarities exist at once, 64 MiB in float64."""
MOST_BYTES = 2**31
"""How much memory the states of a bank may take."""
TEXTS = 16
"""How many texts of a bank run in one job."""


class Found(NamedTuple):
    """The words of states in one layer.

    Attributes:
        words: of each state its words, the best first; without words that are not known.
        scores: of the first word: its log-probability, or the cosine similarity of its state; NaN where there is none.
    """

    words: list[list[str]]
    scores: list[float]


# --- words of objects -----------------------------------------------------------------------------


def words_given(words: Any) -> dict[str, tuple[str, ...]]:
    """The words by object that the user gives.

    Raises:
        SpecError: no such mapping, no words, or several in one text.
    """
    if words is None:
        return {}
    if not isinstance(words, Mapping) or not words or not all(isinstance(name, str) for name in words):
        refuse("words", words, "mapping of names to words", WORDS)
    found = {}
    for name, given in words.items():
        some = listed(f"words[{name!r}]", given, WORDS, kind=str)
        if not some or any(len(word.split()) != 1 for word in some):
            refuse(f"words[{name!r}]", given, "list of single words", WORDS)
        found[name] = tuple(word.strip().lower() for word in some)
    return found


def words_of(name: str, given: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The words that name an object: those that were given, or each word of its name."""
    return tuple(given.get(name) or content_words(name) or name.lower().split())


def token_texts(model: Model, words: Sequence[str]) -> frozenset[str]:
    """The texts of tokens that count as one of these words, in small letters and without spaces.

    A word counts itself and with a plural's ending. Where the tokenizer cuts it into pieces, however it is written,
    its first piece counts too, if that has three letters or more: no token is the whole word.
    """
    texts, tokenizer = {word + ending for word in words for ending in PLURALS}, known_tokenizer(model)
    if tokenizer is None:
        return frozenset(texts)
    for word in words:
        with lock_of(view_of(model).module):
            spellings = [
                [number for number in tokenizer(written, add_special_tokens=False)["input_ids"] if _text(model, number)]
                for written in (f" {word}", word)
            ]
        if all(len(pieces) > 1 for pieces in spellings):
            firsts = {_text(model, pieces[0]) for pieces in spellings}
            texts |= {first for first in firsts if len(first) >= PIECE and word.startswith(first)}
    return frozenset(texts)


def _text(model: Model, number: int) -> str:
    return spell(model, number).strip().lower()


def lens_words(model: Model, read: torch.Tensor) -> list[Found]:
    """What `nv.Lens` reads of some states, `[layer, position, word, 3]`, as words by layer."""
    numbers = read.double().numpy()
    known = {int(token) for token in np.unique(numbers[..., 0]) if not np.isnan(token)}
    with lock_of(view_of(model).module):
        texts = {token: _text(model, token) for token in known}
    return [
        Found(
            [[texts[int(token)] for token in tokens if not np.isnan(token)] for tokens in layer[..., 0]],
            layer[:, 0, 2].tolist(),
        )
        for layer in numbers
    ]


# --- a bank of texts ------------------------------------------------------------------------------


class Bank(NamedTuple):
    """The states of words in texts.

    Attributes:
        words: the word of each state, in small letters.
        states: of length 1, `[layer, word, width]`.
    """

    words: list[str]
    states: torch.Tensor

    def nearest(self, states: torch.Tensor, top: int) -> list[Found]:
        """The words whose states are most alike, by cosine, to states `[layer, position, width]`, layer by layer.

        A word that is near with several of its places counts once, with the nearest.
        """
        return [self._nearest(some, layer, top) for layer, some in enumerate(states)]

    def _nearest(self, states: torch.Tensor, layer: int, top: int) -> Found:
        bank, words, scores = self.states[layer], [], list[float]()
        for some in torch.split(_unit(states), max(1, AT_ONCE // len(self.words))):
            alike = some.to(bank) @ bank.T
            for line, order in zip(alike.numpy(), alike.argsort(descending=True, stable=True).numpy(), strict=True):
                is_known = bool(np.isfinite(line).all())
                words.append(self._first_words(order, top) if is_known else [])
                scores.append(float(line[order[0]]) if is_known else float("nan"))
        return Found(words, scores)

    def _first_words(self, order: np.ndarray, top: int) -> list[str]:
        """The first different words, so many of them."""
        found = dict[str, None]()
        for number in order:
            found[self.words[number]] = None
            if len(found) == top:
                break
        return list(found)


def bank_given(model: Model, bank: Any, layers: Layers, layer_count: int) -> tuple[Prompt, ...] | None:
    """The prompts of a bank's texts, without a picture.

    Args:
        model: an nnsight model from `load`.
        bank: texts; None for no bank.
        layers: the layers that are read.
        layer_count: how many these are.

    Raises:
        SpecError: no list of texts, a text without words, or texts whose states take too much memory.
    """
    if bank is None:
        return None
    texts = listed("bank", bank, BANK, kind=str)
    if not texts or not all(text.strip() for text in texts):
        refuse("bank", bank, "list of texts", BANK)
    prompts, states = tuple(encode(model, text, chat=False) for text in texts), 0
    for text, prompt in zip(texts, prompts, strict=True):
        found = prompt.words("all")
        if not found:
            raise SpecError(f"bank= has the text {text!r}, in which there is no word; leave it out")
        states += len(found)
    width = view_of(model).config.get_text_config().hidden_size
    needed = states * layer_count * width * 4
    if needed > MOST_BYTES:
        raise SpecError(
            f"the {states} words of bank= have states in {layer_count} layers of {layers!r} that take "
            f"{needed / 2**30:.1f} GiB, and {MOST_BYTES / 2**30:.0f} GiB are kept at most; give fewer texts, or layers="
        )
    return prompts


def bank_of(model: Model, prompts: Sequence[Prompt], layers: Layers, remote: Remote) -> Bank:
    """The states of the last token of every word, in each layer; texts run a few at a time."""
    words, states = [], []
    for first in range(0, len(prompts), TEXTS):
        some = prompts[first : first + TEXTS]
        reads = [(prompt, [word.positions[-1] for word in prompt.words("all")]) for prompt in some]
        asked = [
            partial(read_of, model, prompt, [Residual(sorted(set(places)), layers=layers)], remote)
            for prompt, places in reads
        ]
        for (prompt, places), found in zip(reads, together(asked, remote), strict=True):
            at = {position: number for number, position in enumerate(sorted(set(places)))}
            words += [word.text.lower() for word in prompt.words("all")]
            states.append(_unit(found[0][:, [at[position] for position in places]]))
    return Bank(words, torch.cat(states, dim=1))


def _unit(states: torch.Tensor) -> torch.Tensor:
    """States of length 1, in float32 or more; one without a length, or not a number, is nan."""
    precise = states.to(torch.promote_types(states.dtype, torch.float32)).cpu()
    unit: torch.Tensor = precise / precise.norm(dim=-1, keepdim=True)
    return unit


def read_of(model: Model, prompt: Prompt, reads: Sequence[Readout], remote: Remote) -> tuple[torch.Tensor, ...]:
    """What is read of a clean run of one row."""
    found: tuple[torch.Tensor, ...] = run(model, prompt, reads=list(reads), remote=remote).reads
    return found
