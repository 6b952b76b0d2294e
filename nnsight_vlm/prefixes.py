"""The clean run of what variants share: a prompt's first tokens, kept as the cache that they left.

Text that follows the image cannot change what came before it, so many variants of one prompt need its
image to be seen once. The prefix of the last prompt stays, and serves the next sweep of that prompt.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers.cache_utils import DynamicLayer

from .families import family, lacking
from .interventions import Intervention
from .layouts import as_it_is
from .prompts import Prompt
from .scope import scope
from .traces import prefill

SHARERS = 3
"""Cases from which on a prefix that is run by itself is worth its pass."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prefix:
    """The cache that the first `length` tokens of a prompt leave in a clean run; nobody may write to it."""

    length: int
    cache: Any

    def for_rows(self, rows: int) -> Any:
        """A copy of the cache for a batch of rows that all begin with it."""
        fresh = copy.deepcopy(self.cache)
        if rows > 1:
            fresh.reorder_cache(torch.zeros(rows, dtype=torch.long))
        return fresh


_LAST: WeakKeyDictionary[Prompt, tuple[Any, Prefix]] = WeakKeyDictionary()
"""The prefix of the prompt that was asked for last, and the state its model was in; it goes with the prompt."""


def _kept(model: Any, prompt: Prompt, length: int, copies: int) -> Prefix | None:
    """A kept prefix, cut if it is longer; None where a new one costs fewer tokens than longer copies."""
    state, prefix = _LAST.get(prompt, (None, None))
    if prefix is None or state != _state(model):
        return None
    if prefix.length > length:
        return _cropped(prefix, length)
    return prefix if (length - prefix.length) * copies <= length else None


def _state(model: Any) -> tuple[Any, ...]:
    """What a model's clean run depends on: its weights, written to or not, and the edits that users made."""
    versions = sum(weight._version for weight in model._module.parameters())
    attention = model._module.config.get_text_config()._attn_implementation
    return id(model._module), versions, attention, tuple(id(edit) for edit in model._edits)


def _cropped(prefix: Prefix, length: int) -> Prefix | None:
    """A shorter prefix; None where a layer does not hold all of its keys any more."""
    if any(type(layer) is not DynamicLayer for layer in prefix.cache.layers):
        return None
    shorter = copy.deepcopy(prefix.cache)
    shorter.crop(length - prefix.length)
    return Prefix(length=length, cache=shorter)


def branch_point(model: Any, prompt: Prompt, cases: Sequence[Intervention]) -> int:
    """First position that any case changes; the last token at the latest."""
    here = scope(model, as_it_is(prompt).seats[0])
    return min([prompt.rows[0].stop - 1, *(case.first_position(here) for case in cases)])


def why_not_shared(prompt: Prompt, cases: Sequence[Intervention], branch: int) -> str:
    """Why cases cannot share what lies before `branch`; empty where they can."""
    tokens = prompt.rows[0]
    if any(position >= branch for image in tokens.images for position in image if position >= 0):
        return "a variant changes image tokens, or text before the image, which cannot be shared"
    if any(part.acts_in != "decoder" for case in cases for part in case.parts):
        return "a variant changes a stage that runs before the text, which cannot be shared"
    return "a padded prompt cannot be shared" if tokens.start > 0 else ""


def sees_once(model: Any, cases: Sequence[Intervention]) -> bool:
    """Whether cases that change the image's tokens can at least share what the vision tower made of it."""
    early = any(part.acts_in != "decoder" for case in cases for part in case.parts)
    return len(cases) > 1 and not early and "embedded" not in lacking(family(model))


def shares(model: Any, prompt: Prompt, cases: Sequence[Intervention], branch: int) -> bool:
    """Whether it is worth while, and possible, to run what lies before `branch` once for all cases."""
    known = "prefix" not in lacking(family(model)) and branch > max(prompt.rows[0].marks, default=0)
    return known and len(cases) >= SHARERS and not why_not_shared(prompt, cases, branch)


def prefix_of(model: Any, prompt: Prompt, branch: int, copies: int) -> Prefix:
    """The tokens before `branch`, run once; where a kept prefix is shorter and so many copies cheap, that one."""
    kept = _kept(model, prompt, branch, copies)
    if kept is None:
        _LAST.clear()  # before the next one is made, so that there is room for it
        kept = Prefix(length=branch, cache=prefill(model, prompt, branch))
        _LAST[prompt] = _state(model), kept
    return kept
