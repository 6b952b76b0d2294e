"""Pairs of pictures that a tiny model answers differently, and patched runs of it by plain hooks of torch."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import tiny
import torch

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.recipes import Pair

QUESTION = "what is the red square ?"
Values = Mapping[int, Mapping[int, torch.Tensor]]
"""States to write, `{layer: {position: [width]}}`; layer -1 is what enters the first."""


def known_pairs(model: Any, question: str = QUESTION, pictures: int = 40) -> list[Pair]:
    """Pairs of pictures whose most probable answers differ; no two pairs share an answer."""
    return list(_known_pairs(model, question, pictures))


@functools.cache
def _known_pairs(model: Any, question: str, pictures: int) -> tuple[Pair, ...]:
    prompts = [nv.encode(model, question, tiny.picture(number)) for number in range(pictures)]
    by_answer = dict(zip([int(nv.run(model, prompt).logits.argmax()) for prompt in prompts], prompts, strict=True))
    answers = list(by_answer)
    return tuple(Pair(by_answer[a], by_answer[b], a, b) for a, b in zip(answers[::2], answers[1::2], strict=False))


def layers_of(model: Any) -> Sequence[torch.nn.Module]:
    """The decoder's layers of a tiny LLaVA."""
    layers: Sequence[torch.nn.Module] = view_of(model).module.model.language_model.layers
    return layers


def logits(model: Any, prompt: nv.Prompt, values: Values | None = None) -> torch.Tensor:
    """Logits at the last position, `[word]`, where states were written."""
    with written(model, values or {}):
        found: torch.Tensor = view_of(model).module(**prompt.inputs, use_cache=False).logits[0, -1]
    return found


def states(model: Any, prompt: nv.Prompt, values: Values | None = None) -> list[torch.Tensor]:
    """What enters the first layer, and what every layer gives, `[position, width]`, where states were written."""
    kept: list[torch.Tensor] = []
    with written(model, values or {}):  # hooks run in the order in which they are added
        layers = layers_of(model)
        hooks = [layers[0].register_forward_pre_hook(lambda _, given: kept.append(given[0][0].clone()))]
        for layer in layers:
            hooks.append(layer.register_forward_hook(lambda _, __, out: kept.append(_state(out)[0].clone())))
        view_of(model).module(**prompt.inputs, use_cache=False)
        _remove(hooks)
    return kept


def head_inputs(model: Any, prompt: nv.Prompt) -> list[torch.Tensor]:
    """What the output projection of every layer's attention is handed in a clean run, `[position, width]`."""
    kept: list[torch.Tensor] = []
    hooks = [
        layer.self_attn.o_proj.register_forward_pre_hook(lambda _, given: kept.append(given[0][0].clone()))
        for layer in layers_of(model)
    ]
    view_of(model).module(**prompt.inputs, use_cache=False)
    _remove(hooks)
    return kept


@contextmanager
def written(model: Any, values: Values) -> Iterator[None]:
    """States are written over what layers give."""
    layers, hooks = layers_of(model), []

    def over(hidden: torch.Tensor, at: Mapping[int, torch.Tensor]) -> torch.Tensor:
        changed = hidden.clone()
        for position, vector in at.items():
            changed[0, position] = vector
        return changed

    def given(at: Mapping[int, torch.Tensor]) -> Any:
        return lambda _, handed: (over(handed[0], at), *handed[1:])

    def gives(at: Mapping[int, torch.Tensor]) -> Any:
        return lambda _, __, out: (over(out[0], at), *out[1:]) if isinstance(out, tuple) else over(out, at)

    for layer, at in values.items():
        if layer < 0:
            hooks.append(layers[0].register_forward_pre_hook(given(at)))
        else:
            hooks.append(layers[layer].register_forward_hook(gives(at)))
    yield
    _remove(hooks)


def _remove(hooks: Sequence[Any]) -> None:
    for hook in hooks:
        hook.remove()


def _state(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def measures(
    before: torch.Tensor, patched: torch.Tensor, after: torch.Tensor, own: int, other: int
) -> dict[str, float]:
    """Restoration and logit differences of three runs' logits, as their formulas say."""
    p = [float(each.softmax(-1)[other]) for each in (before, patched, after)]
    diff = [float(each[other] - each[own]) for each in (before, patched, after)]
    return {
        "restoration": (p[1] - p[0]) / (p[2] - p[0]),
        "logit_diff": diff[1],
        "logit_diff_change": diff[1] - diff[0],
        "logit_diff_restored": (diff[1] - diff[0]) / (diff[2] - diff[0]),
    }
