"""The clean run of what cases share: a prompt's first tokens, kept as the cache that they left.

Text that follows the image cannot change what came before it, so many variants of one prompt need only one pass
over its image. How long a prefix is kept is said in `kept_runs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..execution.caches import ROOM, CroppableCache, cache_continuing, growing_cache
from ..execution.clean_runs import prefill
from ..families import Model, view_of
from ..lowering.layouts import one_case_per_row
from ..lowering.resolve import resolver
from ..prompts.prompt import Prompt
from ..specs.interventions import Capture
from .divergence import Divergence
from .kept_runs import KeptRuns
from .sharing import prefix_can_be_cropped, states_can_be_kept


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
        answers: the same of answers behind the prompt, `[token, width]` each; None where none run.
    """

    length: int
    cache: Any
    first: int
    logits: torch.Tensor | None = None
    states: Sequence[torch.Tensor] | None = None
    answers: Sequence[torch.Tensor] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class PrefixRun:
    """A prefix that was run, and what shorter prefixes are cut from, if possible."""

    prefix: Prefix
    croppable: CroppableCache | None


def prefix_of(runs: KeptRuns[PrefixRun], model: Model, prompt: Prompt, length: int) -> Prefix:
    """The first tokens of a prompt, its images among them, run once.

    Where all layers keep all keys, the whole prompt is run and kept, and every prefix of it is cut from that.
    """
    run = runs.find(model, prompt)
    if run is None or (run.croppable is None and run.prefix.length != length):
        runs.make_room()
        run = _run_full_prompt(model, prompt) if prefix_can_be_cropped(model) else _run_exactly(model, prompt, length)
        runs.keep(model, prompt, run)
    if run.croppable is None:
        return run.prefix
    return replace(run.prefix, length=length, cache=run.croppable.beginning(length))


def _run_full_prompt(model: Model, prompt: Prompt) -> PrefixRun:
    """A run of the whole prompt."""
    spec, first, stop = view_of(model).stage(), end_of_images(prompt), prompt.rows[0].stop
    own_keys = [layer for layer in spec.attention if spec.cache_layer[layer] == layer]
    empty = growing_cache(view_of(model).config.get_text_config(decoder=True))
    cache, logits, states = prefill(model, prompt, stop, first, empty)
    independent = own_keys == list(spec.attention)  # no layer needs the keys of one before it
    prefix = Prefix(length=stop, cache=cache, first=first, logits=logits, states=states if independent else None)
    return PrefixRun(prefix=prefix, croppable=CroppableCache.of(cache, own_keys, first))


def _run_exactly(model: Model, prompt: Prompt, length: int) -> PrefixRun:
    """A run of exactly these tokens, from whose cache no shorter prefix can be cut."""
    first = end_of_images(prompt)
    prefix = Prefix(length=length, cache=prefill(model, prompt, length, first).cache, first=first)
    return PrefixRun(prefix=prefix, croppable=None)


def end_of_images(prompt: Prompt) -> int:
    """The position behind the last image or video."""
    tokens = prompt.rows[0]
    return max([tokens.start, *(visual.stretch.stop for visual in tokens.visuals)])


def cache_for(
    runs: KeptRuns[PrefixRun], model: Model, prefix: Prefix, divergences: Sequence[Divergence], room: int
) -> Any:
    """A cache for a batch of cases that all begin with a prefix, with room for so many more tokens."""
    donors = list({id(each.donor): each.donor for each in divergences if each.donor is not None}.values())
    donated = [prefix_of(runs, model, donor, prefix.length).cache for donor in donors]

    def origin(case: Divergence, layer: int) -> int:
        """Which cache a case takes its keys in a layer from: 0 is the prompt's own."""
        return donors.index(case.donor) + 1 if case.donor and layer >= case.donor_from_layer else 0

    origins = [[origin(case, layer) for case in divergences] for layer in range(len(prefix.cache.layers))]
    return cache_continuing([prefix.cache, *donated], origins, min(ROOM, room))


def states_from_kept_run(
    runs: KeptRuns[PrefixRun], model: Model, captures: Sequence[Capture]
) -> list[torch.Tensor] | None:
    """The states `[layer, position, width]` that several patches take from the text of one clean run.

    The run is kept as a prefix is. None where they must be captured otherwise. With `runs` given, this is a `Shortcut`
    of `execution.capturing`.
    """
    prompt = captures[0].prompt
    here = resolver(model, one_case_per_row(prompt).placements[0])
    if not states_can_be_kept(model, captures):
        return None
    positions = [here.positions(each.where) for each in captures]
    if min((position for some in positions for position in some), default=-1) < end_of_images(prompt):
        return None
    kept = prefix_of(runs, model, prompt, prompt.rows[0].stop)
    if kept.states is None:
        return None
    taken = []
    for each, some in zip(captures, positions, strict=True):
        rows = [position - kept.first for position in some]
        layers = here.state_layers(each.site, each.layers)
        taken.append(torch.stack([kept.states[layer][rows].cpu() for layer in layers]))
    return taken
