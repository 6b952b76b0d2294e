"""The clean run of what cases share: a prompt's first tokens, kept as the cache that they left.

Text that follows the image cannot change what came before it, so many variants of one prompt need its
image to be seen once. The prefixes of the last prompts stay, and serve the next sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch

from .caches import begun, keeps_all, shortened
from .families import family, lacking, shape
from .prompts import Prompt
from .starts import Start
from .traces import prefill

SHARERS = 3
"""Cases from which on a prefix that is run by itself is worth its pass."""
KEPT = 2
"""Prefixes that stay: of a prompt, and of one that lends its states."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prefix:
    """What the first `length` tokens of a prompt leave in a clean run; nobody may write to it.

    Attributes:
        length: how many tokens.
        cache: their keys and values.
        first: the position behind the last image.
        logits: of the prompt's last token `[word]`; None where that was not run.
        states: what every layer gives from `first` on, to the end of the prompt, `[layer, position, width]`; None
            where no run can begin with them.
    """

    length: int
    cache: Any
    first: int
    logits: torch.Tensor | None
    states: torch.Tensor | None


_LAST: WeakKeyDictionary[Prompt, tuple[Any, Prefix]] = WeakKeyDictionary()
"""The prefixes asked for last, the latest at the end, and the state of their model; they go with their prompts."""


def prefix_of(model: Any, prompt: Prompt, length: int) -> Prefix:
    """The first `length` tokens of a prompt, run once.

    Where all layers keep all keys, the whole prompt is run and kept, and every prefix of it is cut from that.
    """
    (state, known), cut = _LAST.pop(prompt, (None, None)), cuts(model)
    if known is None or state != _state(model) or not (cut or known.length == length):
        while len(_LAST) >= KEPT:  # before the next one is made, so that there is room for it
            del _LAST[next(iter(_LAST))]
        known = _made(model, prompt, prompt.rows[0].stop if cut else length)
    _LAST[prompt] = _state(model), known
    if known.length == length:
        return known
    return replace(known, length=length, cache=shortened(known.cache, length, _own_keys(model)))


def cuts(model: Any) -> bool:
    """Whether a prefix can be cut from a longer one."""
    return keeps_all(model._module.config.get_text_config(decoder=True))


def _made(model: Any, prompt: Prompt, length: int) -> Prefix:
    tokens = prompt.rows[0]
    first = max((position + 1 for image in tokens.images for position in image), default=tokens.start)
    cache, logits, states = prefill(model, prompt, length, max(first, 0))
    done, alone = length == tokens.stop, _own_keys(model) == list(shape(model).attention)
    return Prefix(
        length=length,
        cache=cache,
        first=max(first, 0),
        logits=logits if done else None,
        states=states if done and alone else None,
    )


def _own_keys(model: Any) -> list[int]:
    """The layers that keep keys of the sequence, and do not read those of a layer before them."""
    here = shape(model)
    return [layer for layer in here.attention if here.asks[layer] == layer]


def _state(model: Any) -> tuple[Any, ...]:
    """What a model's clean run depends on: its weights, written to or not, and the edits that users made."""
    versions = sum(weight._version for weight in model._module.parameters())
    attention = model._module.config.get_text_config()._attn_implementation
    return id(model._module), versions, attention, tuple(id(edit) for edit in model._edits)


def why_not_shared(prompt: Prompt, start: Start) -> str:
    """Why a case cannot share what lies before it; empty where it can."""
    tokens = prompt.rows[0]
    if any(position >= start.position for image in tokens.images for position in image if position >= 0):
        return "a variant changes image tokens, or text before the image, which cannot be shared"
    if any(part.acts_in != "decoder" for part in start.case.parts):
        return "a variant changes a stage that runs before the text, which cannot be shared"
    return "a padded prompt cannot be shared" if tokens.start > 0 else ""


def sharers(model: Any, prompt: Prompt, starts: Sequence[Start]) -> list[int]:
    """Numbers of the cases for which it is possible, and worth while, to run what lies before them once."""
    seen = max(prompt.rows[0].marks, default=0)
    able = [
        number for number, start in enumerate(starts) if start.position > seen and not why_not_shared(prompt, start)
    ]
    return able if len(able) >= SHARERS and "prefix" not in lacking(family(model)) else []


def cache_for(model: Any, prefix: Prefix, starts: Sequence[Start], room: int) -> Any:
    """A cache for a batch of cases that all begin with a prefix, with room for so many tokens more."""
    donors = list({id(start.donor): start.donor for start in starts if start.donor is not None}.values())
    lent = [prefix_of(model, donor, prefix.length).cache for donor in donors]
    origins = [
        [donors.index(start.donor) + 1 if start.donor and layer >= start.lent else 0 for start in starts]
        for layer in range(len(prefix.cache.layers))
    ]
    return begun([prefix.cache, *lent], origins, room)
