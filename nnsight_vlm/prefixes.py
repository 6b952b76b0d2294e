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

from .caches import ROOM, Kept, begun, growing_cache, keeps_all
from .families import family, lacking, shape
from .prompts import Prompt
from .starts import Start
from .traces import prefill

SHARERS = 2
"""Cases from which on a prefix that is run by itself is worth its pass."""
KEPT = 2
"""Prefixes that stay: of a prompt, and of one that lends its states."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prefix:
    """What the first `length` tokens of a prompt leave in a clean run.

    Attributes:
        length: how many tokens.
        cache: their keys and values, for one pass at a time, see `caches.Kept`.
        first: the position behind the last image.
        logits: of the prompt's last token `[word]`; None where that was not run.
        states: what every layer gives from `first` on, to the end of the prompt, `[position, width]` each; None
            where no run can begin with them.
    """

    length: int
    cache: Any
    first: int
    logits: torch.Tensor | None = None
    states: Sequence[torch.Tensor] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    """A prefix that was run, the state that the model was in, and what others are cut from, if they can be."""

    prefix: Prefix
    state: tuple[Any, ...]
    kept: Kept | None


_LAST: WeakKeyDictionary[Prompt, _Run] = WeakKeyDictionary()
"""The last runs, the latest at the end; they go with their prompts."""


def prefix_of(model: Any, prompt: Prompt, length: int) -> Prefix:
    """The first tokens of a prompt, its images among them, run once.

    Where all layers keep all keys, the whole prompt is run and kept, and every prefix of it is cut from that.
    """
    known = _LAST.pop(prompt, None)
    if known is None or known.state != _state(model) or (known.kept is None and known.prefix.length != length):
        while len(_LAST) >= KEPT:  # before the next one is made, so that there is room for it
            del _LAST[next(iter(_LAST))]
        known = _whole(model, prompt) if cuts(model) else _exactly(model, prompt, length)
    _LAST[prompt] = known
    if known.kept is None:
        return known.prefix
    return replace(known.prefix, length=length, cache=known.kept.beginning(length))


def _whole(model: Any, prompt: Prompt) -> _Run:
    first, stop, own = behind_images(prompt), prompt.rows[0].stop, _own_keys(model)
    empty = growing_cache(model._module.config.get_text_config(decoder=True))
    cache, logits, states = prefill(model, prompt, stop, first, empty)
    alone = own == list(shape(model).attention)  # no layer needs the keys of one before it
    prefix = Prefix(length=stop, cache=cache, first=first, logits=logits, states=states if alone else None)
    return _Run(prefix=prefix, state=_state(model), kept=Kept.of(cache, own, first))


def _exactly(model: Any, prompt: Prompt, length: int) -> _Run:
    first = behind_images(prompt)
    cache, *_ = prefill(model, prompt, length, first)
    return _Run(prefix=Prefix(length=length, cache=cache, first=first), state=_state(model), kept=None)


def behind_images(prompt: Prompt) -> int:
    """The position behind the last image."""
    tokens = prompt.rows[0]
    return max([tokens.start, *(image[-1] + 1 for image in tokens.images)])


def cuts(model: Any) -> bool:
    """Whether a prefix can be cut from a longer one."""
    return keeps_all(model._module.config.get_text_config(decoder=True))


def _own_keys(model: Any) -> list[int]:
    """The layers that keep keys of the sequence, and do not read those of a layer before them."""
    here = shape(model)
    return [layer for layer in here.attention if here.asks[layer] == layer]


def forget() -> None:
    """Drop the runs that are kept, and with them the memory that they take.

    Sweeps notice themselves when weights are written to or replaced, and when hooks or edits come and go; not what is
    written through `weight.data`, nor what an adapter switches on inside its modules.
    """
    _LAST.clear()


def _state(model: Any) -> tuple[Any, ...]:
    """What a model's clean run depends on: its weights, written to or not, and the hooks and edits that users made."""
    weights = hash(tuple((weight.data_ptr(), weight._version) for weight in model._module.parameters()))
    hooks = [(*part._forward_hooks, *part._forward_pre_hooks) for part in model._module.modules()]
    attention = model._module.config.get_text_config()._attn_implementation
    return id(model._module), weights, tuple(filter(None, hooks)), attention, tuple(id(edit) for edit in model._edits)


def why_not_shared(prompt: Prompt, start: Start) -> str:
    """Why a case cannot share what lies before it; empty where it can."""
    tokens = prompt.rows[0]
    if any(image[-1] >= max(start.position, 0) for image in tokens.images):
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
    return begun([prefix.cache, *lent], origins, min(ROOM, room))
