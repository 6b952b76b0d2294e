"""Caches from which tokens are taken out, and runs of further tokens behind them.

Keys carry their positions with them: they were rotated when they were made, and no later layer looks at where they lie
in the cache. So keys and values can be taken out of a cache, layer by layer, and what is run behind it is what one
forward of the whole sequence gives in which no later query sees the tokens that are gone. Position ids are given with
it, because a model that is not told them counts what the cache holds.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache

from ..families import Family, Model, unsupported, view_of
from ..families.locks import one_thread
from ..families.support import COMPUTES_POSITIONS
from ..lowering.layouts import after_prefix, one_case_per_row
from ..prompts.prompt import Prompt
from ..specs.interventions import CLEAN
from ..specs.measurements import Readout
from ..versions import cache_name
from .caches import keeps_every_key
from .preparing import prepare
from .requests import read_states

IN_ENCODER = "the prompt is the input of an encoder, and the decoder, whose cache it is, has no image tokens"
OUTSIDE = "the decoder reads the image through cross-attention, and its own keys are those of text alone"
CARRIES_STATE = "some layers carry a state through the sequence, from which no token can be taken"
WINDOWS = (
    "some layers keep the keys of a window or a chunk only, and which these are is counted in places of the cache, so "
    "without some of its tokens a window would hold others"
)
SHARED_KEYS = "some layers read the keys of another layer, so they have none of their own that could be taken out"
HAS_EDITS = "the model has edits of its own, which a run behind a cache that is cut would not pass"


def why_not_cut(model: Model) -> str:
    """Why no token can be taken out of this model's caches; empty where it can."""
    view = view_of(model)
    limits, spec = unsupported(view.family), view.stage()
    reasons = (
        (view.family.image_at != "decoder", not_in_decoder(view.family)),
        (spec.recurrent, CARRIES_STATE),
        (view.family.positions == "own", COMPUTES_POSITIONS),
        ("text alone" in limits, limits.get("text alone", "")),  # as is what runs behind a cache
        (not keeps_every_key(view.config.get_text_config(decoder=True)), WINDOWS),
        (any(spec.cache_layer[layer] != layer for layer in spec.attention), SHARED_KEYS),
        (bool(view.edits), HAS_EDITS),
    )
    return next((reason for holds, reason in reasons if holds), "")


def not_in_decoder(family: Family) -> str:
    """Why the decoder's cache holds no image tokens; empty where it does."""
    return {"encoder": IN_ENCODER, "cross": OUTSIDE}.get(family.image_at, "")


def filled_cache(model: Model, prompt: Prompt, reads: Sequence[Readout]) -> tuple[Cache, list[torch.Tensor]]:
    """The cache that one forward of a prompt of one row leaves, and what is read on the way."""
    cache = DynamicCache(config=view_of(model).config.get_text_config(decoder=True))
    given = replace(prompt, inputs={**prompt.inputs, cache_name(): cache, "use_cache": True})
    layout = one_case_per_row(given)
    with one_thread(model):
        states = read_states(model, layout, prepare(model, layout, [CLEAN], {}), reads, False)
    return cache, states


def cut_cache(cache: Cache, kept: Sequence[Sequence[int]]) -> Cache:
    """A cache that holds only some of another one's tokens, in memory of its own.

    Args:
        cache: one of one row that keeps every key; it stays as it is.
        kept: for each layer the places of the tokens that stay, ascending. Layers may keep different tokens, and
            different numbers of them; the first one keeps as many as any other.
    """
    shorter = copy.copy(cache)
    shorter.layers = []
    for layer, places in zip(cache.layers, kept, strict=True):
        held, index = copy.copy(layer), torch.tensor(list(places), dtype=torch.long, device=layer.keys.device)
        held.keys, held.values = (states.index_select(2, index) for states in (layer.keys, layer.values))
        shorter.layers.append(held)
    return shorter


def bytes_held(cache: Cache) -> int:
    """The memory that a cache's keys and values take."""
    return sum(states.untyped_storage().nbytes() for layer in cache.layers for states in (layer.keys, layer.values))


def bytes_of(model: Model, lengths: Sequence[int]) -> int | None:
    """The same of a cache that holds so many tokens in each layer, from the model's sizes.

    None where values have a width of their own: such attention (latent attention) may keep what keys and values are
    made of in place of them.
    """
    view, spec = view_of(model), view_of(model).stage()
    if spec.stage.value_dim:
        return None
    size = torch.empty(0, dtype=view.dtype).element_size()
    sizes = zip(spec.key_heads, spec.head_dim, lengths, strict=True)
    return sum(2 * size * heads * width * length for heads, width, length in sizes)


# runs behind it -----------------------------------------------------------------------------------


def logits_behind(model: Model, prompt: Prompt, start: int, cache: Cache) -> torch.Tensor:
    """The logits of a prompt's tokens from `start` on, `[token, word]`, behind a cache of some that come before.

    The cache is filled with these tokens.
    """
    with one_thread(model), torch.no_grad():
        return _forward(model, _behind(prompt, start, cache), cache)


def tokens_per_second(model: Model, prompt: Prompt, start: int, cache: Cache, count: int) -> float:
    """How many tokens a second are chosen greedily behind a cache: `count` of them, after the prompt's from `start` on.

    The prompt's own tokens run first, and are not counted. The cache is filled.
    """
    with one_thread(model), torch.no_grad():
        token = _forward(model, _behind(prompt, start, cache), cache)[-1].argmax()
        filler = prompt.rows[0].tokens[-1]
        inputs, stop = _behind(prompt.grown([filler] * count), prompt.rows[0].stop, cache), _longest(cache)
        began = time.perf_counter()
        for step in range(count):
            one = {name: _step(name, value, step, stop) for name, value in inputs.items()}
            one["input_ids"] = token.reshape(1, 1)
            token = _forward(model, one, cache)[-1].argmax()
        int(token)  # what a GPU has been asked is done then
        return count / (time.perf_counter() - began)


def _step(name: str, value: Any, step: int, stop: int) -> Any:
    """What one of several tokens is given, of the inputs of all of them."""
    if not isinstance(value, torch.Tensor):
        return value
    if name == "attention_mask":
        return value[:, : stop + step + 1]
    return value[..., step : step + 1] if name == "position_ids" else value[:, step : step + 1]


def _behind(prompt: Prompt, start: int, cache: Cache) -> dict[str, Any]:
    """What the model is given for a prompt's tokens from `start` on."""
    inputs = dict(after_prefix(one_case_per_row(prompt), start, cache).prompt.inputs)
    seen = _longest(cache) + prompt.rows[0].stop - start
    inputs["attention_mask"] = inputs["attention_mask"].new_ones(1, seen)
    device = view_of(prompt.model).device
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


def _forward(model: Model, inputs: dict[str, Any], cache: Cache) -> torch.Tensor:
    with _fitting_masks(model, cache):
        logits: torch.Tensor = view_of(model).module(**{**inputs, cache_name(): cache}).logits[0]
    return logits


def _longest(cache: Cache) -> int:
    return max(int(layer.keys.shape[2]) for layer in cache.layers)


@contextmanager
def _fitting_masks(model: Model, cache: Cache) -> Iterator[None]:
    """Within it, a layer that holds fewer keys than others is handed as many columns of the mask as it has keys.

    A model makes one mask for all layers. Everything that a cache holds is seen, so that the columns of the keys before
    are alike, and those of the new tokens are the last.
    """
    view, longest = view_of(model), _longest(cache)
    decoder = view.family.decoder
    with ExitStack() as hooks:
        for number, layer in enumerate(cache.layers):
            if layer.keys.shape[2] < longest:
                module = view.module.get_submodule(f"{decoder.layers}.{number}.{decoder.attention.module}")
                shorten = _shortening(decoder.attention.mask, longest - int(layer.keys.shape[2]))
                handle = module.register_forward_pre_hook(shorten, with_kwargs=True)
                hooks.callback(handle.remove)
        yield


def _shortening(keyword: str, missing: int) -> Callable[..., Any]:
    """A hook that leaves out the first columns of the mask that an attention is handed."""

    def shorten(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs.get(keyword)
        return args, kwargs if mask is None else {**kwargs, keyword: mask[..., missing:]}

    return shorten
