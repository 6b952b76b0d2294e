"""The clean run of what cases share: a prompt's first tokens, kept as the cache that they left.

Text that follows the image cannot change what came before it, so many variants of one prompt need its
image to be seen once. The prefixes of the last prompts stay, and serve the next sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from .caches import begun, shortened
from .families import family, lacking
from .prompts import Prompt
from .starts import Start
from .traces import prefill

SHARERS = 3
"""Cases from which on a prefix that is run by itself is worth its pass."""
KEPT = 2
"""Prefixes that stay: of a prompt, and of one that lends its states."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prefix:
    """The cache that the first `length` tokens of a prompt leave in a clean run; nobody may write to it."""

    length: int
    cache: Any


_LAST: WeakKeyDictionary[Prompt, tuple[Any, Prefix]] = WeakKeyDictionary()
"""The prefixes asked for last, the latest at the end, and the state of their model; they go with their prompts."""


def _kept(model: Any, prompt: Prompt, length: int, copies: int | None) -> Prefix | None:
    """A kept prefix, cut if it is longer; None where a new one costs fewer tokens than longer copies."""
    state, prefix = _LAST.get(prompt, (None, None))
    if prefix is None or state != _state(model):
        return None
    if prefix.length > length:
        cache = shortened(prefix.cache, prefix.length - length)
        return None if cache is None else Prefix(length=length, cache=cache)
    exact = prefix.length == length
    return prefix if exact or (copies is not None and (length - prefix.length) * copies <= length) else None


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


def prefix_of(model: Any, prompt: Prompt, length: int, copies: int | None) -> Prefix:
    """The first `length` tokens, run once; where a kept prefix is shorter and so many copies cheap, that one.

    Without `copies` the prefix has exactly this length.
    """
    known = _kept(model, prompt, length, copies)
    if known is not None:
        _LAST[prompt] = _LAST.pop(prompt)
        return known
    _LAST.pop(prompt, None)
    while len(_LAST) >= KEPT:  # before the next one is made, so that there is room for it
        del _LAST[next(iter(_LAST))]
    prefix = Prefix(length=length, cache=prefill(model, prompt, length))
    _LAST[prompt] = _state(model), prefix
    return prefix


def cache_for(model: Any, prefix: Prefix, starts: Sequence[Start], room: int) -> Any:
    """A cache for a batch of cases that all begin with a prefix, with room for so many tokens more."""
    donors = list({id(start.donor): start.donor for start in starts if start.donor is not None}.values())
    lent = [prefix_of(model, donor, prefix.length, None).cache for donor in donors]
    origins = [
        [donors.index(start.donor) + 1 if start.donor and layer > start.layer else 0 for start in starts]
        for layer in range(len(prefix.cache.layers))
    ]
    return begun([prefix.cache, *lent], origins, room)
