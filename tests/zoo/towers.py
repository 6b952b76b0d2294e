"""A family's forward with its vision tower changed by plain hooks: what the tests of all towers compare with.

Nothing of nnsight is used, and of nnsight_vlm the family's row only: module paths. Positions count the tower's tokens
one after the other, as its layers hold them. Attention is spelled out by hand; where it is called once for every piece
of a line, the calls of a layer follow each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from nnsight_vlm.families import Family, Stage

from .reference import CLOSED

Edges = tuple[Sequence[int], Sequence[int]]
"""Targets and sources."""
Write = Callable[[torch.Tensor], torch.Tensor]
"""From all states of a layer, `[position, width]`, to those that take their place."""


@dataclass(kw_only=True)
class Run:
    """One forward.

    Attributes:
        cuts, writes: what is changed, by layer.
        layers: the layer of each attention module, by `id`.
        seen: how many of a layer's queries have been seen.
        logits: `[row, position, vocabulary]`.
        handed: what the projector is handed, `[row, width]`.
        states: what each layer gives, `[position, width]`.
        weights: for each layer and query `(head, {position of a key: weight})`, as a matrix `[head, query, key]`.
    """

    cuts: Mapping[int, Sequence[Edges]]
    writes: Mapping[int, Write]
    layers: Mapping[int, int]
    seen: dict[int, int] = field(default_factory=dict)
    logits: torch.Tensor = field(init=False)
    handed: torch.Tensor = field(init=False)
    states: dict[int, torch.Tensor] = field(default_factory=dict)
    pieces: dict[int, list[torch.Tensor]] = field(default_factory=dict)

    def weights(self, layer: int) -> torch.Tensor:
        """Attention `[head, query, key]` between all tokens of the tower; 0 between those of different sequences."""
        heads = zip(*(piece.unbind() for piece in self.pieces[layer]), strict=True)
        return torch.stack([torch.block_diag(*some) for some in heads])


RUNNING: list[Run] = []
"""The forward that runs now, if any."""


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention as transformers asks for it: `([row, query, head, width], [row, head, query, key])`."""
    assert not others.get("dropout"), "the reference has no dropout"
    share = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(share, dim=1), value.repeat_interleave(share, dim=1)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = (scores + attention_mask).masked_fill(attention_mask < CLOSED, float("-inf"))
    run = RUNNING[-1] if RUNNING else None
    layer = run.layers.get(id(module)) if run else None
    sequences, _, length, _ = query.shape
    for row in range(sequences) if layer is not None else ():
        first = run.seen.get(layer, 0)
        for targets, sources in run.cuts.get(layer, ()):
            here, there = (
                [place - first for place in places if first <= place < first + length] for places in (targets, sources)
            )
            if here and there:
                scores[row, :, torch.tensor(here)[:, None], torch.tensor(there)] = float("-inf")
        run.seen[layer] = first + length
    weights = torch.softmax(scores, dim=-1).nan_to_num(0.0)
    if layer is not None:
        run.pieces.setdefault(layer, []).extend(weights)
    return (weights @ value).transpose(1, 2).contiguous(), weights


ALL_ATTENTION_FUNCTIONS.register("towers", attention)
ALL_MASK_ATTENTION_FUNCTIONS.register("towers", eager_mask)


@torch.no_grad()
def forward(
    module: Any,
    family: Family,
    inputs: Mapping[str, Any],
    cuts: Mapping[int, Sequence[Edges]] | None = None,
    writes: Mapping[int, Write] | None = None,
) -> Run:
    """One forward of an encoding, without a cache, with edges closed and states written in the tower."""
    stage = family.stages["vision"]
    run = Run(cuts=cuts or {}, writes=writes or {}, layers=dict(_attentions(module, stage)))
    RUNNING.append(run)
    try:
        with _hooked(module, stage, run):
            run.logits, run.handed = projecting(module, family, inputs)
    finally:
        RUNNING.pop()
    return run


def _attentions(module: Any, stage: Stage) -> Iterator[tuple[int, int]]:
    for number, layer in enumerate(module.get_submodule(stage.layers)):
        known = dict(layer.named_modules())
        if stage.attention.layers != "none" and stage.attention.module in known:
            yield id(known[stage.attention.module]), number


@contextmanager
def _hooked(module: Any, stage: Stage, run: Run) -> Iterator[None]:
    """The tower's attention is `attention`, and every layer's output is written and recorded."""

    def leaving(layer: int) -> Any:
        def hook(_: Any, __: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            line = hidden.reshape(-1, hidden.shape[-1])
            line = run.writes[layer](line.clone()) if layer in run.writes else line
            run.states[layer] = line
            written = line.reshape(hidden.shape)
            return (written, *output[1:]) if isinstance(output, tuple) else written

        return hook

    tower = module.get_submodule(stage.layers.rpartition(".")[0])
    configs = {id(part.config): part.config for part in tower.modules() if hasattr(part, "config")}
    with ExitStack() as stack:
        for config in configs.values():
            stack.enter_context(patch.object(config, "_attn_implementation_internal", "towers"))
        for number, layer in enumerate(module.get_submodule(stage.layers)):
            stack.callback(layer.register_forward_hook(leaving(number), prepend=True).remove)
        yield


@torch.no_grad()
def projecting(
    module: Any, family: Family, inputs: Mapping[str, Any], write: Write = lambda rows: rows
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(logits, what the projector is handed [row, width])` of a forward in which that is written."""
    seen = list[torch.Tensor]()

    def enter(_: Any, args: Any, kwargs: Any) -> Any:
        if seen:
            return None  # Ovis2's is asked for the image's marks too, behind the image
        name = next((name for name in ("inputs_embeds", "hidden_states") if kwargs.get(name) is not None), None)
        handed = args[0] if name is None else kwargs[name]
        seen.append(write(handed.reshape(-1, handed.shape[-1]).clone()))
        given = seen[0].reshape(handed.shape)
        return ((given, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: given})

    parts = [module.get_submodule(family.projector)] if family.projector else []
    hooks = [part.register_forward_pre_hook(enter, with_kwargs=True) for part in parts]
    try:
        logits = module(**inputs, use_cache=False).logits
        return logits, seen[0] if seen else torch.empty(0, 0)
    finally:
        for hook in hooks:
            hook.remove()


class _Entered(Exception):
    """What enters the tower has been seen; the rest of the forward may be left out."""


@torch.no_grad()
def entering(module: Any, family: Family, inputs: Mapping[str, Any]) -> torch.Tensor:
    """What enters the tower's first layer, `[position, width]`."""
    seen = list[torch.Tensor]()

    def look(_: Any, args: Any, kwargs: Any) -> None:
        named = (kwargs.get(name) for name in ("hidden_states", "hidden_state"))
        hidden = next(state for state in (*named, *args) if state is not None)
        seen.append(hidden.reshape(-1, hidden.shape[-1]).clone())
        raise _Entered

    hook = module.get_submodule(f"{family.stages['vision'].layers}.0").register_forward_pre_hook(look, with_kwargs=True)
    try:
        module(**inputs)
    except _Entered:
        return seen[0]
    finally:
        hook.remove()
    raise AssertionError("the tower did not run")
