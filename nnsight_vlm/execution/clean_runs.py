"""Clean runs on this machine: what a prefix leaves in its cache, and what enters the decoder.

They are traced here and not asked as a `ModelCall`, because a cache is used where it is made and never sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from nnsight import save

from ..device.positions import sequence
from ..families import Model, view_of
from ..families.locks import one_thread
from ..lowering.plan import layer_paths
from ..lowering.sites import BEFORE_LAYERS, locate
from ..prompts.carried import counts_tokens
from ..prompts.prompt import Prompt
from ..versions import cache_name


class Prefill(NamedTuple):
    """What a clean run of a prompt's first tokens leaves.

    Attributes:
        cache: keys and values of all layers.
        logits: of the last token, `[word]`.
        states: what every layer gives from some position on, `[position, width]` each; None where layers
            return several residual streams, or where the model passes some of them by.
    """

    cache: Any
    logits: torch.Tensor
    states: list[torch.Tensor] | None


def prefill(model: Model, prompt: Prompt, length: int, first: int, cache: Any = None) -> Prefill:
    """Run the first `length` tokens of a prompt, keeping layer outputs from position `first` on.

    An empty `cache` is filled; without one, transformers makes it.
    """
    inputs = {
        name: value[:, :length] if counts_tokens(prompt, name) else value for name, value in prompt.inputs.items()
    }
    if "position_ids" in inputs:
        inputs["position_ids"] = prompt.inputs["position_ids"][..., :length]
    last = {"logits_to_keep": torch.tensor([length - 1])} if view_of(model).family.logits_to_keep else {}
    empty = {} if cache is None else {cache_name(): cache}
    paths = layer_paths(model, view_of(model).stage().layer_count) if _all_layers_run(prompt) else ()
    with one_thread(model), torch.no_grad(), model.trace(**inputs, **last, **empty, use_cache=True):
        kept = save(_left_behind(model, paths, first))
    return Prefill(*kept)


def _all_layers_run(prompt: Prompt) -> bool:
    """Whether the model passes no layer by: it does those that only read an image, in a prompt without one."""
    return view_of(prompt.model).family.image_at != "cross" or prompt.rows[0].outside > 0


def _left_behind(model: Model, paths: Sequence[str], first: int) -> tuple[Any, torch.Tensor, list[torch.Tensor] | None]:
    states = [_from_position(model.get(path).output, first) for path in paths]
    all_states = None if not states or any(each is None for each in states) else states
    return model.output[cache_name()], model.output.logits[0, -1], all_states


def _from_position(output: Any, first: int) -> Any:
    """A layer's states from a position on, copied so that the others can be freed."""
    plain = isinstance(output, torch.Tensor) and output.dim() == 3
    return output[0, first:].clone() if plain else None


def embed(model: Model, prompt: Prompt) -> torch.Tensor:
    """What enters the decoder, `[row, position, width]`; the model is stopped there."""
    path, _ = locate(view_of(model).family, "decoder", "embedding", BEFORE_LAYERS)
    with one_thread(model), torch.no_grad(), model.trace(**prompt.inputs) as tracer:
        entering = save(sequence(model.get(path).inputs))
        tracer.stop()
    return torch.as_tensor(entering)
