"""The clean run of what cases share: a prompt's first tokens, kept as the cache that they left.

Text that follows the image cannot change what came before it, so many variants of one prompt need only one pass
over its image. The prefixes of the last prompts are kept, and serve the next sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch

from ..execution.caches import ROOM, CroppableCache, cache_continuing, growing_cache
from ..execution.clean_runs import prefill
from ..families import Model, view_of
from ..identity import weight_versions
from ..lowering.layouts import one_case_per_row
from ..lowering.resolve import resolver
from ..prompts.prompt import Prompt
from ..specs.interventions import Capture
from .divergence import Divergence
from .sharing import prefix_can_be_cropped, states_can_be_kept

KEPT_PREFIXES = 2
"""How many prefixes are kept: the prompt's and one donor's."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prefix:
    """What the first `length` tokens of a prompt leave in a clean run.

    Attributes:
        length: how many tokens.
        cache: their keys and values, for one forward at a time, see `CroppableCache`.
        first: the position behind the last image.
        logits: of the prompt's last token `[word]`; None where that was not run.
        states: what every layer gives from `first` on, to the end of the prompt, `[position, width]` each; None where
            a run cannot start from them.
    """

    length: int
    cache: Any
    first: int
    logits: torch.Tensor | None = None
    states: Sequence[torch.Tensor] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class _KeptRun:
    """A prefix that was run, the state that the model was in, and what shorter prefixes are cut from, if possible."""

    prefix: Prefix
    state: tuple[Any, ...]
    whole: CroppableCache | None


_KEPT: WeakKeyDictionary[Prompt, _KeptRun] = WeakKeyDictionary()
"""The last runs, the latest at the end; freed with their prompts."""


def prefix_of(model: Model, prompt: Prompt, length: int) -> Prefix:
    """The first tokens of a prompt, its images among them, run once.

    Where all layers keep all keys, the whole prompt is run and kept, and every prefix of it is cut from that.
    """
    kept = _KEPT.pop(prompt, None)
    if kept is None or kept.state != _state(model) or (kept.whole is None and kept.prefix.length != length):
        while len(_KEPT) >= KEPT_PREFIXES:  # before the next one is made, so that there is room for it
            del _KEPT[next(iter(_KEPT))]
        kept = _run_whole(model, prompt) if prefix_can_be_cropped(model) else _run_exactly(model, prompt, length)
    _KEPT[prompt] = kept
    if kept.whole is None:
        return kept.prefix
    return replace(kept.prefix, length=length, cache=kept.whole.beginning(length))


def _run_whole(model: Model, prompt: Prompt) -> _KeptRun:
    """A run of the whole prompt."""
    spec, first, stop = view_of(model).stage(), end_of_images(prompt), prompt.rows[0].stop
    own_keys = [layer for layer in spec.attention if spec.cache_layer[layer] == layer]
    empty = growing_cache(view_of(model).config.get_text_config(decoder=True))
    cache, logits, states = prefill(model, prompt, stop, first, empty)
    independent = own_keys == list(spec.attention)  # no layer needs the keys of one before it
    prefix = Prefix(length=stop, cache=cache, first=first, logits=logits, states=states if independent else None)
    return _KeptRun(prefix=prefix, state=_state(model), whole=CroppableCache.of(cache, own_keys, first))


def _run_exactly(model: Model, prompt: Prompt, length: int) -> _KeptRun:
    """A run of exactly these tokens, from whose cache no shorter prefix can be cut."""
    first = end_of_images(prompt)
    prefix = Prefix(length=length, cache=prefill(model, prompt, length, first).cache, first=first)
    return _KeptRun(prefix=prefix, state=_state(model), whole=None)


def end_of_images(prompt: Prompt) -> int:
    """The position behind the last image."""
    tokens = prompt.rows[0]
    return max([tokens.start, *(image[-1] + 1 for image in tokens.images)])


def forget() -> None:
    """Drop the runs that are kept, and with them the memory that they take.

    Sweeps notice themselves when weights are written to or replaced, and when hooks or edits come and go; not what is
    written through `weight.data`, nor what an adapter switches on inside its modules.
    """
    _KEPT.clear()


def _state(model: Model) -> tuple[Any, ...]:
    """What a model's clean run depends on: identity and version of its weights, and its hooks and edits."""
    view = view_of(model)
    edits = tuple(id(edit) for edit in view.edits)
    return id(view.module), weight_versions(view.module), view.hooks, view.attention_implementation, edits


def cache_for(model: Model, prefix: Prefix, divergences: Sequence[Divergence], room: int) -> Any:
    """A cache for a batch of cases that all begin with a prefix, with room for so many more tokens."""
    donors = list({id(each.donor): each.donor for each in divergences if each.donor is not None}.values())
    donated = [prefix_of(model, donor, prefix.length).cache for donor in donors]

    def origin(case: Divergence, layer: int) -> int:
        """Which cache a case takes its keys in a layer from: 0 is the prompt's own."""
        return donors.index(case.donor) + 1 if case.donor and layer >= case.donor_from_layer else 0

    origins = [[origin(case, layer) for case in divergences] for layer in range(len(prefix.cache.layers))]
    return cache_continuing([prefix.cache, *donated], origins, min(ROOM, room))


def states_from_kept_run(model: Model, captures: Sequence[Capture]) -> list[torch.Tensor] | None:
    """The states `[layer, position, width]` that several patches take from the text of one clean run.

    The run is kept as a prefix is. None where they must be captured otherwise; a `Shortcut` of `execution.capturing`.
    """
    prompt = captures[0].prompt
    here = resolver(model, one_case_per_row(prompt).placements[0])
    if not states_can_be_kept(model, captures):
        return None
    positions = [here.positions(each.where) for each in captures]
    if min((position for some in positions for position in some), default=-1) < end_of_images(prompt):
        return None
    kept = prefix_of(model, prompt, prompt.rows[0].stop)
    if kept.states is None:
        return None
    taken = []
    for each, some in zip(captures, positions, strict=True):
        rows = [position - kept.first for position in some]
        layers = here.state_layers(each.site, each.layers)
        taken.append(torch.stack([kept.states[layer][rows].cpu() for layer in layers]))
    return taken
