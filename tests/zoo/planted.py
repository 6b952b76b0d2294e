"""A planted patch: which tokens see some pixels of a picture, found in the model without any of our arithmetic."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from float64 import computing_in
from PIL import Image

import nnsight_vlm as nv
from nnsight_vlm.families import Stage, view_of

from . import ZOO

KEYS = ("context", "encoder_hidden_states", "key_value_states", "cross_attention_states")
"""The names that cross-attentions have for what they read."""


@functools.lru_cache(maxsize=2)
@computing_in(torch.float32)
def local(name: str) -> Any:
    """A member of the zoo whose every image feature sees its own pixels only."""
    member = ZOO[name]
    assert member.local is not None
    module = member.module(member.implementations[0])
    with torch.no_grad():
        member.local(module)
    return nv.load(module, processor=member.processor())


def inverted(picture: Image.Image, where: np.ndarray) -> Image.Image:
    """The picture with inverted colours where a mask `[height, width]` is true; what lies outside stays."""
    pixels = np.asarray(picture)
    return Image.fromarray(np.where(where[..., None], 255 - pixels, pixels))


def changed(before: nv.Prompt, after: nv.Prompt, stage: str = "decoder") -> np.ndarray:
    """How much each token that enters a stage moves between two prompts of one row that differ in their pictures.

    Returns:
        The greatest change in any of its numbers, for each position; keys outside the sequence come last, so that
        their negative positions count from the end.
    """
    assert torch.equal(before.inputs["input_ids"], after.inputs["input_ids"]), "the prompts differ in more than pixels"
    one, two = (entering(prompt, stage) for prompt in (before, after))
    moved = [(b - a).abs().flatten(0, -2).amax(-1) for a, b in zip(one, two, strict=True)]
    return torch.cat(moved).double().numpy()


class _Seen(Exception):
    """What entered has been seen; the rest of the forward may be left out."""


def entering(prompt: nv.Prompt, stage: str) -> list[torch.Tensor]:
    """What enters a stage, seen by plain hooks: its sequence, and the keys of its cross-attention where it has any.

    A module that is handed token ids (Chameleon's) embeds them itself: then it is what enters its first layer.
    """
    module, parts = prompt.model._module, view_of(prompt.model).family.stages[stage]
    outside = prompt.rows[0].stage(stage).outside
    sequence, keys = list[torch.Tensor](), list[torch.Tensor]()

    def look(_: torch.nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        sequence.extend(
            found.clone() for found in (named.get("inputs_embeds"), *given, *_hidden(named)) if _wide(found)
        )
        if sequence and not outside:
            raise _Seen

    def look_across(_: torch.nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        keys.extend(found.clone() for found in (*(named.get(name) for name in KEYS), *given[1:]) if _wide(found))
        if keys:
            raise _Seen

    hooks = [place.register_forward_pre_hook(look, with_kwargs=True) for place in _first(module, parts)]
    if outside:
        crossing = [part for name, part in module.named_modules() if _crosses(name, parts)]
        hooks += [part.register_forward_pre_hook(look_across, with_kwargs=True) for part in crossing]
    try:
        with torch.no_grad():
            module(**prompt.inputs)
    except _Seen:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return [sequence[0], _filled(keys[0], outside)] if outside else [sequence[0]]


def _first(module: torch.nn.Module, stage: Stage) -> list[torch.nn.Module]:
    """The module of a stage, and its first layer; where less than what enters that is handed to the stage, it alone."""
    layer = f"{stage.layers}.0" if stage.layer_count else stage.layers
    paths = [layer] if stage.embedding == layer else [path for path in (stage.entry, layer) if path]
    return [module.get_submodule(path) for path in paths]


def _crosses(name: str, stage: Stage) -> bool:
    return stage.cross is not None and name.startswith(stage.layers) and name.endswith(stage.cross.module)


def _hidden(named: Mapping[str, Any]) -> Any:
    return chain([named.get("hidden_states"), named.get("latents")])


def _wide(value: Any) -> bool:
    """Numbers `[row, token, width]`, and no ids or masks."""
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() == 3


def _filled(keys: torch.Tensor, outside: int) -> torch.Tensor:
    """Tiles end to end; latents that a cross-attention reads behind them see no pixels of their own."""
    flat = keys.flatten(0, -2)
    return torch.cat([flat, flat.new_zeros(outside - len(flat), flat.shape[-1])])
